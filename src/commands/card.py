"""What lies beside an exported generator: a card that says what it is, and a program that runs it."""

from typing import Any

from src.commands.first import versions
from src.networks.base import Generator

USE = {
    ".safetensors": """The weights are for the code of this project: copy the file there, and

```bash
python -m src predict --ckpt_path {name} --output out
```

`safetensors.torch.load_file` reads them anywhere; their names are those of `{kind}`.
""",
    ".pt2": "`python run.py 16 0` draws 16 images from seed 0. It needs PyTorch, and nothing else.\n",
    ".onnx": "`python run.py 16 0` draws 16 images from seed 0. It needs onnxruntime, and nothing else.\n",
}
PROTOCOL = ("metric", "generator", "step", "seed")  # said elsewhere, or by the name


def card(facts: dict[str, Any], mark: str) -> str:
    """README.md, with the header that the Hugging Face Hub reads.

    Args:
        facts: as `told` of export.py.
        mark: by which it is known again.
    """
    generator, name = facts["generator"], facts["name"]
    kind = f"{type(generator).__module__}.{type(generator).__qualname__}"
    names = ", ".join(facts["class_names"] or [])
    data = facts["trained_on"]
    trained = "not known" if data is None else f"{data['images']:,} images of {data['data']}, SHA-256 {data['digest']}"
    seen = "" if facts["images_seen"] is None else f", {facts['images_seen']:,} real images seen"
    made = ", ".join(f"{library} {version}" for library, version in facts["versions"].items() if version)
    low = f"int64 [B], 0 to {generator.num_classes - 1}" + f": {names}" * bool(names)
    rows = {
        "input `latents`": f"float32 {shape(generator.latent_shape)}, standard normal",
        "input `labels`": low if generator.num_classes else "",
        "output `images`": f"float32 {shape(generator.output_shape)}, from -1 (black) to 1 (white)",
        "network": f"`{kind}`, {facts['parameters']:,} parameters",
        "trained": f"{facts['step']:,} steps{seen}; seed {facts['seed']}",
        "trained on": trained,
        "trained with": made or "not known",
        "exported with": versions(),
        "differs from PyTorch by": f"{facts['difference']:.1e} at most",
        "license": facts["license"],
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    use = USE[name[name.rindex(".") :]].format(name=name, kind=kind)
    return (
        f"---\nlicense: {facts['license']}\ntags: [gan, pytorch]\n---\n# {name}\n\n{mark}\n\n"
        "The averaged generator of a generative adversarial network, alone.\n\n"
        f"| | |\n|---|---|\n{table}\n\n## Use\n\n{use}\n## Figures\n\n{figures(facts['figures'])}"
    )


def shape(of: tuple[int, ...]) -> str:
    return f"[B, {', '.join(map(str, of))}]"


def figures(results: list[dict[str, Any]]) -> str:
    """A table: each figure with its standard error, and what it came about by."""
    if not results:
        return "This step was not scored.\n"
    lines = ["| figure | value | protocol |", "|---|---|---|"]
    for result in results:
        error = "" if result["error"] is None else f" ± {result['error']:.4f}"
        protocol = ", ".join(f"{k} {v}" for k, v in result["protocol"].items() if k not in PROTOCOL)
        lines.append(f"| {result['name']} | {result['value']:.4f}{error} | {protocol} |")
    return "\n".join(lines) + "\n"


WITH_TORCH = """import torch

generator = torch.export.load(HERE / "{name}").module()
latents = torch.randn({latents}, generator=torch.Generator().manual_seed(seed))
with torch.no_grad():
    images = generator(latents{labels}).permute(0, 2, 3, 1)  # [number, height, width, channels] in [-1, 1]
pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)[..., :4]
"""
WITH_ONNX = """import numpy as np
import onnxruntime

generator = onnxruntime.InferenceSession(str(HERE / "{name}"))
latents = np.random.RandomState(seed).standard_normal(({latents})).astype(np.float32)
images = generator.run(None, {{"latents": latents{labels}}})[0].transpose(0, 2, 3, 1)  # in [-1, 1]
pixels = ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)[..., :4]
"""
RUN = '''"""Draws images into this folder: python run.py [number] [seed]. Needs {needs}, and nothing else."""

import struct
import sys
import zlib
from pathlib import Path

{imports}

HERE = Path(__file__).parent
number, seed = map(int, sys.argv[1:3] + ["16", "0"][len(sys.argv) - 1 :])
{program}

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


for i, image in enumerate(pixels):
    height, width, channels = image.shape
    rows = b"".join(b"\\0" + bytes(row.flatten().tolist()) for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (HERE / f"{{i:04}}.png").write_bytes(b"\\x89PNG\\r\\n\\x1a\\n" + png)
print(f"{{number}} images of seed {{seed}} in {{HERE}}")
'''


def runner(name: str, generator: Generator) -> str:
    """run.py, for PyTorch or for onnxruntime."""
    onnx = name.endswith(".onnx")
    classes = generator.num_classes
    labels = '"labels": np.arange(number, dtype=np.int64)' if onnx else "torch.arange(number)"
    body = (WITH_ONNX if onnx else WITH_TORCH).format(
        name=name,
        latents=", ".join(map(str, ("number", *generator.latent_shape))),
        labels=f", {labels} % {classes}" if classes else "",
    )
    imports, _, program = body.partition("\n\n")
    return RUN.format(needs="onnxruntime" if onnx else "PyTorch", imports=imports, program=program)
