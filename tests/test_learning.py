"""The recipe for one's own images learns them in minutes on a CPU core: `make test-slow`."""

import colorsys
from math import log10

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image, ImageDraw

from src.callbacks.players import color_spread, finest_power
from src.cli import load, main
from src.images.pixels import from_uint8, to_uint8
from src.metrics.manifold import covered, radii


def draw_shapes(folder, count):
    """Discs, squares and triangles of every hue, anywhere, on white or black, as PNG files of 32x32."""
    random = np.random.RandomState(0)
    folder.mkdir()
    for i in range(count):
        picture = Image.new("RGB", (32, 32), ("white", "black")[i % 2])
        fill = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(random.rand(), 1, 0.9))
        x, y, r = random.randint(12, 21), random.randint(12, 21), random.randint(7, 12)
        draw = ImageDraw.Draw(picture)
        if i % 3 == 0:
            draw.ellipse([x - r, y - r, x + r, y + r], fill)
        elif i % 3 == 1:
            draw.rectangle([x - r, y - r, x + r, y + r], fill)
        else:
            draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill)
        picture.save(folder / f"{i:04d}.png")


def features(images):
    """Colours at 8x8 pixels: all that tells these pictures apart, and nothing that has to be downloaded or learned."""
    return F.adaptive_avg_pool2d(images.double(), 8).flatten(1)


@pytest.mark.slow
def test_the_recipe_for_a_folder_learns_coloured_shapes_in_two_minutes(tmp_path):
    """Samples lie among the images (precision), all over them (recall), and are not one picture (spacing).

    Nor of one hue, nor with a checkerboard: power at the Nyquist frequency, in powers of ten over that of real images.
    """
    draw_shapes(tmp_path / "shapes", 500)
    run = tmp_path / "run"
    options = {"data.root": tmp_path / "shapes", "data.image_size": 16, "data.cache_dir": tmp_path / "cache"}
    options |= {"run_dir": run, "trainer.max_steps": 400, "trainer.logger": "false", "model.metrics": "null"}
    given = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    main(["fit", "--config", str(ROOT / "configs" / "folder.yaml"), *given])

    paths = sorted((tmp_path / "shapes").iterdir())
    images = np.stack([np.asarray(Image.open(path).resize((16, 16), Image.Resampling.BOX)) for path in paths])
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    real = features(images)
    gan = load(str(run / "checkpoints" / "last.ckpt"))
    samples = to_uint8(gan.sample(torch.arange(500)))
    fake = features(samples)
    precision = covered(fake, real, radii(real, 3)).double().mean().item()
    recall = covered(real, fake, radii(fake, 3)).double().mean().item()
    spacing = (radii(fake, 1).sqrt().mean() / radii(real, 1).sqrt().mean()).item()
    finest, finest_0 = (finest_power(from_uint8(x)) for x in (samples, images))
    hues, hues_0 = (color_spread(from_uint8(x)) for x in (samples, images))
    print(f"precision {precision:.2f}, recall {recall:.2f}, spacing {spacing:.2f}")
    print(f"hues {hues / hues_0:.2f}, checkerboard {log10(finest / finest_0):.2f}")
    assert precision > 0.3
    assert recall > 0.3
    assert spacing > 0.5
    assert hues / hues_0 > 0.7
    assert log10(finest / finest_0) < 0.7
