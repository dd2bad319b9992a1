"""Classical models beside a GAN, data of less diversity, and samples as training data: `make study-classical`."""

import math
from pathlib import Path

import numpy as np
import torch
from common import FOLDER, Figures, measure, spread, table
from torch import Tensor
from torch.nn import functional

from src.callbacks.pictures import grid
from src.cli import load
from src.data.digits import Digits
from src.data.mnist import SmallMNIST
from src.images.pixels import from_uint8, to_uint8
from src.metrics.classifier import ClassifierNetwork, accuracy
from src.metrics.features import Classifier
from src.metrics.fid import FrechetDistance
from src.metrics.manifold import DensityCoverage, PrecisionRecall
from src.metrics.statistics import Features
from src.networks.classical import Gaussian

SEEDS = (0, 1, 2)
SAMPLES = ["--model.test_images", "2000"]
CRITIC = ["--model.metrics+=src.metrics.critic.Critic"]
QUICK = ["--trainer.val_check_interval", "100000"]
GAN = ["--config", "configs/digits.yaml", *QUICK]
SLOW = [*GAN, "--model.g_optimizer.lr", "2e-4", "--model.d_optimizer.lr", "2e-4"]  # as these parts were measured
SLOW += ["--model.g_scheduler", "null", "--model.d_scheduler", "null"]
# The GAN of 100 digits: the recipe of mnist.yaml, a third of its steps, and DiffAugment.
FEW = ["--config", "configs/mnist.yaml", "--config", "configs/overlays/gan_with_diffaugment.yaml", *QUICK]
FEW += ["--config", "configs/overlays/classical_28.yaml", "--data.subset", "100", "--trainer.max_steps", "2000"]
FEW += ["--model.g_scheduler.total_iters", "2000", "--model.d_scheduler.total_iters", "2000"]
FEW_SEEDS = range(3)
METRICS = """[{class_path: src.metrics.fid.FrechetDistance, init_args: {extractor: src.metrics.features.Classifier}},
  src.metrics.manifold.PrecisionRecall, src.metrics.manifold.DensityCoverage]"""

SIZES = {"8x8": [], "28x28": ["--config", "configs/overlays/classical_28.yaml"]}
MODELS = {
    "Bernoulli, binarised": ["classical_bernoulli", "--model.generator.levels", "2"],
    "Bernoulli trials, 17 grey levels": ["classical_bernoulli"],
    "Markov": ["classical_markov"],
    "Gaussian": ["classical_gaussian"],
    "mixture of 5 Gaussians": ["classical_gaussian", "--model.generator.components", "5"],
}


def folder(name: str, size: str = "8x8") -> str:
    return "classical_" + ("" if size == "8x8" else f"{size}_") + name.replace(" ", "_").replace(",", "")


def classical(size: str) -> dict[str, Figures]:
    """The figures need no step, for the critic is a score: ten, since `fit` wants some."""
    quick = [*SIZES[size], *QUICK, "--trainer.max_steps", "10"]
    return {
        name: measure(
            folder(name, size), ["--config", f"configs/systems/{config}.yaml", *options, *quick], SEEDS, SAMPLES
        )
        for name, (config, *options) in MODELS.items()
    }


def gan(size: str) -> Figures:
    if size == "8x8":
        return measure(folder("gan"), GAN, SEEDS, [*SAMPLES, *CRITIC])
    return measure(folder("gan", size), ["--config", "configs/mnist.yaml", *QUICK], SEEDS, SAMPLES)


def held_out(size: str) -> Figures:
    """The held-out real digits in place of samples: what a perfect model would score at their number."""
    extractor, data = (Classifier(), Digits()) if size == "8x8" else (Classifier("mnist"), SmallMNIST())
    real, fake = (Features(extractor(torch.from_numpy(data.split(split)[0]))) for split in ("train", "test"))
    metrics = [FrechetDistance(extractor), PrecisionRecall(extractor), DensityCoverage(extractor)]
    return {name: [value] for m in metrics for name, value in zip(m.names, m.values(real, fake), strict=True)}


def chain() -> Figures:
    return measure(
        folder("chain"), [*SLOW, "--config", "configs/overlays/classical_chain.yaml"], SEEDS, [*SAMPLES, *CRITIC]
    )


def diversity() -> dict[str, Figures]:
    """A GAN without classes on all digits, on a tenth of them, and without one digit; scored on all of them."""
    whole = ["--data.subset", "null", "--data.without", "null"]
    cases = {"all digits": [], "a tenth of them": ["--data.subset", "144"], "no digit 3": ["--data.without", "[3]"]}
    plain = ["--data.labels", "false", "--trainer.max_steps", "1000", "--model.metrics", METRICS]
    plain += ["--model.discriminator.batch_norm", "true", "--model.regularizers", "null"]  # else it collapses
    return {
        name: measure(folder(name), [*SLOW, *plain, *options], SEEDS, [*SAMPLES, *whole])
        for name, options in cases.items()
    }


def augmentation() -> dict[str, list[float]]:
    """Accuracy on the 1,000 held-out digits of a classifier of 100: alone, with samples, moved about, and both.

    The GAN has learned from the same 100 digits, as the Gaussians have; the classifier has the same steps everywhere.
    """
    scores: dict[str, list[float]] = {}
    for seed in FEW_SEEDS:
        measure(folder("few"), [*FEW, "--data.subset_seed", str(seed)], [seed], [*SAMPLES, "--data.subset", "null"])
        source = SmallMNIST(subset=100, subset_seed=seed)
        images, labels = map(torch.from_numpy, source.split("train"))
        numbers, classes = torch.arange(2000), torch.arange(2000) % 10
        torch.manual_seed(seed)
        gaussian = Gaussian((28, 28), 1, 10, ridge=0.01)
        with torch.no_grad():
            gaussian.fit(source.training_set())
            drawn = to_uint8(gaussian(torch.randn(2000, *gaussian.latent_shape), classes))
        gan = load(str(FOLDER / folder("few") / f"seed{seed}" / "checkpoints" / "last.ckpt"))
        generated = to_uint8(gan.sample(numbers, classes))
        for name, samples, moved in (
            ("100 digits", None, False),
            ("and samples of Gaussians", drawn, False),
            ("and samples of the GAN", generated, False),
            ("100 digits, moved about", None, True),
            ("and samples of Gaussians, all moved about", drawn, True),
            ("and samples of the GAN, all moved about", generated, True),
        ):
            network = classifier(images, labels, samples, classes, moved, seed)
            found = accuracy(network, *map(torch.from_numpy, source.split("test")))
            scores.setdefault(name, []).append(found)
    return scores


def classifier(
    images: Tensor, labels: Tensor, samples: Tensor | None, classes: Tensor, moved: bool, seed: int
) -> ClassifierNetwork:
    """A classifier after 1,000 steps of 64 images uint8 [N, 1, 28, 28], half of them samples where there are some."""
    torch.manual_seed(seed)
    network = ClassifierNetwork(28, 1, 10, [16, 32, 64]).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    kinds = [(images, labels)] if samples is None else [(images, labels), (samples, classes)]
    for _ in range(1000):
        rows = [torch.randint(len(x), (64 // len(kinds),)) for x, _ in kinds]
        x = from_uint8(torch.cat([x[chosen] for (x, _), chosen in zip(kinds, rows, strict=True)]))
        y = torch.cat([y[chosen] for (_, y), chosen in zip(kinds, rows, strict=True)])
        loss = functional.cross_entropy(network(move(x) if moved else x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def move(x: Tensor) -> Tensor:
    """Each image in [-1, 1] turned by up to 15 degrees and shifted by up to 2 of its 28 pixels; black around it."""
    angle = (torch.rand(len(x)) * 2 - 1) * math.radians(15)
    shift = (torch.rand(len(x), 2, 1) * 2 - 1) * 2 / 14  # the grid goes from -1 to 1
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).unflatten(1, (2, 2))
    places = functional.affine_grid(torch.cat([turn, shift], 2), list(x.shape), align_corners=False)
    return functional.grid_sample(x + 1, places, align_corners=False) - 1


def picture(size: str, path: Path) -> None:
    """Twenty real digits, two of a class, and under them as many of each model."""
    images, labels = (Digits() if size == "8x8" else SmallMNIST()).split("train")
    classes = torch.arange(20) // 2
    real = torch.from_numpy(np.stack([images[labels == k // 2][k % 2] for k in range(20)]))
    rows = [real]
    for name in (*MODELS, "gan"):
        model = load(str(FOLDER / folder(name, size) / "seed0" / "checkpoints" / "last.ckpt"))
        rows.append(to_uint8(model.sample(torch.arange(20), classes)))
    path.parent.mkdir(exist_ok=True)
    grid(torch.cat(rows), 20).save(path)


def figures(columns: tuple[str, ...], of: Figures) -> list[str]:
    """The first figure whose name begins so: that against the training images."""
    found = [next((values for name, values in of.items() if name.startswith(column)), None) for column in columns]
    return [spread(values) if values else "" for values in found]


if __name__ == "__main__":
    columns = ("fcd-", "precision-", "recall-", "density-", "coverage-", "critic_accuracy", "critic_loss")
    for size in SIZES:
        rows = classical(size) | {"GAN": gan(size)}
        if size == "8x8":
            rows["GAN with the Markov-chain loss"] = chain()
        rows["held-out real digits"] = held_out(size)
        print(table([size, *columns], [[name, *figures(columns, of)] for name, of in rows.items()]))
    columns = ("fcd-", "precision-", "recall-", "density-", "coverage-")
    print(table(["", *columns], [[name, *figures(columns, of)] for name, of in diversity().items()]))
    print(table(["", "accuracy"], [[name, spread(values)] for name, values in augmentation().items()]))
    for size in SIZES:
        picture(size, FOLDER / f"classical_{size}.png")
