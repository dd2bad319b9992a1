"""Learning-rate schedules: which ones are too short for a run."""

from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)


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
        case PolynomialLR(total_iters=length) | LinearLR(total_iters=length, end_factor=0):
            argument, then = "total_iters", "then leaves a rate of 0"
        case _:
            return
    if length < steps:
        raise ValueError(
            f"{type(scheduler).__name__} of {option} takes {length} of {steps} steps and {then}: set its {argument} to"
            f" {steps}, or train for {length} steps"
        )
