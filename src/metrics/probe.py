"""What a code of several modalities is worth: a linear classifier on it, beside one on the recordings themselves."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from src.engine.modes import evaluating
from src.metrics.base import Score
from src.metrics.statistics import GROUPS, Features

FIGURES = ("accuracy", "recall", "f1")  # the last two averaged over the classes


class LinearProbe(Score):
    """Accuracy, macro recall and macro F1 of a logistic regression on the fused code, by k-fold cross-validation.

    On held-out examples alone, whose labels nothing was trained on: in each fold the classifier is fitted on the
    others, its L2 penalty chosen by cross-validation inside them. The same is done with the raw recordings, put side
    by side (pixels, every band of every frame, every letter at its place), with those recordings averaged over
    time and letters counted wherever they stand (`pooled`), with each modality alone, and with one missing.
    `delayed`: fitted on the recordings as they are, scored on sounds that come later by up to `delay` frames (what
    leaves the clip at its end returns at its beginning). Classes of fewer than k held-out examples are left out; no
    figure where fewer than two classes remain.

    Args:
        folds: k, 2 or more.
        delay: longest further delay, in frames of 32 ms.

    Raises:
        ValueError: fewer than two folds.
    """

    higher_is_better = True

    def __init__(self, folds: int = 5, delay: int = 4) -> None:
        if folds < 2:
            raise ValueError(f"folds of LinearProbe must be at least 2, not {folds}")
        self.folds, self.delay = folds, delay
        self.figure_names = tuple(f"{figure}-code-all" for figure in FIGURES)

    def check(self, data: Any, num_fake: int) -> None:
        if not hasattr(data, "condition"):  # of an example: what several modalities recorded of it
            raise ValueError("LinearProbe is of data with several modalities: leave it out of --model.metrics")
        if not len(self.rows(data)):
            rank_zero_info(
                f"LinearProbe will give no figure: it takes {self.folds} labelled {data.splits[-1]} examples of each of"
                " two classes (column `label` of a table)"
            )

    def rows(self, data: Any) -> np.ndarray:
        """Held-out examples of the classes that have enough of them; none where these are fewer than two."""
        labels = data.targets(data.splits[-1])
        enough = np.bincount([] if labels is None else labels) >= self.folds
        return np.flatnonzero(enough[labels]) if enough.sum() >= 2 else np.arange(0)

    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        data, generator = model.trainer.datamodule, model.generator_ema or model.generator
        split, rows = data.splits[-1], self.rows(data)
        if not len(rows):
            return []
        labels, condition = data.targets(split)[rows], data.condition(split, rows)
        delayed = condition | {"audio": later(condition["audio"], self.delay)}
        subsets = subsets_of(generator.names, condition)
        held = subsets["all"]
        features = {
            "code": lambda given, names: code(model, generator, given, names),
            "raw": lambda given, names: np.concatenate([raw(given)[name] for name in names], 1),
            "pooled": lambda given, names: np.concatenate([pooled(given)[name] for name in names], 1),
        }
        facts = {"num_real": len(labels), "split": split, "folds": self.folds, "delay": self.delay} | model.protocol()
        results = []
        for kind, compute in features.items():
            for subset, names in subsets.items():
                given = {"": condition, "delayed": delayed} if subset == "all" and "audio" in held else {"": condition}
                predicted = cross_predict([compute(one, names) for one in given.values()], labels, self.folds)
                for what, prediction in zip(given, predicted, strict=True):
                    for i, figure in enumerate(FIGURES):
                        value, error = with_error(labels, prediction, i, errors)
                        name = f"{figure}-{kind}-{what or subset}"
                        results.append({"name": name, "value": value, "error": error, "protocol": facts})
        return results


def subsets_of(names: tuple[str, ...], condition: dict[str, Tensor]) -> dict[str, list[str]]:
    """All of the modalities that some example holds, each alone, and all but one: name -> modalities."""
    held = [name for name, some in zip(names, condition["recorded"].any(0), strict=True) if some]
    subsets = {"all": held} | {name: [name] for name in held}
    return subsets | {f"no-{name}": [other for other in held if other != name] for name in held if len(held) > 2}


def shown(condition: dict[str, Tensor], names: tuple[str, ...], subset: list[str]) -> dict[str, Tensor]:
    """The condition with the modalities of a subset alone, of all `names`."""
    here = torch.tensor([name in subset for name in names])
    return condition | {"present": condition["recorded"] & here}


@torch.no_grad()
def code(model: Any, generator: Any, condition: dict[str, Tensor], names: list[str]) -> np.ndarray:
    """Codes [N, code_dim] with the named modalities present."""
    condition = {k: v.to(model.device) for k, v in shown(condition, generator.names, names).items()}
    with evaluating(generator), torch.autocast(model.device.type, enabled=False):
        return generator.encode(condition).float().cpu().numpy()


def raw(condition: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The recordings as they are, [N, D] each."""
    letters = torch.nn.functional.one_hot(condition["text"], 256)[..., 1:]
    return {
        "image": condition["image"].flatten(1).numpy(),
        "audio": condition["audio"].flatten(1).numpy(),
        "text": letters.flatten(1).numpy(),
    }


def pooled(condition: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The recordings without time: means of the bands, counts of the letters."""
    letters = torch.nn.functional.one_hot(condition["text"], 256)[..., 1:]
    return raw(condition) | {"audio": condition["audio"].mean(1).numpy(), "text": letters.sum(1).numpy()}


def later(audio: Tensor, delay: int) -> Tensor:
    """Frames [N, T, D] moved on by 0 to `delay` places, the same ones at every call."""
    shifts = np.random.RandomState(0).randint(0, delay + 1, len(audio))
    return torch.stack([frames.roll(int(shift), 0) for frames, shift in zip(audio, shifts, strict=True)])


def cross_predict(sets: list[np.ndarray], labels: np.ndarray, folds: int) -> list[np.ndarray]:
    """Out-of-fold predictions for each of the sets [N, D], by classifiers fitted on the first."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    varying = np.ptp(sets[0], axis=0) > 0
    varying[0] |= not varying.any()  # of a collapsed code one column is left
    sets = [values[:, varying] for values in sets]
    predicted = [np.empty_like(labels) for _ in sets]
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(sets[0], labels):
        grid = {"logisticregression__C": [0.01, 0.1, 1]}
        classifier = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)), grid, cv=3)
        classifier.fit(sets[0][train], labels[train])
        for values, prediction in zip(sets, predicted, strict=True):
            prediction[test] = classifier.predict(values[test])
    return predicted


def scores(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Accuracy, macro recall and macro F1."""
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    options = {"average": "macro", "zero_division": 0}
    return (
        accuracy_score(labels, predicted),
        recall_score(labels, predicted, **options),
        f1_score(labels, predicted, **options),
    )


def with_error(labels: np.ndarray, predicted: np.ndarray, figure: int, errors: bool) -> tuple[float, float | None]:
    """One of the `scores` and its standard error, a jackknife over ten groups of the examples."""
    value = float(scores(labels, predicted)[figure])
    if not errors or len(labels) < 2 * GROUPS:
        return value, None
    groups = Features(torch.empty(len(labels), 0), labels=torch.from_numpy(labels)).groups.numpy()
    without = np.array([scores(labels[groups != g], predicted[groups != g])[figure] for g in range(GROUPS)])
    return value, float(np.sqrt((GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum()))
