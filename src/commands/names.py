"""Names of classes that have moved: configurations and checkpoints of earlier versions still load."""

import re
from typing import Any

from jsonargparse import set_loader
from jsonargparse._loaders_dumpers import yaml_load
from torch.utils._pytree import tree_map_only
from yaml import YAMLError

from src.commands.parts import full

# Old name, new name: a class, or a module with all its classes. The first that fits is taken.
MOVED = {
    "src.regularizers.GeneratorRegularizer": "src.objectives.terms.GeneratorRegularizer",
    "src.regularizers.ModalityPrediction": "src.objectives.terms.ModalityPrediction",
    "src.auxiliary": "src.objectives.auxiliary",
    "src.losses": "src.objectives.losses",
    "src.markov": "src.objectives.markov",
    "src.reconstruction": "src.objectives.reconstruction",
    "src.regularizers": "src.objectives.regularizers",
    "src.augment": "src.images.augment",
    "src.measurements": "src.images.measurements",
    "src.ema": "src.engine.ema",
    "src.callbacks.curves.LossCurves": "src.callbacks.report.Report",
    "src.loggers": "src.callbacks.loggers",
}
OLD = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, MOVED))})\b")


def renewed(text: str) -> str:
    """YAML text, or one value, with the present names of classes."""
    return OLD.sub(lambda match: MOVED[match[1]], text)


def load(text: Any) -> Any:
    value = yaml_load(renewed(text) if isinstance(text, str) else text)
    return tree_map_only(str, full, value)


set_loader(
    "yaml", load, exceptions=(YAMLError,)
)  # of configurations; options of the command line do not pass through it
