"""The commands that are functions, by name: their arguments are the options, and their docstrings the help."""

import inspect
from collections.abc import Callable
from typing import Any

from jsonargparse import auto_cli

from src.commands.compare import compare
from src.commands.directions import directions
from src.commands.export import export
from src.commands.interpolate import interpolate
from src.commands.leaderboard import leaderboard
from src.commands.list import list_parts
from src.commands.mix import mix
from src.commands.parser import Parser
from src.commands.progress import progress
from src.commands.project import project
from src.commands.score import score
from src.commands.study import study

FUNCTIONS = {"score": score, "compare": compare, "export": export, "interpolate": interpolate}
FUNCTIONS |= {"leaderboard": leaderboard, "list": list_parts, "study": study}
FUNCTIONS |= {"progress": progress, "project": project, "directions": directions, "mix": mix}


def call(command: str, args: list[str], main: Callable[[list[str]], Any]) -> Any:
    """Runs one of `FUNCTIONS`.

    Args:
        command: its name.
        args: words that follow it.
        main: runs another command.
    """
    function = FUNCTIONS[command]
    if function is study:
        return study(args, main)
    if "args" in inspect.signature(function).parameters:  # which it reads itself
        return function(args)
    told = {"prog": f"python -m src {command}", "description": inspect.getdoc(function).partition("\n")[0]}
    return auto_cli(function, args=args, as_positional=command == "progress", parser_class=Parser, **told)
