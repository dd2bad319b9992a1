"""Bags of instances: a mixture of instance models, and a discriminator that attends to instances."""

from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.networks import base, layers


def opened(condition: Any, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Labels [B] and mask [B, N] of the bags x [B, N, ...]: plain labels, or none, mean that all N are present."""
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if isinstance(condition, Mapping):
        return condition.get("label"), condition.get("mask", mask)
    return condition, mask


class Generator(base.Generator):
    """Draws the instances of a bag from a mixture of `num_components` instance models.

    Given the class of the bag, each instance draws its component from one of two distributions: the first instance,
    the witness, from its own, all others from a common one. As a bag has no order, this can express the assumption of
    multiple-instance learning (a positive bag holds at least one positive instance) exactly, which components drawn
    independently cannot; nothing else tells the components of a class apart. A component is an embedding beside
    the latent of the instance and that of the bag. Its choice is Gumbel's, exact forwards, with the gradient of
    the softmax (straight-through, arXiv:1611.01144, Sections 2.1 and 2.2).

    Args:
        image_size: height and width of an instance in pixels.
        channels: of an instance.
        num_classes: of the bags, at least 1.
        bag_size: to which the bags of the data are padded; where the condition has no mask, all are present.
        num_components: K.
        latent_dim: length of the latent of an instance.
        width: units of the dense layers, or channels before the image.
        num_blocks: up-samplings by 2, after which a layer is a convolution; 0 makes dense networks, for vectors too.
        played: whether the game teaches which components a class draws; false leaves that to `BagLikelihood`.
        scale: of the logits of the components over their parameters: so much faster than others these are learned.

    Raises:
        ValueError: bags without classes, or 2**num_blocks that does not divide the height and the width.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        bag_size: int = 16,
        num_components: int = 10,
        latent_dim: int = 16,
        width: int = 64,
        num_blocks: int = 0,
        played: bool = True,
        scale: float = 1.0,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(1 + bag_size, latent_dim + num_components))
        self.scale, self.played = scale, played
        check_classes(self)
        self.output_shape = (bag_size, channels, *self.image_size)
        self.columns = bag_size  # of a grid of samples: a row a bag
        self.bag_size, self.num_components, self.latent_dim = bag_size, num_components, latent_dim
        self.weights = nn.Parameter(torch.zeros(num_classes, 2, num_components))  # logits of witness and others
        self.embed = nn.Parameter(torch.randn(num_components, latent_dim))
        num_inputs = 3 * latent_dim + num_components
        self.decoder = decoder(num_inputs, self.image_size, channels, width, num_blocks)

    def component_logits(self) -> Tensor:
        """By which a class draws components [num_classes, 2, K]: of its witness, and of its other instances."""
        return self.scale * self.weights

    def choices(self, z: Tensor, condition: Any) -> Tensor:
        """Gumbel-perturbed logits of the components [B, N, K], whose largest is the one drawn."""
        labels, mask = opened(condition, z[:, 1:])
        if mask.shape[1] != self.bag_size:
            raise ValueError(
                f"the bags are padded to {mask.shape[1]} instances, but the generator draws {self.bag_size}:"
                f" set --model.generator.bag_size {mask.shape[1]}"
            )
        # A label that is not known (-1) is drawn: by a number of the bag's latent, all classes alike.
        drawn = (torch.special.ndtr(z[:, 0, 0]) * self.num_classes).long().clamp(max=self.num_classes - 1)
        logits = self.component_logits()
        logits = (logits if self.played else logits.detach())[torch.where(labels < 0, drawn, labels)]
        logits = torch.cat([logits[:, :1], logits[:, 1:].expand(-1, self.bag_size - 1, -1)], dim=1)
        uniform = torch.special.log_ndtr(z[:, 1:, self.latent_dim :])  # log of a uniform number, from a normal one
        return logits - (-uniform).log()

    def components(self, z: Tensor, condition: Any = None) -> Tensor:
        """The component int64 [B, N] that each instance of `forward(z, condition)` comes from."""
        return self.choices(z, condition).argmax(2)

    def codes(self, z: Tensor, condition: Any) -> Tensor:
        """Components int64 [M] of the instances that `as_images` shows; what `Information` asks for."""
        return self.components(z, condition)[opened(condition, z[:, 1:])[1]]

    @property
    def num_codes(self) -> int:
        return self.num_components

    def forward(self, z: Tensor, condition: Any = None) -> Tensor:
        """Latents [B, 1 + N, ...], labels [B] or {"label", "mask"} -> bags [B, N, channels, H, W] in [-1, 1]."""
        self.check_condition(condition)
        choices = self.choices(z, condition)
        soft = choices.softmax(2)
        hard = F.one_hot(choices.argmax(2), self.num_components)
        component = hard + soft - soft.detach()
        of_bag = z[:, :1].expand(-1, self.bag_size, -1)
        instance = torch.cat([z[:, 1:, : self.latent_dim], component @ self.embed, of_bag], dim=2)
        return self.decoder(instance.flatten(0, 1)).unflatten(0, instance.shape[:2])

    def as_images(self, samples: Tensor, indices: Tensor, condition: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """The instances that are present, each with the label of its bag; instance j of bag i has number i * N + j."""
        labels, mask = (None if t is None else t.to(samples.device) for t in opened(condition, samples))
        places = torch.arange(self.bag_size, device=samples.device)
        numbers = indices.to(samples.device)[:, None] * self.bag_size + places
        labels = None if labels is None else labels[:, None].expand_as(mask)[mask]
        return samples[mask], numbers[mask], labels


class Discriminator(base.Discriminator):
    """Judges bags of any number of instances, whatever their order, by attention over them.

    Gated attention of Ilse et al., arXiv:1802.04712, Eqs. 7 and 9, with two sets of weights over the same gates: one
    pools for the class of the bag, the other for whether it is real, where the label enters by projection
    (arXiv:1802.05637).

    Args:
        image_size: height and width of an instance in pixels.
        channels: of an instance.
        num_classes: of the bags, at least 1.
        width: units of the dense layers, or channels after the first convolution, and of the attention.
        num_blocks: down-samplings by 2, each a convolution; 0 makes dense networks, for vectors too.
        dropout: probability of dropping a feature of an instance in training, 0 to 1.
        noise: standard deviation of Gaussian noise on what is classified in training, in units of [-1, 1].
        critic: width of a `Critic` that plays the game in place of these layers, which then classify alone; 0: none.

    Raises:
        ValueError: bags without classes, or 2**num_blocks that does not divide the height and the width.
    """

    classifies = True

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        width: int = 64,
        num_blocks: int = 0,
        dropout: float = 0.0,
        noise: float = 0.0,
        critic: int = 0,
    ):
        super().__init__(image_size, channels, num_classes)
        check_classes(self)
        self.num_features, self.noise = critic or width, noise
        self.encoder = encoder(self.image_size, channels, width, num_blocks)
        self.dropout = nn.Dropout(dropout)
        self.gate_tanh, self.gate_sigmoid = nn.Linear(width, width), nn.Linear(width, width)
        self.scores = nn.Linear(width, 1 if critic else 2, bias=False)
        self.classes = nn.Linear(width, num_classes)
        if critic:
            self.critic = Critic(self.image_size, channels, num_classes, critic, num_blocks)
        else:
            self.critic = None
            self.head = layers.ProjectionHead(width, num_classes)

    def pooled(self, x: Tensor, condition: Any) -> tuple[Tensor, Tensor]:
        """Features of the bags [B, 2, width], for the class and for being real, and the attention [B, N, 2].

        With a critic those for the class alone: [B, 1, width] and [B, N, 1].
        """
        _, mask = opened(condition, x)
        if self.noise and self.training:
            x = x + self.noise * torch.randn_like(x)
        h = self.dropout(self.encoder(x.flatten(0, 1))).unflatten(0, mask.shape)
        return attended(self, h, mask)

    def forward(self, x: Tensor, condition: Any = None) -> Tensor:
        """Bags [B, N, channels, H, W] in [-1, 1], labels [B] or {"label", "mask"} -> logits.

        One a bag, [B]; with a critic those of the M instances that are present come after them, [B + M].
        """
        self.check_condition(condition)
        labels, mask = opened(condition, x)
        if self.critic:
            return self.critic(x, labels, mask)
        return judged(self.head, self.pooled(x, condition)[0][:, 1], labels)

    def instance_features(self, images: Tensor) -> Tensor:
        """Instances [M, channels, H, W] -> what the game sees of each, [M, num_features]."""
        return (self.critic or self).encoder(images)

    def class_logits(self, x: Tensor, condition: Any = None) -> Tensor:
        """Bags [B, N, channels, H, W], of whose condition only the mask counts -> logits [B, num_classes]."""
        return self.classes(self.pooled(x, condition)[0][:, 0])

    def attention(self, x: Tensor, condition: Any = None) -> Tensor:
        """Weights [B, N] of the instances in the class of their bag: they sum to 1, and are 0 where none is."""
        return self.pooled(x, condition)[1][..., 0]


class Critic(nn.Module):
    """Judges bags, pooled by gated attention, with their labels by projection, and each instance on its own.

    A critic that sees bags as a whole alone is content with instances that are all alike; this one compares each
    instance with a real one.

    Args:
        image_size: height and width in pixels of an instance.
        channels: of an instance.
        num_classes: of the bags.
        width: as of `Discriminator`.
        num_blocks: as of `Discriminator`.
    """

    def __init__(self, image_size: tuple[int, int], channels: int, num_classes: int, width: int, num_blocks: int):
        super().__init__()
        self.encoder = encoder(image_size, channels, width, num_blocks)
        self.of_instance = nn.Linear(width, 1)
        self.gate_tanh, self.gate_sigmoid = nn.Linear(width, width), nn.Linear(width, width)
        self.scores = nn.Linear(width, 1, bias=False)
        self.head = layers.ProjectionHead(width, num_classes)

    def forward(self, x: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Bags [B, N, channels, H, W], labels [B], which instances are present [B, N] -> logits [B + M]."""
        h = self.encoder(x.flatten(0, 1)).unflatten(0, mask.shape)
        pooled = attended(self, h, mask)[0].squeeze(1)
        return torch.cat([judged(self.head, pooled, labels), self.of_instance(h[mask]).squeeze(1)])


def attended(network: nn.Module, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gated attention of Ilse et al., arXiv:1802.04712, Eqs. 7 and 9, with S sets of `scores` over the same gates.

    Args:
        network: has `gate_tanh`, `gate_sigmoid` and `scores`.
        h: features of instances [B, N, width].
        mask: which of them are present, bool [B, N].

    Returns:
        Features of the bags [B, S, width] and the attention [B, N, S].
    """
    scores = network.scores(network.gate_tanh(h).tanh() * network.gate_sigmoid(h).sigmoid())
    attention = scores.masked_fill(~mask[..., None], -torch.inf).softmax(1)
    return attention.transpose(1, 2) @ h, attention


def judged(head: nn.Module, h: Tensor, labels: Tensor) -> Tensor:
    """Logits [B] of the features [B, width] of bags, whose label may be unknown (-1): then nothing is projected."""
    return torch.where(labels < 0, head.psi(h).squeeze(1), head(h, labels.clamp(min=0)))


def check_classes(network: base.Network) -> None:
    if network.num_classes < 1:
        raise ValueError("bags need classes: take data of src.data.bags")


def decoder(num_inputs: int, image_size: tuple[int, int], channels: int, width: int, num_blocks: int) -> nn.Sequential:
    """Vectors [M, num_inputs] to instances [M, channels, H, W] in [-1, 1]."""
    if num_blocks == 0:
        stack = nn.Sequential()
        for num_in in (num_inputs, width):  # a bias before batch normalization has no effect
            stack.extend([nn.Linear(num_in, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()])
        stack.extend([nn.Linear(width, channels * prod(image_size)), nn.Unflatten(1, (channels, *image_size))])
        return stack.append(nn.Tanh())
    grid = layers.grid_size(image_size, num_blocks)
    widths = [width * 2**i for i in reversed(range(num_blocks))]
    stack = nn.Sequential(
        nn.Linear(num_inputs, widths[0] * prod(grid), bias=False), nn.Unflatten(1, (widths[0], *grid))
    )
    for num_in, num_out in pairwise(widths):
        stack.extend([nn.BatchNorm2d(num_in), nn.ReLU()])
        stack.append(nn.ConvTranspose2d(num_in, num_out, 4, stride=2, padding=1, bias=False))
    stack.extend([nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)])
    return stack.append(nn.Tanh())


def encoder(image_size: tuple[int, int], channels: int, width: int, num_blocks: int) -> nn.Sequential:
    """Instances [M, channels, H, W] to features [M, width]."""
    if num_blocks == 0:
        stack = nn.Sequential(nn.Flatten(), nn.Linear(channels * prod(image_size), width), nn.LeakyReLU(0.2))
        return stack.extend([nn.Linear(width, width), nn.LeakyReLU(0.2)])
    grid = layers.grid_size(image_size, num_blocks)
    widths = [channels, *(width * 2**i for i in range(num_blocks))]
    stack = nn.Sequential()
    for num_in, num_out in pairwise(widths):
        stack.extend([nn.Conv2d(num_in, num_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)])
    return stack.extend([nn.Flatten(), nn.Linear(widths[-1] * prod(grid), width), nn.LeakyReLU(0.2)])
