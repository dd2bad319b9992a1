"""The two-player step. Everything that varies between GANs is an argument of `GAN`; this file never changes."""

from copy import deepcopy
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from src.engine import seeding
from src.engine.batches import join
from src.engine.ema import EMA
from src.engine.faults import Faults, Policy
from src.engine.freezing import freeze_
from src.engine.graphs import Graphs
from src.engine.optimizers import forget_gradients
from src.engine.schedules import scheduled
from src.engine.strides import channels_last_
from src.images.augment import Augmentation
from src.images.measurements import Measurement, Whole
from src.metrics.base import Score
from src.metrics.from_torchmetrics import ImageMetric, adapted
from src.networks.base import Discriminator, Generator
from src.objectives.combinations import check_combination
from src.objectives.losses import Loss, wrapped
from src.objectives.regularizers import Augmented, Regularizer
from src.objectives.terms import GeneratorRegularizer
from src.training import Training


class GAN(Training):
    """A generator and a discriminator that train against each other.

    One training step is `d_steps` updates of the discriminator, each on a fresh batch, and one update of the
    generator: `trainer.max_steps`, intervals, schedules and curves all count generator updates.

    Args:
        generator: noise to images.
        discriminator: images to logits.
        loss: what the two players minimize.
        g_optimizer: optimizer of the generator.
        d_optimizer: optimizer of the discriminator.
        g_scheduler: learning-rate schedule of the generator, advanced once a step and no shorter than the run; `null`
            keeps the rate constant; `OverImages` goes by images and sets betas, too.
        d_scheduler: learning-rate schedule of the discriminator, advanced once a step.
        regularizers: penalties on the discriminator, added to its loss.
        g_regularizers: terms added to the generator's loss; networks of their own train with the generator.
        augment: what is done to real and generated images alike before the discriminator sees them, one after another.
        measurement: what is done to generated images alone, because the data only holds measurements.
        ema: moving average of the generator, used wherever images are shown or scored; `null` uses the generator.
        freeze: names of weights that do not train, "discriminator.features.0" or "*.embed" for one (arXiv:2002.10964).
        metrics: figures of merit, metrics of torchmetrics that take images among them; the first selects `best.ckpt`.
        d_steps: discriminator updates a step.
        d_warmup_steps: discriminator updates before the first step (the two-phase start); not counted as steps.
        g_batch_multiple: the generator's batch as a multiple of the data's batch.
        reuse_fakes: the generator learns from the images that the discriminator saw last, which are made once. Both
            updates then have the same latents, and with a relativistic loss the same real images.
        accumulate: equal parts into which each batch is cut to save memory; the gradient is that of the whole batch,
            but for batch norm, which normalizes each part, and terms that are no means over images (`MarkovChain`).
            Losses and logits among the curves are those of the last part.
        g_clip: largest norm of the generator's gradient; `null` leaves it as it is.
        d_clip: largest norm of the discriminator's gradient.
        cuda_graphs: record the updates of a step on a GPU, and launch them as a whole from then on: the same results,
            sooner; "auto" does so where it can.
        compile_networks: let torch.compile write the kernels of both networks on a GPU; the first steps wait for it.
        overlap_reduce: with several processes, average gradients in buckets while the backward pass computes others:
            with two to the last bit what averaging after it gives, with more but for rounding.
        on_nonfinite: when a gradient is not finite, "stop" with a checkpoint of finite weights, "skip" the
            update, "rollback" to the last checkpoint with half the learning rates, or "ignore" it.
        val_images: images generated for each validation.
        test_images: images generated for `test`.
        seed: all noise is a function of it, of the step and of the process; linked to `seed_everything`.

    Raises:
        ValueError: a count below its minimum, or parts that do not go together.
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
        freeze: list[str] | None = None,
        metrics: list[Score | ImageMetric] | None = None,
        d_steps: int = 1,
        d_warmup_steps: int = 0,
        g_batch_multiple: int = 1,
        reuse_fakes: bool = False,
        accumulate: int = 1,
        g_clip: float | None = None,
        d_clip: float | None = None,
        cuda_graphs: bool | Literal["auto"] = False,
        compile_networks: bool = False,
        overlap_reduce: bool = False,
        on_nonfinite: Policy = "stop",
        val_images: int = 1000,
        test_images: int = 10000,
        seed: int = 0,
    ):
        super().__init__()
        self.describe(locals())
        self.automatic_optimization = False
        for regularizer in regularizers or []:
            regularizer.check(discriminator)
        for augmentation in augment or []:
            augmentation.check(loss)
        check_combination(loss, discriminator, regularizers or [])
        for regularizer in g_regularizers or []:
            regularizer.build(generator, discriminator)
        discriminator.meet(generator)
        for network in (generator, discriminator):
            if network.channels_last:
                channels_last_(network)  # before the average is copied and the optimizers are made

        self.generator = generator
        self.discriminator = discriminator
        self.generator_ema = deepcopy(generator).eval().requires_grad_(False) if ema else None
        self.loss = loss
        self.regularizers = list(regularizers or [])
        self.g_regularizers = nn.ModuleList(g_regularizers or [])
        players = {"generator": generator, "discriminator": discriminator, "g_regularizers": self.g_regularizers}
        freeze_(players, freeze or [])
        self.augment = nn.Sequential(*(augment or []))
        self.measurement = measurement or Whole()
        self.measurement.check(discriminator)
        self.ema = ema
        # Plain objects: their networks never reach a checkpoint.
        self.metrics = [adapted(metric) for metric in metrics or []]
        self.optimizer_callables = (g_optimizer, d_optimizer)
        self.scheduler_callables = (g_scheduler, d_scheduler)
        self.clips = (g_clip, d_clip)
        self.cuda_graphs, self.compile_networks, self.overlap_reduce = cuda_graphs, compile_networks, overlap_reduce
        self.graphs: Graphs | None = None
        self.faults = Faults(on_nonfinite)
        self.d_steps, self.d_warmup_steps = d_steps, d_warmup_steps
        self.g_batch_multiple, self.accumulate = g_batch_multiple, accumulate
        self.reuse_fakes = reuse_fakes
        self.fakes: tuple[Tensor, Tensor] | None = None  # latents and images, with their graph, for the update of G
        self.val_images, self.test_images = val_images, test_images
        self.seed = seed
        self.batches_per_step = d_steps + (g_batch_multiple if loss.relativistic and not reuse_fakes else 0)
        self.images_seen = 0  # real ones, by the discriminator
        self.curves: dict[str, Tensor | float] = {}  # since they were last logged
        self.logged: dict[str, float] = {}  # what was logged last
        parts = [*self.regularizers, *self.g_regularizers.modules(), *self.augment.modules()]
        self.objectives = [*wrapped(loss), *parts]
        self.scheduled = scheduled([*self.objectives, *([ema] if ema else [])])
        self.check()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        self.logs_now = (step + 1) % self.trainer.log_every_n_steps == 0
        seeding.seed_modules(self.device, self.seed, step, self.global_rank)
        self.follow_schedules()
        for augmentation in self.augment:
            augmentation.advance(step)
        batches = self.batches(batch)
        # The generator is given the conditions of real samples; their images only matter to a relativistic loss.
        batches = batches[: self.d_steps] + (batches[self.d_steps :] or [batches[-1]] * self.g_batch_multiple)
        latents = self.step_latents(batches, step)
        if self.graphs:
            self.graphs.play(self, batches, latents, step)
        else:
            self.play(batches, latents, step)
        self.count_step()
        self.images_seen += sum(map(self.global_batch_size, batches[: self.d_steps]))
        for scheduler in self.schedulers():
            scheduler.step()
        if self.ema:
            self.ema.update(step, self.global_batch_size(batches[0]))
        if self.logs_now:
            self.log_curves()

    def play(self, batches: list[Any], latents: list[Tensor], step: int) -> None:
        """The updates of one step, first those of the discriminator; on a GPU, kernels and nothing else."""
        for k in range(self.d_steps):
            number = step * self.batches_per_step + k
            keeps = self.reuse_fakes and k == self.d_steps - 1
            self.update_discriminator(batches[k], latents[k], step * self.d_steps + k, number, keeps)
        self.update_generator(batches[self.d_steps :], latents[self.d_steps :], step)

    def update_discriminator(self, batch: Any, latents: Tensor, update: int, number: int, keeps: bool = False) -> None:
        """One optimizer step of the discriminator; `update` numbers these, `number` the batches; may keep its fakes."""
        _, optimizer = self.optimizers()
        forget_gradients(optimizer)
        for (real, condition), z in self.parts((batch, latents)):
            with torch.set_grad_enabled(keeps):
                made = self.generator(z, condition)
            self.fakes = (z, made) if keeps else None
            with torch.no_grad():
                fake = self.measurement.beside(made, real)
                augmented_fake, augmented_real = self.augment(fake), self.augment(real)
            real_logits, fake_logits = self.judge_both(augmented_real, augmented_fake, condition)
            for augmentation in self.augment:
                augmentation.observe(real_logits.detach())
            loss = self.loss.discriminator(real_logits, fake_logits)
            seen = (self.discriminator, augmented_real, augmented_fake)
            whole = (Augmented(self.augment, self.discriminator), real, fake)
            penalties = [
                part.weight * part.every * part.penalty(*(whole if part.before_augmentation else seen), condition)
                for part in self.regularizers
                if (update + 1) % part.every == 0  # lazy regularization: Sec. 3.1 of arXiv:1912.04958
            ]
            self.backward_into(optimizer, loss, *penalties)
        self.apply_gradients("discriminator", optimizer, loss, range(number, number + 1))
        if self.logs_now:
            self.curves |= {
                "loss/discriminator": loss,
                "logits/real": real_logits.mean(),
                "logits/fake": fake_logits.mean(),
            }
            if penalties:
                self.curves["loss/penalty"] = sum(penalties)

    def update_generator(self, batches: list[Any], latents: list[Tensor], step: int) -> None:
        """One optimizer step of the generator: the one that `global_step` counts."""
        optimizer, _ = self.optimizers()
        forget_gradients(optimizer)
        for (real, condition), z in self.parts((join(batches), join(latents))):
            z, fake = self.fakes or (z, self.generator(z, condition))
            fake_logits = self.judge(self.seen(fake, real), condition)
            real_logits = None
            if self.loss.relativistic:
                with torch.no_grad():
                    real_logits = self.judge(self.augment(real), condition)
            loss = self.loss.generator(real_logits, fake_logits)
            terms = {
                part: part.weight * part.every * part.penalty(self, z, fake, real, condition)
                for part in self.g_regularizers
                if (step + 1) % part.every == 0
            }
            self.backward_into(optimizer, loss, *terms.values())
            self.fakes = None
        first = step * self.batches_per_step + min(self.d_steps, self.batches_per_step - 1)
        self.apply_gradients("generator", optimizer, loss, range(first, (step + 1) * self.batches_per_step))
        if self.logs_now:
            self.curves["loss/generator"] = loss
            self.curves |= {f"loss/{type(part).__name__}": term for part, term in terms.items()}

    def seen(self, fake: Tensor, real: Tensor) -> Tensor:
        """Generated images as the discriminator sees them beside real ones: measured and augmented, drawn anew."""
        return self.augment(self.measurement.beside(fake, real))

    def judge_both(self, real: Tensor, fake: Tensor, condition: Any) -> tuple[Tensor, Tensor]:
        """Logits of as many real and generated images: in one call where no logit depends on other images."""
        if self.discriminator.independent:
            return self.judge(*join([(real, condition), (fake, condition)])).chunk(2)
        return self.judge(real, condition), self.judge(fake, condition)

    def judge(self, images: Tensor, condition: Any) -> Tensor:
        """Logits in float32, also where autocast computes them in less."""
        return self.discriminator(images, condition).float()
