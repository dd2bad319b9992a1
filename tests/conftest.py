"""Small parts that the tests of several rooms need."""

import multiprocessing
import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks of a few units: a second thread only waits for the first

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from src.callbacks import curves
from src.cli import Trainer, main
from src.data.images import ImageDataModule
from src.engine.distributed import ExplicitDDP  # noqa: F401  registers itself
from src.gan import GAN
from src.networks import mlp
from src.objectives.losses import NonSaturating

ROOT = Path(__file__).parent.parent


PASSING = (".venv/", ".pytest_cache/", ".ruff_cache/")  # what the tools themselves write
STRAYS = pytest.StashKey[set]()


def in_the_checkout(root: Path = ROOT) -> set[str] | None:
    """What differs from the last commit, files that git ignores among it; None where this is no checkout."""
    command = ["git", "status", "--porcelain", "--ignored", "--untracked-files=all"]
    try:
        lines = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return {line for line in lines if "__pycache__/" not in line and not line[3:].startswith(PASSING)}


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # of several processes the one that waits for the others
        session.config.stash[STRAYS] = in_the_checkout()


def pytest_sessionfinish(session: pytest.Session) -> None:
    before = session.config.stash.get(STRAYS, None)
    if before is not None:
        strays = session.config.stash[STRAYS] = in_the_checkout() - before
        if strays:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in sorted(config.stash.get(STRAYS, None) or ()):
        terminalreporter.write_line(f"FAILED: a test wrote outside its temporary folder: {line}", red=True)


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run, and start processes, in a folder of their own: caches and runs are relative to the working folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What Lightning puts into the environment (the port of a process group, a rank, a seed) ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def plain_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey panels where no test of the file looks at the curves of a report: to draw them is half of a short run."""
    if not getattr(request.module, "LOOKS_AT_CURVES", False):
        grey = Image.new("RGB", (6, 4), "grey")
        monkeypatch.setattr(curves, "drawn", lambda shown, *_, **__: (grey, dict.fromkeys(shown, grey)))


class Squares(ImageDataModule):
    """A hundred 4x4 grey images of two classes, bright and dark, that need no file.

    Args:
        num_images: how many.
    """

    splits = ("train", "test")

    def __init__(self, num_images: int = 100, batch_size: int = 8, labels: bool = False, flip: bool = False, **kwargs):
        super().__init__(batch_size, labels, flip, **kwargs)
        self.count = num_images
        self.describe(4, channels=1, class_names=["dark", "bright"])

    def load(self, split: str):
        random = np.random.RandomState(len(split))
        labels = np.arange(self.count) % 2
        images = random.randint(0, 100, (self.count, 1, 4, 4)) + 150 * labels[:, None, None, None]
        return images.astype(np.uint8), labels


def write_images(folder: Path, size: int, channels: int) -> None:
    """Ten images of noise in each of two sub-folders."""
    random = np.random.RandomState(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.randint(0, 256, (size, size, channels), dtype=np.uint8)
            Image.fromarray(pixels.squeeze()).save(folder / name / f"{i}.png")


def make_gan(num_classes: int = 0, **options) -> GAN:
    """A GAN of two small dense networks, equal at every call."""
    torch.manual_seed(0)
    facts = {"image_size": (4, 4), "channels": 1, "num_classes": num_classes}
    sgd = partial(torch.optim.SGD, lr=0.1)
    defaults = {"loss": NonSaturating(), "g_optimizer": sgd, "d_optimizer": sgd}
    networks = {
        "generator": mlp.Generator(**facts, latent_dim=4, hidden=(8,)),
        "discriminator": mlp.Discriminator(**facts, hidden=(8,)),
    }
    return GAN(**(networks | defaults | options))


def make_trainer(folder: Path, max_steps: int = 3, **options) -> Trainer:
    """A trainer without the callbacks and loggers of a run."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0, "limit_val_batches": 0}
    quiet |= {"use_distributed_sampler": False, "max_epochs": -1, "default_root_dir": str(folder)}
    return Trainer(max_steps=max_steps, **(quiet | options))


def fit(folder: Path, gan: GAN | None = None, data: ImageDataModule | None = None, **options) -> GAN:
    """Trains on `Squares` and returns the trained module."""
    gan = gan or make_gan()
    make_trainer(folder, **options).fit(gan, datamodule=data or Squares())
    return gan


def in_processes(number: int, function: Callable, *arguments) -> None:
    """Calls `function(rank, *arguments)` in processes that Lightning finds started, as on a cluster.

    They begin with PyTorch and this project imported, which else takes most of such a test.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["src.cli", "torchmetrics.image"])
    facts = (os.getcwd(), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(number)})
    torch.multiprocessing.start_processes(begin, (*facts, function, arguments), number, start_method="forkserver")


def begin(rank: int, folder: str, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    """One of these processes."""
    os.chdir(folder)
    os.environ |= environment | {"LOCAL_RANK": str(rank)}
    function(rank, *arguments)


def run_command(rank: int, *arguments: object) -> GAN:
    """For `in_processes`: one command of the command line, and the model that it was about."""
    return main([*map(str, arguments)]).model


def write_tiny(folder: Path) -> Path:
    """The file of an experiment of a second: dense networks on the digits."""
    experiment = {
        "trainer": {"max_steps": 4, "val_check_interval": 2, "logger": False, "log_every_n_steps": 1},
        "model": {
            "generator": {"class_path": "src.networks.mlp.Generator", "init_args": {"hidden": [8]}},
            "discriminator": {"class_path": "src.networks.mlp.Discriminator", "init_args": {"hidden": [8]}},
            "ema": {"class_path": "src.engine.ema.EMA", "init_args": {"half_life": 100}},
            "metrics": [
                {
                    "class_path": "src.metrics.fid.FrechetDistance",
                    "init_args": {"extractor": "src.metrics.features.Classifier"},
                }
            ],
            "val_images": 100,
            "test_images": 150,
        },
        "data": {"class_path": "src.data.digits.Digits", "init_args": {"batch_size": 8}},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """An experiment of a second."""
    return write_tiny(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `run`, and beside it a copy that no test touches."""
    folder = tmp_path_factory.mktemp("finished")
    main(["fit", "--config", str(write_tiny(folder)), "--run_dir", str(folder / "run")])
    shutil.copytree(folder / "run", folder / "kept")
    return folder


@pytest.fixture
def run(finished: Path) -> Path:
    """The folder of a finished run of `tiny_config`, trained once and restored for each test."""
    shutil.rmtree(finished / "run", ignore_errors=True)
    return Path(shutil.copytree(finished / "kept", finished / "run"))


def trained_briefly(folder: Path, *options: str, steps: int = 2) -> str:
    """The checkpoint of a few steps on the digits, with a moving average."""
    quick = ["--data", "Digits", "--trainer.max_steps", str(steps), "--model.metrics", "null"]
    quick += ["--trainer.callbacks", "null", "--trainer.logger", "false"]
    main(["fit", *quick, "--model.ema", "EMA", "--model.ema.half_life", "100", *options, "--run_dir", str(folder)])
    return str(folder / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session")
def brief(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of dense networks, for tests that only read it."""
    networks = ("--model.generator", "mlp.Generator", "--model.discriminator", "mlp.Discriminator")
    return trained_briefly(tmp_path_factory.mktemp("brief"), *networks)


@pytest.fixture(scope="session")
def styled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same of a generator with styles, 4 of them."""
    networks = ["--model.generator", "stylegan2.Generator", "--model.discriminator", "mlp.Discriminator"]
    networks += ["--model.generator.width", "4", "--model.generator.latent_dim", "6"]
    return trained_briefly(tmp_path_factory.mktemp("styled"), *networks)


def refusal(args: list[str], capsys) -> str:
    """Runs a command that must fail, and returns the one line that it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code not in (0, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]
