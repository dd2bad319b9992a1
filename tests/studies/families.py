"""Every family of image networks, narrow, for the same minutes of one core over 3 seeds, on digits and on a folder.

    OMP_NUM_THREADS=1 PYTHONPATH=. taskset -c 0 python tests/studies/families.py [MINUTES [FOLDER OF IMAGES, WEIGHTS]]

With a folder it trains on it in place of the digits; the weights are a features network for its images:
`python -m src.metrics.classifier` makes one. The families are overlays of `configs/`.
"""

import sys

import yaml
from common import FOLDER, measure, spread, table

SEEDS = range(3)
FAMILIES = ("dcgan", "unet", "sngan", "sagan", "biggan", "stylegan2", "r3gan")  # the first is the experiment itself
COLUMNS = ("fcd-", "precision", "recall", "memorization")


def row(family: str, study: str, arguments: list[str], minutes: str, test: list[str]) -> list[str]:
    """Distance, precision, recall and memorization over the seeds, and steps and images a second of the first one."""
    overlay = [] if family == "dcgan" else ["--config", f"configs/overlays/with_{family}.yaml"]
    figures = measure(f"{study}/{family}", [*arguments, *overlay, "--minutes", minutes], SEEDS, test)
    found = [next((value for name, value in figures.items() if name.startswith(start)), []) for start in COLUMNS]
    config = yaml.safe_load((FOLDER / study / family / "seed0" / "config.yaml").read_text())
    steps, batch = config["trainer"]["max_steps"], config["data"]["init_args"]["batch_size"]
    speed = steps * batch / (60 * float(minutes))
    return [family, f"{steps:,}", f"{speed:.0f}", *(spread(values, 2) if values else "" for values in found)]


if __name__ == "__main__":
    minutes, *folder = sys.argv[1:] or ["5"]
    if folder:
        root, weights = folder
        extractor = f"{{class_path: src.metrics.features.Classifier, init_args: {{weights: {weights}}}}}"
        metrics = [
            f"{{class_path: src.metrics.fid.FrechetDistance, init_args: {{extractor: {extractor}}}}}",
            *(f"src.metrics.manifold.{name}" for name in ("PrecisionRecall", "Memorization")),
        ]
        arguments = ["--config", "configs/folder.yaml", "--data.root", root, "--data.labels", "false"]
        arguments += ["--data.image_size", "32", "--model.metrics", f"[{', '.join(metrics)}]"]
        study = "families-folder"
    else:
        arguments, study = ["--config", "configs/mnist.yaml"], "families"
    test = ["--model.test_images", "4000"]
    rows = [row(family, study, arguments, minutes, test) for family in FAMILIES]
    print(table(["family", "steps", "images/s", "distance", "precision", "recall", "memorization"], rows))
