"""Learning-rate schedules and the length of a run."""

import pytest
import torch
from conftest import refusal
from torch.optim import lr_scheduler as torch_schedules

from src.cli import main
from src.engine.schedules import check_length

STEPS = 20
FITTING = {  # by class, for a run of STEPS: every schedule of PyTorch that needs no metric
    "ChainedScheduler": lambda o, n: torch_schedules.ChainedScheduler([cosine(o, n), cosine(o, n)], o),
    "ConstantLR": lambda o, n: torch_schedules.ConstantLR(o, total_iters=3),
    "CosineAnnealingLR": lambda o, n: cosine(o, n),
    "CosineAnnealingWarmRestarts": lambda o, n: torch_schedules.CosineAnnealingWarmRestarts(o, T_0=3),
    "CyclicLR": lambda o, n: torch_schedules.CyclicLR(o, 0.1, 0.2, step_size_up=3),
    "ExponentialLR": lambda o, n: torch_schedules.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o, n: torch_schedules.LambdaLR(o, lambda step: 0.9**step),
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
    assert known - {"LRScheduler"} == set(FITTING) - {"LinearLR to 0"}


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
