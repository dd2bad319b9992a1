"""What a checkpoint remembers, put in front of what the command line says."""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from src.callbacks.checkpoints import newest_whole
from src.commands.first import EVALUATIONS, OF_MODEL, parsed, peeked, spelled
from src.commands.folders import run_folder
from src.commands.refusals import fail
from src.engine.moved import renewed
from src.engine.paths import near
from src.engine.weights import read_checkpoint

OF_THE_MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "default_root_dir")  # options of the Trainer
PLAN = {"trainer": ("max_steps", "val_check_interval"), "model": ("g_scheduler", "d_scheduler")}  # of --minutes
OPEN = ("image_size", "flip")  # options of the data that `fit` decides where a configuration says null


def remembered(subcommand: str, path: str, same_run: bool, but: set[str] = frozenset()) -> list[str]:
    """The arguments that stand for what a checkpoint remembers; whatever follows them on the command line wins.

    `fit` takes the whole configuration, but for what belongs to a machine and not to a run: `OF_THE_MACHINE`.

    Args:
        subcommand: that they are for.
        path: of the checkpoint.
        same_run: whether its run folder is meant.
        but: options that are left out, `trainer.callbacks` for instance.
    """
    checkpoint = read_checkpoint(path)
    whole = parsed(checkpoint["config"], f"the configuration in {path}")
    sections = ("seed_everything", "model", "data", "trainer")[: None if subcommand == "fit" else 3]
    config = {key: value for key, value in whole.items() if key in sections}
    said = {"trainer.threads"} if "OMP_NUM_THREADS" in os.environ else set()
    for option in (*but, *said, *(f"trainer.{name}" for name in OF_THE_MACHINE)):
        leave_out(config, option.split("."))
    check_classes(config, path)
    if subcommand != "fit":  # a run stays without a logger, or has its own; figures of `test` alone go to a page
        logger = (whole.get("trainer") or {}).get("logger")
        config["trainer"] = {"logger": logger if subcommand == "test" and logger is not None else False}
    if subcommand == "predict":
        config["data"] = {"class_path": "src.data.requests.Requests", "init_args": checkpoint["facts"]}
        config["model"]["metrics"] = None
    if same_run:
        folder = Path(near(path)).parent
        config["run_dir"] = str(folder.parent if folder.name == "checkpoints" else folder)
    return ["--config", yaml.safe_dump(config)]


def decided(args: list[str], path: str, configs: list[dict[str, Any]], planned: bool) -> list[str]:
    """Puts what `fit` decided when a run began behind the configurations of a command, which leave it open.

    Args:
        args: of `fit`.
        path: of a checkpoint of the run.
        configs: the configurations among the arguments.
        planned: whether `--minutes` is among them, which decided `PLAN`.
    """
    whole = parsed(read_checkpoint(path)["config"], f"the configuration in {path}")
    kept = {section: {name: whole[section][name] for name in names} for section, names in PLAN.items() if planned}
    said: dict[str, Any] = {}
    for data in (config.get("data") or {} for config in configs):
        said |= {"class_path": data.get("class_path") or said.get("class_path"), **(data.get("init_args") or {})}
    if said.get("class_path") == whole["data"]["class_path"]:
        before = whole["data"].get("init_args") or {}
        kept["data"] = {
            "init_args": {name: before[name] for name in OPEN if said.get(name, "") is None and name in before}
        }
    places = [i + ("=" not in arg) for i, arg in enumerate(args) if arg.partition("=")[0] in ("-c", "--config")]
    after = max(places, default=-1) + 1
    return [*args[:after], "--config", yaml.safe_dump(kept), *args[after:]] if kept else args


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


def leave_out(config: Any, option: list[str]) -> None:
    """Removes an option, which may be one of a class, from a configuration."""
    first, *others = option
    if isinstance(config, dict) and first not in config:
        config = config.get("init_args")
    if not isinstance(config, dict) or first not in config:
        return
    if others:
        leave_out(config[first], others)
    else:
        del config[first]


def fact_of(name: str, data: Any) -> Any:
    """What a data module states before it loads anything; where it does not, the command ends in one line."""
    if name == "class_names" and not hasattr(data, name):
        return [str(number) for number in range(data.num_classes)]
    if not hasattr(data, name):
        # No exception: the parser would show the module with it, whose loaders Lightning asks for that.
        fail(f"{type(data).__name__} states no {name}: a data module has image_size, channels and num_classes")
    return getattr(data, name)


def appended_to(config: Any, before: str = "") -> set[str]:
    """Options that a configuration appends to, `callbacks+` for instance."""
    if not isinstance(config, dict):
        return set()
    found = {before + key.removesuffix("+") for key in config if str(key).endswith("+")}
    return found.union(*(appended_to(value, f"{before}{key}.") for key, value in config.items()))


def complete(args: list[str]) -> list[str]:
    """Puts what a checkpoint remembers in front of what the command line and its `--config` say.

    With `--resume` a list that these append to (`callbacks+`) is made anew: the same command makes the same list.
    """
    if not args or args[0] not in OF_MODEL or {"-h", "--help"} & set(args):
        return args
    subcommand, *args = args[0], *spelled([renewed(arg) for arg in args[1:]])
    known = peeked(args)
    configs = [parsed(Path(path).read_bytes(), path) for path in known.config]
    same_run = subcommand in EVALUATIONS or not known.config
    first = remembered(subcommand, known.ckpt_path, same_run) if known.ckpt_path else []
    resume = known.resume or next((config["resume"] for config in configs[::-1] if "resume" in config), False)
    if subcommand == "fit" and str(resume).lower() == "true":
        config = {}
        for above in (*(yaml.safe_load(text) for text in first[1:]), *configs):
            config |= {"root": (above.get("trainer") or {}).get("default_root_dir") or config.get("root")}
            config |= {"run_dir": above.get("run_dir") or config.get("run_dir")}
        root = getattr(known, "trainer.default_root_dir") or config.get("root")
        run_dir = run_folder(known.run_dir or config.get("run_dir"), root, known.config)
        last = newest_whole(Path(run_dir) / "checkpoints")
        args += ["--run_dir", run_dir]
        if last:
            added = {re.split(r"\+?=|\+$", arg)[0] for arg in args if re.match(r"--[\w.]+\+(=|$)", arg)}
            but = {name.removeprefix("--") for name in added}.union(*map(appended_to, configs))
            first += remembered(subcommand, str(last), False, but)
            args += ["--ckpt_path", str(last)]
            args = decided(args, str(last), configs, bool(known.minutes))
    return [subcommand, *first, *args]
