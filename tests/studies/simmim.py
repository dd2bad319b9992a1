"""Does the GAN help its discriminator to classify bags, when few of them are labelled?

The discriminator of `simmim_digits.yaml` against the same one trained without a GAN, on the same bags, as
often. Prints its table, and which digits each component of the mixture makes; draws its picture.
"""

from pathlib import Path

import torch
from common import FOLDER, Figures, measure, spread, table

from src.callbacks.pictures import grid
from src.cli import load
from src.images.pixels import to_uint8
from src.metrics.bags import contingency
from src.metrics.features import Classifier
from src.metrics.statistics import Features

SEEDS = range(5)
ARMS = {
    "the discriminator without a GAN": ["--config", "configs/overlays/simmim_classifier.yaml"],
    "the GAN's, real bags alone for the classes": ["--config", "configs/overlays/simmim_unassisted.yaml"],
    "the GAN's": [],
}
FIGURES = ("bag-accuracy", "bag-auc", "attention-auc")
GENERATED = ("fcd-digits-9895c19c", "component-purity-digits-9895c19c")  # of the GAN with generated bags


def run(num_bags: int, arm: str) -> Figures:
    """Every seed has bags of its own, the same for all arms; the few are among the many."""
    figures: Figures = {}
    for seed in SEEDS:
        arguments = ["--config", "configs/systems/simmim_digits.yaml", *ARMS[arm]]
        arguments += [
            "--data.num_bags",
            str(num_bags),
            "--data.seed",
            str(seed),
            "--trainer.val_check_interval",
            "100000",
        ]
        name = f"simmim/{num_bags}-{list(ARMS).index(arm)}"
        for figure, values in measure(name, arguments, [seed]).items():
            figures.setdefault(figure, []).extend(values)
    return figures


def main() -> None:
    rows = []
    for num_bags in (50, 100, 200):
        runs = [run(num_bags, arm) for arm in ARMS]
        cells = [" / ".join(spread(figures[name]) for name in FIGURES) for figures in runs]
        for figures in runs[1:]:
            pairs = zip(figures["bag-accuracy"], runs[0]["bag-accuracy"], strict=True)
            cells.append(spread([ours - alone for ours, alone in pairs]))
        cells += [spread(values, 2) for name, values in runs[-1].items() if name in GENERATED]
        rows.append([str(num_bags), *cells])
    gains = [f"accuracy gained by {arm}" for arm in list(ARMS)[1:]]
    print(" / ".join(FIGURES), table(["labelled bags", *ARMS, *gains, *GENERATED], rows), sep="\n")
    picture(f"{FOLDER}/simmim/100-2/seed0/checkpoints/last.ckpt", Path(".assets/simmim.png"))


def picture(checkpoint: str, path: Path) -> None:
    """One column for each component: some of the instances that it makes in 200 bags."""
    gan = load(checkpoint)
    numbers = torch.arange(200)
    label = numbers % 2
    samples = to_uint8(gan.sample(numbers, label))
    images, _, _ = gan.generator.as_images(samples, numbers, label)
    codes = gan.generator_ema.codes(gan.latents_of(numbers), label)
    features, logits = Classifier().both(images)
    counts = contingency(Features(features, logits, codes))
    print(table(["component", *"0123456789"], [[str(k), *map(str, row)] for k, row in enumerate(counts.tolist())]))
    order = sorted(range(len(counts)), key=lambda k: (counts[k].argmax().item(), k))
    columns = [images[codes == k][:8] for k in order if (codes == k).sum() >= 8]
    grid(torch.stack(columns, 1).flatten(0, 1), len(columns)).save(path)


if __name__ == "__main__":
    main()
