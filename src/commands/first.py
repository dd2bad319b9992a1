"""What is refused, and answered, before PyTorch and Lightning are imported, which takes seconds: nothing here does."""

import argparse
import ast
import difflib
import json
import platform
import runpy
import sys
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from src import __version__
from src.commands.refusals import fail
from src.engine.paths import check_checkpoint, check_root, near
from src.engine.versions import commit

EVALUATIONS = ("validate", "test", "predict")
OF_MODEL = ("fit", *EVALUATIONS)
PLANNED = ("trainer.max_steps", "trainer.val_check_interval")  # by `--minutes`
COMMANDS = (*OF_MODEL, "score", "compare", "export", "interpolate", "progress", "project", "directions")
CONFIGS = Path(__file__).parents[2] / "configs"
COMMANDS += ("mix", "leaderboard", "list", "study")  # the last three: of several runs, and of parts


def answer(args: list[str]) -> None:
    """Ends in one line what needs no more than this file; returns where there is more to do, or to say."""
    if args and args[0] in ANSWERS:
        print(ANSWERS[args[0]](), flush=True)
        sys.exit(0)
    try:
        check([arg for arg in args if arg != "--debug"])
    except (ValueError, OSError) as error:
        if "--debug" not in args and not getattr(error, "strerror", None):
            fail(error)


def check(args: list[str]) -> None:
    """Refuses a command that there is not, and files that are not there.

    Args:
        args: of the command line.

    Raises:
        ValueError: naming what is missing.
        OSError: a configuration or a folder of images cannot be read.
    """
    if not args or (args[0] not in COMMANDS and not args[0].startswith("-")):
        said = f"there is no command {args[0]!r}" if args else "name a command"
        fail(said, f"{nearest(args[0], COMMANDS) if args else ''} ({', '.join(COMMANDS)})", code=2)
    if args[0] not in OF_MODEL or {"-h", "--help"} & set(args):
        return
    named = peeked(spelled(args[1:]))
    for option in PLANNED if named.minutes else ():
        if getattr(named, option):
            raise ValueError(f"--minutes plans what --{option} says: leave one of them out")
    data: dict[str, Any] = {}
    goes_on = bool(named.ckpt_path or named.resume)
    for path in named.config:
        check_there(path)
        config = parsed(Path(path).read_bytes(), path)
        goes_on |= bool(config.get("resume"))
        if isinstance(section := config.get("data"), dict):
            data |= {"class_path": section.get("class_path")} | (section.get("init_args") or {})
    if named.ckpt_path:
        check_checkpoint(named.ckpt_path)
    elif args[0] in EVALUATIONS:
        raise ValueError(f"{args[0]} needs --ckpt_path FILE: without one it would use random weights")
    if not str(named.data or data.get("class_path")).endswith("ImageFolder"):
        return
    root = getattr(named, "data.root") or data.get("root")
    if isinstance(root, str):
        check_root(root)
    elif not goes_on and not any(arg.startswith("--data") for arg in args):
        raise ValueError("there are no images yet: name a folder or a .zip of them with --data.root")


def peeked(args: list[str]) -> argparse.Namespace:
    """The options that say where a run and its files are, and how long it is; the parser, which is slow, reads all."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.error = partial(fail, code=2)
    places = ("--ckpt_path", "--run_dir", "--trainer.default_root_dir", "--resume", "--data", "--data.root")
    for option in (*places, "--minutes", *(f"--{option}" for option in PLANNED)):
        peek.add_argument(option, type=lambda value: None if value == "null" else value)
    peek.add_argument("-c", "--config", action="append", default=[])
    return peek.parse_known_args(args)[0]


def spelled(args: list[str]) -> list[str]:
    """`--resume` with and without a value, and what Python and sweeps write for `null`."""
    result = []
    for arg, following in zip(args, [*args[1:], ""], strict=False):
        if arg == "--resume" and following.lower() not in ("true", "false"):
            arg = "--resume=true"
        option, equals, value = arg.partition("=")
        if arg.startswith("--") and value == "None":
            arg = f"{option}=null"
        result.append("null" if arg == "None" else arg)
    return result


def check_there(path: str) -> None:
    """Refuses a configuration that is not there, with the one that was probably meant."""
    if Path(path).is_file():
        return
    if Path(path).is_dir():
        raise ValueError(f"configuration {path} is a folder: name a .yaml file, such as those in configs/")
    files = [*Path(path).parent.glob("*.yaml"), *CONFIGS.rglob("*.yaml")]
    there = {file.stem: near(file) for file in files}
    meant = difflib.get_close_matches(Path(path).stem, there, n=1)
    raise ValueError(f"{path} does not exist: " + (f"{there[meant[0]]} does" if meant else "configs/ has examples"))


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


def nearest(wrong: str, known: Any) -> str:
    """A suggestion as the end of a message, or nothing."""
    found = difflib.get_close_matches(wrong, list(known), 1)
    return f": did you mean {found[0]}?" if found else ""


def versions() -> str:
    """The version of this project with its commit, where there is one, and of what it stands on."""
    at = commit()
    told = f" ({at})" if at else ""
    torch = runpy.run_path(str(Path(find_spec("torch").origin).with_name("version.py")))["__version__"]
    libraries = f"torch {torch}, lightning {version('lightning')}, Python {platform.python_version()}"
    return f"gan-template {__version__}{told}, {libraries}"


def overview() -> str:
    """All commands with the first lines of their help, read from their sources: to import these takes seconds."""
    lines = []
    for command in COMMANDS:
        source = Path(__file__).with_name("trainer.py" if command in OF_MODEL else f"{command}.py").read_text()
        found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
        docs = {node.name: ast.get_docstring(node) or "" for node in found}
        doc = docs.get(command) or docs[f"{command}_parts"]
        lines.append(f"  {command:<13}{doc.partition(chr(10))[0]}")
    return "\n".join(
        [
            "usage: python -m src COMMAND ...\n\nGenerative adversarial networks.\n",
            *lines,
            "\nEach command has a --help of its own. `python -m src --version` prints the versions.",
        ]
    )


ANSWERS = {"--version": versions, "--help": overview, "-h": overview}
