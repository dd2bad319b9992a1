"""Generative fusion of modalities: one encoder each, one code for any subset of them, one image of the code."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from src.engine.modes import evaluating
from src.networks import base, dcgan, layers

MODALITIES = ("image", "audio", "text")  # columns of `present` and `recorded`


class SeriesEncoder(nn.Module):
    """A time series [B, T, num_features] to an embedding [B, dim]: the mean of a GRU's states (arXiv:1406.1078).

    The recurrence carries what it heard across a delay; the mean over time gives the same weight to early and late.

    Args:
        num_features: of a frame.
        dim: of the embedding.
    """

    def __init__(self, num_features: int, dim: int):
        super().__init__()
        self.gru = nn.GRU(num_features, dim, batch_first=True)

    def forward(self, frames: Tensor) -> Tensor:
        return self.gru(frames)[0].mean(1)


class TextEncoder(nn.Module):
    """UTF-8 bytes int64 [B, L], padded by 0, to an embedding [B, dim]: one layer of a Transformer, arXiv:1706.03762.

    Args:
        dim: of the embedding, a multiple of 4.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.embed = nn.Embedding(256, dim)
        self.layer = nn.TransformerEncoderLayer(dim, nhead=4, dim_feedforward=2 * dim, dropout=0.0, batch_first=True)

    def forward(self, text: Tensor) -> Tensor:
        padding = text == 0
        padding[:, 0] = False  # of an empty text, lest attention divide by nothing
        states = self.layer(
            self.embed(text) + positions(text.shape[1], self.embed.weight), src_key_padding_mask=padding
        )
        kept = (~padding).unsqueeze(2).to(states.dtype)
        return (states * kept).sum(1) / kept.sum(1)


def positions(length: int, like: Tensor) -> Tensor:
    """Sines and cosines [length, dim] of the place in the text (arXiv:1706.03762, Section 3.5)."""
    dim = like.shape[1]
    rates = torch.exp(torch.arange(0, dim, 2, device=like.device) * (-math.log(10000.0) / dim))
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)


class Generator(base.Generator):
    """G(z) = G1(G2(z, code)): encoders bring the modalities to one form, G2 fuses them with noise, G1 decodes.

    A CNN reads the image, a GRU the sound or any time series, a Transformer the text. A missing modality is replaced
    by a learned embedding of its own, so there is a code for any subset of them, also for none: with condition None
    the generator is unconditional, and `predict` needs no data. The encoders belong to the generator and are trained
    by its optimizer. The discriminator is given the code but does not train it, in either player's turn: if it did,
    the encoders could win by a code that tells the discriminator nothing. What makes the code tell something is G's
    own use of it and `src.objectives.terms.ModalityPrediction`.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: 0; labels are not among the modalities.
        latent_dim: length of the noise z.
        code_dim: length of the code and of each embedding, a multiple of 4.
        width: channels of the feature map before the image, and of the image's encoder after its first convolution.
        num_blocks: up-samplings by 2 of G1, down-samplings of the image's encoder; by default as
            many as leave 4x4 or more.
        num_bands: features of a frame of the sound.

    Raises:
        ValueError: for classes, or sizes that do not fit.
    """

    names = MODALITIES

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        latent_dim: int = 32,
        code_dim: int = 64,
        width: int = 32,
        num_blocks: int | None = None,
        num_bands: int = 32,
    ):
        super().__init__(image_size, channels, num_classes, latent_shape=(latent_dim,))
        refuse_classes(num_classes)
        if code_dim % 4:
            raise ValueError(f"code_dim must be a multiple of 4 (heads of the Transformer), not {code_dim}")
        self.code_dim = code_dim
        self.latest: tuple[Any, Tensor] | None = None
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        features, num_features = image_features(image_size, channels, width, self.num_blocks)
        self.encoders = nn.ModuleDict(
            {
                "image": nn.Sequential(features, nn.Flatten(), nn.Linear(num_features, code_dim, bias=False)),
                "audio": SeriesEncoder(num_bands, code_dim),
                "text": TextEncoder(code_dim),
            }
        )
        self.missing = nn.Parameter(torch.zeros(len(MODALITIES), code_dim))
        # Without a gain: embeddings differ little at first, and a code that differs little is a code that G ignores.
        self.norms = nn.ModuleDict({name: nn.BatchNorm1d(code_dim, affine=False) for name in MODALITIES})
        self.fuse = nn.Sequential(
            nn.Linear(len(MODALITIES) * code_dim, 2 * code_dim),
            nn.ReLU(),
            nn.Linear(2 * code_dim, code_dim, bias=False),
            nn.BatchNorm1d(code_dim, affine=False),
        )
        self.mix = nn.Sequential(nn.Linear(latent_dim + code_dim, 2 * code_dim), nn.ReLU())  # G2
        self.decode = dcgan.Generator(image_size, channels, 0, 2 * code_dim, width, self.num_blocks)  # G1

    def encode(self, condition: dict[str, Tensor] | None, batch_size: int | None = None) -> Tensor:
        """The fused code [B, code_dim] of what is present.

        Args:
            condition: any of `image` [B, C, H, W], `audio` [B, T, num_bands], `text` int64 [B, L], and `present`, bool
                [B, 3] in this order (all that is there by default); None: nothing is present.
            batch_size: B, where the condition does not tell it.
        """
        given = condition or {}
        batch_size = batch_size if not given else len(next(iter(given.values())))
        embeddings = []
        for i, name in enumerate(MODALITIES):
            embedding = self.missing[i].expand(batch_size, -1)
            if name in given:
                own = self.norms[name](self.encoders[name](given[name]))
                present = given["present"][:, i, None] if "present" in given else torch.ones_like(own, dtype=torch.bool)
                embedding = torch.where(present, own, embedding.to(own.dtype))
            embeddings.append(embedding)
        return self.fuse(torch.cat(embeddings, 1))

    def forward(self, z: Tensor, condition: dict[str, Tensor] | None = None) -> Tensor:
        """Latents [B, latent_dim], condition as of `encode` -> images [B, channels, H, W] in [-1, 1]."""
        code = self.encode(condition, z.shape[0])  # no len(): a traced program keeps that number
        self.latest = (condition, code) if self.training else None
        return self.decode(self.mix(torch.cat([z, code], 1)))

    def code(self, condition: dict[str, Tensor] | None, batch_size: int, training: bool = True) -> Tensor:
        """As `encode`, but that of the last training sample where it was of this very condition: half of a step.

        With `training` false, as in evaluation: no statistic of batch normalization moves.
        """
        if condition is not None and self.latest and self.latest[0] is condition:
            return self.latest[1]
        with nullcontext() if training else evaluating(self):
            return self.encode(condition, batch_size)

    def summaries(self, images: Tensor, condition: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """What a code can be asked to tell of each modality, and for which examples the data hold it.

        Of the sound its mean over time, which a delay does not change, of the text its counts of bytes, of the image
        the image itself, not the degraded copy that was encoded.

        Returns:
            Name -> (values [B, D], bool [B]).
        """
        text = condition["text"]
        counts = images.new_zeros(len(text), 256).scatter_add_(1, text, torch.ones_like(text, dtype=images.dtype))
        values = {"image": images.flatten(1), "audio": condition["audio"].mean(1), "text": counts[:, 1:]}
        return {name: (values[name], condition["recorded"][:, i]) for i, name in enumerate(MODALITIES)}

    @property
    def summary_sizes(self) -> dict[str, int]:
        """D of each of the `summaries`."""
        height, width = self.image_size
        return {"image": self.channels * height * width, "audio": self.encoders["audio"].gru.input_size, "text": 255}


class Discriminator(base.Discriminator):
    """Judges an image given the code of the modalities, by projection: psi(h(x)) + <V code, h(x)>, arXiv:1802.05637.

    The code is that of the generator it plays against, without a gradient; see `Generator`.

    Args:
        image_size: height and width in pixels, multiples of 2**num_blocks.
        channels: of the image.
        num_classes: 0.
        code_dim: as of the generator.
        width: channels after the first convolution; they double with each further one.
        num_blocks: down-samplings by 2; by default as many as leave 4x4 or more.

    Raises:
        ValueError: for classes, sizes that do not fit, or a generator without a code of that length.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        num_classes: int = 0,
        code_dim: int = 64,
        width: int = 32,
        num_blocks: int | None = None,
    ):
        super().__init__(image_size, channels, num_classes)
        refuse_classes(num_classes)
        self.num_blocks = layers.choose_blocks(num_blocks, image_size)
        self.features, num_features = image_features(image_size, channels, width, self.num_blocks)
        self.psi = nn.Linear(num_features, 1)
        self.project = nn.Linear(code_dim, num_features, bias=False)

    def meet(self, generator: base.Generator) -> None:
        theirs = getattr(generator, "code_dim", None)
        if theirs != self.project.in_features:
            raise ValueError(
                f"the discriminator expects a code of length {self.project.in_features} and the generator has {theirs}:"
                " take src.networks.fusion.Generator, and set code_dim of both"
            )
        self.code = generator.code  # a method, not a module: no parameter of the generator becomes one of D

    def forward(self, x: Tensor, condition: dict[str, Tensor] | None = None) -> Tensor:
        """Images [B, channels, H, W] in [-1, 1], condition as of `Generator.encode` -> logits [B]."""
        with torch.no_grad():
            code = self.code(condition, len(x), self.training).detach().to(x.dtype)  # a remembered one has a graph
        h = self.features(x).flatten(1)
        return self.psi(h).squeeze(1) + (self.project(code) * h).sum(1)


def image_features(image_size: tuple[int, int], channels: int, width: int, num_blocks: int) -> tuple[nn.Module, int]:
    """Strided convolutions of DCGAN without batch normalization, and the size of what they make of an image."""
    network = dcgan.Discriminator(image_size, channels, 0, width, num_blocks, batch_norm=False)
    return network.features, network.head.psi.in_features


def refuse_classes(num_classes: int) -> None:
    if num_classes:
        raise ValueError("fusion networks take modalities, no labels: use a source of src.data.multimodal")
