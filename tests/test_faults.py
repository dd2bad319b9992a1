"""Gradients that are not finite."""

from functools import partial
from shutil import copyfile

import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer

from src.callbacks.checkpoints import AtomicCheckpointIO, LastCheckpoint
from src.data.order import StepSampler
from src.engine.schedules import Cosine, OverImages
from src.objectives.losses import NonSaturating


class BrokenAt(NonSaturating):
    """NaN for one player in some of its updates."""

    def __init__(self, player: str, updates: set[int]):
        super().__init__()
        self.player, self.updates, self.calls = player, updates, {"generator": 0, "discriminator": 0}

    def broken(self, player, value):
        self.calls[player] += 1
        return value * float("nan") if player == self.player and self.calls[player] - 1 in self.updates else value

    def generator(self, real_logits, fake_logits):
        return self.broken("generator", super().generator(real_logits, fake_logits))

    def discriminator(self, real_logits, fake_logits):
        return self.broken("discriminator", super().discriminator(real_logits, fake_logits))


def train(folder, policy, player, updates, **options):
    gan = make_gan(loss=BrokenAt(player, updates), on_nonfinite=policy, **options)
    callbacks = [LastCheckpoint(every_n_steps=2)]
    return fit(
        folder,
        gan,
        Squares(),
        max_steps=6,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=True,
    )


def finite(state):
    return all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_stop_names_the_player_and_the_examples_and_saves_finite_weights(tmp_path, player):
    with pytest.raises(ValueError, match=f"step 3: the gradient of the {player} is not finite") as said:
        train(tmp_path, "stop", player, {3})
    first = ", ".join(map(str, examples(3)[:8]))
    assert f"training examples {first}" in str(said.value) and "nan" in str(said.value)
    saved = torch.load(tmp_path / "checkpoints" / "fault.ckpt", weights_only=True)
    assert finite(saved["state_dict"]) and saved["global_step"] == 3
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def examples(step):
    return StepSampler(100, 8, 1, 0, 0, 1, lambda: 0).indices(step)


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=0.1, fused=True)])
def test_skip_leaves_out_one_update_and_counts_it(tmp_path, optimizer):
    options = {"g_optimizer": optimizer, "d_optimizer": optimizer}
    with pytest.warns(UserWarning, match="update left out; fault number 1"):
        gan = train(tmp_path, "skip", "discriminator", {3}, **options)
    assert finite(gan.state_dict()) and gan.faults.count == 1 and gan.trainer.global_step == 6
    clean = train(tmp_path / "clean", "skip", "discriminator", set(), **options)
    assert not torch.equal(clean.discriminator.hidden[0].weight, gan.discriminator.hidden[0].weight)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["faults"]["count"] == 1


def test_skip_changes_no_weight_of_the_player(tmp_path):
    with pytest.warns(UserWarning, match="not finite"):
        gan = train(tmp_path, "skip", "generator", set(range(6)))
    assert torch.equal(gan.generator.to_pixels.weight, make_gan().generator.to_pixels.weight)


def test_rollback_takes_the_last_checkpoint_and_halves_both_rates(tmp_path):
    kept = {}

    class Look(BrokenAt):
        def generator(self, real_logits, fake_logits):
            if self.calls["generator"] == 4:  # the next update after the fault in number 3
                kept.update({k: v.clone() for k, v in gan.generator.state_dict().items()})
            return super().generator(real_logits, fake_logits)

    schedule = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0)
    gan = make_gan(loss=Look("generator", {3}), on_nonfinite="rollback", g_scheduler=schedule)
    copies = []

    class Copy(LastCheckpoint):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            if trainer.global_step == 2:
                copies.append({k: v.clone() for k, v in pl_module.generator.state_dict().items()})

    callbacks = [Copy(every_n_steps=2)]
    with pytest.warns(UserWarning, match="half the learning rates"):
        fit(
            tmp_path,
            gan,
            Squares(),
            max_steps=6,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=True,
        )
    assert all(torch.equal(kept[name], copies[0][name]) for name in kept)
    assert [opt.param_groups[0]["lr"] for opt in gan.trainer.optimizers] == [0.05, 0.05]
    assert gan.trainer.global_step == 6 and finite(gan.state_dict())


def test_rollback_forgets_the_images_of_the_weights_that_it_replaces(tmp_path):
    """The generator could not learn from them: their graph needs the weights that they were made with."""
    with pytest.warns(UserWarning, match="back to"):
        gan = train(tmp_path, "rollback", "discriminator", {3}, reuse_fakes=True)
    assert finite(gan.state_dict()) and gan.trainer.global_step == 6


def test_rollback_without_a_checkpoint_stops(tmp_path):
    with pytest.raises(ValueError, match="stopped"):
        train(tmp_path, "rollback", "generator", {0})


def test_it_gives_up_when_no_update_succeeds(tmp_path, monkeypatch):
    monkeypatch.setattr("src.engine.faults.MOST_IN_A_ROW", 3)
    with pytest.raises(ValueError, match="step 3: .*stopped"), pytest.warns(UserWarning):
        train(tmp_path, "skip", "generator", set(range(6)))


def test_an_update_that_succeeds_gives_it_another_chance(tmp_path, monkeypatch):
    monkeypatch.setattr("src.engine.faults.MOST_IN_A_ROW", 3)
    with pytest.warns(UserWarning, match="fault number 5"):
        assert train(tmp_path, "skip", "generator", {0, 1, 2, 4, 5}).trainer.global_step == 6


def test_it_gives_up_at_the_same_step_if_it_was_stopped_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr("src.engine.faults.MOST_IN_A_ROW", 3)
    gans = [make_gan(loss=BrokenAt("generator", set(range(6))), on_nonfinite="skip") for _ in range(2)]
    options = {"callbacks": [LastCheckpoint()], "plugins": [AtomicCheckpointIO()], "enable_checkpointing": True}
    with pytest.warns(UserWarning, match="fault number 2"):
        make_trainer(tmp_path, 2, **options).fit(gans[0], datamodule=Squares())
    trainer = make_trainer(tmp_path, 6, **options)
    with pytest.raises(ValueError, match="step 3: .*stopped"), pytest.warns(UserWarning, match="fault number 3"):
        trainer.fit(gans[1], datamodule=Squares(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "schedule",
    [
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20),
        partial(torch.optim.lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20),
        partial(torch.optim.lr_scheduler.StepLR, step_size=2),
        partial(OverImages, lr=Cosine(0.1, 0.01, images=100)),
    ],
)
def test_rollback_halves_the_rates_of_any_schedule(schedule, tmp_path):
    with pytest.warns(UserWarning, match="half the learning rates"):
        broken = train(tmp_path, "rollback", "generator", {3}, g_scheduler=schedule, d_scheduler=schedule)
    whole = train(tmp_path / "whole", "rollback", "generator", set(), g_scheduler=schedule, d_scheduler=schedule)
    for ours, theirs in zip(broken.trainer.optimizers, whole.trainer.optimizers, strict=True):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"] / 2, rel=1e-6)


def test_the_examples_are_those_of_the_update(tmp_path):
    stream = sum((StepSampler(100, 8, 2, 0, 0, 1, lambda: 0).indices(step) for step in range(4)), [])
    for player, update, number in (("discriminator", 6, 6), ("discriminator", 7, 7), ("generator", 3, 7)):
        with pytest.raises(ValueError, match="step 3: ") as said:
            train(tmp_path, "stop", player, {update}, d_steps=2)
        named = ", ".join(map(str, stream[8 * number :][:8]))
        assert f"training examples {named})" in str(said.value)


def test_the_examples_of_a_warm_up_are_those_of_its_update(tmp_path):
    with pytest.raises(ValueError, match="step 0: ") as said:
        train(tmp_path, "stop", "discriminator", {2}, d_warmup_steps=4)
    assert f"training examples {', '.join(map(str, examples(2)))})" in str(said.value)


FUSED = {f"{player}_optimizer": partial(torch.optim.Adam, lr=0.1, fused=True) for player in "gd"}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The optimizer leaves out bad updates by itself; nobody waits to hear of it."""
    monkeypatch.setattr("src.engine.faults.WAITING", ("cpu",))


def run(folder, gan, last=None, **options):
    options = {"callbacks": [LastCheckpoint(every_n_steps=2)], "plugins": [AtomicCheckpointIO()]} | options
    trainer = make_trainer(folder, 6, enable_checkpointing=True, log_every_n_steps=4, **options)
    trainer.fit(gan, datamodule=Squares(), ckpt_path=last)
    return gan


def weights(gan):
    return torch.cat([value.flatten() for value in gan.state_dict().values()])


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_fused_optimizer_leaves_out_what_one_that_is_asked_would(tmp_path, player, monkeypatch):
    gans = []
    for waiting in ((), ("cpu",)):
        monkeypatch.setattr("src.engine.faults.WAITING", waiting)
        gan = make_gan(loss=BrokenAt(player, {1, 2}), on_nonfinite="skip", d_clip=1.0, g_clip=1.0, **FUSED)
        with pytest.warns(UserWarning, match="step 2: .*update left out; fault number 2"):
            gans.append(run(tmp_path / str(waiting), gan))
    assert torch.equal(*map(weights, gans)) and weights(gans[0]).isfinite().all()
    assert gans[0].faults.state_dict() == gans[1].faults.state_dict() and gans[0].faults.count == 2


def test_the_report_of_it_follows_at_the_next_log(tmp_path, as_on_a_gpu):
    gan = make_gan(loss=BrokenAt("generator", {1}), **FUSED)
    with pytest.raises(ValueError, match="step 1: the gradient of the generator is not finite .*its loss is nan"):
        run(tmp_path, gan)
    saved = torch.load(tmp_path / "checkpoints" / "fault.ckpt", weights_only=True)
    assert saved["global_step"] == 4 and finite(saved["state_dict"])


def test_at_the_latest_at_the_end(tmp_path, as_on_a_gpu):
    with pytest.raises(ValueError, match="step 5: the gradient of the discriminator"):
        run(tmp_path, make_gan(loss=BrokenAt("discriminator", {5}), **FUSED))


def test_a_rollback_that_follows_later_halves_the_rates_once(tmp_path, as_on_a_gpu):
    gan = make_gan(loss=BrokenAt("generator", {2, 3}), on_nonfinite="rollback", **FUSED)
    with pytest.warns(UserWarning, match="half the learning rates; fault number 1"):
        run(tmp_path, gan)
    assert [opt.param_groups[0]["lr"] for opt in gan.trainer.optimizers] == [0.05, 0.05]


def test_a_run_that_goes_on_before_the_report_makes_it(tmp_path, as_on_a_gpu):
    with pytest.warns(UserWarning, match="step 1: "):
        whole = run(tmp_path, make_gan(loss=BrokenAt("generator", {1}), on_nonfinite="skip", **FUSED))
    kept = tmp_path / "kept.ckpt"

    class Keep(LastCheckpoint):
        def save(self, trainer):
            super().save(trainer)
            if trainer.global_step == 2:
                copyfile(self.path(trainer), kept)

    with pytest.warns(UserWarning, match="step 1: "):
        run(tmp_path, make_gan(loss=BrokenAt("generator", {1}), on_nonfinite="skip", **FUSED), callbacks=[Keep(2)])
    assert len(torch.load(kept, weights_only=True)["faults"]["pending"]) == 4
    with pytest.warns(UserWarning, match="step 1: .*fault number 1"):
        resumed = run(tmp_path, make_gan(on_nonfinite="skip", **FUSED), kept)
    assert torch.equal(weights(whole), weights(resumed)) and resumed.faults.count == 1
