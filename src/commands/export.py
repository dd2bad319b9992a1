"""The averaged generator of a checkpoint, alone, as a file to give away: `python -m src export`."""

import json
import math
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save
from torch import Tensor

from src.commands.card import card, runner
from src.commands.lightning import unnoticed
from src.commands.refusals import check_writable
from src.engine import seeding
from src.engine.descriptions import arguments_of, unknown_in
from src.engine.ema import solved
from src.engine.weights import SUFFIX, WEIGHTS, read_checkpoint
from src.gan import GAN
from src.metrics.weights import first_line
from src.networks.base import Generator

MADE = "<!-- written by `python -m src export` -->"  # marks a card that may be replaced
CHECKED = (1, 5)  # images at once; the program is traced with two
MOST = 1e-3  # by which grey levels in [-1, 1] may differ
FACTS = ("image_size", "channels", "num_classes")
LIGHTNING = "pytorch-lightning_version"  # by which Lightning knows its checkpoints
ONNX = ("onnx", "onnxscript", "onnxruntime")


def export(ckpt_path: str, output: str, license: str = "unknown", length: float | None = None) -> None:
    """Write the averaged generator alone, with a card that says what it is, and a program that runs it.

    Args:
        ckpt_path: checkpoint to take the generator from.
        output: the file: .safetensors for this code, .pt2 for PyTorch without it, .onnx for onnxruntime; README.md and
            run.py are written beside it.
        license: of the weights, for the card.
        length: of an average that was not kept, a share of the run, 0.03 to 0.2; solved from files of `KeptAverages`.

    Raises:
        ValueError: as `read_checkpoint`; another suffix; a generator that the format cannot hold; a README.md of
            somebody else.
        OSError: the file cannot be written; one that was there before is whole.
    """
    path = Path(output)
    writers = {SUFFIX: as_weights, ".pt2": as_program, ".onnx": as_onnx}
    if path.suffix not in writers:
        raise ValueError(f"--output {output} must end in {', '.join(writers)}")
    check_place(path)
    missing = [name for name in ONNX if path.suffix == ".onnx" and not find_spec(name)]
    if missing:
        raise ValueError(f"{path.name} needs {', '.join(missing)}: pip install {' '.join(missing)}, or name a .pt2")
    checkpoint = read_checkpoint(ckpt_path, WEIGHTS)
    with unnoticed():
        gan = GAN.load_from_checkpoint(ckpt_path, metrics=None)
    generator = gan.average.eval().requires_grad_(False)
    if length is not None:
        average = solved(Path(ckpt_path).parent.parent, checkpoint["global_step"], length)
        generator.load_state_dict(generator.state_dict() | average)
    if path.suffix != SUFFIX and len(generator.output_shape) != 3:
        raise ValueError(f"its samples are {list(generator.output_shape)}, no single images: name a {SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        again = writers[path.suffix](generator, temporary, checkpoint)
        largest = difference(generator, again)
        if not largest <= MOST:
            raise ValueError(f"{path.name} differs from PyTorch by {largest:.2g}: this generator cannot be written so")
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{output} could not be written ({error}): choose another --output") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    facts = told(checkpoint, generator, Path(ckpt_path))
    facts |= {"name": path.name, "license": license, "difference": largest}
    path.with_name("README.md").write_text(card(facts, MADE))
    if path.suffix != SUFFIX:
        path.with_name("run.py").write_text(runner(path.name, generator))
    print(f"step {checkpoint['global_step']} of {ckpt_path} in {output}, {path.stat().st_size / 1e6:.1f} MB")
    print(f"largest difference from PyTorch, {CHECKED} images at once: {largest:.1e}")
    if not facts["figures"]:
        print(f"the card has no figures: `python -m src test --ckpt_path {ckpt_path}` first, then export again")


def check_place(path: Path) -> None:
    """Refuses, before any work is done, a folder whose README.md or run.py are not those of an earlier export."""
    check_writable(str(path.parent), "--output")
    page = path.with_name("README.md")
    ours = page.is_file() and MADE in page.read_text(errors="replace") and f"\n# {path.name}\n" in page.read_text()
    there = [name for name in ("README.md", "run.py") if path.with_name(name).exists()]
    if path.is_dir() or (there and not ours):
        what = f"is a folder, and {path.name} a file in it" if path.is_dir() else f"holds a {there[0]} already"
        raise ValueError(f"{path.parent} {what}: choose a folder of its own, --output {path.stem}/{path.name} say")


def inputs(generator: Generator, number: int) -> tuple[Tensor, ...]:
    """Latents [number, *latent_shape], and labels [number] where there are classes."""
    z = seeding.normal((number, *generator.latent_shape), 0, number)
    return (z, torch.arange(number) % generator.num_classes) if generator.num_classes else (z,)


@torch.no_grad()
def difference(generator: Generator, again: Callable[..., Tensor]) -> float:
    """The largest difference of what was written and read again."""
    given = [inputs(generator, number) for number in CHECKED]
    return max((again(*each) - generator(*each)).abs().max().item() for each in given)


def as_weights(generator: Generator, path: Path, checkpoint: dict[str, Any]) -> Callable[..., Tensor]:
    """The weights, and in their header what `predict`, `test` and `load` need to know; no path of this machine."""
    held = {"config": config_of(checkpoint), "global_step": checkpoint["global_step"], "generator_alone": True}
    names = checkpoint.get("facts", {}).get("class_names") or [str(i) for i in range(generator.num_classes)]
    held["facts"] = {name: getattr(generator, name) for name in FACTS} | {"class_names": names}
    held |= {name: checkpoint[name] for name in ("versions", "trained_on", LIGHTNING) if name in checkpoint}
    weights = {name: weight.contiguous() for name, weight in generator.state_dict().items()}
    path.write_bytes(save(weights, {"format": "pt", "checkpoint": json.dumps(held)}))
    with unnoticed():
        again = GAN.made(arguments_of(held), metrics=None).generator.eval()
    again.load_state_dict(load_file(path))
    return again


def config_of(checkpoint: dict[str, Any]) -> str:
    """The configuration of the model and its data as YAML text, without what belongs to a machine."""
    config = yaml.safe_load(checkpoint["config"]) if "config" in checkpoint else {}
    if not config:  # of Lightning's own Trainer
        model = {name: part for name, part in arguments_of(checkpoint).items() if not unknown_in(part)}
        config = {"seed_everything": model.pop("seed"), "model": model}
        for network in ("generator", "discriminator"):
            for fact in FACTS:
                model[network]["init_args"].pop(fact)
    config = {name: config[name] for name in ("seed_everything", "model", "data") if name in config}
    return yaml.safe_dump(without_paths(config), sort_keys=False)


def without_paths(value: Any) -> Any:
    """A configuration without absolute paths."""
    if isinstance(value, dict):
        return {k: without_paths(v) for k, v in value.items() if not (isinstance(v, str) and Path(v).is_absolute())}
    return [without_paths(inner) for inner in value] if isinstance(value, list) else value


def traced(generator: Generator) -> torch.export.ExportedProgram:
    """The generator as a program for any number of images, without the names of the files that it was traced from."""
    given, batch = inputs(generator, 2), torch.export.Dim("batch")
    try:
        program = torch.export.export(generator, given, dynamic_shapes=tuple({0: batch} for _ in given))
    except Exception as error:  # of many kinds, and long
        raise ValueError(
            f"{type(generator).__name__} cannot be traced ({first_line(error)}): name a {SUFFIX}"
        ) from error
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)
    return program


def as_program(generator: Generator, path: Path, checkpoint: dict[str, Any]) -> Callable[..., Tensor]:
    with warnings.catch_warnings(), open(path, "wb") as file:
        warnings.filterwarnings("ignore", ".*No complete tensor")  # of parts of one tensor; it concerns GPUs
        torch.export.save(traced(generator), file)
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def as_onnx(generator: Generator, path: Path, checkpoint: dict[str, Any]) -> Callable[..., Tensor]:
    import onnxruntime  # only where it is asked for

    names = ("latents", "labels")[: len(inputs(generator, 1))]
    try:
        program = torch.onnx.export(traced(generator), input_names=names, output_names=["images"], verbose=False)
        program.save(path, external_data=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(f"{type(generator).__name__} does not fit ONNX ({first_line(error)}): name a .pt2") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {k: v.numpy() for k, v in zip(names, given, strict=True)})[0])

    return run


def told(checkpoint: dict[str, Any], generator: Generator, path: Path) -> dict[str, Any]:
    """What the card says of a checkpoint."""
    figures: list[dict[str, Any]] = []
    with suppress(OSError, KeyError, ValueError):  # no `test` before, or of another step
        measured = json.loads((path.parent.parent / "metrics.json").read_text())
        figures = measured["results"] if measured["step"] == checkpoint["global_step"] else []
    arguments = arguments_of(checkpoint)
    return {
        "generator": generator,
        "parameters": sum(math.prod(weight.shape) for weight in generator.parameters()),
        "class_names": checkpoint.get("facts", {}).get("class_names"),
        "step": checkpoint["global_step"],
        "images_seen": checkpoint.get("images_seen"),
        "seed": arguments.get("seed"),
        "trained_on": checkpoint.get("trained_on"),
        "versions": checkpoint.get("versions", {}),
        "figures": figures,
    }
