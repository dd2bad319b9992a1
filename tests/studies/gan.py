"""The plain minimax game against each of its remedies, over 3 seeds; the remedies are overlays of `gan_dense.yaml`.

On digits of 8x8 stretched to 28x28, at the rates of the files, and on real digits of 28x28, at the best of a sweep
(`RATES`, where it is not that of the files).
"""

import csv

from common import FOLDER, measure, spread, table

SEEDS = range(3)
DENSE = ["--config", "configs/systems/gan_dense.yaml"]
MINIMAX = [*DENSE, "--model.loss", "Minimax"]
COMMON = ["--trainer.val_check_interval", "100000", "--model.test_images", "2000"]
REMEDIES = ("sgd", "rmsprop", "two_rates", "two_phases", "smoothing", "noise", "r1", "gp", "diffaugment", "ada", "r3")
ROWS = {  # name of the runs -> its row, and options
    "minimax": ("minimax loss", MINIMAX),
    "non_saturating": ("non-saturating loss", DENSE),
    **{
        # R3 brings its own loss.
        name: (
            f"{'' if name == 'r3' else 'minimax, '}`gan_with_{name}.yaml`",
            [*MINIMAX, "--config", f"configs/overlays/gan_with_{name}.yaml"],
        )
        for name in REMEDIES
    },
    "conv": ("`gan_conv.yaml`", ["--config", "configs/systems/gan_conv.yaml"]),
}
SIZES = {"": [], "28x28-": ["--config", "configs/overlays/gan_28.yaml"]}
RATES = {"non_saturating": 8e-3, "rmsprop": 2e-3, "smoothing": 8e-3, "gp": 2e-3, "diffaugment": 5e-4, "r3": 2e-3}


def row(size: str, name: str) -> list[str]:
    """Frechet distance over the seeds, and the least gradient of the generator among the logged steps of all."""
    label, (option, path, *others) = ROWS[name]  # a remedy may have rates of its own: it comes after the size
    rate = RATES.get(name) if size else None
    rates = [word for player in "gd" for word in (f"--model.{player}_optimizer.lr", str(rate))] if rate else []
    figures = measure(f"gan/{size}{name}", [option, path, *SIZES[size], *others, *COMMON, *rates], SEEDS)
    distance = next(values for figure, values in figures.items() if figure.startswith("fcd-"))
    norms = []
    for seed in SEEDS:
        with open(FOLDER / "gan" / f"{size}{name}" / f"seed{seed}" / "metrics.csv", newline="") as file:
            norms += [float(line["grad_norm/generator"]) for line in csv.DictReader(file)]
    return [label, spread(distance, 2), f"{min(norms):.1g}"]


if __name__ == "__main__":
    for size in SIZES:
        rows = [row(size, name) for name in ROWS]
        print(table(["training", "distance", "least gradient of G"], rows))
