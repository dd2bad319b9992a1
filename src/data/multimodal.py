"""Examples with several modalities: an image, a sound and a text of the same thing, of which any may be missing."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.data.digits import Digits
from src.data.images import ImageDataModule
from src.engine import seeding
from src.images.pixels import from_uint8

MODALITIES = ("image", "audio", "text")
BANDS = 32  # of a spectrogram, up to half the sample rate
WINDOW = 0.064  # seconds; two neighbouring windows overlap by half

Arrays = dict[str, np.ndarray]


class Multimodal(ImageDataModule):
    """Batches `(image, condition)`, where the condition holds what was recorded of the image's subject.

    The image is a sample of what the generator is to make. The condition is a mapping: `image`, a degraded copy of it
    (one half hidden, noise) in [-1, 1], [B, C, H, W]; `audio`, a log spectrogram [B, frames, 32]; `text`, UTF-8 bytes
    [B, length] padded by 0; `recorded` and `present`, bool [B, 3], which of the three the data hold and which of
    these are shown. In training each one held is shown with probability 1 - `drop`, drawn anew for every step as a
    function of (seed, step), so that a generator cannot lean on one alone and any subset works later. Both players
    get the same subset. Labels, where there are any, are for scores alone: no batch holds them.

    A source calls `super().__init__`, then `describe`, and implements `read`.

    Args:
        batch_size: images of one discriminator update, over all processes and accumulated parts together.
        drop: probability that a modality is hidden in training, 0 to 1.
        image_noise: standard deviation of the noise on the image of the condition, in units of [-1, 1].
        hide_half: hide the left, right, upper or lower half of that image.
        text_length: bytes of a text that are kept.
        num_workers: worker processes of the training loader, per process.

    Raises:
        ValueError: for a probability outside 0 to 1.
    """

    def __init__(
        self,
        batch_size: int = 64,
        drop: float = 0.5,
        image_noise: float = 0.0,
        hide_half: bool = True,
        text_length: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, labels=False, num_workers=num_workers)
        if not 0 <= drop <= 1:
            raise ValueError(f"data.drop is a probability, from 0 to 1, not {drop}")
        self.drop = drop
        self.image_noise = image_noise
        self.hide_half = hide_half
        self.text_length = text_length
        self._examples: dict[str, tuple[Arrays, np.ndarray | None]] = {}

    @abstractmethod
    def read(self, split: str) -> tuple[np.ndarray, Arrays, np.ndarray | None]:
        """One split: images uint8 [N, C, H, W]; `number` [N] of each example, which keys its noise, `audio`, `text` and
        `recorded`, as in the condition; and labels [N] or None."""

    def load(self, split: str) -> tuple[np.ndarray, None]:
        images, recordings, targets = self.read(split)
        recordings["image"] = np.stack(
            [self.degraded(image, number) for image, number in zip(images, recordings.pop("number"), strict=True)]
        )
        self._examples[split] = recordings, targets
        return images, None

    def degraded(self, image: np.ndarray, number: int) -> np.ndarray:
        """What the condition shows of an image uint8 [C, H, W]: float32 in [-1, 1], grey where it is hidden."""
        random = stream(number, 0)
        shown = image.astype(np.float32) / 127.5 - 1
        shown += self.image_noise * random.standard_normal(image.shape).astype(np.float32)
        if self.hide_half:
            axis, first = random.randint(1, 3), random.randint(2)
            half = image.shape[axis] // 2
            here = slice(None, half) if first else slice(half, None)
            shown[(slice(None),) * axis + (here,)] = 0
        return shown.clip(-1, 1)

    def targets(self, split: str) -> np.ndarray | None:
        """Labels [N] of a split, for scores alone."""
        self.split(split)
        return self._examples[split][1]

    def condition(self, split: str, rows: np.ndarray) -> dict[str, Tensor]:
        """The condition of some examples, everything that is recorded shown."""
        self.split(split)
        condition = {name: torch.from_numpy(values[rows]) for name, values in self._examples[split][0].items()}
        return condition | {"present": condition["recorded"]}

    def training_set(self) -> Dataset:
        return Examples(self)

    def examples(self, split: str, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = self.drawn(split, count)
        images = torch.from_numpy(np.array(self.split(split)[0][drawn]))
        return from_uint8(images), self.condition(split, drawn)

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple:
        images, condition = super().on_after_batch_transfer(batch, dataloader_idx)
        if images.dtype != torch.int64:  # not a request for samples
            condition = condition | {"present": condition["recorded"] & self.shown(len(images)).to(images.device)}
        return images, condition

    def shown(self, count: int) -> Tensor:
        """This process's share, [count, 3], of what this step shows."""
        module, world_size = self.trainer.lightning_module, self.trainer.world_size
        seed = seeding.mix(module.seed, seeding.DROPOUT, self.trainer.global_step)
        shape = (module.batches_per_step, world_size, count // module.batches_per_step, len(MODALITIES))
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))[:, self.trainer.global_rank]
        return drawn.flatten(0, 1) >= self.drop

    def conditions(self, indices: Tensor) -> dict[str, Tensor]:
        """Held-out examples in turn, or training examples where there are no others."""
        split = self.splits[-1]
        return self.condition(split, indices.numpy() % self.num_images(split))

    def grid_conditions(self, indices: Tensor) -> dict[str, Tensor]:
        return self.conditions(indices)


class Examples(Dataset):
    """Whole batches by a list of indices."""

    def __init__(self, data: Multimodal) -> None:
        self.images, self.condition = (
            data.split("train")[0],
            data.condition("train", np.arange(data.num_images("train"))),
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = torch.tensor(indices)
        images = torch.from_numpy(np.asarray(self.images[rows.numpy()]))
        return images, {name: values[rows] for name, values in self.condition.items()}


class SpokenDigits(Multimodal):
    """Written digits, each with the tones of its telephone key and its English name, as bad recordings.

    The signal is the sum of the key's two tones (ITU-T Q.23), 0.25 s long, after a random delay in a clip of 0.5 s of
    4 kHz, in white noise; in the name each letter is, with probability `typos`, another one. All of it, and what is
    hidden of the image, is a function of the number of the example.

    Args:
        audio_noise: standard deviation of the noise beside tones of amplitude 1.
        delay: longest delay of the tones, in seconds, 0 to 0.25.
        typos: probability of a wrong letter, 0 to 1.
        image_noise: standard deviation of the noise on the image of the condition, in units of [-1, 1].
        source: of the images: `Digits` (8x8), the default, or another one of the classes 0 to 9: `SmallMNIST` (28x28).

    Raises:
        ValueError: for a delay or probability out of range, or a source of other images.
    """

    RATE, SECONDS, TONE = 4000, 0.5, 0.25
    LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477)
    KEYS = "123456789*0#"
    NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def __init__(
        self,
        audio_noise: float = 4.0,
        delay: float = 0.25,
        typos: float = 0.5,
        image_noise: float = 0.5,
        source: ImageDataModule | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_noise=image_noise, text_length=8, **kwargs)
        if not 0 <= delay <= self.SECONDS - self.TONE or not 0 <= typos <= 1:
            raise ValueError(f"data.delay is 0 to 0.25 seconds and data.typos 0 to 1, not {delay} and {typos}")
        self.audio_noise, self.delay, self.typos = audio_noise, delay, typos
        self.source = source or Digits()
        changed = self.source.flip or self.source.measurement
        if self.source.class_names != [str(digit) for digit in range(10)] or changed:
            raise ValueError("data.source of SpokenDigits must have the classes 0 to 9, no flip and no measurement")
        self.describe(self.source.image_size, self.source.channels, class_names=[])

    def read(self, split: str) -> tuple[np.ndarray, Arrays, np.ndarray]:
        images, digits = self.source.split(split)
        numbers = np.arange(len(digits)) + (0 if split == "train" else self.source.num_images("train"))
        pairs = list(zip(digits, numbers, strict=True))
        recordings = {
            "number": numbers,
            "audio": np.stack([spectrogram(self.tones(digit, number), self.RATE, 15) for digit, number in pairs]),
            "text": np.stack([to_bytes(self.name(digit, number), self.text_length) for digit, number in pairs]),
            "recorded": np.ones((len(digits), len(MODALITIES)), bool),
        }
        return images, recordings, digits

    def tones(self, digit: int, number: int) -> np.ndarray:
        random = stream(number, 1)
        signal = self.audio_noise * random.standard_normal(int(self.SECONDS * self.RATE))
        first, length = int(random.uniform(0, self.delay) * self.RATE), int(self.TONE * self.RATE)
        key, seconds = self.KEYS.index(str(digit)), np.arange(length) / self.RATE
        for frequency in (self.LOW[key // 3], self.HIGH[key % 3]):
            signal[first : first + length] += np.sin(2 * np.pi * frequency * seconds)
        return signal

    def name(self, digit: int, number: int) -> str:
        random = stream(number, 2)
        letters = "abcdefghijklmnopqrstuvwxyz"
        return "".join(letters[random.randint(26)] if random.uniform() < self.typos else c for c in self.NAMES[digit])


def stream(number: int, purpose: int) -> np.random.RandomState:
    """Random numbers of one example, the same in every run: a recording does not change."""
    return np.random.RandomState(seeding.mix(0, seeding.RECORDINGS, int(number), purpose) % 2**32)


def spectrogram(signal: np.ndarray, rate: int, frames: int) -> np.ndarray:
    """Log power of a sound in 32 equal bands, about -1 to 1 for what is loud, -2 for silence.

    Args:
        signal: [n] samples.
        rate: samples a second.
        frames: how many frames, 32 ms apart; a shorter signal is followed by silence.

    Returns:
        float32 [frames, 32].
    """
    window = 2 * max(BANDS, round(WINDOW * rate / 2))
    hop = window // 2
    padded = np.zeros((frames + 1) * hop, np.float32)
    padded[: len(signal)] = signal[: len(padded)]
    pieces = torch.from_numpy(padded).unfold(0, window, hop)[:frames] * torch.hann_window(window)
    power = torch.fft.rfft(pieces)[:, 1:].abs().square() / window
    return (torch.nn.functional.adaptive_avg_pool1d(power, BANDS) + 1e-4).log10().div(2).numpy()


def to_bytes(text: str, length: int) -> np.ndarray:
    """UTF-8 bytes int64 [length] of a text, cut or padded by 0."""
    encoded = text.encode()[:length]
    return np.frombuffer(encoded.ljust(length, b"\0"), np.uint8).astype(np.int64)
