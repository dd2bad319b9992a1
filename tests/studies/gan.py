"""The plain minimax game against each of its remedies, over 3 seeds; the remedies are overlays of `gan_dense.yaml`."""

import csv

from common import FOLDER, measure, spread, table

SEEDS = range(3)
DENSE = ["--config", "configs/systems/gan_dense.yaml"]
MINIMAX = [*DENSE, "--model.loss", "Minimax"]
COMMON = ["--trainer.val_check_interval", "100000", "--model.test_images", "2000"]
REMEDIES = ("sgd", "rmsprop", "two_rates", "two_phases", "smoothing", "noise", "r1", "gp", "diffaugment", "ada", "r3")


def row(label: str, name: str, arguments: list[str]) -> list[str]:
    """Frechet distance over the seeds, and the least gradient of the generator among the logged steps of all."""
    figures = measure(f"gan/{name}", [*arguments, *COMMON], SEEDS)
    distance = next(values for figure, values in figures.items() if figure.startswith("fcd-"))
    norms = []
    for seed in SEEDS:
        with open(FOLDER / "gan" / name / f"seed{seed}" / "metrics.csv", newline="") as file:
            norms += [float(line["grad_norm/generator"]) for line in csv.DictReader(file)]
    return [label, spread(distance, 2), f"{min(norms):.1g}"]


if __name__ == "__main__":
    rows = [row("minimax loss", "minimax", MINIMAX), row("non-saturating loss", "non_saturating", DENSE)]
    for remedy in REMEDIES:
        overlay = f"gan_with_{remedy}.yaml"
        loss = "" if remedy == "r3" else "minimax, "  # which brings its own
        rows.append(row(f"{loss}`{overlay}`", remedy, [*MINIMAX, "--config", f"configs/overlays/{overlay}"]))
    rows.append(row("`gan_conv.yaml`", "conv", ["--config", "configs/systems/gan_conv.yaml"]))
    half = len(rows) // 2
    pairs = [left + right for left, right in zip(rows[:half], rows[half:], strict=True)]
    print(table(["training", "distance", "least gradient of G"] * 2, pairs))
