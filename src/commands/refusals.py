"""What is refused, before anything is written, and how: in one line that names the cause and the remedy."""

import math
import os
import re
import sys
import tempfile
from argparse import Namespace  # that of the parser derives from it
from pathlib import Path
from typing import Any, NoReturn

OF_ONE_OPTIMIZER = (  # an option of the Trainer, the value at which it does nothing, what to take instead
    ("accumulate_grad_batches", 1, "--model.accumulate"),
    ("gradient_clip_val", None, "--model.g_clip and --model.d_clip"),
    ("gradient_clip_algorithm", None, "--model.g_clip and --model.d_clip"),
    ("overfit_batches", 0, "--data.subset"),
)
NOT_HERE = {  # options whose `true`, or whose name of something, is refused, and why
    "barebones": "leave out the curves and the checkpoints of the run: `make bench` times a step",
    "logger": "change nothing, metrics.csv is written in any case: name a class, WandB for instance, or leave it out",
    "model_registry": "change nothing, checkpoints stay in the run folder: leave it out (`export` makes one to share)",
    "use_distributed_sampler": "change nothing, the data module deals out the images itself, none twice: leave it out",
}
PRECISIONS = ("auto", "32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")  # latents and images stay in float32


def check_writable(folder: str, option: str) -> None:
    """Refuses, before any work is done, a folder that could not be made or written into."""
    existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if os.path.exists(path))
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ValueError(f"{folder} cannot be written into ({error.strerror}): choose another {option}") from error


def check_file(path: str, option: str, ending: str = "") -> None:
    """Refuses, before any work is done, a file that could not be written, or with another ending."""
    if not path.endswith(ending):
        raise ValueError(f"{option} {path} must end in {ending}")
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: give {option} the name of a file")
    check_writable(str(Path(path).parent), option)


def check_numbers(value: Any, name: str) -> None:
    """Refuses NaN and infinity wherever the configuration holds them: every comparison lets NaN pass."""
    if isinstance(value, (dict, Namespace)):
        for key, inner in vars(value).items() if isinstance(value, Namespace) else value.items():
            check_numbers(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_numbers(inner, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: give a finite number")


def check_trainer(trainer: Any) -> None:
    """Refuses what Lightning does for one optimizer, what it would ignore, and intervals that it would divide by."""
    for name, nothing, instead in OF_ONE_OPTIMIZER:
        if trainer.get(name) not in (None, nothing):
            raise ValueError(f"--trainer.{name} does not go with two players: leave it out, and take {instead}")
    for name, why in NOT_HERE.items():
        if isinstance(value := trainer.get(name), (bool, str)) and value:
            raise ValueError(f"--trainer.{name} {str(value).lower()} would {why}")
    if str(trainer.get("precision") or 32) not in PRECISIONS:
        raise ValueError(
            f"--trainer.precision {trainer.precision} is not for two players: take 32-true, bf16-mixed or 16-mixed"
        )
    for name in ("log_every_n_steps", "val_check_interval", "check_val_every_n_epoch", "limit_train_batches"):
        if isinstance(value := trainer.get(name), (int, float)) and value <= 0:
            raise ValueError(f"--trainer.{name} must be above 0, got {value}")
    if 0 <= trainer.max_steps < (trainer.get("min_steps") or 0):
        raise ValueError(
            f"--trainer.min_steps {trainer.min_steps} is more than the --trainer.max_steps {trainer.max_steps} that"
            " ends the run: change one of them"
        )


def meant(match: re.Match) -> str:
    errors = match[1].removeprefix("- ").split(" - ")
    first, *others = [error for error in errors if not error.startswith("Does not validate")] or errors  # a union in it
    plain = first.startswith(("Expected a <", "Expected a typing.Literal"))
    others = [other.removeprefix("Expected a ") for other in others if "NoneType" not in other and "path" not in other]
    return ", or ".join([first, *others]) + (match[2] or "").replace(" Given value type", "; given") if plain else first


def fail(message: Any, hint: str = "", code: int = 1) -> NoReturn:
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(message).split()))
    named = r"(?=.*?Given value: (?:Namespace\(class_path='|\{'class_path': ')?([\w.]+))"
    line = re.sub(rf"Import path does not correspond to a subclass of (\w+){named}", r"\2 is no \1", line)
    line = re.sub(r"Import path (\S+) does not correspond to a subclass of", r"\1 is no", line)
    line = line.replace("is no Score", "is no Score, nor a metric of torchmetrics that takes images")
    # jsonargparse reports every type that an argument might have had; of classes the first is the one that was meant.
    union = r"Does not validate against any of the Union subtypes.*?Errors: (- .*?)( Given value type: .* value: .*)?$"
    line = re.sub(union, meant, line)
    line = re.sub(r"- Expected a path but .*? or invalid - | - Not a valid subclass of .*", "", line)
    line = re.sub(r"(- )?Expected a dot import path string: (\S+)", r"there is no class \2", line)
    line = re.sub(r"Expected a (<|typing)", r"expected \1", line).replace("typing.Literal", "one of ")
    line = re.sub(r"<class '(.*?)'>", r"\1", line)
    line = re.sub(r'Parser key "([\w.]+)":', r"--\1:", line)
    print(f"error: {line}{hint}", file=sys.stderr, flush=True)
    sys.exit(code)
