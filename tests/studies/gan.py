"""The plain minimax game against each of its remedies, and the same remedies on the non-saturating loss; 3 seeds."""

import csv
import statistics

from common import FOLDER, measure, spread, table

SEEDS = range(3)
REMEDIES = (
    "two_rates", "sgd", "rmsprop", "two_phases", "smoothing", "noise", "r1", "gp", "diffaugment", "ada", "r3",
)  # fmt: skip
COMMON = ["--trainer.val_check_interval", "100000", "--model.test_images", "2000"]


def row(remedy: str | None) -> list[str]:
    """Frechet distance and mean gradient norm of G, under the minimax and under the non-saturating loss."""
    cells = [f"`gan_with_{remedy}.yaml`" if remedy else "nothing else"]
    for loss in ("Minimax", "NonSaturating"):
        if remedy == "r3" and loss == "NonSaturating":  # brings its own loss: one row, measured once
            cells += ["", ""]
            continue
        name = f"gan/{loss}-{remedy}"
        config = ["--config", "configs/gan_dense.yaml", "--model.loss", loss]
        config += ["--config", f"configs/gan_with_{remedy}.yaml"] if remedy else []
        figures = measure(name, [*config, *COMMON], SEEDS)
        distance = next(values for figure, values in figures.items() if figure.startswith("fcd-"))
        cells += [spread(distance, 2), spread([gradient(name, seed) for seed in SEEDS], 2)]
    return cells


def gradient(name: str, seed: int) -> float:
    """Norm of the generator's gradient, mean over the logged steps of a run."""
    with open(FOLDER / name / f"seed{seed}" / "metrics.csv", newline="") as file:
        return statistics.mean(float(line["grad_norm/generator"]) for line in csv.DictReader(file))


if __name__ == "__main__":
    header = ["remedy", "minimax: distance", "gradient of G", "non-saturating: distance", "gradient of G"]
    print(table(header, [row(remedy) for remedy in (None, *REMEDIES)]))
