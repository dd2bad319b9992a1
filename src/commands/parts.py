"""The parts that a configuration can name: found by walking the rooms, known by short names, listed and suggested."""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module, util
from pkgutil import iter_modules
from typing import Any

from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger

from src.gan import GAN

ROOMS = ("networks", "objectives", "images", "engine", "metrics", "data", "callbacks")
SHORT = re.compile(r"[a-z]\w*\.[A-Z]\w*")  # file.Class


@cache
def bases() -> dict[str, tuple[type, bool]]:
    """Option: the class of the parts that it takes, and whether it takes a list of them."""
    for room in ROOMS:
        for module in iter_modules(import_module(f"src.{room}").__path__, f"src.{room}."):
            import_module(module.name)
    found = {
        "data": (LightningDataModule, False),
        "trainer.callbacks": (Callback, True),
        "trainer.logger": (Logger, True),
    }
    for name, hint in typing.get_type_hints(GAN.__init__).items():
        classes = [kind for kind in flat(hint) if inspect.isclass(kind) and kind.__module__.startswith("src.")]
        if classes:
            found[f"model.{name}"] = classes[0], any(typing.get_origin(kind) is list for kind in members(hint))
    return found


def members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def flat(hint: Any) -> Iterator[Any]:
    inner = typing.get_args(hint)
    yield hint
    for part in inner if typing.get_origin(hint) is not Callable else ():
        yield from flat(part)


def parts(base: type) -> list[type]:
    """What may be named where a `base` is asked for: the classes of this project that are complete, by their paths."""
    ours = [kind for kind in family(base) if kind.__module__.startswith("src.") and not inspect.isabstract(kind)]
    return sorted(ours, key=path)


def family(base: type) -> set[type]:
    """A class and all that derive from it."""
    return {base}.union(*map(family, base.__subclasses__()))


def path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def short(kind: type) -> str:
    """The shortest name that is understood: the class alone, with its file where another part is called so.

    A class from elsewhere has its whole path.
    """
    if not kind.__module__.startswith("src."):
        return path(kind)
    alone = [other for base, _ in set(bases().values()) for other in parts(base) if other.__name__ == kind.__name__]
    return kind.__name__ if set(alone) <= {kind} else ".".join(path(kind).split(".")[-2:])


def full(name: str) -> str:
    """The path of a part that is named `file.Class`; any other text as it is."""
    if not SHORT.fullmatch(name):
        return name
    found = {path(kind) for base, _ in set(bases().values()) for kind in parts(base)}
    ending = sorted(whole for whole in found if whole.endswith(f".{name}"))
    return ending[0] if len(ending) == 1 and not util.find_spec(name.split(".")[0]) else name


def listed(option: str) -> str:
    """The parts that an option takes, a line each."""
    kinds = first_lines(parts(bases()[option][0]))
    return "\n".join([f"--{option} takes one of these, or the path of a class of your own (my_file.MyClass):", *kinds])


def first_lines(kinds: list[type]) -> list[str]:
    """A line for each class: its name, and the first line of its help."""
    width = max(len(short(kind)) for kind in kinds)
    return [f"  {short(kind):<{width}}  {inspect.cleandoc(kind.__doc__ or '').partition(chr(10))[0]}" for kind in kinds]


def completed(args: list[str]) -> list[str]:
    """Options with the full names of parts, and the only element of a list for the list."""
    result = []
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        name = option.removeprefix("--").removesuffix("+") if equals else ""
        before = args[position - 1].removeprefix("--").removesuffix("+")
        if not equals and not arg.startswith("--") and position:
            name, option, value = before, args[position - 1], arg
        known = "model." + name.removeprefix("model.")  # `score` has metrics alone
        lists = known in bases() and bases()[known][1] and not option.endswith("+")
        if lists and re.fullmatch(r"[\w.]+", value) and value.lower() not in ("null", "none"):
            if not equals:
                result.pop()
            result += [f"{option}=[]", f"{option}+={full(value)}"]
        else:
            result.append(f"{option}={full(value)}" if equals else full(arg))
    return result
