"""What a run looks like so far: one picture and one page, made anew at validations."""

import json
import os
import platform
import time
from base64 import b64encode
from datetime import datetime
from html import escape
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image

from src import __version__
from src.callbacks.curves import draw, png, read
from src.engine.interrupts import is_interrupt

SHARE = 0.05  # of the time of training that reports may take, but for the last
EXPECTED = 1.0  # seconds that the first one takes
LARGEST = 1600  # pixels of a side of a picture in the page
LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1300px; margin: 0 auto; padding: 0 12px; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin: 1.6em 0 .4em }
.row { display: flex; flex-wrap: wrap; gap: 16px } figure { margin: 0; flex: 1 1 320px; max-width: 640px }
img { max-width: 100%; height: auto } .pixels img { width: 100%; image-rendering: pixelated }
table { border-collapse: collapse } td, th { padding: 2px 14px 2px 0; text-align: left; overflow-wrap: anywhere }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums } .wide, pre { overflow-x: auto }
small, figcaption { color: #666; font-size: .85em }
"""


class Report(Callback):
    """Writes `report.png`, the curves of the run, and `report.html`, one page with all that there is to see.

    The page holds curves, the newest samples beside real images, the nearest real images, the figures with their
    protocols, the configuration, versions and hardware. It needs no other file and no network. Both are made anew at
    the end, and at a validation if reports take less than a twentieth of the time so, from the files of the run folder;
    a full disk costs the report, not the run.
    """

    took = EXPECTED  # seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.written = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lasts = trainer.state.fn == "fit" and not trainer.sanity_checking
        if lasts and (start := time.monotonic()) - self.written >= self.took / SHARE:
            self.refresh(trainer, pl_module)
            self.written = time.monotonic()
            self.took = self.written - start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.refresh(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_interrupt(exception):
            self.refresh(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.refresh(trainer, pl_module)

    def refresh(self, trainer: Trainer, gan: LightningModule) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            curves = read(folder / "metrics.csv")
            parts = {}
            if curves:
                picture, parts = draw(curves)
                replace(folder / "report.png", png(picture))
            replace(
                folder / "report.html", page(folder, parts, figures(folder, trainer, gan), facts(trainer, gan)).encode()
            )
        except OSError as error:
            rank_zero_warn(f"the report in {folder} could not be written ({error.strerror}): the run goes on without")


def replace(path: Path, content: bytes) -> None:
    """Writes a file in one step: whoever looks sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def figures(folder: Path, trainer: Trainer, gan: LightningModule) -> dict[str, list[dict[str, Any]]]:
    """The figures of the last validation and of the last test, each with its standard error and its protocol."""
    if trainer.testing:
        return {"Test": gan.results}
    found = {"Validation": gan.results}
    path = folder / "metrics.json"
    if path.is_file():
        found["Test"] = json.loads(path.read_bytes())["results"]
    return found


def facts(trainer: Trainer, gan: LightningModule) -> dict[str, str]:
    """What a reader asks of a run first: how far it is, on which machine, with which versions."""
    libraries = {"gan-template": __version__, **{library: version(library) for library in LIBRARIES}}
    return {
        "step": str(trainer.global_step or gan.trained_steps),
        "images seen by the discriminator": f"{gan.images_seen:,}",
        "seed": str(gan.seed),
        "hardware": f"{trainer.world_size} x {hardware(gan.device)}",
        "precision": str(trainer.precision),
        "versions": ", ".join(f"{k} {v}" for k, v in libraries.items()) + f", Python {platform.python_version()}",
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def hardware(device: torch.device) -> str:
    """The name of a GPU, or the kind of the processor, and the number of cores."""
    kind = f"{platform.machine()} {device.type.upper()}"
    return f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else kind}, {os.cpu_count()} cores"


def page(
    folder: Path, curves: dict[str, Image.Image], results: dict[str, list[dict[str, Any]]], facts: dict[str, str]
) -> str:
    """The page as HTML.

    Args:
        folder: of the run: its pictures and its configuration are looked up there.
        curves: pictures by their titles.
        results: figures by the kind of evaluation.
        facts: names and values for the table at the end.
    """
    grids = sorted((folder / "samples").glob("step-*.png"))
    newest = {f"Samples after step {int(path.stem.removeprefix('step-'))}": path for path in grids[-1:]}
    samples = newest | {"Real images": folder / "samples" / "real.png"}
    nearest = {"A sample, and to the right of it the real images nearest to it": folder / "nearest.png"}
    config = folder / "config.yaml"
    sections = [
        ("Samples", row(pictures(samples), "row pixels")),
        ("Figures", "".join(table(kind, mine) for kind, mine in results.items() if mine)),
        ("Curves", row([shown("", data(png(picture), "png"), title) for title, picture in curves.items()], "row")),
        ("Nearest real images", row(pictures(nearest), "row pixels")),
        ("Run", "<table>" + "".join(f"<tr><th>{escape(k)}<td>{escape(v)}" for k, v in facts.items()) + "</table>"),
    ]  # fmt: skip
    if config.is_file():
        text = escape(config.read_text())
        sections.append(("Configuration", f"<details><summary>config.yaml</summary><pre>{text}</pre></details>"))
    body = "".join(f"<h2>{title}</h2>{content or '<p>None yet.</p>'}" for title, content in sections)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    name = escape(folder.resolve().name)
    head += f"<title>{name}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{name}</h1>{body}</body></html>\n'


def pictures(paths: dict[str, Path]) -> list[str]:
    """Those of the pictures that are there, with their captions."""
    return [shown(caption, inline(path)) for caption, path in paths.items() if path.is_file()]


def row(parts: list[str], kind: str) -> str:
    return f'<div class="{kind}">{"".join(parts)}</div>' if parts else ""


def shown(caption: str, source: str, alt: str = "") -> str:
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(alt or caption)}" src="{source}">{told}</figure>'


def data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def inline(path: Path) -> str:
    """A picture as it is, or made smaller where that is more than a page needs."""
    with Image.open(path) as picture:
        if max(picture.size) <= LARGEST:
            return data(path.read_bytes(), "png")
        picture.thumbnail((LARGEST, LARGEST))
        white = Image.new("RGBA", picture.size, "white")
        buffer = BytesIO()
        Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB").save(buffer, "JPEG", quality=90)
        return data(buffer.getvalue(), "jpeg")


def table(kind: str, results: list[dict[str, Any]]) -> str:
    """Figures with their standard errors; the protocol of each is one click away."""
    rows = []
    for figure in results:
        error = "" if figure["error"] is None else f" ± {figure['error']:.2g}"
        protocol = escape(json.dumps(figure["protocol"], indent=1).replace('"', ""))
        told = f"<details><summary>protocol</summary><pre>{protocol}</pre></details>"
        rows.append(f'<tr><td>{escape(figure["name"])}<td class="number">{figure["value"]:.4f}{error}<td>{told}')
    step = results[0]["protocol"].get("step")
    after = f"{kind} after step {step}" if step is not None else kind
    if kind == "Validation" and all(figure["error"] is None for figure in results):
        after += "; errors, which may take long, come with `test`"
    return f'<p>{after}</p><div class="wide"><table>{"".join(rows)}</table></div>'
