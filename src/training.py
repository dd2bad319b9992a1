"""How a step is carried out: optimizers, gradients into weights, the noise of a step, curves, checkpoint hooks."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.engine import seeding
from src.engine.batches import pieces
from src.engine.distributed import ExplicitDDP, average_, averaging_on_the_way, batch_norm_statistics, overlaps
from src.engine.graphs import compile_, graphs_of
from src.engine.optimizers import forget_gradients, parameters
from src.engine.schedules import OverImages, check_length
from src.engine.strides import like_weights_
from src.engine.weights import complete
from src.evaluation import Evaluation
from src.images.loaders import Nowhere


class Training(Evaluation):
    """The half of `GAN` that is the same for every two-player game."""

    def check(self) -> None:
        """Refuses counts below their minimum, and networks without weights.

        Raises:
            ValueError: naming the option.
        """
        least = {"d_steps": 1, "g_batch_multiple": 1, "accumulate": 1, "d_warmup_steps": 0}
        least |= dict.fromkeys(("val_images", "test_images"), 2 if self.metrics else 1)
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(f"model.{name} must be at least {number}, got {getattr(self, name)}")
        if self.reuse_fakes and max(self.g_batch_multiple, self.accumulate) > 1:
            raise ValueError(
                "model.reuse_fakes keeps one batch of both players: leave out g_batch_multiple and accumulate, or say"
                " --model.reuse_fakes false"
            )
        for name, clip in zip(("g_clip", "d_clip"), self.clips, strict=True):
            if clip is not None and clip <= 0:
                raise ValueError(f"model.{name} must be above 0, got {clip}; null leaves the gradient as it is")
        for player in ("generator", "discriminator"):
            for name, weight in getattr(self, player).named_parameters():
                if weight.numel() == 0:
                    raise ValueError(
                        f"{name} of the {player} is empty: give each width and latent_dim of it at least 1"
                    )

    def make_optimizers(self) -> list[Optimizer]:
        """New ones, of the generator and of the discriminator."""
        players = ([*self.generator.parameters(), *self.g_regularizers.parameters()], self.discriminator.parameters())
        optimizers = [make(weights) for make, weights in zip(self.optimizer_callables, players, strict=True)]
        for player, optimizer in zip(("generator", "discriminator"), optimizers, strict=True):
            optimizer.param_groups[0].setdefault("name", player)  # LearningRateMonitor says it: lr-Adam/generator
            if isinstance(optimizer, (torch.optim.LBFGS, torch.optim.SparseAdam)):
                raise ValueError(
                    f"{type(optimizer).__name__} does not fit the two-player step: choose Adam, for instance"
                )
            optimizer.register_load_state_dict_post_hook(like_weights_)
        return optimizers

    def configure_optimizers(self) -> tuple[list[Optimizer], list]:
        optimizers = self.make_optimizers()
        schedulers = [make(opt) for make, opt in zip(self.scheduler_callables, optimizers, strict=True) if make]
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise ValueError(
                "ReduceLROnPlateau needs a figure that a GAN's step does not have: choose another schedule"
            )
        self.check_schedules(schedulers)
        return optimizers, schedulers

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.check_strategy()

    def check_schedules(self, schedulers: list, where: str = "") -> None:
        players = [player for player, make in zip("gd", self.scheduler_callables, strict=True) if make]
        for player, scheduler in zip(players, schedulers, strict=True):
            check_length(scheduler, self.trainer.max_steps, f"model.{player}_scheduler{where}")

    def on_train_start(self) -> None:
        super().on_train_start()
        self.check_schedules(self.schedulers(), " in the checkpoint")  # which brings the lengths of its own
        self.clock = (time.perf_counter(), self.images_seen)
        self.straight = not is_watched(self.trainer)
        self.overlaps = overlaps(self.overlap_reduce)
        self.graphs = graphs_of(self)
        if self.compile_networks:
            compile_(self)
        if self.global_step == 0:
            with torch.no_grad():
                self.generator.fit(Nowhere() if self.from_elsewhere else self.trainer.datamodule.training_set())
            if self.ema:
                self.generator_ema.load_state_dict(self.generator.state_dict())
        if self.ema:
            self.ema.attach(self.generator_ema, self.generator)
        if self.global_step == 0:
            self.warm_up()

    def warm_up(self) -> None:
        """Trains the discriminator alone, so that the generator starts against one that can tell."""
        self.logs_now = False
        seeding.seed_modules(self.device, self.seed, 0, self.global_rank, 1)
        for update, batch in enumerate(islice(self.warmup_batches(), self.d_warmup_steps)):
            with self.trainer.precision_plugin.train_step_context():
                latents = self.latents(len(batch[0]), seeding.WARMUP, update)
                self.update_discriminator(batch, latents, update, update)
                self.images_seen += self.global_batch_size(batch)

    def follow_schedules(self) -> None:
        """Sets the numbers that are functions of the images seen."""
        for number in (*self.scheduled, *self.over_images().values()):
            number.set(self.images_seen)

    def over_images(self) -> dict[str, OverImages]:
        """The schedulers of both players that go by images."""
        players = zip(("generator", "discriminator"), self.scheduler_callables, strict=True)
        found = zip([player for player, make in players if make], self.schedulers(), strict=True)
        return {player: scheduler for player, scheduler in found if isinstance(scheduler, OverImages)}

    def backward_into(self, optimizer: Any, loss: Tensor, *others: Tensor) -> None:
        """Adds the gradient of a sum to the parameters of one player; the other's is never computed."""
        weights = [weight for weight in parameters(optimizer) if weight.requires_grad]
        if weights:  # a generator that is fitted in closed form has none
            loss = sum(others, loss)
            if self.accumulate > 1:
                loss = loss / self.accumulate
            on_the_way = averaging_on_the_way(weights) if self.overlaps and self.last_part else nullcontext()
            # Not under autocast: the gradient of a penalty in float32 would be computed in less.
            with on_the_way, torch.autocast(self.device.type, enabled=False):
                (Tensor.backward if self.straight else self.manual_backward)(loss, inputs=weights)

    def apply_gradients(self, player: str, optimizer: Any, loss: Tensor, numbers: range) -> None:
        """Averages the gradients over the processes, unless that was done on the way, then steps.

        Before the step, so that under a gradient scaler an overflow on one process is seen by all of them.
        """
        gradients = [p.grad for p in parameters(optimizer) if p.grad is not None]
        if not self.overlaps:
            average_(gradients)
        if self.faults.found(self, player, optimizer.optimizer, loss, gradients, numbers):
            forget_gradients(optimizer)  # a step without gradients changes nothing, and is counted
        if self.straight:
            self.on_before_optimizer_step(optimizer.optimizer)
            optimizer.optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    def count_step(self) -> None:
        """What LightningOptimizer.step counts, for one player alone: `global_step` counts generator updates."""
        optimizer, _ = self.optimizers()
        optimizer._on_before_step()
        optimizer._on_after_step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips, and notes the norm of, averaged gradients."""
        player = 0 if optimizer is self.trainer.optimizers[0] else 1
        if self.clips[player] is None and not self.logs_now:
            return
        gradients = [p.grad for p in parameters(optimizer) if p.grad is not None]
        if not gradients:
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm = norm / scaler.get_scale()  # a fused optimizer unscales later, inside its step
        if self.clips[player] is not None:
            torch._foreach_mul_(gradients, (self.clips[player] / (norm + 1e-6)).clamp(max=1.0))
        self.curves[("grad_norm/generator", "grad_norm/discriminator")[player]] = norm

    def check_strategy(self) -> None:
        if not isinstance(self.trainer.strategy, (SingleDeviceStrategy, ExplicitDDP)):
            raise ValueError(
                f"{type(self.trainer.strategy).__name__} cannot run the two-player step:"
                " leave --trainer.strategy at auto"
            )
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if scaled and not any(weight.requires_grad for weight in self.generator.parameters()):
            raise ValueError("16-mixed scales gradients, and this generator has none: --trainer.precision bf16-mixed")

    def latents(self, batch_size: int, *key: int) -> Tensor:
        """This process's slice [batch_size, *latent_shape] of the noise keyed by `(seed, *key)`."""
        shape = (batch_size * self.trainer.world_size, *self.generator.latent_shape)
        noise = seeding.normal(shape, self.seed, *key)
        return noise[self.global_rank * batch_size :][:batch_size].to(self.device, non_blocking=True)

    def step_latents(self, batches: list[Any], step: int) -> list[Tensor]:
        """The noise of a step: for each batch of the discriminator, then for each of the generator.

        Batch by batch, so that processes that share a batch hold slices of the same noise.
        """
        keys = [(seeding.DISCRIMINATOR, step * self.d_steps + k) for k in range(self.d_steps)]
        keys += [(seeding.GENERATOR, step, j) for j in range(len(batches) - self.d_steps)]
        return [self.latents(len(batch[0]), *key) for batch, key in zip(batches, keys, strict=True)]

    def parts(self, batch: Any) -> Iterator[Any]:
        for number, part in enumerate(pieces(batch, self.accumulate), 1):
            self.last_part = number == self.accumulate  # whose gradients are those of the update
            yield part

    def global_batch_size(self, batch: Any) -> int:
        return len(batch[0]) * self.trainer.world_size

    def schedulers(self) -> list:
        schedulers = self.lr_schedulers() or []
        return schedulers if isinstance(schedulers, list) else [schedulers]

    def log_curves(self) -> None:
        self.faults.settle(self)
        then, seen_then = self.clock
        self.clock = (time.perf_counter(), self.images_seen)
        self.curves |= {number.curve: number.value for number in self.scheduled}
        for player, scheduler in self.over_images().items():
            self.curves |= {f"{name}/{player}": value for name, value in scheduler.now.items()}
        for player, optimizer in zip(("generator", "discriminator"), self.optimizers(), strict=True):
            self.curves[f"lr/{player}"] = optimizer.param_groups[0]["lr"]
        strengths = {name: value for name, value in self.augment.named_buffers() if name.endswith("strength")}
        self.curves |= {f"augment/{name}": value for name, value in strengths.items()}
        self.curves["images_seen"] = self.images_seen
        self.curves["images_per_second"] = (self.images_seen - seen_then) / (self.clock[0] - then)
        if self.faults.count:
            self.curves["faults"] = self.faults.count
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in self.curves.items()}
        self.logged = values
        self.curves.clear()
        self.publish(values)
        bar = {"d": values["loss/discriminator"], "g": values["loss/generator"]}
        self.log_dict(bar, prog_bar=True, logger=False)

    def curve_intervals(self) -> dict[str, int]:
        """The curves of training, and how many steps lie between two values of each, at most."""
        every = self.trainer.log_every_n_steps
        names = ["loss/discriminator", "loss/generator", "logits/real", "logits/fake", "images_seen"]
        names += ["images_per_second", "lr/generator", "lr/discriminator", "grad_norm/discriminator"]
        names += ["grad_norm/generator"] * any(weight.requires_grad for weight in self.generator.parameters())
        names += [f"augment/{name}" for name, _ in self.augment.named_buffers() if name.endswith("strength")]
        names += [number.curve for number in self.scheduled]
        names += [f"{name}/{player}" for player, scheduler in self.over_images().items() for name in scheduler.now]
        intervals = dict.fromkeys(names, every)
        for penalty in self.regularizers:
            found = math.lcm(every, penalty.every // math.gcd(penalty.every, self.d_steps))
            intervals["loss/penalty"] = min(found, intervals.get("loss/penalty", found))
        for term in self.g_regularizers:
            intervals[f"loss/{type(term).__name__}"] = math.lcm(every, term.every)
        return intervals

    def on_train_end(self) -> None:
        self.faults.settle(self)

    def on_validation_end(self) -> None:
        self.clock = (time.perf_counter(), self.images_seen)  # images a second are those of training

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        average_(batch_norm_statistics(self))  # in place: the tensors in `checkpoint` are these
        checkpoint["images_seen"] = self.images_seen
        checkpoint["faults"] = self.faults.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_steps = checkpoint["global_step"]
        if checkpoint.get("generator_alone"):
            complete(checkpoint, self)
        if "images_seen" in checkpoint:  # not where weights travel alone
            self.images_seen = checkpoint["images_seen"]
            self.faults.load_state_dict(checkpoint["faults"])
            states = checkpoint.get("optimizer_states", [])  # none where Lightning was told to save weights alone
            for player, state in zip(("generator", "discriminator"), states, strict=False):
                state["param_groups"][0].setdefault("name", player)  # not in the checkpoints of yesterday
        theirs, ours = (
            {k: tuple(v.shape) for k, v in d.items()} for d in (checkpoint["state_dict"], self.state_dict())
        )
        differing = [k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
        if differing:
            name = differing[0]
            raise ValueError(
                f"the checkpoint is of another architecture: {name} is {theirs.get(name, 'missing')} there and"
                f" {ours.get(name, 'missing')} here, and {len(differing) - 1} more differ;"
                " leave out the options that changed the networks, or train anew"
            )


def is_watched(trainer: Trainer) -> bool:
    """Whether anything wants to hear of each backward pass and update: a callback, a gradient scaler, a profiler.

    Where nothing does, both are called straight: Lightning asks every callback each time, 0.4 ms a step.
    """
    hooks = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
    listens = any(is_overridden(hook, callback, Callback) for hook in hooks for callback in trainer.callbacks)
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    return listens or scales or not isinstance(trainer.profiler, PassThroughProfiler)
