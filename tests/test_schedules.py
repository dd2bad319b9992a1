"""Numbers that follow the images seen; learning-rate schedules and the length of a run."""

import csv
from functools import partial

import pytest
import torch
import yaml
from conftest import Squares, fit, make_gan, make_trainer, refusal
from torch.optim import lr_scheduler as torch_schedules

from src.callbacks.checkpoints import AtomicCheckpointIO
from src.cli import main
from src.engine.ema import EMA
from src.engine.schedules import Cosine, LateLR, Linear, OverImages, Steps, check_length, extremes
from src.images.ada import Pipeline
from src.images.augment import Color, InstanceNoise, Sometimes
from src.objectives.lecam import LeCam
from src.objectives.losses import NonSaturating, Weighted
from src.objectives.regularizers import R1

STEPS = 20
FITTING = {  # by class, for a run of STEPS: every schedule of PyTorch that needs no metric
    "ChainedScheduler": lambda o, n: torch_schedules.ChainedScheduler([cosine(o, n), cosine(o, n)], o),
    "ConstantLR": lambda o, n: torch_schedules.ConstantLR(o, total_iters=3),
    "CosineAnnealingLR": lambda o, n: cosine(o, n),
    "CosineAnnealingWarmRestarts": lambda o, n: torch_schedules.CosineAnnealingWarmRestarts(o, T_0=3),
    "CyclicLR": lambda o, n: torch_schedules.CyclicLR(o, 0.1, 0.2, step_size_up=3),
    "ExponentialLR": lambda o, n: torch_schedules.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o, n: torch_schedules.LambdaLR(o, lambda step: 0.9**step),
    "LateLR": lambda o, n: LateLR(o, total_iters=n),
    "LinearLR": lambda o, n: torch_schedules.LinearLR(o, total_iters=3),
    "LinearLR to 0": lambda o, n: torch_schedules.LinearLR(o, 1.0, 0.0, total_iters=n),
    "MultiStepLR": lambda o, n: torch_schedules.MultiStepLR(o, [3, 5]),
    "MultiplicativeLR": lambda o, n: torch_schedules.MultiplicativeLR(o, lambda step: 0.9),
    "OneCycleLR": lambda o, n: torch_schedules.OneCycleLR(o, 0.1, total_steps=n),
    "PolynomialLR": lambda o, n: torch_schedules.PolynomialLR(o, total_iters=n),
    "SequentialLR": lambda o, n: torch_schedules.SequentialLR(o, [cosine(o, 5), cosine(o, n - 5)], [5]),
    "StepLR": lambda o, n: torch_schedules.StepLR(o, 3),
}
ENDLESS = {"ConstantLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LambdaLR", "LinearLR"}
ENDLESS |= {"MultiStepLR", "MultiplicativeLR", "StepLR"}


def cosine(optimizer, steps):
    return torch_schedules.CosineAnnealingLR(optimizer, T_max=steps)


def scheduler(name, steps):
    return FITTING[name](torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9), steps)


def test_every_schedule_of_pytorch_is_known():
    known = {name for name in torch_schedules.__all__ if name.endswith(("LR", "Restarts", "Scheduler"))}
    assert known - {"LRScheduler"} == set(FITTING) - {"LinearLR to 0", "LateLR"}


@pytest.mark.parametrize("name", FITTING)
def test_a_schedule_as_long_as_the_run_trains_until_its_last_step(name):
    schedule = scheduler(name, STEPS)
    check_length(schedule, STEPS, "model.g_scheduler")
    for _ in range(STEPS):
        assert schedule.get_last_lr()[0] > 0
        schedule.optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", FITTING)
def test_a_shorter_one_is_refused_where_it_would_not_hold_its_value_or_repeat(name):
    schedule = scheduler(name, STEPS - 1)
    if name in ENDLESS:
        check_length(schedule, STEPS, "model.g_scheduler")
    else:
        with pytest.raises(ValueError, match="of model.g_scheduler takes .* steps and then .*: set its .* to "):
            check_length(schedule, STEPS, "model.g_scheduler")


@pytest.mark.parametrize("player", ["g", "d"])
@pytest.mark.parametrize("option", ["CosineAnnealingLR --{}.T_max 3", "OneCycleLR --{}.total_steps 3 --{}.max_lr 1"])
def test_a_short_schedule_is_refused_before_anything_is_written(player, option, tiny_config, tmp_path, capsys):
    name = f"model.{player}_scheduler"
    options = f"--{name} {option.replace('{}', name)}".split()
    said = refusal(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), *options], capsys)
    assert f"of {name} takes 3 of 4 steps" in said and not (tmp_path / "run").exists()


def test_a_longer_run_needs_a_longer_schedule_also_where_it_goes_on(tiny_config, tmp_path, capsys):
    fit = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run"), "--resume"]
    fit += ["--model.g_scheduler", "CosineAnnealingLR", "--model.g_scheduler.T_max"]
    main([*fit, "4"])
    assert "takes 4 of 8 steps and then rises again" in refusal([*fit, "4", "--trainer.max_steps", "8"], capsys)
    main([*fit, "8", "--trainer.max_steps", "8"])
    assert "8 steps of training" in capsys.readouterr().out


# Numbers that follow the images seen


def test_schedules_are_their_formulas_and_then_stay():
    images = [0, 5, 10, 20, 25]
    assert [Linear(1, 3, 20).at(n) for n in images] == [1, 1.5, 2, 3, 3]
    assert [Steps([1, 3, 2], [5, 20]).at(n) for n in images] == [1, 3, 3, 2, 2]
    assert [Cosine(4, 0, 20).at(n) for n in images] == pytest.approx([4, 2 + 2**0.5, 2, 0, 0])


@pytest.mark.parametrize(
    "start, end, quarter, half",
    [(2e-4, 5e-5, 1.7803e-4, 1.25e-4), (0, 0.55, 0.0805, 0.275), (0.9, 0.99, 0.91318, 0.945)],
)
def test_the_cosine_is_that_of_r3gan(start, end, quarter, half):
    schedule = Cosine(start, end, 20_000_000)
    assert schedule.at(5_000_000) == pytest.approx(quarter, rel=1e-3)
    assert schedule.at(10_000_000) == pytest.approx(half)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Linear(0, 1, 0), "images of Linear must be 1 or more"),
        (lambda: Steps([1, 2], []), "Steps needs one value more"),
        (lambda: Steps([1, 2, 3], [5, 5]), "Steps needs one value more"),
        (lambda: R1(Cosine(1, -1, 10)), "weight of R1 must be 0 or more, not -1"),
        (lambda: Weighted(weight=Linear(-1, 1, 10)), "weight of Weighted must be 0 or more, not -1"),
        (lambda: EMA(half_life=Linear(-1, 1, 10)), "EMA half_life must be positive, got -1"),
        (lambda: Sometimes([Color()], Steps([0, 1.5], [3])), "strength of Sometimes must be in .0, 1., got 0 to 1.5"),
        (lambda: Pipeline(Linear(0.5, 1.1, 3)), "strength of Pipeline must be in .0, 1., got 1.1"),
        (lambda: Sometimes([], 0.5), "Sometimes needs augmentations"),
        (lambda: InstanceNoise(Linear(1, 0, 10)), "within 10000 steps: set steps to null"),
        (lambda: OverImages(optimizer(torch.optim.Adam)), "needs lr, beta1 or beta2"),
        (lambda: OverImages(optimizer(torch.optim.SGD), beta2=Linear(0, 0.9, 10)), "SGD has no betas"),
        (
            lambda: OverImages(optimizer(torch.optim.Adam), beta1=Linear(0, 1, 10)),
            r"beta1 of OverImages must be in .0, 1",
        ),
    ],
)
def test_values_out_of_range_are_refused_wherever_the_schedule_takes_them(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def optimizer(kind):
    return kind([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def test_a_constant_and_a_schedule_have_their_extremes():
    assert extremes(3.0) == (3, 3) and extremes(Steps([2, 5, 1], [1, 2])) == (1, 5)


def scheduled_gan():
    """Everything that can follow a schedule does."""
    adam = partial(torch.optim.Adam, lr=0.1)
    rates = partial(OverImages, lr=Cosine(0.01, 0.001, 100), beta1=Steps([0.0, 0.5], [30]), beta2=Linear(0.9, 0.99, 80))
    return make_gan(
        loss=Weighted(NonSaturating(), Linear(1, 2, 60)),
        regularizers=[R1(Cosine(1, 0.1, 90))],
        augment=[InstanceNoise(Linear(0.5, 0.1, 90), steps=None), Sometimes([Color()], Cosine(0, 0.8, 90))],
        ema=EMA(half_life=Linear(0, 100, 96), warmup=None),
        g_optimizer=adam, d_optimizer=adam, g_scheduler=rates, d_scheduler=rates, d_steps=2,
    )  # fmt: skip


def test_each_number_follows_the_images_that_the_discriminator_has_seen(tmp_path):
    gan = scheduled_gan()
    seen = []

    class Watch(NonSaturating):
        def generator(self, real_logits, fake_logits):
            groups = [optimizer.param_groups[0] for optimizer in gan.trainer.optimizers]
            numbers = [gan.loss.weight, gan.regularizers[0].weight, gan.augment[0].sigma, gan.augment[1].strength]
            rates = [rate for group in groups for rate in (group["lr"], *group["betas"])]
            seen.append([*numbers, gan.ema.half_life, *rates])
            return super().generator(real_logits, fake_logits)

    gan.loss.loss = Watch()
    fit(tmp_path, gan, max_steps=4)
    for step, numbers in enumerate(seen):
        images = step * 2 * 8
        parts = [Linear(1, 2, 60), Cosine(1, 0.1, 90), Linear(0.5, 0.1, 90), Cosine(0, 0.8, 90), Linear(0, 100, 96)]
        rates = [Cosine(0.01, 0.001, 100), Steps([0.0, 0.5], [30]), Linear(0.9, 0.99, 80)]
        expected = [schedule.at(images) for schedule in (*parts, *rates, *rates)]
        assert numbers == pytest.approx(expected), step
    assert len(seen) == 4


def test_two_parts_of_a_kind_have_a_curve_each_and_a_part_may_serve_a_second_model():
    parts = [Sometimes([Color()], Linear(0.1, 0.5, 10)), Sometimes([Color()], Linear(0.2, 0.5, 10))]
    for _ in range(2):
        gan = make_gan(augment=parts)
        assert {number.curve: number.value for number in gan.scheduled} == {
            "strength/Sometimes": 0.1,
            "strength/Sometimes-2": 0.2,
        }
        gan.scheduled[0].set(10)
        assert (parts[0].strength, parts[1].strength) == (0.5, 0.2)


def test_a_schedule_of_a_loss_inside_another_is_followed():
    gan = make_gan(loss=LeCam(Weighted(weight=Linear(1, 2, 10)), weight=Linear(0, 1, 10)))
    assert [number.curve for number in gan.scheduled] == ["weight/LeCam", "weight/Weighted"]
    for number in gan.scheduled:
        number.set(5)
    assert (gan.loss.weight, gan.loss.loss.weight) == (0.5, 1.5)


def test_a_run_with_schedules_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    whole = fit(tmp_path, scheduled_gan(), max_steps=6)
    trainer = make_trainer(tmp_path, 3, plugins=[AtomicCheckpointIO()])
    trainer.fit(scheduled_gan(), datamodule=Squares())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = scheduled_gan()
    make_trainer(tmp_path, 6).fit(again, datamodule=Squares(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert whole.images_seen == again.images_seen == 96


def test_where_the_half_life_is_0_the_average_is_the_current_weights():
    assert EMA(half_life=Linear(0, 1, 1)).half_life.at(0) == 0
    ema = EMA(half_life=Linear(0, 1, 1))
    ema.half_life = 0.0
    assert ema.decay_at(0, 64) == 0


def test_schedules_are_written_in_yaml_and_drawn_as_curves(tiny_config, tmp_path):
    cosine = {"class_path": "src.engine.schedules.Cosine", "init_args": {"start": 0.1, "end": 0.05, "images": 32}}
    config = yaml.safe_load(tiny_config.read_text())
    config["model"] |= {
        "regularizers": [{"class_path": "src.objectives.regularizers.R1", "init_args": {"weight": cosine}}],
        "augment": [{"class_path": "src.images.augment.InstanceNoise", "init_args": {"sigma": cosine, "steps": None}}],
        "ema": {"class_path": "src.engine.ema.EMA", "init_args": {"half_life": cosine}},
        "d_scheduler": {"class_path": "src.engine.schedules.OverImages", "init_args": {"lr": cosine, "beta2": cosine}},
    }
    stopping = {"monitor": "beta2/discriminator", "mode": "min", "check_finite": True}  # a curve that is known
    config["trainer"]["callbacks+"] = [
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stopping}
    ]
    tiny_config.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")])
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(lines) if row["loss/generator"]]
    for name in ("weight/R1", "sigma/InstanceNoise", "half_life/EMA", "lr/discriminator", "beta2/discriminator"):
        assert [float(row[name]) for row in rows] == pytest.approx([Cosine(0.1, 0.05, 32).at(8 * i) for i in range(4)])
    main(["fit", "--run_dir", str(tmp_path / "run"), "--resume", "--trainer.max_steps", "5"])
