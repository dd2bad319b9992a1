"""The two-player step: what is counted, who moves, what the gradients are."""

from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer
from lightning.pytorch import Callback
from torch.nn.utils import parameters_to_vector

from src.engine import seeding
from src.engine.batches import BLOCK, EVAL_BATCH, join, pieces
from src.engine.ema import EMA, PowerEMA
from src.images.augment import Augmentation, InstanceNoise
from src.images.measurements import Measurement
from src.images.pixels import from_uint8, to_uint8
from src.networks import mlp
from src.objectives.losses import Hinge, Loss, RelativisticPairing, Wasserstein
from src.objectives.regularizers import R1
from src.objectives.terms import GeneratorRegularizer


class Count(torch.optim.SGD):
    """SGD that counts its steps."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


def weights(network):
    return parameters_to_vector(network.parameters()).detach().clone()


@pytest.mark.parametrize("d_steps", [1, 3])
@pytest.mark.parametrize("warmup", [0, 5])
def test_one_step_is_one_generator_update(tmp_path, d_steps, warmup):
    count = partial(Count, lr=0.1)
    gan = make_gan(d_steps=d_steps, d_warmup_steps=warmup, g_optimizer=count, d_optimizer=count)
    trainer = make_trainer(tmp_path, max_steps=7)
    trainer.fit(gan, datamodule=Squares())
    g_optimizer, d_optimizer = (optimizer.optimizer for optimizer in gan.optimizers())
    assert (g_optimizer.steps, d_optimizer.steps) == (7, 7 * d_steps + warmup)
    assert trainer.global_step == 7
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["global_step"] == 7


def test_each_discriminator_step_sees_a_fresh_batch(tmp_path, monkeypatch):
    gan = make_gan(d_steps=3)
    seen = []
    monkeypatch.setattr(gan, "update_discriminator", lambda batch, *_: seen.append(batch[0].clone()))
    fit(tmp_path, gan, Squares(num_images=96, batch_size=8), max_steps=4)
    images = to_uint8(torch.cat(seen)).flatten(1)
    assert len(images) == 96
    assert len(images.unique(dim=0)) == 96  # 4 steps of 3 batches of 8: every image once


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_step_moves_one_player_and_leaves_the_other(tmp_path, monkeypatch, player):
    gan = make_gan()
    other = {"discriminator": gan.generator, "generator": gan.discriminator}[player]
    update = getattr(gan, f"update_{player}")

    def check(*args):
        for network in (gan.generator, gan.discriminator):
            network.zero_grad()
        before, moved = weights(other), weights(getattr(gan, player))
        update(*args)
        assert torch.equal(weights(other), before)
        assert not torch.equal(weights(getattr(gan, player)), moved)
        assert all(parameter.grad is None for parameter in other.parameters())  # never even computed

    monkeypatch.setattr(gan, f"update_{player}", check)
    fit(tmp_path, gan, max_steps=2)


def test_fakes_of_the_discriminator_have_no_graph(tmp_path, monkeypatch):
    gan = make_gan(regularizers=[R1(1.0)])
    graphs = []
    original = gan.discriminator.forward
    monkeypatch.setattr(gan.discriminator, "forward", lambda x, c=None: graphs.append(x.grad_fn) or original(x, c))
    monkeypatch.setattr(gan, "update_generator", lambda *_: gan.trainer.fit_loop.epoch_loop.manual_optimization)
    make_trainer(tmp_path, fast_dev_run=1).fit(gan, datamodule=Squares())
    assert graphs == [None, None]  # real and fake together, and the leaf of the penalty


def reference_step(gan, data, step=0):
    """One step of SGD written out, with the noise and the batches that the module must have used."""
    g, d = deepcopy(gan.generator), deepcopy(gan.discriminator)
    x = from_uint8(torch.from_numpy(data.split("train")[0]))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seeding.mix(0, seeding.ORDER, 0)))
    real = x[order[:8]]
    z = seeding.normal((8, 4), 0, seeding.DISCRIMINATOR, step)
    loss = gan.loss.discriminator(d(real), d(g(z).detach()))
    if gan.regularizers:
        leaf = real.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(d(leaf).sum(), leaf, create_graph=True)
        loss = loss + gan.regularizers[0].weight / 2 * gradient.square().sum((1, 2, 3)).mean()
    for parameter, gradient in zip(d.parameters(), torch.autograd.grad(loss, list(d.parameters())), strict=True):
        parameter.data -= 0.1 * gradient
    z = seeding.normal((8, 4), 0, seeding.GENERATOR, step, 0)
    loss = gan.loss.generator(None, d(g(z)))
    for parameter, gradient in zip(g.parameters(), torch.autograd.grad(loss, list(g.parameters())), strict=True):
        parameter.data -= 0.1 * gradient
    return g, d


@pytest.mark.parametrize(
    "options", [{}, {"loss": Wasserstein(), "regularizers": [R1(1.0)]}, {"regularizers": [R1(3.0)]}, {"accumulate": 4}]
)
def test_the_step_is_the_algorithm(tmp_path, options):
    gan = make_gan(**options)
    data = Squares()
    generator, discriminator = reference_step(gan, data)
    fit(tmp_path, gan, data, max_steps=1)
    torch.testing.assert_close(weights(gan.generator), weights(generator), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(gan.discriminator), weights(discriminator), rtol=0, atol=1e-6)


def test_a_relativistic_generator_gets_its_own_real_batch(tmp_path, monkeypatch):
    gan = make_gan(loss=RelativisticPairing(), g_batch_multiple=2)
    batches = {}
    for player in ("discriminator", "generator"):
        update = getattr(gan, f"update_{player}")

        def note(batch, *rest, player=player, update=update):
            batches[player] = batch
            update(batch, *rest)

        monkeypatch.setattr(gan, f"update_{player}", note)
    fit(tmp_path, gan, Squares(num_images=24), max_steps=1)
    shown = [batches["discriminator"][0], *(x for x, _ in batches["generator"])]
    assert len(torch.cat(shown).flatten(1).unique(dim=0)) == 24


@pytest.mark.parametrize("multiple", [1, 3])
def test_the_generator_batch_is_a_multiple(tmp_path, monkeypatch, multiple):
    gan = make_gan(num_classes=2, g_batch_multiple=multiple)
    sizes = []
    original = gan.generator.forward
    monkeypatch.setattr(gan.generator, "forward", lambda z, c=None: sizes.append((len(z), len(c))) or original(z, c))
    fit(tmp_path, gan, Squares(labels=True), max_steps=1)
    assert sizes == [(8, 8), (8 * multiple, 8 * multiple)]


class Nothing:
    """A loss without a gradient for the discriminator; no `Loss`, which the tests of the losses would find."""

    relativistic = False
    generator = Wasserstein.generator

    def discriminator(self, real_logits, fake_logits):
        return 0 * (fake_logits.mean() + real_logits.mean())


def sum_of(network):
    return sum(parameter.sum() for parameter in network.parameters())


@pytest.mark.parametrize("every", [1, 4])
def test_lazy_penalties_keep_the_expected_objective(tmp_path, monkeypatch, every):
    penalty = R1(0.5, every=every)
    calls = []
    monkeypatch.setattr(penalty, "penalty", lambda d, *_: calls.append(1) or sum_of(d.discriminator))
    gan = make_gan(regularizers=[penalty], loss=Nothing(), d_steps=2)
    before = weights(gan.discriminator)
    fit(tmp_path, gan, max_steps=6)
    assert len(calls) == 12 // every
    torch.testing.assert_close(weights(gan.discriminator), before - 12 * 0.1 * 0.5)  # whatever `every`


@pytest.mark.parametrize("player", [0, 1])
def test_clipping_bounds_the_norm_of_one_player(tmp_path, player):
    norms = {}
    gan = make_gan(**{("g_clip", "d_clip")[player]: 1e-3})

    class Note(Count):
        def step(self, closure=None):
            result = super().step(closure)
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            norms.setdefault(id(self), []).append(torch.nn.utils.get_total_norm(gradients).item())
            return result

    gan.optimizer_callables = (partial(Note, lr=0.1), partial(Note, lr=0.1))
    fit(tmp_path, gan, max_steps=3)
    clipped, free = (norms[id(gan.optimizers()[i].optimizer)] for i in (player, 1 - player))
    assert clipped == pytest.approx([1e-3] * 3, rel=1e-3)
    assert min(free) > 1e-2


def test_gradients_below_the_bound_are_left_alone(tmp_path):
    free, bounded = (fit(tmp_path, make_gan(g_clip=clip, d_clip=clip), max_steps=3) for clip in (None, 1e9))
    assert torch.equal(weights(bounded.generator), weights(free.generator))


def test_dropout_is_a_function_of_seed_and_step(tmp_path):
    """Not of what was drawn before: whatever the state of the global stream, also after a resume."""
    dropping = mlp.Discriminator((4, 4), 1, hidden=(8,), dropout=0.5)
    trained = []
    for state, seed in ((1, 0), (2, 0), (1, 3)):
        gan = make_gan(discriminator=deepcopy(dropping), seed=seed)
        torch.manual_seed(state)
        trained.append(weights(fit(tmp_path, gan, max_steps=4).discriminator))
    assert torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])

    first = make_gan(discriminator=deepcopy(dropping))
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(first, datamodule=Squares())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = make_gan(discriminator=deepcopy(dropping))
    make_trainer(tmp_path, max_steps=4).fit(second, datamodule=Squares(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(weights(second.discriminator), trained[0])


def test_schedules_advance_once_a_step(tmp_path):
    decay = partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=10)
    gan = fit(tmp_path, make_gan(g_scheduler=decay, d_steps=3), max_steps=4)
    g_optimizer, d_optimizer = gan.optimizers()
    assert g_optimizer.param_groups[0]["lr"] == pytest.approx(0.06)
    assert d_optimizer.param_groups[0]["lr"] == 0.1


def test_ema_is_its_formula(tmp_path):
    gan = make_gan(ema=EMA(decay=0.9, warmup=None))
    average, trail = weights(gan.generator), []
    original = gan.ema.update
    gan.ema.update = lambda *where: (trail.append(weights(gan.generator)), original(*where))
    fit(tmp_path, gan, max_steps=5)
    for current in trail:
        average = 0.9 * average + 0.1 * current
    torch.testing.assert_close(weights(gan.generator_ema), average)
    assert not gan.generator_ema.training and not any(p.requires_grad for p in gan.generator_ema.parameters())


def test_ema_half_life_and_warmup():
    assert EMA(half_life=640, warmup=None).decay_at(0, 64) ** 10 == pytest.approx(0.5)
    assert EMA(decay=0.999, warmup=None).decay_at(0, 64) == pytest.approx(0.999)
    ramp = EMA(half_life=1e9, warmup=0.05)
    assert ramp.decay_at(999, 64) == pytest.approx(0.5 ** (1 / 50))  # half-life: 5 % of 1000 steps
    for wrong in ({}, {"half_life": 1, "decay": 0.5}, {"decay": 1.0}, {"half_life": 0}):
        with pytest.raises(ValueError, match="EMA"):
            EMA(**wrong)


@pytest.mark.parametrize("length, power", [(0.05, 16.97), (0.10, 6.94), (0.28, 0.169)])
def test_the_power_function_weighs_times_by_its_power_and_has_the_length_that_it_says(length, power):
    ema = PowerEMA(length)
    assert ema.power == pytest.approx(power, abs=5e-3)
    kept = np.array([ema.decay_at(step, 64) for step in range(2000)])
    shares = (1 - kept) * np.append(np.cumprod(kept[:0:-1])[::-1], 1)  # of the generator after each step
    times = np.arange(1, 2001) / 2000
    np.testing.assert_allclose(shares.cumsum(), times ** (ema.power + 1), atol=1e-12)
    assert np.sqrt(np.average((times - np.average(times, weights=shares)) ** 2, weights=shares)) == pytest.approx(
        length, rel=1e-2
    )
    for wrong in (0, 0.29):
        with pytest.raises(ValueError, match="length of PowerEMA must be above 0 and below 0.289"):
            PowerEMA(wrong)


def test_ema_copies_buffers(tmp_path):
    torch.manual_seed(0)
    source = torch.nn.BatchNorm1d(3)
    target = deepcopy(source)
    source(torch.randn(8, 3) + 5)
    ema = EMA(decay=0.9)
    ema.attach(target, source)
    ema.update(0, 8)
    assert torch.equal(target.running_mean, source.running_mean)
    assert target.num_batches_tracked == 1


def test_samples_depend_on_seed_and_index_alone():
    gan = make_gan()
    together = gan.sample(torch.arange(20))
    torch.testing.assert_close(torch.cat([gan.sample(torch.arange(i, i + 5)) for i in (0, 5, 10, 15)]), together)
    gan.seed = 1
    assert not torch.allclose(gan.sample(torch.arange(20)), together)


def test_a_sample_has_its_row_in_a_batch_of_fixed_size(monkeypatch):
    """Kernels round differently for other sizes and, some, for other rows."""
    gan = make_gan()
    batches = []
    monkeypatch.setattr(gan.generator, "forward", lambda z, c: batches.append(z) or torch.zeros(len(z), 1, 4, 4))
    gan.sample(torch.tensor([18, 3, 16]))
    assert [len(z) for z in batches] == [BLOCK, BLOCK]
    noise = {i: seeding.normal((4,), 0, seeding.SAMPLES, i) for i in (3, 16, 18)}
    assert torch.equal(batches[0][3], noise[3])
    assert torch.equal(batches[1][0], noise[16]) and torch.equal(batches[1][2], noise[18])


def test_an_evaluation_draws_no_block_twice(monkeypatch):
    """In chunks of 50 samples the blocks at their borders would be, a quarter of all."""
    gan = make_gan()
    rows, forward = [], gan.generator.forward
    monkeypatch.setattr(gan.generator, "forward", lambda z, c: rows.append(len(z)) or forward(z, c))
    chunks = [gan.sample(indices) for indices in torch.arange(10 * BLOCK).split(EVAL_BATCH)]
    assert sum(rows) == 10 * BLOCK
    others = [gan.sample(indices) for indices in torch.arange(10 * BLOCK).split(50)]
    assert torch.equal(torch.cat(chunks), torch.cat(others)), "samples do not depend on the chunks, to the last bit"


def test_noise_differs_between_purposes_steps_and_seeds():
    d, g = seeding.DISCRIMINATOR, seeding.GENERATOR
    keys = [(0, d, 0), (0, g, 0), (0, d, 1), (1, d, 0)]
    draws = torch.stack([seeding.normal((64,), *key) for key in keys])
    assert draws.corrcoef().fill_diagonal_(0).abs().max() < 0.5
    assert torch.equal(seeding.normal((64,), *keys[2]), draws[2])


def test_pieces_and_join_are_inverse():
    batch = (torch.arange(12).view(6, 2), {"label": torch.arange(6), "none": None})
    parts = pieces(batch, 3)
    assert parts[1][0].tolist() == [[4, 5], [6, 7]] and parts[1][1]["label"].tolist() == [2, 3]
    joined = join(parts)
    assert torch.equal(joined[0], batch[0]) and torch.equal(joined[1]["label"], batch[1]["label"])
    assert joined[1]["none"] is None


@pytest.mark.parametrize("name", ["d_steps", "g_batch_multiple", "accumulate"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"model.{name} must be at least 1"):
        make_gan(**{name: 0})


def test_plateau_schedules_are_refused(tmp_path):
    gan = make_gan(g_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        fit(tmp_path, gan)


def test_grey_levels_survive_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert to_uint8(torch.tensor([-9.0, 0.003, 9.0])).tolist() == [0, 128, 255]


class Shift(Augmentation):
    """Adds `amount`, and notes what it is told and shown."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount, self.steps, self.logits, self.calls = amount, [], [], 0

    def advance(self, step):
        self.steps.append(step)

    def observe(self, real_logits):
        self.logits.append(real_logits)

    def forward(self, images, generator=None):
        self.calls += 1
        return images + self.amount


class Brighter(Measurement):
    """Adds `amount`."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount = amount

    def forward(self, images, generator=None):
        return images + self.amount


def seen_by_discriminator(**parts):
    """Means of what D sees as (real, fake) in its update and as fake in that of the generator, for G = 0 and x = 1."""
    gan = make_gan(loss=Hinge(), **parts)
    gan.discriminator.independent = False  # two calls, so that the two kinds can be told apart
    seen = []
    gan.generator.forward = lambda z, condition=None: 0 * gan.generator.to_pixels.bias.sum() + z.new_zeros(8, 1, 4, 4)
    forward = gan.discriminator.forward
    gan.discriminator.forward = lambda x, condition=None: seen.append(x.mean().item()) or forward(x, condition)
    gan.trainer, gan.logs_now = SimpleNamespace(world_size=1, global_rank=0), False
    gan.backward_into, gan.apply_gradients = lambda *_: None, lambda *_, **__: None
    gan.optimizers = lambda: (SimpleNamespace(param_groups=[]),) * 2
    batch, z = (torch.ones(8, 1, 4, 4), None), torch.zeros(8, 4)
    gan.update_discriminator(batch, z, 0, 0)
    gan.update_generator([batch], [z], 0)
    return seen


def test_augmentations_see_both_kinds_and_the_measurement_only_fakes():
    assert seen_by_discriminator() == [1, 0, 0]
    assert seen_by_discriminator(augment=[Shift(2.0), Shift(4.0)]) == [7, 6, 6]
    assert seen_by_discriminator(measurement=Brighter(2.0)) == [1, 2, 2]
    assert seen_by_discriminator(measurement=Brighter(2.0), augment=[Shift(4.0)]) == [5, 6, 6]


def test_augmentations_are_told_the_step(tmp_path):
    augmentation = Shift(0.0)
    fit(tmp_path, make_gan(augment=[augmentation]), max_steps=3)
    assert augmentation.steps == [0, 1, 2]


def test_augmentations_are_told_the_logits_of_real_images(tmp_path):
    augmentation = Shift(0.0)
    gan = make_gan(loss=Hinge(), augment=[augmentation], d_steps=2, accumulate=2)
    gan.discriminator.forward = lambda x, condition=None: x.mean((1, 2, 3)) + 0 * gan.discriminator.head.psi.bias
    data = Squares()
    fit(tmp_path, gan, data, max_steps=1)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seeding.mix(0, seeding.ORDER, 0)))
    real = from_uint8(torch.from_numpy(data.split("train")[0]))[order[:16]]
    torch.testing.assert_close(torch.cat(augmentation.logits), real.mean((1, 2, 3)))
    assert [len(logits) for logits in augmentation.logits] == [4] * 4  # each part of each update
    assert not any(logits.requires_grad for logits in augmentation.logits)


class PullTo(GeneratorRegularizer):
    """(mean of the fakes - a weight of its own)^2, which starts at 3."""

    def build(self, generator, discriminator):
        self.level = torch.nn.Parameter(torch.tensor(3.0))

    def penalty(self, model, z, fake, real, condition):
        return (fake.mean() - self.level).square()


def test_a_term_of_the_generator_trains_it_and_its_own_weights_but_not_the_discriminator(tmp_path):
    gan = make_gan(loss=Silent(), g_regularizers=[PullTo(1.0)])
    before = deepcopy(gan.state_dict())
    fit(tmp_path, gan, max_steps=1)
    moved = {name for name, tensor in gan.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "g_regularizers.0.level" in moved and any(name.startswith("generator.") for name in moved)
    assert not any(name.startswith("discriminator.") for name in moved)
    level = gan.state_dict()["g_regularizers.0.level"].item()
    assert 2.0 < level < 3.0  # SGD at 0.1 on (mean - 3)^2, with the mean near 0


def test_a_lazy_term_counts_as_often_as_it_is_left_out(tmp_path):
    levels = []
    for every in (1, 2):
        gan = make_gan(loss=Silent(), g_regularizers=[PullTo(0.01, every=every)])
        fit(tmp_path / str(every), gan, max_steps=2)
        levels.append(3 - gan.g_regularizers[0].level.item())
    assert levels[0] == pytest.approx(levels[1], rel=0.02) and levels[0] > 0


class Silent(Loss):
    """Leaves both players where they are."""

    def generator(self, real_logits, fake_logits):
        return 0 * fake_logits.sum()

    def discriminator(self, real_logits, fake_logits):
        return 0 * fake_logits.sum()


class Mean(mlp.Generator):
    """The mean image, in closed form."""

    def fit(self, data):
        images, _ = data[list(range(len(data)))]
        self.requires_grad_(False)
        self.to_pixels.weight.zero_()
        self.to_pixels.bias.copy_(torch.atanh(from_uint8(images).mean(0).flatten()))


def test_a_generator_fitted_in_closed_form_stays_as_it_is_while_the_discriminator_trains(tmp_path):
    generator = Mean((4, 4), 1, latent_dim=4, hidden=(8,))
    gan = make_gan(generator=generator, ema=EMA(decay=0.9), g_clip=1.0)
    data = Squares()
    before = deepcopy(gan.discriminator.state_dict())
    fit(tmp_path, gan, data, max_steps=2)
    mean = from_uint8(torch.from_numpy(data.split("train")[0])).mean(0)
    for network in (gan.generator, gan.generator_ema):
        torch.testing.assert_close(network(torch.randn(3, 4))[0], mean)
    assert not torch.equal(before["hidden.0.weight"], gan.discriminator.state_dict()["hidden.0.weight"])
    assert gan.trainer.global_step == 2


def test_each_step_draws_other_random_numbers(tmp_path):
    seen = []

    class Note(InstanceNoise):
        def forward(self, images):
            seen.append(torch.rand(()).item())
            return images

    fit(tmp_path, make_gan(augment=[Note()], d_steps=2), max_steps=4)
    assert len(seen) == 4 * (2 * 2 + 1) == len(set(seen))


def test_one_noise_shows_every_class():
    gan = make_gan(num_classes=2)
    numbers, classes = torch.tensor([5, 5, 3, 5]), torch.tensor([0, 1, 1, 0])
    together = gan.sample(numbers, classes)
    for i in range(4):
        assert torch.equal(together[i], gan.sample(numbers[i : i + 1], classes[i : i + 1])[0])
    assert torch.equal(together[0], together[3]) and not torch.equal(together[0], together[1])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_judging_both_in_one_call_changes_no_weight(tmp_path, accumulate):
    weights = []
    for independent in (True, False):
        gan = make_gan(2, accumulate=accumulate, regularizers=[R1(1.0, every=2)])
        calls, forward = [], gan.discriminator.forward
        gan.discriminator.forward = lambda x, c=None, calls=calls, forward=forward: (
            calls.append(len(x)) or forward(x, c)
        )
        gan.discriminator.independent = independent
        fit(tmp_path, gan, Squares(labels=True), max_steps=1)
        assert len(calls) == accumulate * (2 if independent else 3)
        weights.append(torch.cat([weight.flatten() for weight in gan.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)


def test_a_callback_that_listens_hears_of_every_backward_pass_and_update(tmp_path):
    """Where none does, both are called straight; the weights are the same to the last bit."""
    heard = []

    class Listener(Callback):
        def on_after_backward(self, trainer, pl_module):
            heard.append("backward")

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            heard.append("step")

    options = {"g_clip": 0.1, "d_clip": 0.1, "d_steps": 2}
    gans = [fit(tmp_path, make_gan(**options), callbacks=callbacks) for callbacks in ([Listener()], [])]
    assert [gan.straight for gan in gans] == [False, True] and gans[1].trainer.global_step == 3
    assert heard == ["backward", "step"] * 9
    assert all(torch.equal(a, b) for a, b in zip(gans[0].parameters(), gans[1].parameters(), strict=True))


@pytest.mark.parametrize("loss", [Hinge, RelativisticPairing])
def test_fakes_that_are_made_once_train_as_those_that_are_made_again_from_the_same_latents(tmp_path, loss):
    plain, short = (make_gan(loss=loss(), d_steps=2, reuse_fakes=reuse, num_classes=2) for reuse in (False, True))
    plain.batches_per_step = 2  # a relativistic loss looks at the real images of D's last update again
    fresh = plain.latents
    purposes = {seeding.DISCRIMINATOR: lambda update: update, seeding.GENERATOR: lambda step, _: 2 * step + 1}
    plain.latents = lambda size, purpose, *key: fresh(size, seeding.DISCRIMINATOR, purposes[purpose](*key))
    made = {}
    for gan in (plain, short):
        gan.generator.register_forward_hook(lambda *_, gan=gan: made.update({gan: made.get(gan, 0) + 1}))
        fit(tmp_path, gan, Squares(labels=True), max_steps=4)
    assert (made[plain], made[short]) == (4 * 3, 4 * 2)
    assert torch.equal(weights(plain.generator), weights(short.generator))
    assert torch.equal(weights(plain.discriminator), weights(short.discriminator))
    assert short.fakes is None  # and with it the graph is gone


def test_fakes_are_not_kept_over_several_batches():
    for options in ({"accumulate": 2}, {"g_batch_multiple": 2}):
        with pytest.raises(ValueError, match="leave out g_batch_multiple and accumulate"):
            make_gan(reuse_fakes=True, **options)
