"""Terms of the generator's loss beside the game, added by the training step."""

from abc import ABC, abstractmethod
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn

from src.engine.descriptions import Part
from src.engine.distributed import average_
from src.engine.schedules import Schedule
from src.networks.layers import SecondOutput
from src.objectives.regularizers import check_schedule


class GeneratorRegularizer(Part, nn.Module, ABC):
    """A term of the generator's loss; the training step adds weight * every * penalty to it.

    A module: networks of its own (an encoder) train with the generator, by its optimizer, and lie in the checkpoint.

    Args:
        weight: factor of the term, 0 or more; a number, or a schedule over the images seen.
        every: evaluate at every this many steps, 1 or more, rescaled by it.

    Raises:
        ValueError: for a negative weight, or `every` below 1.
    """

    def __init__(self, weight: float | Schedule, every: int = 1):
        super().__init__()
        check_schedule(self, weight, every)
        self.weight = weight
        self.every = every

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Makes what depends on the two players: networks of its own, refusals. Called once, before training.

        Raises:
            ValueError: if the term is not defined for these players.
        """

    @abstractmethod
    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        """The term, without `weight` and `every`.

        Args:
            model: the `GAN`, for its players.
            z: latents [B, *latent_shape] of the fakes.
            fake: images [B, C, H, W] with the generator's graph, neither measured nor augmented: what asks the
                discriminator shows it `model.seen(fake, real)`.
            real: images [B, C, H, W].
            condition: of both batches, or None.

        Returns:
            Scalar with a graph to the generator, or to the networks of this term.
        """


class ModalityPrediction(GeneratorRegularizer):
    """Variance of each modality that a linear map of the fused code does not explain: 1 - R^2, 0 to about 1.

    E ||s_m - E s_m - sigma_m (A_m code + b_m)||^2 / tr Cov(s_m), averaged over the modalities m; s_m as `summaries`
    of `src.networks.fusion.Generator` says, sigma_m the root of its mean variance, and moments those of the batch. The
    code only knows the modalities that this step shows, so it has to tell of each what the others say about it; the
    adversarial game alone asks for nothing but the image.
    """

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not hasattr(generator, "summaries"):
            raise ValueError("ModalityPrediction needs the code of src.networks.fusion.Generator")
        sizes = generator.summary_sizes
        self.heads = nn.ModuleDict({name: nn.Linear(generator.code_dim, size) for name, size in sizes.items()})

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        code, terms = model.generator.code(condition, len(real)), []
        for name, (values, recorded) in model.generator.summaries(real, condition).items():
            held = recorded.to(values.dtype)[:, None]
            share = held / held.sum().clamp(min=1)
            centred = values - (share * values).sum(0)
            scale = (share * centred.square()).sum().div(values.shape[1]).clamp(min=1e-6).sqrt()
            terms.append((share * (centred / scale - self.heads[name](code)).square()).sum() / values.shape[1])
        return sum(terms) / len(terms)


class Orthogonality(GeneratorRegularizer):
    """Sum of the squared products of different rows of each weight matrix of G; Brock et al., arXiv:1809.11096, Eq. 3.

    For truncated latents. A convolution counts as the matrix of its first axis by all others, before spectral norm.
    Embeddings are left out. ajbrock/BigGAN-PyTorch adds half of this gradient for the same weight.

    Args:
        weight: beta, 0 or more; 1e-4 in the paper.
        every: evaluate at every this many steps, rescaled by it.

    Raises:
        ValueError: for a negative weight, `every` below 1, or a generator without weight matrices.
    """

    def __init__(self, weight: float | Schedule = 1e-4, every: int = 1):
        super().__init__(weight, every)

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not matrices(generator):
            raise ValueError(f"Orthogonality needs weight matrices, which {type(generator).__name__} has none of")

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        with torch.autocast(fake.device.type, enabled=False):
            products = [w @ w.T for w in matrices(model.generator)]
            return sum((p - p.diag().diag()).square().sum() for p in products)


def matrices(network: nn.Module) -> list[Tensor]:
    """Trained weights [out, ...] as matrices [out, rest], without those of embeddings."""
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    tables = {weight for embedding in embeddings for weight in embedding.parameters()}
    return [weight.flatten(1) for weight in network.parameters() if weight.dim() >= 2 and weight not in tables]


class PathLength(GeneratorRegularizer):
    """Steps of equal length in w move the image equally far: E (||J_w^T y|| - a)^2; StyleGAN2, arXiv:1912.04958, Eq. 4.

    J is the derivative of the image by the styles of its layers, whose mean square is taken, y is noise of N(0, 1)
    over the square root of the number of pixels, and a is the moving average of the length, which lies in the
    checkpoint. StyleGAN2 gives the term an optimizer step of its own; here it is one of the loss that is due. Its
    authors leave it out for CIFAR-10. In float32, by a second derivative.

    Args:
        weight: of the term, 0 or more; 2 in StyleGAN2.
        every: evaluate at every this many steps, rescaled by it; 4 in StyleGAN2.
        share: of the batch that it takes, above 0 and up to 1; one half in StyleGAN2.
        decay: of the average at each evaluation, in [0, 1).

    Raises:
        ValueError: for options out of range, or a generator without styles.
    """

    def __init__(self, weight: float | Schedule = 2.0, every: int = 4, share: float = 0.5, decay: float = 0.99):
        super().__init__(weight, every)
        if not 0 < share <= 1 or not 0 <= decay < 1:
            raise ValueError(f"PathLength needs a share in (0, 1] and a decay in [0, 1), got {share} and {decay}")
        self.share, self.decay = share, decay
        self.register_buffer("average", torch.zeros(()))

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not generator.num_styles:
            raise ValueError(
                "PathLength needs a generator with styles: take src.networks.stylegan2, or remove the term"
            )

    def lengths(self, generator: Any, z: Tensor, condition: Any) -> Tensor:
        """||J_w^T y|| of each latent [B, *latent_shape]: [B], with a graph to the generator."""
        with torch.autocast(z.device.type, enabled=False):
            styles = generator.styles(z, condition)
            images = generator.from_styles(styles, z)
            y = torch.randn_like(images) / prod(images.shape[2:]) ** 0.5
            (gradient,) = torch.autograd.grad((images * y).sum(), styles, create_graph=True)
        return gradient.square().sum(2).mean(1).sqrt()

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        number = ceil(self.share * len(z))
        lengths = self.lengths(model.generator, z[:number], None if condition is None else condition[:number])
        mean = lengths.detach().mean()
        average_([mean])
        self.average.lerp_(torch.where(mean.isfinite(), mean, self.average), 1 - self.decay)
        return (lengths - self.average).square().mean()


class FeatureMatching(GeneratorRegularizer):
    """Distance of the mean features of generated and real images in D: mean |E h(G(z)) - E h(x)|.

    Salimans et al., arXiv:1606.03498, Section 3.1, who take squares; as a term beside the game, not in its place. h are
    the features before the logit.

    Args:
        weight: of the term, 0 or more.
        every: evaluate at every this many steps, rescaled by it.

    Raises:
        ValueError: for a negative weight, `every` below 1, or a discriminator that does not give its features.
    """

    def __init__(self, weight: float | Schedule = 1.0, every: int = 1):
        super().__init__(weight, every)

    def build(self, generator: nn.Module, discriminator: nn.Module) -> None:
        if not isinstance(discriminator, SecondOutput):
            raise ValueError("FeatureMatching needs the features of dcgan.Discriminator or biggan.Discriminator")

    def penalty(self, model: Any, z: Tensor, fake: Tensor, real: Tensor, condition: Any) -> Tensor:
        with torch.no_grad():
            wanted = model.discriminator.pooled(model.augment(real)).float().mean(0)
        found = model.discriminator.pooled(model.seen(fake, real)).float().mean(0)
        return (found - wanted).abs().mean()
