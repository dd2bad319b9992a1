"""What a checkpoint remembers, put in front of what the command line says."""

import argparse
import difflib
import json
import os
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from src.commands.names import renewed
from src.commands.refusals import fail
from src.engine.weights import read_checkpoint

EVALUATIONS = ("validate", "test", "predict")
CONFIGS = Path(__file__).parents[2] / "configs"


def remembered(subcommand: str, path: str, same_run: bool) -> list[str]:
    """The arguments that stand for what a checkpoint remembers; whatever follows them on the command line wins.

    Args:
        subcommand: that they are for.
        path: of the checkpoint.
        same_run: whether its run folder is meant.
    """
    checkpoint = read_checkpoint(path)
    whole = parsed(checkpoint["config"], f"the configuration in {path}")
    config = {key: value for key, value in whole.items() if key in ("seed_everything", "model", "data")}
    check_classes(config, path)
    if subcommand == "predict":
        config["data"] = {"class_path": "src.data.requests.Requests", "init_args": checkpoint["facts"]}
        config["model"]["metrics"] = None
    if same_run:
        folder = Path(os.path.relpath(path)).parent
        config["run_dir"] = str(folder.parent if folder.name == "checkpoints" else folder)
    return ["--config", yaml.safe_dump(config)]


def check_classes(config: Any, path: str) -> None:
    """Refuses a checkpoint of classes that are not at hand: those of a user's own files, which were left behind.

    Raises:
        ValueError: naming the class.
    """
    if isinstance(config, dict) and isinstance(name := config.get("class_path"), str):
        module, _, kind = renewed(name).rpartition(".")
        try:
            found = hasattr(import_module(module), kind)
        except ImportError as error:
            found, module = False, error.name or module
        if not found:
            raise ValueError(f"{path} needs {name}, and {module} is not here or lacks it: put its file where it was")
    for inner in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        check_classes(inner, path)


def parsed(text: str | bytes, name: str) -> dict[str, Any]:
    """A configuration from YAML text.

    Raises:
        ValueError: it is no text, no YAML, or no mapping, or holds itself.
    """
    try:
        config = yaml.safe_load(text)
        json.dumps(config, default=str, skipkeys=True)  # a mapping that holds itself would be read for ever
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not YAML: {error}; correct it there") from error
    if not isinstance(config, dict):
        raise ValueError(f"{name} holds no options: it takes lines such as `trainer: {{max_steps: 1000}}`")
    return config


def check_there(path: str) -> None:
    """Refuses a configuration that is not there, with the one that was probably meant."""
    if Path(path).is_file():
        return
    if Path(path).is_dir():
        raise ValueError(f"configuration {path} is a folder: name a .yaml file, such as those in configs/")
    files = [*Path(path).parent.glob("*.yaml"), *CONFIGS.rglob("*.yaml")]
    there = {file.stem: os.path.relpath(file) for file in files}
    meant = difflib.get_close_matches(Path(path).stem, there, n=1, cutoff=0.5)
    raise ValueError(f"{path} does not exist: " + (f"{there[meant[0]]} does" if meant else "configs/ has examples"))


def complete(args: list[str]) -> list[str]:
    """Puts what the checkpoint remembers in front of what the command line says, and reads `--resume` as a flag."""
    if not args or args[0] not in ("fit", *EVALUATIONS) or {"-h", "--help"} & set(args):
        return args
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.error = partial(fail, code=2)
    peek.add_argument("--ckpt_path")
    peek.add_argument("-c", "--config", action="append", default=[])
    known, _ = peek.parse_known_args(args)
    for path in known.config:
        check_there(path)
        parsed(Path(path).read_bytes(), path)
    if known.ckpt_path is None and args[0] in EVALUATIONS:
        raise ValueError(f"{args[0]} needs --ckpt_path FILE: without one it would use random weights")
    same_run = args[0] in EVALUATIONS or not known.config
    first = remembered(args[0], known.ckpt_path, same_run) if known.ckpt_path else []
    return [args[0], *first, *("--resume=true" if arg == "--resume" else renewed(arg) for arg in args[1:])]
