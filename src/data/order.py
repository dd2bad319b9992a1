"""The order of the data, and of the samples that are asked for: functions of the seed and of the step."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from src.engine import seeding


class StepSampler(Sampler[list[int]]):
    """Indices of each training step: a pure function of (seed, step), shared out over the processes.

    The order is an infinite stream of permutations, one an epoch. Step s takes the next
    `batches_per_step` batches of the stream across the borders of epochs, so no image is dropped.

    Args:
        num_images: images of one epoch, at least 1.
        batch_size: images of one batch over all processes, divisible by `world_size`.
        batches_per_step: batches that one training step consumes.
        seed: seed of the run.
        rank: this process.
        world_size: number of processes.
        current_step: gives the step to start from; asked at the start of every epoch.
        origin: a step, and the images of the stream read before it, in a run that began with other batches.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        batches_per_step: int,
        seed: int,
        rank: int,
        world_size: int,
        current_step: Callable[[], int],
        origin: tuple[int, int] = (0, 0),
    ) -> None:
        assert num_images > 0 and batch_size % world_size == 0
        self.num_images = num_images
        self.batch_size = batch_size
        self.batches_per_step = batches_per_step
        self.rank = rank
        self.world_size = world_size
        self.current_step = current_step
        self.origin = origin
        self._permutation = lru_cache(maxsize=2)(partial(self.order, seed))

    def __len__(self) -> int:
        return max(1, self.num_images // (self.batch_size * self.batches_per_step))

    def __iter__(self) -> Iterator[list[int]]:
        start = self.current_step()
        for step in range(start, (start // len(self) + 1) * len(self)):
            yield self.indices(step)

    def order(self, seed: int, epoch: int) -> Tensor:
        """Of the images of one epoch."""
        return permutation(self.num_images, seed, epoch)

    def indices(self, step: int) -> list[int]:
        """Indices of this process in one step, one batch after the other.

        Args:
            step: training step, from 0.
        """
        share = self.batch_size // self.world_size
        indices: list[int] = []
        first, read = self.origin
        for batch in range((step - first) * self.batches_per_step, (step - first + 1) * self.batches_per_step):
            position = read + batch * self.batch_size + self.rank * share
            end = position + share
            while position < end:
                epoch, offset = divmod(position, self.num_images)
                taken = self._permutation(epoch)[offset : offset + end - position].tolist()
                indices += taken
                position += len(taken)
        return indices


def permutation(length: int, seed: int, epoch: int) -> Tensor:
    """Random order of `length` items, a pure function of (seed, epoch).

    Args:
        length: number of items.
        seed: seed of the run.
        epoch: number of the epoch, from 0.
    """
    generator = torch.Generator().manual_seed(seeding.mix(seed, seeding.ORDER, epoch))
    return torch.randperm(length, generator=generator)


def chunks(length: int, size: int, rank: int, world_size: int) -> list[range]:
    """Cut `range(length)` into chunks of `size`, the last one shorter, of which every world_size-th is this rank's."""
    starts = range(0, length, size)[rank::world_size]
    return [range(start, min(start + size, length)) for start in starts]


class SampleChunks(Dataset):
    """Chunks of sample numbers with their conditions; arguments as of `sample_loader`."""

    def __init__(self, chunks: list[Sequence[int]], conditions: Callable[[Tensor], Tensor | None]) -> None:
        self.chunks = chunks
        self.conditions = conditions

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> tuple[Tensor, Tensor | None]:
        indices = torch.tensor(self.chunks[chunk], dtype=torch.int64)
        return indices, self.conditions(indices)


def sample_loader(
    numbers: Sequence[int], conditions: Callable[[Tensor], Tensor | None], batch_size: int, rank: int, world_size: int
) -> DataLoader:
    """Requests for samples, each in exactly one process.

    Args:
        numbers: of the samples, over all processes.
        conditions: maps indices (b,) to what the generator is conditioned on, or None.
        batch_size: samples of a chunk; the chunks do not depend on `world_size`, and the last may be shorter.
        rank: this process.
        world_size: number of processes; chunk c goes to process c mod world_size, an empty one where there is none.

    Returns:
        Loader of (indices int64 (b,), condition).
    """
    # Lightning wants a batch for every process, or some would wait for the others for ever: an empty one will do.
    mine = [numbers[chunk.start : chunk.stop] for chunk in chunks(len(numbers), batch_size, rank, world_size)]
    requests = SampleChunks(mine or [range(0)], conditions)
    return DataLoader(requests, batch_size=None, generator=torch.Generator())
