"""Do generated bags help to classify bags, when few of them are labelled? And what are they like?

The classifier of `simmim_digits.yaml` without a GAN, and with generated bags as further labelled ones, on the same
bags, as often; the generator learns from 1,000 bags without a label as well. Prints the tables, and which digits each
component of the mixture makes; draws the picture.
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

SEEDS = range(3)
SIZES = {"8x8": [], "28x28": ["--config", "configs/overlays/simmim_28.yaml"]}
NUMBERS = (20, 50, 100, 200)
ARMS = {
    "no GAN": ["--config", "configs/overlays/simmim_classifier.yaml"],
    "generated bags too": ["--config", "configs/overlays/simmim_assisted.yaml"],
}
FIGURES = ("bag-accuracy", "bag-auc", "attention-auc")
GENERATED = ("fcd-", "component-purity-", "component-classes-", "label-truth-9", "label-truth-none")


def run(size: str, num_bags: int, arm: str) -> Figures:
    """Every seed has bags of its own, the same for both arms; the few are among the many."""
    figures: Figures = {}
    for seed in SEEDS:
        arguments = ["--config", "configs/systems/simmim_digits.yaml", *SIZES[size], *ARMS[arm]]
        arguments += ["--data.num_bags", str(num_bags), "--data.seed", str(seed)]
        arguments += ["--trainer.val_check_interval", "100000"]
        name = f"simmim/{size}-{num_bags}-{list(ARMS).index(arm)}"
        for figure, values in measure(name, arguments, [seed]).items():
            figures.setdefault(figure, []).extend(values)
    return figures


def study(size: str) -> None:
    """The tables of one size."""
    rows, generated = [], []
    for num_bags in NUMBERS:
        alone, assisted = (run(size, num_bags, arm) for arm in ARMS)
        cells = [" / ".join(spread(figures[name]) for name in FIGURES) for figures in (alone, assisted)]
        pairs = zip(assisted["bag-accuracy"], alone["bag-accuracy"], strict=True)
        rows.append([str(num_bags), *cells, spread([ours - theirs for ours, theirs in pairs])])
        found = [
            next((values for figure, values in assisted.items() if figure.startswith(name)), None) for name in GENERATED
        ]
        generated.append([str(num_bags), *(spread(values, 2) if values else "" for values in found)])
    print(" / ".join(FIGURES), table([f"{size}: labelled bags", *ARMS, "accuracy gained"], rows), sep="\n")
    print(table([f"{size}: labelled bags", *GENERATED], generated))


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
    for size in SIZES:
        study(size)
    picture(f"{FOLDER}/simmim/8x8-50-1/seed0/checkpoints/last.ckpt", Path(".assets/simmim.png"))
