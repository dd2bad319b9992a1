"""The parts that a configuration can name: `python -m src list`."""

import inspect
from importlib import import_module

from src.commands.first import nearest
from src.commands.parser import reader
from src.commands.parts import bases, family, first_lines, path


def list_parts(args: list[str]) -> None:
    """List the parts that a configuration can name, each with the first line of its help.

    Args:
        args: words of the command line.

    Raises:
        ValueError: a word that names no parts, or a module that cannot be imported.
    """
    parser = reader("list", list_parts)
    parser.add_argument(
        "what", nargs="*",
        help="networks, losses, metrics, data, callbacks, ...: a room, a file or an option; or a module of your own",
    )  # fmt: skip
    for word in parser.parse_args(args).what or ["src"]:
        for option, kinds in of(word.removesuffix(".py").replace("/", ".")).items():
            print(f"--{option}", *first_lines(kinds), sep="\n")


def of(word: str) -> dict[str, list[type]]:
    """The parts that a word names, by the options that take them; a module that is not known yet is imported.

    Raises:
        ValueError: there is no such word, or the module cannot be imported or holds no parts.
    """
    if found := named(word):
        return found
    try:
        import_module(word)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{word}.".startswith(f"{error.name}."):
            known = {name for option, kind in every() for name in names(option, kind) if "." not in name}
            hint = nearest(word, known) or ": name a room, a file in one, an option, or a module beside src/"
            raise ValueError(f"there are no parts called {word}{hint}") from error
        raise ValueError(f"{word} cannot be imported: {type(error).__name__}: {error}; correct it there") from error
    if found := named(word):
        return found
    raise ValueError(f"{word} holds no parts: src/README.md says which class to derive from")


def every() -> list[tuple[str, type]]:
    """Each part that has been imported, with the option that takes it."""
    pairs = [(option, kind) for option, (base, _) in bases().items() for kind in family(base)]
    return sorted((pair for pair in pairs if not inspect.isabstract(pair[1])), key=lambda pair: path(pair[1]))


def named(word: str) -> dict[str, list[type]]:
    found: dict[str, list[type]] = {}
    for option, kind in every():
        if word in names(option, kind):
            found.setdefault(option, []).append(kind)
    return found


def names(option: str, kind: type) -> set[str]:
    """What a part is asked for by: its option, its room, its file; one from elsewhere by its module alone."""
    above = kind.__module__.split(".")
    modules = {".".join(above[:end]) for end in range(1, len(above) + 1)}
    if above[0] != "src":
        return modules
    name = option.rpartition(".")[2]
    return modules | {*above, option, name, f"{name}s", f"{name}es"}
