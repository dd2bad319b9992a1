"""What happens when a gradient is not finite: nothing that spoils the weights."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

MOST_IN_A_ROW = 50
MOST_PENDING = 1000  # updates without a report
WAITING = ("cuda",)  # devices that a process waits for when it reads a number
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a group of parameters; schedules keep some there

Policy = Literal["stop", "skip", "rollback", "ignore"]


class Faults:
    """Looks at the averaged gradients before each update, the same ones on every process.

    Where looking means waiting for a GPU, and a fused optimizer leaves out bad updates by itself (`found_inf`), it does
    so there, and the report follows at the next log: the weights are as finite, and no step waits.
    Under a gradient scaler nothing is looked at: overflow is its business.

    Args:
        policy: "stop" saves `checkpoints/fault.ckpt`, whose weights are still finite, and ends the run; "skip" leaves
            the update out; "rollback" goes back to `last.ckpt` and on from there with the next data and half the
            learning rates; "ignore" does not look.

    Attributes:
        count: of the faults of the run.
        pending: updates of which the report follows.
    """

    def __init__(self, policy: Policy):
        self.policy = policy
        self.count = 0
        self.in_a_row = {"generator": 0, "discriminator": 0}
        self.pending: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        pending = [update | {key: float(update[key]) for key in ("loss", "found")} for update in self.pending]
        return {"count": self.count, "in_a_row": self.in_a_row, "pending": pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.in_a_row = state["count"], dict(state["in_a_row"])
        self.pending = list(state.get("pending", []))

    def found(
        self, model: LightningModule, player: str, optimizer: Optimizer, loss: Tensor, gradients: list[Tensor],
        batches: range,
    ) -> bool:  # fmt: skip
        """Whether this update must be left out by whoever asks.

        Args:
            model: the `GAN`.
            player: "generator" or "discriminator".
            optimizer: of the player.
            loss: of the player, for the message.
            gradients: of the player, averaged over the processes.
            batches: numbers of the batches that they come from, counted from the first of the run.

        Raises:
            ValueError: by the policy "stop", or when no update succeeds any more.
        """
        scaler = getattr(model.trainer.precision_plugin, "scaler", None)
        if self.policy == "ignore" or scaler is not None or not gradients:
            return False
        found = any_not_finite(gradients)
        update = {"player": player, "step": model.global_step, "batches": (batches.start, batches.stop)}
        update |= {"loss": loss.detach(), "found": found}
        if found.device.type not in WAITING or not getattr(optimizer, "_step_supports_amp_scaling", False):
            return self.judge(model, update)
        optimizer.found_inf = found
        self.note(model, update)
        return False

    def note(self, model: LightningModule, update: dict[str, Any]) -> None:
        """Keeps what will be reported of an update; raises as `found`."""
        self.pending.append(update)
        if len(self.pending) == MOST_PENDING:
            self.settle(model)

    def settle(self, model: LightningModule) -> None:
        """Reports the updates that the optimizer left out by itself; raises as `found`."""
        pending, self.pending = self.pending, []
        for update in pending:
            if self.judge(model, update) and self.policy == "rollback":
                return  # what came after it is undone, too

    def judge(self, model: LightningModule, update: dict[str, Any]) -> bool:
        """Whether an update was bad; does what the policy says; raises as `found`."""
        player = update["player"]
        if not float(update["found"]):
            self.in_a_row[player] = 0
            return False
        self.count += 1
        self.in_a_row[player] += 1
        said = (
            f"step {update['step']}: the gradient of the {player} is not finite (its loss is"
            f" {float(update['loss']):.3g}; training examples {examples(model, range(*update['batches']))})"
        )
        folder = Path(model.trainer.default_root_dir) / "checkpoints"
        last = folder / "last.ckpt"
        hopeless = self.in_a_row[player] > MOST_IN_A_ROW
        if self.policy == "stop" or hopeless or (self.policy == "rollback" and not last.exists()):
            model.trainer.save_checkpoint(folder / "fault.ckpt")
            raise ValueError(
                f"{said}: stopped, with weights that it did not reach in {folder / 'fault.ckpt'}; look at these"
                " examples, lower the learning rates, clip (--model.d_clip), or go on with --model.on_nonfinite skip or"
                " rollback"
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
    if not callable(getattr(sampler, "indices", None)):
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
    model.fakes = None  # of other weights
    for optimizer, state in zip(model.trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        halves = [{name: group[name] / 2 for name in RATES if name in group} for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, half in zip(optimizer.param_groups, halves, strict=True):
            group.update(half)
    if model.graphs:
        model.graphs.forget()
    for scheduler in model.schedulers():
        for name in {"base_lrs", "max_lrs", "factors"} & vars(scheduler).keys():
            setattr(scheduler, name, [rate / 2 for rate in getattr(scheduler, name)])
