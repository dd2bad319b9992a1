"""The parser of the command line: short names of parts, lists of them, and one line with the nearest name."""

import inspect
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningArgumentParser

from src import __version__
from src.commands.parts import bases, completed, listed, nearest, parts, path, short
from src.commands.refusals import fail

HINT = " (`--help` lists the options, configs/ holds examples)"


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args: list[str] | None = None, *others: Any, **kwargs: Any) -> Any:
        show_parts(args or [])
        return super().parse_args(args and completed(args), *others, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        fail(*said(message, list(self._option_string_actions)), code=2)


def show_parts(args: list[str]) -> None:
    """Lists the parts that an option takes, where its `.help` names none, and ends."""
    for arg, following in zip(args, [*args[1:], "--"], strict=False):
        option = arg.removeprefix("--").removesuffix(".help")
        if arg == f"--{option}.help" and option in bases() and following.startswith("--"):
            print(listed(option))
            sys.exit(0)


def said(message: str, options: list[str]) -> tuple[str, str]:
    """What is said of an error of the parser, and its end: the name nearest to one that it refuses, where there is one.

    Args:
        message: of the parser.
        options: that it knows.
    """
    if found := re.search(r"unrecognized arguments: (--[\w.]+)", message):
        return message, nearest(found[1], options) or HINT
    every = [kind for base in {base for base, _ in bases().values()} for kind in parts(base)]
    if found := re.search(r"Option '(\w+)' is not accepted", message):
        known = {name for kind in every for name in inspect.signature(kind).parameters}
        return message, nearest(found[1], known) or HINT
    if found := re.search(r"(?:dot import path string: |class_path ')([\w.]+)", message):
        key = re.search(r"Parser key \"([\w.]+)\"", message)
        if not key or key[1] not in bases():
            return message, nearest(found[1], map(path, every)) or ": give its whole path"
        kinds = parts(bases()[key[1]][0])
        known = {name for kind in kinds for name in (short(kind), path(kind))}
        end = nearest(found[1], known) or f": give its whole path, {path(kinds[0])} for instance"
        return f"{key[0]}: there is no class {found[1]}", end
    return message, HINT


def versions() -> str:
    """The version of this project with its commit, where there is one, and of what it stands on."""
    here = Path(__file__).parent
    asked = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    commit = f" ({asked.stdout.strip()})" if asked.returncode == 0 else ""
    libraries = f"torch {torch.__version__}, lightning {pl.__version__}, Python {platform.python_version()}"
    return f"gan-template {__version__}{commit}, {libraries}"
