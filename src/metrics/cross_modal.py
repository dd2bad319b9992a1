"""Does what is made of a sound, of a text, of half an image show what was said?"""

from typing import Any

import numpy as np
import torch

from src.metrics.judged import Judged
from src.metrics.probe import shown, subsets_of


class CrossModal(Judged):
    """How often a classifier finds the class of the example in what is made of some of its modalities.

    `right-all`, `right-image`, `right-no-image`, ...: one sample for each held-out example, of all modalities, of one
    alone, of all but one.

    Args:
        extractor: one with class logits, whose classes are the labels of the data: `Classifier` for digits.

    Raises:
        ValueError: an extractor without classes; data of one modality, or without labels.
    """

    figure_names = ("right-all",)

    def check(self, data: Any, num_fake: int) -> None:
        if not hasattr(data, "condition"):
            raise ValueError("CrossModal is of data with several modalities: leave it out of --model.metrics")
        if data.targets(data.splits[-1]) is None:
            raise ValueError(f"CrossModal needs labels of the {data.splits[-1]} examples: add them, or leave it out")

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        data, names = model.trainer.datamodule, model.generator.names
        split = data.splits[-1]
        labels = torch.from_numpy(data.targets(split))
        condition = data.condition(split, np.arange(len(labels)))
        protocol = {"num_real": len(labels), "split": split} | model.protocol()
        results = []
        for subset, chosen in subsets_of(names, condition).items():
            found = self.classes(model.sample(torch.arange(len(labels)), shown(condition, names, chosen)))
            results.append(self.figure(f"right-{subset}", found == labels, protocol))
        return results
