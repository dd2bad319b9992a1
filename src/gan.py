"""The two-player step. Everything that varies between GANs is an argument of `GAN`; this file never changes."""

import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._pytree import tree_map, tree_map_only

from src import seeding
from src.augment import Augmentation
from src.distributed import ExplicitDDP, average_, batch_norm_statistics
from src.ema import EMA
from src.evaluation import Evaluation
from src.faults import Faults, Policy
from src.losses import Loss
from src.measurements import Measurement
from src.metrics.base import Score
from src.networks.base import Discriminator, Generator
from src.regularizers import GeneratorRegularizer, Regularizer


class GAN(Evaluation):
    """A generator and a discriminator that train against each other.

    One training step is `d_steps` updates of the discriminator, each on a fresh batch, and one update of the
    generator: `trainer.max_steps`, intervals, schedules and curves all count generator updates.

    Args:
        generator: noise to images.
        discriminator: images to logits.
        loss: what the two players minimize.
        g_optimizer: optimizer of the generator.
        d_optimizer: optimizer of the discriminator.
        g_scheduler: learning-rate schedule of the generator, advanced once a step; `null` keeps the rate constant.
        d_scheduler: learning-rate schedule of the discriminator, advanced once a step.
        regularizers: penalties on the discriminator, added to its loss.
        g_regularizers: terms added to the generator's loss; networks of their own train with the generator.
        augment: what is done to real and generated images alike before the discriminator sees them, one after another.
        measurement: what is done to generated images alone, because the data only holds measurements.
        ema: moving average of the generator, used wherever images are shown or scored; `null` uses the generator.
        metrics: figures of merit; the first one selects `best.ckpt`.
        d_steps: discriminator updates a step.
        d_warmup_steps: discriminator updates before the first step (the two-phase start); not counted as steps.
        g_batch_multiple: the generator's batch as a multiple of the data's batch.
        accumulate: equal parts into which each batch is cut to save memory; the gradient is that of the whole batch,
            but for batch norm, which normalizes each part, and terms that are no means over images (`MarkovChain`).
        g_clip: largest norm of the generator's gradient; `null` leaves it as it is.
        d_clip: largest norm of the discriminator's gradient.
        on_nonfinite: when a gradient is not finite, "stop" with a checkpoint of the weights before it, "skip" the
            update, "rollback" to the last checkpoint with half the learning rates, or "ignore" it.
        val_images: images generated for each validation.
        test_images: images generated for `test`.
        seed: all noise is a function of it, of the step and of the process; linked to `seed_everything`.

    Raises:
        ValueError: a count below its minimum, or a penalty that this discriminator cannot take.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        loss: Loss,
        g_optimizer: OptimizerCallable,
        d_optimizer: OptimizerCallable,
        g_scheduler: LRSchedulerCallable | None = None,
        d_scheduler: LRSchedulerCallable | None = None,
        regularizers: list[Regularizer] | None = None,
        g_regularizers: list[GeneratorRegularizer] | None = None,
        augment: list[Augmentation] | None = None,
        measurement: Measurement | None = None,
        ema: EMA | None = None,
        metrics: list[Score] | None = None,
        d_steps: int = 1,
        d_warmup_steps: int = 0,
        g_batch_multiple: int = 1,
        accumulate: int = 1,
        g_clip: float | None = None,
        d_clip: float | None = None,
        on_nonfinite: Policy = "stop",
        val_images: int = 1000,
        test_images: int = 10000,
        seed: int = 0,
    ):
        super().__init__()
        self.automatic_optimization = False
        least = {"d_steps": 1, "g_batch_multiple": 1, "accumulate": 1, "d_warmup_steps": 0}
        least |= dict.fromkeys(("val_images", "test_images"), 2 if metrics else 1)
        given = locals()
        for name, number in least.items():
            if given[name] < number:
                raise ValueError(f"model.{name} must be at least {number}, got {given[name]}")
        for name in ("g_clip", "d_clip"):
            if given[name] is not None and given[name] <= 0:
                raise ValueError(f"model.{name} must be above 0, got {given[name]}; null leaves the gradient as it is")
        for player, network in (("generator", generator), ("discriminator", discriminator)):
            for name, weight in network.named_parameters():
                if weight.numel() == 0:
                    raise ValueError(
                        f"{name} of the {player} is empty: give each width and latent_dim of it at least 1"
                    )
        for regularizer in regularizers or []:
            regularizer.check(discriminator)
        for augmentation in augment or []:
            augmentation.check(loss)
        for regularizer in g_regularizers or []:
            regularizer.build(generator, discriminator)
        discriminator.meet(generator)

        self.generator = generator
        self.discriminator = discriminator
        self.generator_ema = deepcopy(generator).eval().requires_grad_(False) if ema else None
        self.loss = loss
        self.regularizers = list(regularizers or [])
        self.g_regularizers = nn.ModuleList(g_regularizers or [])
        self.augment = nn.Sequential(*(augment or []))
        self.measurement = measurement or nn.Identity()
        self.ema = ema
        self.metrics = list(metrics or [])  # plain objects: their networks never reach a checkpoint
        self.optimizer_callables = (g_optimizer, d_optimizer)
        self.scheduler_callables = (g_scheduler, d_scheduler)
        self.clips = (g_clip, d_clip)
        self.faults = Faults(on_nonfinite)
        self.d_steps, self.d_warmup_steps = d_steps, d_warmup_steps
        self.g_batch_multiple, self.accumulate = g_batch_multiple, accumulate
        self.val_images, self.test_images = val_images, test_images
        self.seed = seed
        self.batches_per_step = d_steps + (g_batch_multiple if loss.relativistic else 0)
        self.images_seen = 0  # real ones, by the discriminator
        self.curves: dict[str, Tensor | float] = {}  # since they were last logged
        self.logged: dict[str, float] = {}  # what was logged last

    def configure_optimizers(self) -> tuple[list[Optimizer], list]:
        players = ([*self.generator.parameters(), *self.g_regularizers.parameters()], self.discriminator.parameters())
        optimizers = [make(weights) for make, weights in zip(self.optimizer_callables, players, strict=True)]
        for optimizer in optimizers:
            if isinstance(optimizer, (torch.optim.LBFGS, torch.optim.SparseAdam)):
                raise ValueError(
                    f"{type(optimizer).__name__} does not fit the two-player step: choose Adam, for instance"
                )
        schedulers = [make(opt) for make, opt in zip(self.scheduler_callables, optimizers, strict=True) if make]
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise ValueError(
                "ReduceLROnPlateau needs a figure that a GAN's step does not have: choose another schedule"
            )
        return optimizers, schedulers

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        self.logs_now = (step + 1) % self.trainer.log_every_n_steps == 0
        seeding.seed_modules(self.device, self.seed, step, self.global_rank)
        batches = pieces(batch, self.batches_per_step)
        for augmentation in self.augment:
            augmentation.advance(step)

        for k in range(self.d_steps):
            number = step * self.batches_per_step + k
            self.update_discriminator(batches[k], seeding.DISCRIMINATOR, step * self.d_steps + k, number)
        # The generator is given the conditions of real samples; their images only matter to a relativistic loss.
        unseen = batches[self.d_steps :] or [batches[-1]] * self.g_batch_multiple
        self.update_generator(unseen, step)

        for scheduler in self.schedulers():
            scheduler.step()
        if self.ema:
            self.ema.update(step, self.global_batch_size(batches[0]))
        if self.logs_now:
            self.log_curves()

    def update_discriminator(self, batch: Any, purpose: int, update: int, number: int) -> None:
        """One optimizer step of the discriminator; `update` numbers these, and keys their noise; `number` the batch."""
        _, optimizer = self.optimizers()
        optimizer.zero_grad()
        latents = self.latents(len(batch[0]), purpose, update)
        for (real, condition), z in self.parts((batch, latents)):
            with torch.no_grad():
                fake = self.augment(self.measurement(self.generator(z, condition)))
                real = self.augment(real)
            real_logits = self.judge(real, condition)
            fake_logits = self.judge(fake, condition)
            for augmentation in self.augment:
                augmentation.observe(real_logits.detach())
            loss = self.loss.discriminator(real_logits, fake_logits)
            penalties = [
                regularizer.weight * regularizer.every * regularizer.penalty(self.discriminator, real, fake, condition)
                for regularizer in self.regularizers
                if (update + 1) % regularizer.every == 0  # lazy regularization: Sec. 3.1 of arXiv:1912.04958
            ]
            self.backward_into(optimizer, (loss + sum(penalties)) / self.accumulate)
        self.apply_gradients("discriminator", optimizer, loss, range(number, number + 1))
        self.images_seen += self.global_batch_size(batch)
        if self.logs_now:
            self.curves |= {
                "loss/discriminator": loss,
                "logits/real": real_logits.mean(),
                "logits/fake": fake_logits.mean(),
            }
            if penalties:
                self.curves["loss/penalty"] = sum(penalties)

    def update_generator(self, batches: list[Any], step: int) -> None:
        """One optimizer step of the generator: the one that `global_step` counts."""
        optimizer, _ = self.optimizers()
        optimizer.zero_grad()
        # Drawn batch by batch, so that processes that share a batch hold slices of the same noise.
        latents = [self.latents(len(x), seeding.GENERATOR, step, j) for j, (x, _) in enumerate(batches)]
        for (real, condition), z in self.parts((join(batches), join(latents))):
            fake = self.generator(z, condition)
            fake_logits = self.judge(self.augment(self.measurement(fake)), condition)
            real_logits = None
            if self.loss.relativistic:
                with torch.no_grad():
                    real_logits = self.judge(self.augment(real), condition)
            loss = self.loss.generator(real_logits, fake_logits)
            terms = {
                regularizer: regularizer.weight
                * regularizer.every
                * regularizer.penalty(self, z, fake, real, condition)
                for regularizer in self.g_regularizers
                if (step + 1) % regularizer.every == 0
            }
            self.backward_into(optimizer, (loss + sum(terms.values())) / self.accumulate)
        first = step * self.batches_per_step + min(self.d_steps, self.batches_per_step - 1)
        self.apply_gradients("generator", optimizer, loss, range(first, (step + 1) * self.batches_per_step))
        if self.logs_now:
            self.curves["loss/generator"] = loss
            self.curves |= {f"loss/{type(regularizer).__name__}": term for regularizer, term in terms.items()}

    def judge(self, images: Tensor, condition: Any) -> Tensor:
        """Logits in float32, also where autocast computes them in less."""
        return self.discriminator(images, condition).float()

    def on_train_start(self) -> None:
        self.check_strategy()
        self.clock = (time.perf_counter(), self.images_seen)
        if self.global_step == 0:
            with torch.no_grad():
                self.generator.fit(self.trainer.datamodule.training_set())
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
                self.update_discriminator(batch, seeding.WARMUP, update, update)

    def warmup_batches(self) -> Iterator[Any]:
        # A loader of its own: reading from the trainer's would move the position of the first step.
        data = self.trainer.datamodule
        while self.d_warmup_steps:
            for loaded in data.train_dataloader():
                on_device = self.trainer.strategy.batch_to_device(loaded)
                yield from pieces(data.on_after_batch_transfer(on_device, 0), self.batches_per_step)

    def backward_into(self, optimizer: Any, loss: Tensor) -> None:
        """Adds the gradient of `loss` to the parameters of one player; the other's is never computed."""
        weights = [weight for weight in parameters(optimizer) if weight.requires_grad]
        if weights:  # a generator that is fitted in closed form has none
            self.manual_backward(loss, inputs=weights)

    def apply_gradients(self, player: str, optimizer: Any, loss: Tensor, numbers: range) -> None:
        """Averages the gradients over the processes, then steps.

        Before the step, so that under a gradient scaler an overflow on one process is seen by all of them.
        """
        gradients = [p.grad for p in parameters(optimizer) if p.grad is not None]
        average_(gradients)
        if self.faults.found(self, player, loss, gradients, numbers):
            optimizer.zero_grad()  # a step without gradients changes nothing, and is counted
        if player == "generator":
            optimizer.step()
        else:  # what LightningOptimizer.step does, except that `global_step` stays
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips, and notes the norm of, averaged gradients."""
        player = 0 if optimizer is self.optimizers()[0].optimizer else 1
        gradients = [p.grad for p in parameters(optimizer) if p.grad is not None]
        if not gradients or (self.clips[player] is None and not self.logs_now):
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norm = norm / scaler.get_scale()  # a fused optimizer unscales later, inside its step
        if self.clips[player] is not None:
            torch._foreach_mul_(gradients, (self.clips[player] / (norm + 1e-6)).clamp(max=1.0))
        self.curves[("grad_norm/generator", "grad_norm/discriminator")[player]] = norm

    def check_strategy(self) -> None:
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, ExplicitDDP):
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

    def parts(self, batch: Any) -> list[Any]:
        return pieces(batch, self.accumulate)

    def global_batch_size(self, batch: Any) -> int:
        return len(batch[0]) * self.trainer.world_size

    def schedulers(self) -> list:
        schedulers = self.lr_schedulers() or []
        return schedulers if isinstance(schedulers, list) else [schedulers]

    def log_curves(self) -> None:
        """Sends the curves to the loggers, straight: each `self.log` costs every step, also those that do not log."""
        step, (then, seen_then) = self.global_step, self.clock
        self.clock = (time.perf_counter(), self.images_seen)
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
        for logger in self.loggers:
            logger.log_metrics(values, step=step)
        bar = {"d": values["loss/discriminator"], "g": values["loss/generator"]}
        self.log_dict(bar, prog_bar=True, logger=False)

    def on_validation_end(self) -> None:
        self.clock = (time.perf_counter(), self.images_seen)  # images a second are those of training

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        average_(batch_norm_statistics(self))  # in place: the tensors in `checkpoint` are these
        checkpoint["images_seen"] = self.images_seen
        checkpoint["faults"] = self.faults.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_steps = checkpoint["global_step"]
        if "images_seen" in checkpoint:  # not where weights travel alone
            self.images_seen = checkpoint["images_seen"]
            self.faults.load_state_dict(checkpoint["faults"])
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


def parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def pieces(batch: Any, count: int) -> list[Any]:
    """Cuts every tensor of a batch into `count` equal pieces along its first dimension."""
    if count == 1:
        return [batch]
    return [tree_map_only(Tensor, lambda t, i=i: t.view(count, -1, *t.shape[1:])[i], batch) for i in range(count)]


def join(batches: list[Any]) -> Any:
    """Joins batches of one structure along the first dimension of their tensors."""
    if len(batches) == 1:
        return batches[0]
    return tree_map(lambda *tensors: None if tensors[0] is None else torch.cat(tensors), *batches)
