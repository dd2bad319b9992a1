"""CUDA graphs and compiled networks: the results of the plain step, and refusals."""

from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Squares, fit, make_gan
from lightning.pytorch import Callback

from src.data.images import ImageDataModule
from src.engine import graphs
from src.engine.ema import EMA
from src.engine.graphs import Graphs, kind
from src.engine.schedules import Cosine, Steps
from src.gan import GAN
from src.images.augment import Adaptive, Augmentation, Color, InstanceNoise, Sometimes, Translation
from src.networks import biggan, dcgan, r3gan, resnet, stylegan2
from src.objectives.losses import Hinge, NonSaturating, RelativisticPairing, Weighted
from src.objectives.regularizers import R1, R2, GradientPenalty

ADAM = partial(torch.optim.Adam, lr=2.0**-10, betas=(0.5, 0.99), fused=True)  # a rate that float32 holds
DECAY = partial(torch.optim.lr_scheduler.PolynomialLR, total_iters=40, power=1.0)
RMS = partial(torch.optim.RMSprop, lr=2.0**-12)


class Noise(ImageDataModule):
    """Images of 16x16 in three classes."""

    splits = ("train",)

    def __init__(self, labels: bool = False):
        super().__init__(16, labels)
        self.describe(16, 3, ["a", "b", "c"])

    def load(self, split):
        random = np.random.RandomState(0)
        return random.randint(0, 256, (100, 3, *self.image_size), dtype=np.uint8), np.arange(100) % 3


def networks(family, num_classes=0, **options):
    facts = {"image_size": (16, 16), "channels": 3, "num_classes": num_classes}
    torch.manual_seed(0)
    return family.Generator(**facts, width=16), family.Discriminator(**facts, width=16, **options)


PLAIN_D = {"batch_norm": False}
STEPS = {
    "penalty": (dcgan, PLAIN_D, NonSaturating, {"regularizers": [R1(1.0, every=3)], "augment": [Translation()]}),
    "fades": (
        dcgan, PLAIN_D, RelativisticPairing,
        {
            "regularizers": [R1(Steps([1.0, 0.5], [160])), R2(Cosine(1.0, 0.1, 100), every=2)],
            "augment": [Sometimes([Color(), Translation()], Cosine(0.0, 0.3, 200)), InstanceNoise(0.1, steps=10)],
            "ema": EMA(half_life=Cosine(0, 300, 300)),
        },
    ),
    "adaptive": (
        dcgan, PLAIN_D, NonSaturating, {"augment": [Adaptive([Color()], target=-0.5, images=200)], "d_steps": 2},
    ),
    "slopes": (dcgan, PLAIN_D, NonSaturating, {"regularizers": [GradientPenalty(1.0)], "d_clip": 0.1, "accumulate": 2}),
    "hinge": (resnet, {}, Hinge, {"g_batch_multiple": 2, "d_warmup_steps": 2}),
    "biggan": (biggan, {}, Hinge, {}),
    "stylegan2": (stylegan2, {}, NonSaturating, {"regularizers": [R1(1.0, every=4)]}),
    "r3gan": (r3gan, {}, RelativisticPairing, {"regularizers": [R1(1.0), R2(1.0)]}),
}  # fmt: skip


def make(name, num_classes=0, **options) -> GAN:
    family, of_discriminator, loss, defaults = STEPS[name]
    players = networks(family, num_classes, **of_discriminator)
    defaults = deepcopy(defaults)  # strengths are states
    schedules = {"g_scheduler": DECAY, "d_scheduler": DECAY}
    return GAN(*players, loss(), **({"g_optimizer": ADAM, "d_optimizer": ADAM} | schedules | defaults | options))


class Curves(Callback):
    """What was logged."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, module, *_):
        left_out = ("images_per_second",)
        self.rows.append({key: value for key, value in module.logged.items() if key not in left_out})


def train(folder, gan, data=None, **options) -> tuple[GAN, list]:
    curves = Curves()
    options = {"max_steps": 24, "log_every_n_steps": 5, "accelerator": "gpu", "deterministic": True} | options
    fit(folder, gan, data or Noise(), callbacks=[curves], devices=1, **options)
    return gan, curves.rows


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", STEPS)
def test_graphs_give_the_bits_of_the_plain_step(tmp_path, name, precision):
    num_classes = 3 if name in ("penalty", "biggan", "stylegan2") else 0
    runs = [
        train(tmp_path, make(name, num_classes, cuda_graphs=recorded), Noise(num_classes > 0), precision=precision)
        for recorded in (False, True)
    ]
    (plain, curves), (graphed, its_curves) = runs
    assert graphed.graphs.recordings and curves == its_curves
    assert plain.images_seen == graphed.images_seen and plain.trainer.global_step == graphed.trainer.global_step == 24
    different = [key for key, value in plain.state_dict().items() if not torch.equal(value, graphed.state_dict()[key])]
    assert different == []


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["skip", "stop", "rollback"])
def test_a_graph_reports_what_is_not_finite(tmp_path, policy, monkeypatch):
    gan = make("penalty", cuda_graphs=True, on_nonfinite=policy)
    latents = gan.latents
    # The ninth update of the discriminator, from 0: key (purpose, update).
    monkeypatch.setattr(gan, "latents", lambda n, *key: latents(n, *key) * (float("nan") if key[1:] == (8,) else 1.0))
    if policy == "skip":
        with pytest.warns(UserWarning, match="step 8: the gradient of the discriminator is not finite"):
            train(tmp_path, gan)
        assert gan.faults.count >= 1
        assert all(value.isfinite().all() for value in gan.discriminator.state_dict().values())
    else:
        with pytest.raises(ValueError, match="step 8: the gradient of the discriminator is not finite"):
            train(tmp_path, gan)  # nor is there a last.ckpt to go back to


@pytest.mark.gpu
def test_what_a_graph_cannot_hold_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="draws on the CPU"):
        train(tmp_path, make("penalty", cuda_graphs=True, augment=[OnTheCPU()]))
    gan, _ = train(tmp_path, make("penalty", cuda_graphs="auto", augment=[OnTheCPU()]))
    assert gan.graphs is None and gan.trainer.global_step == 24
    gan = make("penalty", cuda_graphs="auto", augment=[Waiting()])
    monkeypatch.setattr(graphs, "parts_of", lambda _: [])  # as if it were ours
    train(tmp_path, gan)
    assert gan.graphs is None and gan.trainer.global_step == 24
    with pytest.raises(ValueError, match="cannot record the steps of this model"):
        train(tmp_path, make("penalty", cuda_graphs=True, augment=[Waiting()]))
    with pytest.raises(ValueError, match="fused: true"):
        train(tmp_path, make("penalty", cuda_graphs=True, g_optimizer=RMS))
    with pytest.raises(ValueError, match="16-mixed"):
        train(tmp_path, make("penalty", cuda_graphs=True), precision="16-mixed")


class OnTheCPU(Augmentation):
    """Noise of the wrong device."""

    def forward(self, images):
        return images + torch.rand(()).item()


class Waiting(Augmentation):
    """Asks the device for a number, and draws there: a recording that fails leaves its generator unusable."""

    def forward(self, images):
        return images + 0 * torch.randn_like(images).mean().item()


def flat(network):
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


@pytest.mark.gpu
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", ["penalty", "stylegan2", "r3gan"])
def test_compiled_networks_take_the_same_steps(tmp_path, name, recorded):
    descent = partial(torch.optim.SGD, lr=0.01, fused=True)  # Adam divides small numbers by small ones
    options = {"g_optimizer": descent, "d_optimizer": descent}
    runs = [
        train(tmp_path, make(name, compile_networks=c, cuda_graphs=c and recorded, **options), max_steps=4)[0]
        for c in (False, True)
    ]
    plain, compiled, started = (flat(gan.generator).cpu() for gan in (*runs, make(name)))
    assert (plain - compiled).norm() < 0.01 * (plain - started).norm()


# -------------------------------------------------------------------------------------------------- without a GPU


def test_spectral_normalization_is_not_compiled():
    model = SimpleNamespace(
        device=torch.device("cuda"), generator=torch.nn.Identity(), discriminator=networks(resnet)[1]
    )
    with pytest.raises(ValueError, match="spectral normalization of the resnet Discriminator"):
        graphs.compile_(model)


@pytest.mark.parametrize(
    "option, said", [("cuda_graphs", "take a CUDA device"), ("compile_networks", "1.35 times as long")]
)
def test_on_a_cpu_both_are_refused(tmp_path, option, said):
    with pytest.raises(ValueError, match=f"model.{option} .*{said}"):
        fit(tmp_path, make_gan(**{option: True}), Squares())


def test_automatic_graphs_are_none_on_a_cpu_and_say_why_they_cannot_be(tmp_path, monkeypatch, caplog):
    gan = fit(tmp_path, make_gan(cuda_graphs="auto"), Squares())
    assert gan.graphs is None and "graph" not in caplog.text
    model = SimpleNamespace(device=torch.device("cuda"), cuda_graphs="auto", trainer=SimpleNamespace(world_size=2))
    monkeypatch.setattr(graphs, "parts_of", lambda _: [gan.loss, torch.nn.ReLU()])
    monkeypatch.setattr(graphs, "Graphs", lambda _: 1)
    with caplog.at_level("INFO"):
        assert graphs.graphs_of(model) is None
        assert "since several processes" in caplog.text and "leave" not in caplog.text  # nobody asked for it
        monkeypatch.setattr(graphs, "hindrance", lambda _: None)
        assert graphs.graphs_of(model) == 1 and "recorded as a CUDA graph;" in caplog.text
    monkeypatch.setattr(graphs, "parts_of", lambda _: [OnTheCPU()])
    assert graphs.graphs_of(model) is None and "OnTheCPU is not of this project" in caplog.text


def test_the_parts_of_a_step_are_found(tmp_path):
    gan = fit(tmp_path, make("fades"), Noise(), max_steps=1)
    assert {R1, R2, Color, Translation, RelativisticPairing, dcgan.Generator, torch.optim.Adam} <= {
        type(part) for part in graphs.parts_of(gan)
    }
    assert NonSaturating in {
        type(part) for part in graphs.parts_of(fit(tmp_path, make_gan(loss=Weighted()), max_steps=1))
    }


def test_each_number_of_a_step_makes_another_kind_of_it():
    gan = make_gan(
        loss=NonSaturating(), regularizers=[R1(Steps([1.0, 2.0], [100]), every=4)], augment=[InstanceNoise(0.1, 10)],
        g_optimizer=ADAM, d_optimizer=ADAM, ema=EMA(half_life=Cosine(0, 10, 1000)),
    )  # fmt: skip
    groups = [group for optimizer in gan.make_optimizers() for group in optimizer.param_groups]
    gan.logs_now = False

    def now(step, leaf=torch.zeros(2, 3)):  # noqa: B008
        return tuple(kind(gan, [leaf], groups, step))

    first = now(0)
    assert first == now(1) and hash(first) == hash(now(1))
    assert now(3) != first  # the penalty is due
    assert now(0, torch.zeros(3, 2)) != first and now(0, torch.zeros(3, 2).T) != first
    gan.images_seen = 50
    for number in gan.scheduled:
        number.set(50)
    assert now(0) == first  # the half-life, which no recording holds
    for number in gan.scheduled:
        number.set(200)
    assert now(0) != first  # the weight
    for number in gan.scheduled:
        number.set(50)
    gan.augment[0].advance(3)
    assert now(0) != first
    gan.augment[0].advance(0)
    groups[0]["lr"] = 1.0  # read from the device
    assert now(0) == first
    groups[0]["betas"] = (0.0, 0.9)
    assert now(0) != first
    gan.logs_now = True
    groups[0]["betas"] = (0.5, 0.99)
    assert now(0) != first


def test_a_recording_needs_one_process_and_nobody_who_listens():
    model = SimpleNamespace(device=torch.device("cuda"), trainer=SimpleNamespace(world_size=2), straight=True)
    with pytest.raises(ValueError, match="--trainer.devices 1"):
        Graphs(model)
    model.trainer.world_size, model.straight = 1, False
    with pytest.raises(ValueError, match="wants to hear"):
        Graphs(model)
