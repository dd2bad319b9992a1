"""The parser of the command line: short names of parts, lists of them, and one line with the nearest name."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from pydoc import locate
from typing import Any, NoReturn

from jsonargparse import set_loader
from jsonargparse._loaders_dumpers import yaml_load
from lightning.pytorch.cli import LightningArgumentParser
from torch.utils._pytree import tree_map_only
from yaml import YAMLError

from src.commands.first import nearest
from src.commands.parts import bases, completed, full, listed, parts, path, short
from src.commands.refusals import fail
from src.engine.moved import renewed

INSIDE = "of its options: "  # marks what is wrong with the options of a class: indented lines; of an optimizer the rest
OF_CLASS = re.compile(rf"\n( +){INSIDE}(.*(?:\n(?:\1.*)?)*)")
OF_OPTIMIZER = re.compile(rf"callable class:( ){INSIDE}(.*?)(?:\. Got value: Namespace\(.*)?$", re.DOTALL)
HINT = " (`--help` lists the options, configs/ holds examples)"


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args: list[str] | None = None, *others: Any, **kwargs: Any) -> Any:
        show_parts(args or [])
        return super().parse_args(args and completed(args), *others, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of one class: the parser around it knows which option names that
            raise argparse.ArgumentError(None, INSIDE + message) from ex
        fail(*said(innermost(message), list(self._option_string_actions)), code=2)


def reader(command: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """A parser for a command that takes words without the name of an option in front of them."""
    first = inspect.getdoc(function).partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m src {command}", description=first, allow_abbrev=False)
    parser.error = partial(fail, code=2)
    return parser


def show_parts(args: list[str]) -> None:
    """Lists the parts that an option takes, where its `.help` names none, and ends."""
    for arg, following in zip(args, [*args[1:], "--"], strict=False):
        option = arg.removeprefix("--").removesuffix(".help")
        if arg == f"--{option}.help" and option in bases() and following.startswith("--"):
            print(listed(option))
            sys.exit(0)


def innermost(message: str) -> str:
    """The error inside the errors of the classes around it, with its option as it is typed."""
    names, inside = [], True
    while inside:
        key = re.match(r'Parser key "([\w.]+)":', message)
        names += [key[1]] if key else []
        if inside := OF_CLASS.search(message) or OF_OPTIMIZER.search(message):
            message = re.sub(rf"^{inside[1]}", "", inside[2], flags=re.MULTILINE)
    if required := re.fullmatch(r"(the following arguments are required: )(.*)\s*", message):
        options = [".".join([*names, name.removeprefix("fit.")]) for name in required[2].split(", ")]
        return required[1] + ", ".join(f"--{option}" for option in options)
    whole = f'Parser key "{".".join(names)}":' if names else ""
    return whole + message[key.end() :] if key else f"{whole} {message}".strip()


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
        return message, (found[1] not in known and nearest(found[1], known)) or HINT
    if found := re.search(r"(?:dot import path string: |class_path ')([\w.]+)", message):
        key = re.search(r"Parser key \"([\w.]+)\"", message)
        asked = re.search(r"Subtypes: .*?(src(?:\.\w+)+)", message)  # the class that the option takes
        if not key or (key[1] not in bases() and not asked):
            other = HINT if "<class 'float'>" in message else ": give its whole path"  # or a number
            return message, nearest(found[1], map(path, every)) or other
        kinds = parts(bases()[key[1]][0] if key[1] in bases() else locate(asked[1]))
        known = {name for kind in kinds for name in (short(kind), path(kind))}
        end = nearest(found[1], known) or f": give its whole path, {path(kinds[0])} for instance"
        return f"{key[0]}: there is no class {found[1]}", end
    return message, HINT


def load(text: Any) -> Any:
    """A configuration, with the present paths of classes for old names and for short ones."""
    return tree_map_only(str, full, yaml_load(renewed(text) if isinstance(text, str) else text))


set_loader("yaml", load, exceptions=(YAMLError,))  # options of the command line do not pass through it
