"""Numbers that change with training, by the images that the discriminator has seen; rates that are too short for a run.

A schedule is a function of this count alone, which lies in the checkpoint: a run that goes on goes on exactly.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

from src.engine.descriptions import Part


class Schedule(Part, ABC):
    """A number of the model as a function of the images seen.

    Args:
        values: its smallest and its largest value, and any between.
    """

    def __init__(self, *values: float):
        self.values = values

    @abstractmethod
    def at(self, images: int) -> float:
        """The number after so many real images that the discriminator has seen."""


class Linear(Schedule):
    """A straight line from `start` to `end`, which then stays.

    Args:
        start: value before the first image.
        end: value after `images`.
        images: seen by the discriminator, 1 or more.

    Raises:
        ValueError: for fewer than 1 image.
    """

    def __init__(self, start: float, end: float, images: int):
        super().__init__(start, end)
        if images < 1:
            raise ValueError(f"images of {type(self).__name__} must be 1 or more, not {images}")
        self.start, self.end, self.images = start, end, images

    def at(self, images: int) -> float:
        return self.start + (self.end - self.start) * self.share(min(images / self.images, 1.0))

    def share(self, time: float) -> float:
        """How much of the way is done at a time in [0, 1]."""
        return time


class Cosine(Linear):
    """Half of a cosine from `start` to `end`, which then stays: slow, fast, slow."""

    def share(self, time: float) -> float:
        return (1 - math.cos(math.pi * time)) / 2


class Steps(Schedule):
    """A constant after another.

    Args:
        values: one after another.
        images: after which each value but the first begins, in rising order.

    Raises:
        ValueError: unless there is one value more than there are numbers of images, and these rise.
    """

    def __init__(self, values: list[float], images: list[int]):
        super().__init__(*values)
        if len(values) != len(images) + 1 or sorted(set(images)) != images:
            raise ValueError(
                f"Steps needs one value more than rising numbers of images, got {len(values)} values for {images}"
            )
        self.images = images

    def at(self, images: int) -> float:
        return self.values[bisect(self.images, images)]


def extremes(number: float | Schedule) -> tuple[float, float]:
    """The smallest and the largest value that a number takes."""
    values = number.values if isinstance(number, Schedule) else (number,)
    return min(values), max(values)


class Scheduled:
    """A number of a part that follows a schedule.

    Args:
        part: whose attribute it is.
        attribute: set to the value of the schedule.
        schedule: that it follows.
        curve: its name among the curves.
    """

    def __init__(self, part: Any, attribute: str, schedule: Schedule, curve: str):
        self.part, self.attribute, self.schedule, self.curve = part, attribute, schedule, curve
        self.set(0)

    def set(self, images: int) -> None:
        self.value = self.schedule.at(images)
        setattr(self.part, self.attribute, self.value)


def scheduled(parts: Iterable[Any]) -> list[Scheduled]:
    """The numbers of some parts that follow schedules, set to their first values."""
    found: list[Scheduled] = []
    for part in parts:
        kept = vars(part).setdefault("schedules", {})  # beside the numbers: a part may serve a second model
        kept |= {name: value for name, value in vars(part).items() if isinstance(value, Schedule)}
        for name, schedule in kept.items():
            curve = f"{name}/{type(part).__name__}"
            same = sum(number.curve.startswith(curve) for number in found)
            found.append(Scheduled(part, name, schedule, f"{curve}-{same + 1}" if same else curve))
    return found


class OverImages(LRScheduler):
    """Learning rate and betas of an optimizer, as functions of the images seen, for `g_scheduler` and `d_scheduler`.

    Args:
        optimizer: whose numbers they are.
        lr: learning rate; left out: as the optimizer says.
        beta1: of Adam and its like; left out: as the optimizer says.
        beta2: of Adam and its like; left out: as the optimizer says.

    Raises:
        ValueError: without a schedule, or with a beta for an optimizer that has none.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr: Schedule | None = None,
        beta1: Schedule | None = None,
        beta2: Schedule | None = None,
    ):
        self.schedules = {"lr": lr, "beta1": beta1, "beta2": beta2}
        self.schedules = {name: schedule for name, schedule in self.schedules.items() if schedule is not None}
        limits = {"lr": math.inf, "beta1": 1, "beta2": 1}
        if not self.schedules:
            raise ValueError("OverImages needs lr, beta1 or beta2: give one of them a schedule, or leave it out")
        for name, schedule in self.schedules.items():
            smallest, largest = extremes(schedule)
            if smallest < 0 or largest >= limits[name]:
                raise ValueError(f"{name} of OverImages must be in [0, {limits[name]}), got {smallest} to {largest}")
            if name != "lr" and "betas" not in optimizer.defaults:
                raise ValueError(f"{type(optimizer).__name__} has no betas: leave {name} of OverImages out")
        super().__init__(optimizer)
        self.factors = [1.0] * len(optimizer.param_groups)  # of the rate, one a group
        self.set(0)

    def set(self, images: int) -> None:
        self.now = {name: schedule.at(images) for name, schedule in self.schedules.items()}
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            if "lr" in self.now:
                group["lr"] = factor * self.now["lr"]
            if "betas" in group:
                group["betas"] = tuple(self.now.get(f"beta{i}", old) for i, old in enumerate(group["betas"], 1))

    def step(self, *_: Any) -> None:
        """Nothing: `set` follows the images, at the start of each step."""

    def state_dict(self) -> dict[str, Any]:
        return {"factors": self.factors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factors = state["factors"]


class LateLR(LRScheduler):
    """The rate of the optimizer at first, and from `start` on a straight line to 0 at `total_iters`.

    Before `start` the rates do not depend on the end, which may still move: `fit --minutes` moves it.

    Args:
        optimizer: whose rate it is.
        total_iters: steps after which the rate is 0.
        start: step from which on it falls; half of `total_iters` by default.
        last_epoch: steps that were done before.

    Raises:
        ValueError: unless 0 <= start < total_iters.
    """

    def __init__(self, optimizer: Optimizer, total_iters: int, start: int | None = None, last_epoch: int = -1):
        self.total_iters, self.start = total_iters, start
        if not 0 <= self.falls_from < total_iters:
            raise ValueError(f"start of LateLR must be from 0 to below total_iters ({total_iters}), not {start}")
        super().__init__(optimizer, last_epoch)

    @property
    def falls_from(self) -> int:
        return self.total_iters // 2 if self.start is None else self.start

    def get_lr(self) -> list[float]:
        left = (self.total_iters - self.last_epoch) / (self.total_iters - self.falls_from)
        return [rate * min(1.0, max(0.0, left)) for rate in self.base_lrs]


def check_length(scheduler: LRScheduler, steps: int, option: str) -> None:
    """Refuses a schedule that ends before the run does, and then fails, starts to rise or leaves a rate of 0.

    Others hold their last value, repeat, or go on for ever.

    Args:
        scheduler: advanced once a step.
        steps: of the run, or of the part of it that the scheduler is for.
        option: which one it is, for the message.

    Raises:
        ValueError: it is shorter than `steps`.
    """
    match scheduler:
        case SequentialLR(_schedulers=parts, _milestones=milestones):
            for part, start, end in zip(parts, [0, *milestones], [*milestones, steps], strict=True):
                check_length(part, min(end, steps) - start, option)
            return
        case ChainedScheduler(_schedulers=parts):
            for part in parts:
                check_length(part, steps, option)
            return
        case OneCycleLR(total_steps=length):
            argument, then = "total_steps", "then fails"
        case CosineAnnealingLR(T_max=length):
            argument, then = "T_max", "then rises again (CosineAnnealingWarmRestarts is for cycles)"
        case PolynomialLR(total_iters=length) | LateLR(total_iters=length) | LinearLR(total_iters=length, end_factor=0):
            argument, then = "total_iters", "then leaves a rate of 0"
        case _:
            return
    if length < steps:
        raise ValueError(
            f"{type(scheduler).__name__} of {option} takes {length} of {steps} steps and {then}: set its {argument} to"
            f" {steps}, or train for {length} steps"
        )
