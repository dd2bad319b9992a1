"""Files of weights: where they are, what their hash is, what they hold."""

import hashlib
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

PATIENCE = 10.0  # seconds without an answer after which a network counts as none


class MissingWeights(FileNotFoundError):
    """What is published is neither here nor to be had: training can do without, `test` and `score` cannot."""


UNANSWERED: dict[Path, MissingWeights] = {}  # where this process has asked in vain to put something


@contextmanager
def asked_once(place: Path, what: str, remedy: str, *faults: type[Exception]) -> Iterator[None]:
    """A download that gives up: by default a connection that nobody answers is waited for for minutes.

    A process tries it once: several parts want the same, and `fit --minutes` measures before it begins.

    Args:
        place: where it will be.
        what: is fetched, for the message.
        remedy: what the user can do without a network.
        faults: exceptions that mean there is none.

    Raises:
        MissingWeights: it cannot be fetched, now or before.
    """
    if place in UNANSWERED:
        raise UNANSWERED[place]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    except faults as error:
        UNANSWERED[place] = MissingWeights(f"{what} ({first_line(error)}): {remedy}")
        raise UNANSWERED[place] from error
    finally:
        socket.setdefaulttimeout(before)


def sha256(path: Path, option: str = "weights") -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        path: the file.
        option: the argument in which the user gave it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: correct `{option}`")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def located(weights: str | None, url: str, hash_prefix: str = "") -> tuple[Path, str]:
    """A file of weights and its SHA-256.

    Args:
        weights: the file; none takes the one at `url`, downloaded once into PyTorch's hub cache.
        url: where the default is.
        hash_prefix: how the hash of the default starts, as far as it is known.

    Raises:
        FileNotFoundError: there is no such file.
        MissingWeights: the default cannot be downloaded.
        ValueError: the file in the cache is not the one at `url`.
    """
    if weights is not None:
        path = Path(weights).expanduser()
        return path, sha256(path)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not path.is_file():
        remedy = (
            f"fetch {url} by other means and put it at {path}, or name the file as `weights` of the extractor"
            " (src/metrics/README.md shows how)"
        )
        with asked_once(path, "cannot download weights", remedy, OSError, RuntimeError):  # no network; a file cut short
            path.parent.mkdir(parents=True, exist_ok=True)
            # The processes of a run start together, and one download is enough.
            with FileLock(f"{path}.lock"):
                if not path.is_file():
                    print(f"downloading {url} to {path}", file=sys.stderr, flush=True)
                    torch.hub.download_url_to_file(url, str(path), hash_prefix or None, progress=sys.stderr.isatty())
    found = sha256(path)
    if not found.startswith(hash_prefix):
        raise ValueError(f"{path} is not the file of {url}, whose SHA-256 starts with {hash_prefix}: fetch it again")
    return path, found


def state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a file that `torch.save` wrote; no pickled object is executed."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
