"""A run whose first weights are those of another one: `fit --init_from`, and what of them stays: `--model.freeze`."""

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn

from src.engine.weights import WEIGHTS, read_checkpoint

TAKEN = ("generator.", "discriminator.", "g_regularizers.")  # the average begins as the generator does
FACTS = ("image_size", "channels", "num_classes")  # which sizes of weights follow
MOST_NAMED = 5


def begin(model: nn.Module, run: Any, old: dict[str, Any] | None) -> None:
    """Puts the weights of `--init_from` into a model whose run begins, and says what of it is frozen.

    Args:
        model: the `GAN`.
        run: options of `fit`.
        old: those of the run that goes on, if one does: its weights are in its checkpoint.

    Raises:
        ValueError: a run goes on that began with others, or nothing fits.
    """
    if old is None and run.init_from:
        take(model, run.init_from)
    elif run.init_from and not (run.resume and old.get("init_from") == run.init_from):
        raise ValueError(f"--init_from {run.init_from} begins a run, and this one goes on: leave it out")
    if run.model.get("freeze"):
        players = [weight for name, weight in model.named_parameters() if name.startswith(TAKEN)]
        frozen = [weight for weight in players if not weight.requires_grad]
        rank_zero_info(f"model.freeze: {len(frozen)} tensors of {sum(w.numel() for w in frozen):,} numbers stay")


def take(model: nn.Module, path: str) -> None:
    """Puts the weights of a checkpoint that fit, by name and shape, into a model, and says which do not.

    Raises:
        ValueError: none does, or as `read_checkpoint`.
    """
    checkpoint = read_checkpoint(path, WEIGHTS)
    before = "generator." if checkpoint.get("generator_alone") else ""  # in a file of `export` it stands for itself
    named = {before + name: value for name, value in checkpoint["state_dict"].items()}
    theirs, ours = (
        {name: value for name, value in state.items() if name.startswith(TAKEN)}
        for state in (named, model.state_dict())
    )
    fitting = {name: value for name, value in theirs.items() if name in ours and value.shape == ours[name].shape}
    if not fitting:
        raise ValueError(f"--init_from {path}: none of its weights fits, name one whose networks are like these")
    model.load_state_dict(fitting, strict=False)
    left = [name for name in ours if name not in fitting]
    shown = [f"{name} {size(theirs[name])} there, {size(ours[name])} here" for name in left if name in theirs]
    shown += [f"{name} not there" for name in left if name not in theirs]
    more = [f"{len(shown) - MOST_NAMED} more"] if len(shown) > MOST_NAMED else []
    new = f"; new are {', '.join(shown[:MOST_NAMED] + more)}" if left else ""
    unused = len(theirs.keys() - ours.keys())
    new += f"; {unused} of its tensors have no place here" if unused else ""
    there = checkpoint.get("facts", {})
    facts = {name: (there[name], getattr(model.generator, name)) for name in FACTS if name in there}
    why = ", ".join(f"{name} {old} there, {here} here" for name, (old, here) in facts.items() if old != here)
    fit = f"{len(fitting)} of {len(ours)} tensors fit" + (why and f" ({why})")
    rank_zero_info(f"weights of {path}, step {checkpoint['global_step']}: {fit}{new}")


def size(value: Any) -> str:
    return "x".join(map(str, value.shape)) or "1"
