"""How a model was made, as plain data: what `hparams` shows, and what a checkpoint needs to make it again."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from src.engine.moved import renewed
from src.engine.weights import WEIGHTS, read_checkpoint

UNKNOWN = "made_by_hand"  # what stands for an object that does not say how it was made


class Part:
    """Anything that a model is made of: remembers its arguments."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        part = super().__new__(cls)
        object.__setattr__(part, "made_with", (args, kwargs))  # `nn.Module` has not been initialized yet
        return part


def described(value: Any) -> Any:
    """A part, a partial of an optimizer or any other argument, as a configuration would name it.

    Numbers that it chose for itself (`num_blocks: null`) are told. What does not say how it was made, a lambda or a
    metric of torchmetrics, becomes `{UNKNOWN: its name}`.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: described(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(inner) for inner in value]
    if isinstance(value, Part):
        args, options = value.made_with
        given = inspect.signature(type(value)).bind(*args, **options).arguments
        others = given.pop("kwargs", {})
        chosen = {name: vars(value).get(name) for name, told in given.items() if told is None}
        chosen = {name: number for name, number in chosen.items() if isinstance(number, (int, float))}
        return named(type(value), given | chosen | others)
    if isinstance(value, partial):  # the parser's own begins with other functions
        kind = next((part for part in (value.func, *value.args) if inspect.isclass(part)), None)
        return {UNKNOWN: repr(value)} if kind is None else named(kind, value.keywords)
    kind = value if hasattr(value, "__qualname__") else type(value)
    path = f"{kind.__module__}.{kind.__qualname__}"
    return path if inspect.isclass(value) else {UNKNOWN: path}


def named(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": described(options)}


def unknown_in(value: Any) -> str:
    """The name of an object in a description that does not say how it was made; "" if there is none."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    found = value.get(UNKNOWN, "") if isinstance(value, dict) else ""
    return found or next(filter(None, map(unknown_in, inner)), "")


def arguments_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The description of the model in a checkpoint: its configuration, and what the model itself could say."""
    arguments: dict[str, Any] = {}
    if "config" in checkpoint:
        config = yaml.safe_load(renewed(checkpoint["config"]))
        arguments = config["model"] | {"seed": int(config["seed_everything"])}
        facts = {name: checkpoint["facts"][name] for name in ("image_size", "channels", "num_classes")}
        for network in ("generator", "discriminator"):
            arguments[network]["init_args"] = facts | (arguments[network].get("init_args") or {})
    told = checkpoint.get("hyper_parameters", {})
    return arguments | {name: value for name, value in told.items() if name not in arguments or not unknown_in(value)}


class Described(LightningModule):
    """A module that is made of parts, and whose checkpoints say how."""

    def describe(self, arguments: dict[str, Any]) -> None:
        """Puts the arguments of the constructor into `hparams`, and so into checkpoints."""
        told = described({name: value for name, value in arguments.items() if name in self.options()})
        self.save_hyperparameters(told, logger=False)  # Lightning would begin a run that may yet be refused

    def on_train_start(self) -> None:
        """Tells the loggers how the model was made, unless they get the whole configuration."""
        whole = any(hasattr(callback, "config") for callback in self.trainer.callbacks)
        for logger in self.loggers if self.trainer.enable_autolog_hparams and not whole else []:
            logger.log_hyperparams(self.hparams)

    @classmethod
    def options(cls) -> set[str]:
        return set(inspect.signature(cls.__init__).parameters) - {"self"}

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", strict: bool = True, **arguments: Any
    ) -> "Described":
        """The model of a checkpoint, made as it says; on the CPU, and without drawing from the random streams.

        Args:
            checkpoint_path: of `fit`, of Lightning's own Trainer, or weights of `export`.
            map_location: device that the model is moved to.
            strict: whether the weights must be exactly those of the model.
            arguments: of the constructor, in place of those in the checkpoint.

        Raises:
            ValueError: no such file, or a part that cannot be made.
        """
        checkpoint = read_checkpoint(str(checkpoint_path), WEIGHTS)
        try:
            model = cls.made(arguments_of(checkpoint), **arguments)
        except ValueError as error:
            raise ValueError(f"{checkpoint_path}: {error}") from error
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"], strict=strict)
        return model.to(map_location)

    @classmethod
    def made(cls, description: dict[str, Any], **arguments: Any) -> "Described":
        """A model by its description; see `load_from_checkpoint`. Nothing but parts is made, whatever it names."""
        told = {k: v for k, v in description.items() if k in cls.options() and k not in arguments}
        for name, lost in [(name, lost) for name, value in told.items() if (lost := unknown_in(value))]:
            if name == "metrics":
                told[name] = None
                rank_zero_info(f"without metrics: nothing says how {lost} was made; give metrics=[...] as an argument")
            elif name.endswith(("_optimizer", "_scheduler")):
                arguments[name] = partial(refuse, name, lost)  # only `fit` needs it
            else:
                raise ValueError(f"nothing says how {lost} was made: give {name}=... as an argument")
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, skip=set(arguments))
        with isolate_rng():
            try:
                made = parser.instantiate(parser.parse_object({k: v for k, v in told.items() if k not in arguments}))
            except jsonargparse.ArgumentError as error:
                said = " ".join(str(error).split())
                raise ValueError(f"{said}; give that as an argument") from error
            return cls(**(made.as_dict() | arguments))


def refuse(name: str, lost: str, *_: Any) -> None:
    """Stands for an optimizer that cannot be made."""
    raise ValueError(f"nothing says how {lost} was made: load_from_checkpoint(..., {name}=...)")
