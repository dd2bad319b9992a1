"""Latents of given images, the strongest directions, mixed styles, and runs as films."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refusal
from PIL import Image, ImageSequence
from safetensors.torch import load_file

from src.callbacks.pictures import grid
from src.cli import main
from src.commands.directions import sefa, strongest
from src.commands.latents import Trained
from src.commands.project import Distance
from src.metrics.features import Classifier
from src.metrics.weights import MissingWeights
from src.networks import dcgan, mlp, resnet, stylegan2


@pytest.fixture(params=["brief", "styled"])
def samples(request, tmp_path):
    """A checkpoint, and two of its own samples as files."""
    checkpoint = request.getfixturevalue(request.param)
    main(["predict", "--ckpt_path", checkpoint, "--output", str(tmp_path / "mine"), "--seeds", "2000,2001"])
    return checkpoint, tmp_path / "mine" / "images"


def test_samples_of_the_generator_are_found_again(samples, tmp_path, capsys):
    checkpoint, images = samples
    options = ["--ckpt_path", checkpoint, "--images", str(images), "--output", str(tmp_path / "found")]
    dense = Path(checkpoint).parts[-3].startswith("brief")
    options += ["--extractor", "src.metrics.features.Classifier"] if dense else ["--distance", "pixels"]
    main(["project", *options, "--steps", "40", "--cache_dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert ("by pixels and by the features of digits\n" if dense else "by pixels alone\n") in said
    before, after = map(float, said.partition("images: distance ")[2].partition(",")[0].split(" -> "))
    assert after < 0.7 * before
    parts = load_file(tmp_path / "found" / "latents.safetensors")
    trained = Trained(checkpoint)
    made = trained.images(parts["z"], trained.shares(parts["labels"]), parts.get("styles"))
    original = [torch.from_numpy(np.array(Image.open(path)))[None] for path in sorted(images.iterdir())]
    pairs = torch.stack([original[0], made[0], original[1], made[1]])
    with Image.open(tmp_path / "found" / "projection.png") as picture:
        difference = np.asarray(picture).astype(int) - np.asarray(grid(pairs, 4))
    assert np.abs(difference).max() <= 1  # one by one the kernels round differently
    main(["interpolate", "--ckpt_path", checkpoint, "--latents", str(tmp_path / "found" / "latents.safetensors"),
          "--output", str(tmp_path / "walk.png"), "--frames", "4"])  # fmt: skip


def test_a_line_says_what_is_compared_and_why(tmp_path, monkeypatch, capsys):
    original = torch.rand(2, 1, 8, 8) * 2 - 1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def line(*options):
        Distance(original, *options)
        return capsys.readouterr().out

    assert line("auto", Classifier()).startswith(
        f"distance by pixels and by the features of digits: LPIPS finds no weights in {tmp_path}"
    )
    assert line("auto", None).endswith("; the checkpoint has no metric of features (name an --extractor)\n")
    with pytest.raises(MissingWeights, match="LPIPS finds no weights in .*: fetch"):
        Distance(original, "lpips", Classifier())
    with pytest.raises(ValueError, match="channels"):
        Distance(torch.zeros(1, 3, 8, 8), "features", Classifier())
    monkeypatch.setattr("src.commands.project.LPIPS", Halves)
    assert line("auto", Classifier()) == "distance by pixels and by LPIPS of halves\n"
    distance = Distance(original, "lpips", None)
    gap = (distance(original + 0.5) - Distance(original, "pixels", None)(original + 0.5)).tolist()
    assert gap == pytest.approx([64 * 0.25**2] * 2, rel=1e-4)  # as LPIPS is, whatever the size of the vectors


class Halves(torch.nn.Module):
    """Stands for LPIPS: half the image."""

    name = "halves"

    def forward(self, images):
        return images.flatten(1) / 2


def test_the_strongest_directions_are_those_that_the_first_weights_enlarge_most():
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(5, 5)).Q
    gains = torch.tensor([1.0, 4.0, 2.0, 0.5, 3.0])
    generator = mlp.Generator((4, 4), 1, 2, latent_dim=5, hidden=(5,))
    with torch.no_grad():
        generator.hidden[0].weight[:, :5] = torch.diag(gains) @ turn  # row i enlarges direction turn[i]
    found = strongest(sefa(generator, 5), 3)
    torch.testing.assert_close((found @ turn.T).abs(), torch.eye(5)[[1, 4, 2]], atol=1e-4, rtol=0)
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_first_weights_of_other_networks():
    dense = {"latent_dim": 6, "width": 4}
    for generator in (dcgan.Generator((8, 8), 1, **dense), resnet.Generator((8, 8), 1, **dense)):
        z, step = torch.zeros(1, 6), strongest(sefa(generator, 6), 6)
        layer = next(m for m in generator.modules() if isinstance(m, (torch.nn.Linear, torch.nn.ConvTranspose2d)))
        shape = (-1, 6, 1, 1) if isinstance(layer, torch.nn.ConvTranspose2d) else (-1, 6)
        moved = layer(step.view(shape)) - layer(z.view(shape))
        assert (moved.flatten(1).norm(dim=1).diff() <= 1e-5).all()
    styled = stylegan2.Generator((8, 8), 1, width=4, latent_dim=6)
    assert sefa(styled, 6).shape == (6, 6)


@pytest.mark.parametrize(("name", "method"), [("brief", "sefa"), ("styled", "sefa"), ("styled", "pca")])
def test_a_sheet_has_the_sample_in_the_middle_of_each_row(name, method, request, tmp_path):
    checkpoint = request.getfixturevalue(name)
    options = ["--ckpt_path", checkpoint, "--number", "7", "--count", "2", "--columns", "3", "--method", method]
    main(["directions", *options, "--output", str(tmp_path / "sheet.png")])
    trained = Trained(checkpoint)
    z, labels = trained.gan.latents_of(torch.tensor([7])), torch.tensor([7])
    styles = trained.w_of(z, labels) if trained.num_styles else None
    middle = trained.images(z, trained.shares(labels), styles)[0, 0].numpy()
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    rows = [[pixels[top : top + 32 : 4, left : left + 32 : 4] for left in (0, 34, 68)] for top in (0, 34)]
    for left, centre, right in rows:
        assert np.abs(centre.astype(int) - middle).max() <= 1
        assert not np.array_equal(left, centre) and not np.array_equal(left, right)
    assert not np.array_equal(rows[0][0], rows[1][0])


def test_a_sheet_mixes_the_coarse_styles_of_its_rows_with_the_fine_ones_of_its_columns(styled, tmp_path):
    options = ["--ckpt_path", styled, "--rows", "3,5", "--columns", "7,8,3", "--first", "2"]
    main(["mix", *options, "--output", str(tmp_path / "sheet.png")])
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    cells = [[pixels[top : top + 32 : 4, left : left + 32 : 4] for left in range(0, 136, 34)] for top in (0, 34, 68)]
    trained = Trained(styled)
    numbers = torch.tensor([3, 5, 7, 8])
    z = trained.gan.latents_of(numbers)
    w = dict(zip(numbers.tolist(), trained.w_of(z, numbers), strict=True))
    noise = dict(zip(numbers.tolist(), z, strict=True))
    for row, left in enumerate((None, 3, 5)):
        for column, above in enumerate((None, 7, 8, 3)):
            if not row and not column:
                assert (cells[0][0] == 255).all()
                continue
            first, second = left or above, above or left
            styles = torch.cat([w[first][:1], w[second][1:]])[None]
            expected = trained.images(noise[first][None], styles=styles)[0, 0].numpy()
            assert np.abs(cells[row][column] - expected).max() <= 1  # w is computed in other batches
    assert np.abs(cells[1][0] - cells[1][3]).max() <= 1 and np.abs(cells[1][1] - cells[1][2]).max() > 1


def test_a_run_is_filmed_in_the_order_of_its_steps(tmp_path, capsys):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    for step, size in ((0, 40), (50, 40), (100, 30), (2000, 40), (10000, 40)):
        picture = Image.new("RGBA", (size, size), (step % 251, 0, 0, 255 if step else 0))
        picture.save(tmp_path / "run" / "samples" / f"step-{step:08d}.png")
    main(["progress", str(tmp_path / "run"), "--output", str(tmp_path / "run.webp"), "--fps", "4", "--rest", "1.5"])
    assert "4 grids in" in capsys.readouterr().out
    with Image.open(tmp_path / "run.webp") as film:
        shown, durations = [], []
        for frame in ImageSequence.Iterator(film):
            frame.load()
            durations.append(frame.info["duration"])
            shown.append((np.asarray(frame.convert("RGBA"))[0, 0, ::3].tolist(), frame.size))
    assert [alpha for (_, alpha), _ in shown] == [0, 255, 255, 255] and shown[0][1] == (280, 280)
    assert [red for (red, _), _ in shown][1:] == [50, 2000 % 251, 10000 % 251]
    assert durations == [250, 250, 250, 1500]


REFUSALS = {
    "project --images nowhere --output new": ["nowhere does not exist", "--images"],
    "project --images empty --output new": ["no image in empty"],
    "project --images empty --output full": ["full is not empty"],
    "project --images some --output new --classes 11": ["no class '11'"],
    "project --images some --output new --distance lpips": ["LPIPS finds no weights in", "vgg16-397923af.pth or https"],
    "project --images some --output new --distance features": ["no metric of features", "--extractor"],
    "project --images some --output new --distance pixels --extractor Classifier": ["leave out --extractor"],
    "mix --output sheet.gif": ["must end in .png"],
    "mix --output sheet.png": ["Generator of", "has no styles", "stylegan2.Generator"],
    "mix --output sheet.png --rows 3-": ["--rows 3- is no list"],
    "directions --output sheet.gif": ["must end in .png"],
    "directions --output sheet.png --method pca": ["needs a w", "take sefa"],
    "progress empty --output run.gif": ["empty holds no samples/step-*.png"],
    "progress empty --output run.avi": ["must end in .mp4, .gif, .webp"],
}  # fmt: skip


@pytest.mark.parametrize("command", REFUSALS)
def test_what_cannot_be_done_is_refused(command, brief, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    for name in ("empty", "full/of"):
        Path(name).mkdir(parents=True)
    Path("some").mkdir()
    Image.new("L", (8, 8)).save("some/0.png")
    first, *options = command.split()
    given = [] if first == "progress" else ["--ckpt_path", brief]
    line = refusal([first, *options, *given], capsys)
    assert all(word in line for word in REFUSALS[command]), line


@pytest.mark.parametrize("first", ["0", "1", "5"])
def test_a_style_that_leaves_nothing_to_mix_is_refused(first, styled, tmp_path, capsys):
    line = refusal(["mix", "--ckpt_path", styled, "--output", str(tmp_path / "sheet.png"), "--first", first], capsys)
    assert f"--first {first} leaves nothing to mix: choose one of the styles 2 to 4" in line
