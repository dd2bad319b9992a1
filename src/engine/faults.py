"""What happens when a gradient is not finite: nothing that spoils the weights."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

MOST_IN_A_ROW = 50
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a group of parameters; schedules keep some there

Policy = Literal["stop", "skip", "rollback", "ignore"]


class Faults:
    """Looks at the averaged gradients before each update, the same ones on every process.

    Under a gradient scaler nothing is looked at: overflow is its business.

    Args:
        policy: "stop" saves `checkpoints/fault.ckpt`, whose weights are still finite, and ends the run; "skip" leaves
            the update out; "rollback" goes back to `last.ckpt` and on from there with the next data and half the
            learning rates; "ignore" does not look, which on a GPU saves a synchronization an update.

    Attributes:
        count: of the faults of the run.
    """

    def __init__(self, policy: Policy):
        self.policy = policy
        self.count = 0
        self.in_a_row = {"generator": 0, "discriminator": 0}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.in_a_row = state["count"], dict(state["in_a_row"])

    def found(self, model: LightningModule, player: str, loss: Tensor, gradients: list[Tensor], batches: range) -> bool:
        """Whether this update must be left out.

        Args:
            model: the `GAN`.
            player: "generator" or "discriminator".
            loss: of the player, for the message.
            gradients: of the player, averaged over the processes.
            batches: numbers of the batches that they come from, counted from the first of the run.

        Raises:
            ValueError: by the policy "stop", or when no update succeeds any more.
        """
        scaler = getattr(model.trainer.precision_plugin, "scaler", None)
        if self.policy == "ignore" or scaler is not None or not gradients:
            return False
        if not any_not_finite(gradients).item():
            self.in_a_row[player] = 0
            return False
        self.count += 1
        self.in_a_row[player] += 1
        said = (
            f"step {model.global_step}: the gradient of the {player} is not finite (its loss is {loss.item():.3g};"
            f" training examples {examples(model, batches)})"
        )
        folder = Path(model.trainer.default_root_dir) / "checkpoints"
        last = folder / "last.ckpt"
        hopeless = self.in_a_row[player] > MOST_IN_A_ROW
        if self.policy == "stop" or hopeless or (self.policy == "rollback" and not last.exists()):
            model.trainer.save_checkpoint(folder / "fault.ckpt")
            raise ValueError(
                f"{said}: stopped, with the weights before it in {folder / 'fault.ckpt'}; look at these examples, lower"
                " the learning rates, clip (--model.d_clip), or go on with --model.on_nonfinite skip or rollback"
            )
        if self.policy == "rollback":
            roll_back(model, last)
        done = "update left out" if self.policy == "skip" else f"back to {last}, with half the learning rates"
        rank_zero_warn(f"{said}: {done}; fault number {self.count}")
        return True


def any_not_finite(gradients: list[Tensor]) -> Tensor:
    """1 where a number in any of them is infinite or NaN, else 0: on their device, in one kernel, without waiting."""
    device = gradients[0].device
    found, scale = torch.zeros((), device=device), torch.ones((), device=device)
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, scale)  # what gradient scalers look with
    return found


def examples(model: LightningModule, batches: range) -> str:
    """The first of the training examples of this process in some batches."""
    sampler = getattr(model.trainer.train_dataloader, "sampler", None)
    if not hasattr(sampler, "indices"):
        return "unknown"
    numbers = []
    for batch in batches:
        step, place = divmod(batch, model.batches_per_step)
        drawn = sampler.indices(step)
        share = len(drawn) // model.batches_per_step
        numbers += drawn[place * share : (place + 1) * share]
    of = f" of process {model.global_rank}" if model.trainer.world_size > 1 else ""
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "") + of


def roll_back(model: LightningModule, path: Path) -> None:
    """Takes weights and optimizers from a checkpoint, not its place in the data, and halves the learning rates."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    for optimizer, state in zip(model.trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        halves = [{name: group[name] / 2 for name in RATES if name in group} for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, half in zip(optimizer.param_groups, halves, strict=True):
            group.update(half)
    for scheduler in model.schedulers():
        for name in {"base_lrs", "max_lrs", "factors"} & vars(scheduler).keys():
            setattr(scheduler, name, [rate / 2 for rate in getattr(scheduler, name)])
