"""Classical models beside a GAN, data of less diversity, and samples as training data: `make study-classical`."""

from pathlib import Path

import numpy as np
import torch
from common import FOLDER, Figures, measure, spread, table
from sklearn.svm import SVC

from src.callbacks.pictures import grid
from src.cli import load, main
from src.data.digits import Digits
from src.images.pixels import to_uint8
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
METRICS = """[{class_path: src.metrics.fid.FrechetDistance, init_args: {extractor: src.metrics.features.Classifier}},
  src.metrics.manifold.PrecisionRecall, src.metrics.manifold.DensityCoverage]"""

MODELS = {
    "Bernoulli, binarised": ["classical_bernoulli", "--model.generator.levels", "2"],
    "Bernoulli trials, 17 grey levels": ["classical_bernoulli"],
    "Markov": ["classical_markov"],
    "Gaussian": ["classical_gaussian"],
    "mixture of 5 Gaussians": ["classical_gaussian", "--model.generator.components", "5"],
}


def folder(name: str) -> str:
    return "classical_" + name.replace(" ", "_").replace(",", "")


def classical() -> dict[str, Figures]:
    """The figures need no step, for the critic is a score: ten, since `fit` wants some."""
    quick = [*QUICK, "--trainer.max_steps", "10"]
    return {
        name: measure(folder(name), ["--config", f"configs/systems/{config}.yaml", *options, *quick], SEEDS, SAMPLES)
        for name, (config, *options) in MODELS.items()
    }


def gan() -> Figures:
    return measure(folder("gan"), GAN, SEEDS, [*SAMPLES, *CRITIC])


def held_out() -> Figures:
    """The 360 held-out real digits in place of samples: what a perfect model would score at their number."""
    extractor = Classifier()
    real, fake = (Features(extractor(torch.from_numpy(Digits().split(split)[0]))) for split in ("train", "test"))
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
    """Accuracy on held-out digits of an SVM fitted on 100 digits alone, and with 1,000 samples learned from them."""
    scores: dict[str, list[float]] = {}
    for seed in range(5):
        run = FOLDER / folder("few") / f"seed{seed}"
        data = ["--data.subset", "100", "--data.subset_seed", str(seed), "--trainer.max_steps", "1000"]
        common = ["--run_dir", str(run), "--trainer.logger", "false", "--seed_everything", str(seed), "--resume"]
        if not (run / "checkpoints" / "last.ckpt").exists():
            main(["fit", *SLOW, *data, *common])
        source = Digits(subset=100, subset_seed=seed)
        images, labels = source.split("train")
        held_out, truth = source.split("test")
        numbers, classes = torch.arange(1000), torch.arange(1000) % 10
        torch.manual_seed(seed)
        gaussian = Gaussian((8, 8), 1, 10, ridge=0.01)
        with torch.no_grad():
            gaussian.fit(images, labels)
            drawn = gaussian(torch.randn(1000, *gaussian.latent_shape), classes)
        added = {
            "100 digits": images[:0],
            "and a Gaussian's samples": to_uint8(drawn).numpy(),
            "and the GAN's samples": to_uint8(
                load(str(run / "checkpoints/last.ckpt")).sample(numbers, classes)
            ).numpy(),
        }
        for name, extra in added.items():
            x = np.concatenate([images, extra]).reshape(-1, 64) / 255
            y = np.concatenate([labels, classes[: len(extra)].numpy()])
            scores.setdefault(name, []).append(SVC().fit(x, y).score(held_out.reshape(-1, 64) / 255, truth))
    return scores


def picture(path: Path) -> None:
    """Twenty real digits, two of a class, and under them as many of each model."""
    images, labels = Digits().split("train")
    classes = torch.arange(20) // 2
    real = torch.from_numpy(np.stack([images[labels == k // 2][k % 2] for k in range(20)]))
    rows = [real]
    for name in (*MODELS, "gan"):
        model = load(str(FOLDER / folder(name) / "seed0" / "checkpoints" / "last.ckpt"))
        rows.append(to_uint8(model.sample(torch.arange(20), classes)))
    path.parent.mkdir(exist_ok=True)
    grid(torch.cat(rows), 20).save(path)


def figures(columns: tuple[str, ...], of: Figures) -> list[str]:
    """The first figure whose name begins so: that against the training images."""
    found = [next((values for name, values in of.items() if name.startswith(column)), None) for column in columns]
    return [spread(values) if values else "" for values in found]


if __name__ == "__main__":
    rows = classical() | {"GAN": gan(), "GAN with the Markov-chain loss": chain()}
    rows["360 held-out real digits"] = held_out()
    columns = ("fcd-", "precision-", "recall-", "density-", "coverage-", "critic_accuracy", "critic_loss")
    print(table(["", *columns], [[name, *figures(columns, of)] for name, of in rows.items()]))
    columns = ("fcd-", "precision-", "recall-", "density-", "coverage-")
    print(table(["", *columns], [[name, *figures(columns, of)] for name, of in diversity().items()]))
    print(table(["", "accuracy"], [[name, spread(values)] for name, values in augmentation().items()]))
    picture(FOLDER / "classical.png")
