"""Parts that go together train, whatever the others are; those that are known not to are refused."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer
from test_networks import build

from src.callbacks.checkpoints import AtomicCheckpointIO
from src.engine.ema import EMA
from src.engine.schedules import Cosine, Linear, OverImages, Steps
from src.images import ada, augment
from src.networks import biggan, dcgan, fastgan, mlp, r3gan, resnet, stylegan2, unet
from src.objectives import auxiliary, consistency, losses, regularizers
from src.objectives.lecam import LeCam
from src.objectives.terms import PathLength

PLAYERS = {  # generator, discriminator
    "mlp": (mlp.Generator, mlp.Discriminator),
    "dcgan": (dcgan.Generator, partial(dcgan.Discriminator, batch_norm=False)),
    "resnet": (resnet.Generator, resnet.Discriminator),
    "biggan": (biggan.Generator, biggan.Discriminator),
    "stylegan2": (partial(stylegan2.Generator, style_mixing=0.5), stylegan2.Discriminator),
    "r3gan": (partial(r3gan.Generator, group_size=4), partial(r3gan.Discriminator, group_size=4)),
    "fastgan": (fastgan.Generator, fastgan.Discriminator),
    "unet": (dcgan.Generator, unet.Discriminator),
}
LOSSES = {cls.__name__: cls for cls in (*losses.Loss.__subclasses__(), losses.NonSaturating)}
LOSSES = {name: cls for name, cls in LOSSES.items() if cls.__module__ == losses.__name__} | {"LeCam": LeCam}
PENALTIES = {
    "none": (),
    "R1": (regularizers.R1,),
    "R1 and R2": (regularizers.R1, regularizers.R2),
    "GradientPenalty": (regularizers.GradientPenalty,),
    "ZeroCentered": (regularizers.ZeroCenteredGradientPenalty,),
    "Approximate": (consistency.ApproximateR1, consistency.ApproximateR2),
    "Consistency": (consistency.Consistency,),
    "Balanced": (consistency.BalancedConsistency,),
}
AUGMENTATIONS = {
    "none": (),
    "DiffAugment": (augment.Color, augment.Translation, augment.Cutout),
    "InstanceNoise": (partial(augment.InstanceNoise, steps=None),),
    "Pipeline": (ada.Pipeline,),
    "AdaptivePipeline": (ada.AdaptivePipeline,),
}
CONDITIONS = ("none", "projection", "classifier", "proxies")
FACTORS = (list(PLAYERS), list(LOSSES), list(PENALTIES), list(AUGMENTATIONS), list(CONDITIONS))
SLOPES = ("R1", "R1 and R2", "GradientPenalty", "ZeroCentered")


def goes_together(players, loss, penalty, augmentation, condition) -> bool:
    """What the documentation of the parts says, in one place."""
    batch_norm, bounded = players == "fastgan", players in ("resnet", "biggan", "unet")
    return not (
        (condition in ("classifier", "proxies") and players not in ("dcgan", "biggan"))
        or (penalty in SLOPES and batch_norm)
        or (augmentation == "AdaptivePipeline" and not LOSSES[loss]().calibrated)
        or (loss == "Wasserstein" and penalty == "none" and condition in ("none", "projection") and not bounded)
    )


def covering() -> list[tuple[str, ...]]:
    """Rows of which some hold each pair of two values that go together: a greedy choice among random ones."""
    random = np.random.RandomState(0)
    rows = [row for row in itertools.product(*FACTORS) if goes_together(*row)]
    pairs_of = [set(itertools.combinations(enumerate(row), 2)) for row in rows]
    missing, chosen = set().union(*pairs_of), []
    while missing:
        first = next(iter(sorted(missing)))
        candidates = [i for i in random.choice(len(rows), 300, replace=False) if pairs_of[i] & missing]
        candidates += [next(i for i, pairs in enumerate(pairs_of) if first in pairs)]
        best = max(candidates, key=lambda i: len(pairs_of[i] & missing))
        missing -= pairs_of[best]
        chosen.append(rows[best])
    return chosen


COVERING = covering()
QUICK = [next(row for row in COVERING if row[0] == players) for players in PLAYERS]


class Large(Squares):
    """`Squares` of 8x8 pixels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.describe(8, channels=1, class_names=["dark", "bright"])

    def load(self, split: str):
        images, labels = super().load(split)
        return images.repeat(2, axis=2).repeat(2, axis=3), labels


def gan_of(players, loss, penalty, augmentation, condition):
    torch.manual_seed(0)
    facts = {"image_size": (8, 8), "channels": 1, "num_classes": 0 if condition == "none" else 2}
    options, terms, further = {}, [], []
    if condition in ("classifier", "proxies"):
        options = {"classes": condition, "proxy_dim": 4}
        name = {"classifier": "Classification", "proxies": "DataToDataCrossEntropy"}[condition]
        terms, further = [getattr(auxiliary, name)()], [getattr(auxiliary, f"Generator{name}")(1.0)]
    generator, discriminator = (build(cls, **facts, **options) for cls in PLAYERS[players])
    return make_gan(
        generator=generator, discriminator=discriminator, loss=LOSSES[loss](), ema=EMA(half_life=100),
        regularizers=[*(make(weight=1.0) for make in PENALTIES[penalty]), *terms], g_regularizers=further,
        augment=[make() for make in AUGMENTATIONS[augmentation]], g_optimizer=adam, d_optimizer=adam,
    )  # fmt: skip


adam = partial(torch.optim.Adam, lr=0.01)


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=() if r in QUICK else pytest.mark.slow) for r in COVERING], ids="-".join
)
def test_two_steps_move_both_players_to_finite_weights(row, tmp_path):
    gan = gan_of(*row)
    before = {name: weight.clone() for name, weight in gan.named_parameters() if weight.requires_grad}
    fit(tmp_path, gan, Large(labels=row[-1] != "none"), max_steps=2)
    after = dict(gan.named_parameters())
    assert all(weight.isfinite().all() for weight in after.values())
    still = [name for name, weight in before.items() if torch.equal(weight, after[name])]
    assert all(name.endswith("bias") for name in still)  # a bias of both logits cancels in some losses
    assert gan.sample(torch.arange(4), torch.arange(4) % 2 if row[-1] != "none" else None).abs().max() <= 1


def test_a_run_with_all_that_is_drawn_or_scheduled_resumes_bitwise(tmp_path):
    def gan():
        torch.manual_seed(0)
        facts = {"image_size": (8, 8), "channels": 1, "num_classes": 2}
        rates = partial(OverImages, lr=Cosine(0.01, 0.001, 100), beta1=Steps([0.0, 0.5], [30]))
        return make_gan(
            generator=build(stylegan2.Generator, **facts, style_mixing=0.9),
            discriminator=build(stylegan2.Discriminator, **facts),
            loss=LeCam(losses.Weighted(weight=Linear(1, 2, 60)), weight=Linear(0, 1, 60)),
            regularizers=[regularizers.R1(Cosine(1, 0.1, 90), every=2), consistency.Consistency()],
            g_regularizers=[PathLength(every=2)],
            augment=[ada.AdaptivePipeline(images=100), augment.InstanceNoise(Linear(0.5, 0.1, 90), steps=None)],
            ema=EMA(half_life=Linear(0, 100, 96), warmup=None), accumulate=2,
            g_optimizer=adam, d_optimizer=adam, g_scheduler=rates, d_scheduler=rates,
        )  # fmt: skip

    whole = fit(tmp_path, gan(), Large(labels=True), max_steps=5)
    trainer = make_trainer(tmp_path, 3, plugins=[AtomicCheckpointIO()])
    trainer.fit(gan(), datamodule=Large(labels=True))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = gan()
    make_trainer(tmp_path, 5).fit(again, datamodule=Large(labels=True), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert whole.augment[0].strength > 0
    numbers = torch.arange(20)
    assert torch.equal(whole.sample(numbers, numbers % 2)[7:8], again.sample(numbers[7:8], numbers[7:8] % 2))


def test_the_covering_holds_every_pair():
    pairs = {pair for row in COVERING for pair in itertools.combinations(enumerate(row), 2)}
    for row in itertools.product(*FACTORS):
        assert not goes_together(*row) or set(itertools.combinations(enumerate(row), 2)) <= pairs
    assert len(COVERING) < 90


@pytest.mark.parametrize("loss", [losses.Wasserstein, lambda: losses.Weighted(LeCam(losses.Wasserstein()))])
def test_a_wasserstein_loss_needs_a_bounded_discriminator(loss):
    facts = {"image_size": (16, 16), "channels": 1}
    for options in ({}, {"spectral_norm": True}):  # with batch norm
        with pytest.raises(ValueError, match="Wasserstein needs a discriminator of bounded slope"):
            make_gan(loss=loss(), discriminator=build(dcgan.Discriminator, **facts, **options))
    make_gan(loss=loss(), discriminator=build(resnet.Discriminator, **facts))
    make_gan(loss=loss(), regularizers=[regularizers.GradientPenalty()])


@pytest.mark.parametrize("classes, needed", [("classifier", "Classification"), ("proxies", "DataToDataCrossEntropy")])
def test_a_second_output_that_nothing_trains_is_refused(classes, needed):
    discriminator = build(dcgan.Discriminator, (8, 8), 1, 2, classes=classes, proxy_dim=4)
    term = getattr(auxiliary, f"Generator{needed}")(1.0)
    with pytest.raises(ValueError, match=f"nothing trains the second output of the discriminator.*add {needed} "):
        make_gan(num_classes=2, discriminator=discriminator, g_regularizers=[term])
    make_gan(num_classes=2, discriminator=discriminator, regularizers=[getattr(auxiliary, needed)()])


def test_decoders_that_nothing_trains_are_refused():
    discriminator = build(fastgan.Discriminator, (32, 32), 1, decoders=True)
    with pytest.raises(ValueError, match="nothing trains the decoders of the discriminator"):
        make_gan(discriminator=discriminator)
    make_gan(discriminator=discriminator, regularizers=[consistency.SelfSupervision()])
