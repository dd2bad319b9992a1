"""What a user gets wrong: one line that names the cause and the remedy, and nothing half-written."""

import os
import pickle
import random
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import lightning
import pytest
import torch
import wandb
import yaml
from conftest import ROOT, refusal
from fuzz import option_case
from PIL import Image
from safetensors.torch import save_file

from src.cli import main

TINY = {
    "trainer": {"max_steps": 2, "val_check_interval": 2, "logger": False},
    "model": {
        "generator": {"class_path": "src.networks.mlp.Generator", "init_args": {"hidden": [4], "latent_dim": 4}},
        "discriminator": {"class_path": "src.networks.mlp.Discriminator", "init_args": {"hidden": [4]}},
        "metrics": None,
    },
    "data": {"class_path": "src.data.digits.Digits", "init_args": {"batch_size": 8}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run, its checkpoint in many bad forms, and images."""
    place = tmp_path_factory.mktemp("place")
    here = os.getcwd()
    os.chdir(place)
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    main(["fit", "--config", "tiny.yaml", "--run_dir", "run"])
    good = (place / "run" / "checkpoints" / "last.ckpt").read_bytes()
    held = torch.load(place / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    (place / "good.ckpt").write_bytes(good)
    (place / "cut.ckpt").write_bytes(good[: len(good) // 2])
    (place / "empty.ckpt").write_bytes(b"")
    (place / "pickle.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    torch.save({"state_dict": {}}, place / "foreign.ckpt")
    torch.save([1, 2], place / "list.ckpt")
    torch.save({**held, "config": "a: [1"}, place / "broken.ckpt")
    torch.save({**held, "config": "[1]"}, place / "options.ckpt")
    torch.save({**held, "facts": {}}, place / "facts.ckpt")
    torch.save({**held, "state_dict": 3}, place / "weights.ckpt")
    torch.save({name: held[name] for name in held if name != "global_step"}, place / "step.ckpt")
    (place / "cut.safetensors").write_bytes(good[:100])
    save_file({"a": torch.zeros(1)}, place / "foreign.safetensors")
    (place / "occupied").mkdir()
    (place / "occupied" / "mine.txt").write_text("precious")
    (place / "file").write_text("no folder")
    (place / "folder.yaml").mkdir()
    for name in ("images/a", "images/b", "mixed", "bad"):
        (place / name).mkdir(parents=True)
        for i in range(3):
            path = place / name / f"{i}.png"
            Image.new("L", (8 + i * (name == "mixed"), 8), 9 * i).save(path)
            path.write_bytes(b"none" if name == "bad" else path.read_bytes())
    (place / "figures.json").write_text('{"results": [{"name": "fid", "value": 1, "error": null, "protocol": {}}]}')
    (place / "other.json").write_text(
        '{"results": [{"name": "fid", "value": 1, "error": null, "protocol": {"split": "test"}}]}'
    )
    (place / "poor.json").write_text('{"results": [{"name": "fid"}]}')
    os.chdir(here)
    return place


def tree(folder):
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if ".cache" not in path.parts and path.name != "bad.yaml"
    }


@pytest.fixture
def refuses(place, monkeypatch, capsys):
    """Runs a bad command and asserts that its one line holds every word, and that no file is new or changed."""
    monkeypatch.chdir(place)
    before = tree(place)

    def check(arguments, *words):
        line = refusal(arguments if isinstance(arguments, list) else shlex.split(arguments), capsys)
        assert line.isprintable()
        for word in words:
            assert word in line, f"{word!r} is not in {line!r}"
        assert tree(place) == before

    return check


# ------------------------------------------------------------------------------------------------- configurations

CONFIGS = {
    "broken": (b"trainer: {max_steps: [1", "bad.yaml is not YAML", "line 1", "correct it"),
    "tab": (b"trainer:\n\tmax_steps: 1", "not YAML", "line 2", "correct it"),
    "empty": (b"", "bad.yaml holds no options", "it takes lines such as"),
    "comment": (b"# nothing", "holds no options", "it takes lines such as"),
    "scalar": (b"hello", "holds no options", "it takes lines such as"),
    "list": (b"[1, 2]", "holds no options", "it takes lines such as"),
    "binary": (bytes(range(256)), "not YAML", "position 128", "correct it"),
    "latin-1": ("# caf\xe9".encode("latin-1"), "not YAML", "position 5", "correct it"),
    "two documents": (b"a: 1\n---\na: 2", "not YAML", "another document", "correct it"),
    "itself": (b"trainer: &t {callbacks: *t}", "not YAML", "Circular", "correct it"),
    "too deep": (b"a: " + b"[" * 3000 + b"]" * 3000, "not YAML", "recursion", "correct it"),
    "a program": (b"trainer: !!python/object/apply:os.mkdir [x]", "not YAML", "python/object", "correct it"),
    "unknown section": (b"trainr: {max_steps: 1}", "trainr", "--help"),
    "unknown key": (b"trainer: {max_stepz: 1}", "max_stepz", "--help"),
    "key of a command": (b"fit: {trainer: {max_steps: 1}}", "fit.trainer", "--help"),
    "number as a key": (b"1: 2", "Key must be a string", "--help"),
    "section that is text": (b"trainer: hello", "hello", "--help"),
    "section that is a list": (b"model: [1]", "model.generator", "--help"),
    "wrong type": (b"trainer: {max_steps: [1]}", "max_steps", "int", "[1]", "--help"),
    "no generator": (b"model: {generator: null}", "model.generator", "required", "--help"),
    "no loss": (b"model: {loss: null}", "model.loss", "required", "--help"),
    "unknown class": (b"model: {generator: {class_path: src.networks.mlp.X}}", "networks.mlp.X", "did you mean"),
    "unknown module": (b"model: {generator: {class_path: src.networks.no.G}}", "networks.no.G", "did you mean"),
    "class of another kind": (b"model: {generator: src.objectives.losses.Hinge}", "is no Generator", "--help"),
    "unknown argument": (b"model: {generator: {init_args: {widht: 8}}}", "widht", "did you mean width?"),
    "fact of the data": (b"model: {generator: {init_args: {channels: 3}}}", "follows the data", "--data.channels"),
    "NaN": (b"model: {g_optimizer: {init_args: {lr: .nan}}}", "lr is nan", "finite number"),
    "infinity": (b"model: {ema: {class_path: EMA, init_args: {half_life: .inf}}}", "half_life is inf", "finite"),
    "weight": (b"model: {regularizers: [{class_path: R1, init_args: {weight: .inf}}]}", "weight is inf", "finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_configuration(name, place, refuses):
    content, *words = CONFIGS[name]
    (place / "bad.yaml").write_bytes(content)
    refuses("fit --config tiny.yaml --config bad.yaml --run_dir new", *words)


# -------------------------------------------------------------------------------------------------------- options

CLASSIFIER = "{class_path: src.metrics.features.Classifier, init_args: {weights: none}}"
METRIC = f"{{class_path: FrechetDistance, init_args: {{extractor: {CLASSIFIER}}}}}"
OPTIONS = {
    "--nonsense 1": ["unrecognized", "--nonsense", "--help"],
    "stray": ["unrecognized", "stray", "--help"],
    "--model.lossy Hinge": ["--model.lossy", "did you mean --model.loss?"],
    "--model.loss Hing": ["no class Hing", "did you mean Hinge?"],
    "--trainer.precision bf16-true": ["bf16-true is not for two players", "take 32-true"],
    "--trainer.precision 64-true": ["64-true is not for two players", "take 32-true"],
    "--trainer.max_steps ten": ["int", "ten", "--help"],
    "--trainer.max_steps -5": ["max_steps", "non-negative", "-5"],
    "--trainer.precision foo": ["precision", "'bf16-mixed'", "foo"],
    "--trainer.precision 17": ["precision", "'bf16-mixed'", "17"],
    "--trainer.devices 0": ["devices", "0", "--trainer"],
    "--trainer.devices 99": ["99", "cores of a CPU", "take at most"],
    "--trainer.devices 2 --trainer.sync_batchnorm true": ["sync_batchnorm", "needs GPUs", "leave it out"],
    "--trainer.devices foo": ["devices", "int > 0", "--trainer"],
    "--trainer.accelerator foo": ["'foo'", "Available names"],
    "--trainer.strategy foo": ["--trainer.strategy foo", "take auto or ddp"],
    "--trainer.num_nodes 0": ["num_nodes", "positive"],
    "--trainer.log_every_n_steps 0": ["log_every_n_steps", "above 0"],
    "--trainer.log_every_n_steps -1": ["log_every_n_steps", "above 0, got -1"],
    "--trainer.val_check_interval 0": ["val_check_interval", "above 0"],
    "--trainer.check_val_every_n_epoch 0": ["check_val_every_n_epoch", "above 0"],
    "--trainer.min_steps 100": ["--trainer.min_steps 100 is more than the --trainer.max_steps 2", "change one"],
    "--trainer.use_distributed_sampler true": ["use_distributed_sampler true would change nothing", "leave it out"],
    "--trainer.logger true": ["--trainer.logger true would change nothing", "metrics.csv", "WandB"],
    "--trainer.model_registry mine": ["--trainer.model_registry mine would change nothing", "export"],
    "--trainer.barebones true": ["--trainer.barebones true would leave out the curves", "make bench"],
    "--trainer.limit_train_batches 0": ["limit_train_batches", "above 0"],
    "--trainer.plugins lightning.pytorch.plugins.DoublePrecision": ["DoublePrecision is not for two", "32-true"],
    "--trainer.accumulate_grad_batches 2": ["two players", "--model.accumulate"],
    "--trainer.gradient_clip_val 1": ["two players", "--model.g_clip"],
    "--model.generator.latent_dim 0": ["generator is empty", "at least 1"],
    "--model.discriminator.hidden [0]": ["discriminator is empty", "at least 1"],
    "--model.g_clip -1": ["model.g_clip must be above 0", "null"],
    "--model.val_images 0": ["model.val_images must be at least 1"],
    "--model.on_nonfinite hope": ["on_nonfinite", "rollback"],
    "--model.d_optimizer torch.optim.LBFGS": ["LBFGS", "choose Adam"],
    "--trainer.overfit_batches 5": ["two players", "--data.subset"],
    "--trainer.logger foo": ["no class foo", "whole path"],
    "--trainer.callbacks foo": ["trainer.callbacks", "no class foo", "whole path"],
    "--trainer.callbacks+=LastCheckpoint --trainer.callbacks.every_n_steps 0": ["every_n_steps", "at least 1"],
    "--seed_everything foo": ["seed_everything", "bool, or int", "foo", "--help"],
    "--seed_everything -1": ["-1", "from 0 to"],
    "--model.d_steps 0": ["model.d_steps", "at least 1"],
    "--model.accumulate 3": ["not divisible", "take 6 or 9"],
    "--data.batch_size -8": ["-8", "take at least 1"],
    "--data.batch_size foo": ["int", "foo", "--help"],
    "--data.without [12]": ["no image has a class", "[12]", "9"],
    "--data.num_workers -1": ["num_workers", "non-negative", "num_workers=0"],
    "--data.image_size 0": ["image_size 0", "one positive number"],
    "--data.image_size foo": ["image_size", "int, or list", "foo"],
    "--data Digitz": ["no class Digitz", "did you mean Digits?"],
    "--data torch.utils.data.DataLoader": ["is no LightningDataModule", "--help"],
    "--data MNIST --data.root nowhere": ["no MNIST under nowhere", "--data.download true"],
    "--data MNIST --data.root file --data.download true": ["cannot download MNIST", "by other means"],
    "--data CelebA --data.root nowhere": ["no CelebA", "--data.download true"],
    "--data ImageFolder --data.root nowhere": ["does not exist", "--data.root"],
    "--data ImageFolder --data.root file": ["neither a folder nor a .zip", "name its folder"],
    "--data ImageFolder --data.root occupied": ["no image", "expected files that end in"],
    "--data ImageFolder --data.root bad --data.image_size 4 --data.channels 1": ["none of 3 files", "open in a viewer"],
    "--data ImageFolder --data.root images --data.levels 0": ["data.levels", "at least 1"],
    "--data ImageFolder --data.root images --data.levels 1.5": ["levels", "int", "1.5", "--help"],
    "--data ImageFolder --data.root images --data.test_root mixed": ["sub-folders", "--data.labels false"],
    "--data ImageFolder --data.root images --data.cache_dir file/cache": ["file/cache cannot be", "--data.cache_dir"],
    "--model.g_optimizer Foo": ["no class Foo", "whole path"],
    "--model.g_optimizer.lrr 1": ["lrr", "--help"],
    "--model.g_optimizer.lr foo": ["lr", "float", "foo"],
    "--model.g_optimizer.lr -1": ["learning rate", "-1"],
    "--model.g_optimizer.betas [0.5]": ["betas", "2 elements", "--help"],
    "--model.g_optimizer src.objectives.losses.Hinge": ["subclass", "Optimizer", "--help"],
    "--model.g_scheduler torch.optim.lr_scheduler.StepLR": ["step_size", "required", "--help"],
    "--model.g_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau": ["ReduceLROnPlateau", "another schedule"],
    "--model.ema.decay 2": ["EMA", "[0, 1)"],
    "--model.ema true": ["no class true", "whole path"],
    "--model.regularizers [{class_path: R1, init_args: {weight: -1}}]": ["weight of R1", "0 or more"],
    "--model.regularizers [{class_path: R1}]": ["weight", "required", "--help"],
    "--model.generator.hidden [-1]": ["negative dimension", "correct the options of --model"],
    "--model.generator.hidden [100000000000000]": ["memory", "correct the options of --model"],
    "--model.generator.dropout 2": ["between 0 and 1", "2.0"],
    "--model.discriminator src.networks.mlp.Generator": ["is no Discriminator", "--help"],
    f"--model.metrics [{METRIC}]": ["no weights at none", "correct `weights`"],
    "--ckpt_path none.ckpt": ["there is no checkpoint none.ckpt", "name"],
    "--ckpt_path .": ["there is no checkpoint", "name"],
    "--config none.yaml": ["none.yaml does not exist", "configs/ has examples"],
    "--config folder.yaml": ["folder.yaml is a folder", "configs/"],
    "--config configs/gan_dense.yaml": ["gan_dense.yaml does not exist: ", "configs/systems/gan_dense.yaml does"],
    "--config folders.yaml": ["folders.yaml does not exist:", "configs/folder.yaml does"],
    "--config new/tinny.yaml": ["new/tinny.yaml does not exist:"],
    "--config tinny": ["tinny does not exist: tiny.yaml does"],
    "--config": ["expected one argument", "--config"],
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_a_bad_option(options, refuses):
    arguments = [word for part in re.split(" (?=--)", options) for word in part.split(" ", 1)]
    refuses(["fit", "--config", "tiny.yaml", "--run_dir", "new", *arguments], *OPTIONS[options])


COMMANDS = {
    "": ["name a command", "fit, validate"],
    "explode": ["explode", "fit, validate", "did you mean export?"],
    "fit": ["model.generator", "required", "configs/"],
    "predict": ["--ckpt_path FILE", "random weights"],
    "fit --config tiny.yaml --run_dir run": ["already holds a run", "--resume"],
    "fit --config tiny.yaml --run_dir file": ["file cannot be written", "another --run_dir"],
    "fit --config tiny.yaml --run_dir /proc/new": ["/proc/new cannot be written", "another --run_dir"],
    "test --ckpt_path good.ckpt --run_dir file/new": ["file/new cannot be written", "another --run_dir"],
    "test --ckpt_path good.ckpt --data ImageFolder --data.root images --data.image_size 4": ["of another architecture"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_command(command, refuses):
    refuses(command, *COMMANDS[command])


FOLDER = ROOT / "configs" / "folder.yaml"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("", 2, "name a command"),
        ("explode", 2, "did you mean export?"),
        ("--help", 0, "\n  list         List the parts that a configuration can name"),
        ("--version", 0, f"torch {torch.__version__}, lightning {lightning.__version__}"),
        ("fit --config fodler.yaml", 1, "folder.yaml does"),
        ("test", 1, "random weights"),
        ("fit --ckpt_path gone.ckpt", 1, "there is no checkpoint gone.ckpt"),
        (f"fit --config {FOLDER}", 1, "with --data.root"),
        (f"fit --config {FOLDER} --data.root gone", 1, "gone does not exist: name a folder"),
    ],
)
def test_what_needs_no_lightning_does_not_wait_for_it(command, code, words):
    python = [sys.executable, "-X", "importtime", "-m", "src", *command.split()]
    ended = subprocess.run(python, capture_output=True, text=True, check=False)
    said = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line not in said}
    assert (ended.returncode, len(said)) == (code, int(code > 0)) and words in ended.stdout + "".join(said)
    assert "src.commands.first" in imported and not imported & {"torch", "lightning", "jsonargparse", "numpy"}


# ---------------------------------------------------------------------------------------------------- checkpoints

CHECKPOINTS = {
    "none": ["no checkpoint", "name"],
    "cut": ["truncated", "another one"],
    "empty": ["truncated", "another one"],
    "pickle": ["not a readable checkpoint", "another one"],
    "list": ["not written by this project", "name one"],
    "foreign": ["not written by this project", "name one"],
    "step": ["holds no global_step", "name one"],
    "weights": ["holds no state_dict", "name one"],
    "broken": ["configuration in broken.ckpt is not YAML", "correct it"],
    "options": ["configuration in options.ckpt holds no options", "takes lines"],
}


@pytest.mark.parametrize("command", ["predict", "test", "validate", "fit"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_bad_checkpoint(name, command, refuses):
    refuses(f"{command} --ckpt_path {name}.ckpt --run_dir new", *CHECKPOINTS[name])


EXPORTS = {
    "export": ["ckpt_path", "required"],
    "export --ckpt_path good.ckpt --output weights.pt": ["weights.pt must end in .safetensors"],
    "export --ckpt_path cut.ckpt --output new.safetensors": ["cut.ckpt is not a readable checkpoint", "another one"],
    "export --ckpt_path good.ckpt --output file/new.safetensors": [
        "file cannot be written into",
        "another --output",
    ],
    "predict --ckpt_path cut.safetensors": ["cut.safetensors is not a readable checkpoint", "another one"],
    "predict --ckpt_path foreign.safetensors": ["foreign.safetensors was not written by this project", "name one"],
}


@pytest.mark.parametrize("command", EXPORTS)
def test_bad_exports(command, refuses):
    refuses(command, *EXPORTS[command])


PREDICTIONS = {
    "--ckpt_path facts.ckpt": ["--data.image_size, --data.channels", "required"],
    "--output occupied": ["occupied is not empty", "another --output"],
    "--output file": ["file cannot be written", "another --output"],
    "--output /proc/new": ["/proc/new cannot be written", "another --output"],
    "--num_images 0": ["--num_images", "at least 1"],
    "--num_images many": ["num_images", "int", "--help"],
    "--batch_size 0": ["--batch_size", "at least 1"],
    "--seed foo": ["seed", "int", "--help"],
    "--seeds 3, ": ["--seeds 3,", "no list of numbers", "3,7,11-20"],
    "--seeds 3 --num_images 4": ["--seeds says which", "leave out --num_images"],
    "--truncation 0": ["--truncation", "above 0"],
    "--columns 0": ["columns", "PositiveInt"],
    "--format bmp": ["format", "'png', 'webp', 'jpg', 'npz', 'zip'"],
    "--classes 10": ["no class '10'", "0 to 9"],
    "--classes cat": ["no class 'cat'", "named"],
    "--classes 3,,4": ["no class ''", "0 to 9"],
    "--classes -1": ["no class '-1'", "0 to 9"],
    "--classes ²": ["no class '²'", "0 to 9"],
    "--model.generator.hidden [9]": ["another architecture", "leave out the options"],
    "--resume": ["unrecognized", "--resume", "--help"],
}  # fmt: skip


@pytest.mark.parametrize("options", PREDICTIONS)
def test_a_bad_prediction(options, refuses):
    refuses(f"predict --ckpt_path good.ckpt --output new {options}", *PREDICTIONS[options])


# ------------------------------------------------------------------------------------------------ score and compare

FOLDERS = {
    "score": ["required: --real, --fake"],
    "score --real images": ["required: --fake"],
    "score --real nowhere --fake images": ["nowhere does not exist", "name a folder"],
    "score --real images --fake images --channels 2": ["channels", "one of [1, 3, 4]", "--help"],
    "score --real images --fake images --resize squeeze": ["resize", "'crop', 'stretch'", "--help"],
    "score --real mixed --fake images": ["different sizes", "image_size"],
    "score --real images --fake images --metrics Foo": ["--metrics: there is no class Foo", "give its whole path"],
    "score --real images --fake images --output images": ["images is a folder", "--output"],
    "score --real images --fake images --output file/a.json": ["cannot be written into", "another --output"],
    "compare": ["required: runs"],
    "compare none.json": ["none.json holds no figures", "name a metrics.json"],
    "compare .": [". holds no figures", "name a metrics.json"],
    "compare good.ckpt": ["good.ckpt holds no figures", "name a metrics.json"],
    "compare poor.json figures.json": ["poor.json holds no figures", "name a metrics.json"],
    "compare figures.json other.json": ["cannot be compared", "split"],
    "compare figures.json --output new": ["--output is for the pictures of runs", "name their folders"],
    "compare figures.json --outptu x": ["unrecognized arguments: --outptu"],
    "leaderboard images": ["no metrics.json under images", "src test --ckpt_path"],
    "list lossess": ["no parts called lossess", "did you mean losses?"],
    "list none.of.these": ["no parts called none.of.these", "a module beside src/"],
    "list json": ["json holds no parts", "src/README.md"],
    "test --ckpt_path good.ckpt --model.metrics null": ["nothing to score", "--model.metrics"],
    "validate --ckpt_path good.ckpt --model.metrics null": ["nothing to score", "--model.metrics"],
}


@pytest.mark.parametrize("command", FOLDERS)
def test_bad_scores(command, refuses):
    refuses(command, *FOLDERS[command])


# ---------------------------------------------------------------------------------------------------- environment


@contextmanager
def without_superpowers():
    """For the superuser, the permissions of files count as for anybody else (capset(2), Linux)."""
    if os.geteuid() != 0:
        yield
        return
    import ctypes

    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    lessened = (ctypes.c_uint32 * 6)(*held)
    lessened[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, lessened) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


FIT = "fit --config tiny.yaml --run_dir new"
LOCKED = {
    "fit --config tiny.yaml --run_dir locked/new": ("locked", 0o555, "Permission denied", "another --run_dir"),
    "predict --ckpt_path good.ckpt --output locked/new": ("locked", 0o555, "Permission denied", "another --output"),
    FIT: ("tiny.yaml", 0, "tiny.yaml: Permission denied", "permissions"),
    "predict --ckpt_path good.ckpt": ("good.ckpt", 0, "good.ckpt", "PermissionError", "another"),
    f"{FIT} --data ImageFolder --data.root images": ("images/a", 0, "images/a cannot be read", "make it readable"),
    f"{FIT} --data ImageFolder --data.root images --data.cache_dir locked": ("locked", 0o555, "--data.cache_dir"),
}  # fmt: skip


@pytest.mark.parametrize("command", LOCKED)
def test_what_may_not_be_read_or_written(command, place, monkeypatch, capsys):
    locked, mode, *words = LOCKED[command]
    monkeypatch.chdir(place)
    path = place / locked
    path.mkdir(exist_ok=True) if locked == "locked" else None
    before, mode_before = tree(place), path.stat().st_mode
    path.chmod(mode)
    try:
        with without_superpowers():
            line = refusal(shlex.split(command), capsys)
    finally:
        path.chmod(mode_before)
    assert all(word in line for word in words), line
    assert tree(place) == before


def test_a_home_that_is_missing_is_not_needed(place, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", str(place / "tiny.yaml"), "--run_dir", "run"])
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file() and not (tmp_path / "none").exists()


def test_a_full_disk_of_decoded_images(refuses, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    refuses(
        f"{FIT} --data ImageFolder --data.root images --data.cache_dir .cache/other", "0 MB free", "--data.cache_dir"
    )


def test_too_little_memory(refuses, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("src.cli.CLI.before_fit", exhausted)
    refuses(FIT, "out of memory", "--data.batch_size", "--model.accumulate")


def test_debug_shows_the_traceback_of_anything(place, monkeypatch):
    monkeypatch.chdir(place)
    for command, kind in (("fit --config none.yaml", ValueError), (f"{FIT} --run_dir /proc/new", ValueError)):
        with pytest.raises(kind):
            main([*shlex.split(command), "--debug"])


@pytest.mark.parametrize("seed", range(4))
def test_mutated_configurations_and_options_are_accepted_or_refused(seed, tmp_path):
    assert option_case(random.Random(seed), tmp_path)[1] in ("accepted", "refused")


@pytest.mark.parametrize(
    ("mode", "key", "words"),
    [
        ("sometimes", "", ["'online', 'offline'"]),
        ("online", "", ["not logged in"]),
        ("online", "short", ["WANDB_API_KEY invalid"]),
    ],
)
def test_bad_settings_of_wandb(mode, key, words, tmp_path, refuses, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb.teardown()  # it keeps the settings of its first use for the whole process
    try:
        refuses(
            f"{FIT} --trainer.logger src.callbacks.loggers.WandB", "Weights & Biases", "--trainer.logger false", *words
        )
    finally:
        wandb.teardown()
