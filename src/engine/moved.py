"""Classes that have moved: checkpoints and configurations of earlier versions name them as they were called."""

import re

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
