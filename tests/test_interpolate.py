"""Walks between samples: where they lead, and the films that show them."""

import numpy as np
import pytest
import torch
from conftest import refusal
from PIL import Image, ImageSequence

from src.cli import main
from src.commands.interpolate import great_circles, straight_lines, walk
from src.commands.latents import Trained, read_latents, save_latents
from src.images.film import LEAST, write_film
from src.images.pixels import to_uint8


def interpolate(checkpoint, output, *options):
    main(["interpolate", "--ckpt_path", checkpoint, "--output", str(output), *options])
    return output


def frames_of(path):
    with Image.open(path) as film:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]


def tiles(path, count, columns, side=32, gap=2):
    """The images of a sheet of 8x8 images, which are magnified to 32."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    places = [((i // columns) * (side + gap), (i % columns) * (side + gap)) for i in range(count)]
    return [pixels[top : top + side : 4, left : left + side : 4] for top, left in places]


def test_a_loop_ends_a_frame_before_its_beginning_and_an_open_walk_at_its_last_sample():
    assert walk(3, 6, loop=True).tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert walk(3, 5, loop=False).tolist() == [0, 0.5, 1, 1.5, 2]
    assert walk(3, 1, loop=False).tolist() == [0]


def test_great_circles_turn_evenly_through_the_samples():
    z = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 6.0]])
    along = great_circles(z, torch.arange(0, 3, 1 / 8, dtype=torch.float64))
    torch.testing.assert_close(along[::8], z)
    torch.testing.assert_close(along[:9].norm(dim=1), torch.full((9,), 3.0))
    torch.testing.assert_close(along[8:17].norm(dim=1), torch.linspace(3, 6, 9))
    angles = torch.nn.functional.cosine_similarity(along, along.roll(-1, 0)).acos()
    torch.testing.assert_close(angles, torch.full((24,), torch.pi / 16), atol=1e-3, rtol=0)
    same = great_circles(z[:1].repeat(2, 1), torch.tensor([0.3, 0.7], dtype=torch.float64))
    torch.testing.assert_close(same, z[:1].repeat(2, 1))


@pytest.mark.parametrize("name", ["brief", "styled"])
def test_a_walk_goes_through_the_images_of_predict(name, request, tmp_path):
    checkpoint = request.getfixturevalue(name)
    main(["predict", "--ckpt_path", checkpoint, "--output", str(tmp_path / "out"), "--seeds", "3,7,11"])
    shown = tiles(interpolate(checkpoint, tmp_path / "walk.png", "--seeds", "3,7,11", "--frames", "12"), 12, 4)
    for place, number in ((0, 3), (4, 7), (8, 11)):
        with Image.open(tmp_path / "out" / "images" / f"{number:06d}.png") as image:
            assert np.abs(np.asarray(image).astype(int) - shown[place]).max() <= 1  # w is computed in other batches
    assert not np.array_equal(shown[0], shown[1])


def test_half_way_in_w_lies_the_mean_of_both_and_mixed_styles_stay(styled, tmp_path):
    trained = Trained(styled)
    z, labels = trained.gan.latents_of(torch.tensor([3, 7])), torch.tensor([3, 7])
    w, noise = trained.w_of(z, labels), great_circles(z, torch.tensor([0.5], dtype=torch.float64))
    options = ("--seeds", "3,7", "--frames", "4")
    half = tiles(interpolate(styled, tmp_path / "a.png", *options), 4, 2)[1]
    assert np.array_equal(half, to_uint8(trained.network.from_styles(w.mean(0, keepdim=True), noise))[0, 0])
    mixed = tiles(interpolate(styled, tmp_path / "b.png", *options, "--mix", "2"), 4, 2)[1]
    w = torch.cat([w.mean(0)[:1], w[0, 1:]])
    assert np.array_equal(mixed, to_uint8(trained.network.from_styles(w[None], noise))[0, 0])


def test_one_sample_walks_through_classes_by_shares_of_both(brief, tmp_path):
    trained = Trained(brief)
    shares = 0.5 * trained.shares(torch.tensor([2])) + 0.5 * trained.shares(torch.tensor([5]))
    expected = trained.images(trained.gan.latents_of(torch.tensor([3])), shares)[0, 0]
    sheet = interpolate(brief, tmp_path / "a.png", "--seeds", "3", "--classes", "2,5", "--frames", "4")
    assert np.array_equal(tiles(sheet, 4, 2)[1], expected)


def test_a_generator_that_takes_labels_alone_is_refused_between_classes(brief):
    trained = Trained(brief)
    trained.network.generator.embed.__class__ = torch.nn.Embedding
    z, shares = trained.gan.latents_of(torch.tensor([0])), trained.shares(torch.tensor([1]))
    assert trained.images(z, shares).shape == (1, 1, 8, 8)
    with pytest.raises(ValueError, match="Generator knows no images between classes: name a single one with --classes"):
        trained.images(z, 0.5 * shares)


def test_latents_of_a_file_are_the_samples_of_a_walk(styled, brief, tmp_path, capsys):
    trained = Trained(styled)
    z, labels = trained.gan.latents_of(torch.tensor([4, 5])), torch.tensor([4, 5])
    styles = trained.w_of(z, labels) + 0.1 * torch.randn(2, trained.num_styles, 6)
    save_latents(tmp_path / "z.safetensors", z, labels, styles)
    (tmp_path / "plain").touch()
    assert (tmp_path / "z.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it
    sheet = interpolate(styled, tmp_path / "a.png", "--latents", str(tmp_path / "z.safetensors"), "--frames", "4")
    assert np.array_equal(tiles(sheet, 4, 2)[2], trained.images(z, styles=styles)[1, 0])
    assert all(map(torch.equal, read_latents(str(tmp_path / "z.safetensors"), trained), (z, labels, styles)))
    told = ["interpolate", "--ckpt_path", brief, "--output", str(tmp_path / "b.png"), "--latents"]
    assert "of another generator" in refusal([*told, str(tmp_path / "z.safetensors")], capsys)
    assert "name a file that `project` wrote" in refusal([*told, str(tmp_path / "no.safetensors")], capsys)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_film_has_its_frames_and_comes_back_to_the_first(suffix, brief, tmp_path):
    film = frames_of(interpolate(brief, tmp_path / f"walk.{suffix}", "--seeds", "1,2", "--frames", "6", "--fps", "20"))
    sheet = tiles(interpolate(brief, tmp_path / "walk.png", "--seeds", "1,2", "--frames", "6"), 6, 3)
    assert len(film) == 6 and film[0].shape == (LEAST, LEAST, 3)
    for frame, image in zip(film, sheet, strict=True):
        assert np.abs(frame[::32, ::32, 0].astype(int) - image).max() <= (0 if suffix == "webp" else 8)
    with Image.open(tmp_path / f"walk.{suffix}") as picture:
        picture.seek(1)
        picture.load()
        assert picture.info["duration"] == 50


def test_an_mp4_holds_the_frames_and_rests_on_the_last(tmp_path):
    av = pytest.importorskip("av")
    pictures = [Image.new("RGBA", (31, 33), (0, 40 * i, 0, 255 * (i > 0))) for i in range(5)]
    write_film(tmp_path / "film.mp4", pictures, fps=10, rest=0.3)
    with av.open(str(tmp_path / "film.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 10
    assert len(frames) == 5 + 3 and frames[0].shape == (34, 32, 3)
    middles = [frame[16, 15].astype(int) for frame in frames]
    assert np.abs(middles[0] - 255).max() <= 4  # transparent: white
    assert all(np.abs(middles[min(i, 4)] - [0, 40 * min(i, 4), 0]).max() <= 6 for i in range(1, 8))


REFUSALS = {
    "walk.avi": ["must end in .mp4, .gif, .webp, .png"],
    "walk.mp4": ["needs PyAV: `pip install av`", ".gif"],
    "walk.gif --seeds 3-": ["no list of numbers"],
    "walk.gif --seeds 3": ["two samples", "--seeds two numbers"],
    "walk.gif --space w": ["needs styles", "take z"],
    "walk.gif --mix 2": ["has no styles"],
    "walk.gif --frames 0": ["frames"],
    "walk.gif --truncation 2": ["--truncation"],
    "walk.gif --classes 1,12": ["no class '12'"],
    "walk.gif --latents z.safetensors --seeds 3,4": ["leave out --seeds"],
}  # fmt: skip


@pytest.mark.parametrize("options", REFUSALS)
def test_a_walk_that_leads_nowhere_is_refused(options, brief, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("src.images.film.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    line = refusal(["interpolate", "--ckpt_path", brief, "--output", *options.split()], capsys)
    assert all(word in line for word in REFUSALS[options]) and not list(tmp_path.iterdir())


def test_styles_that_there_are_not_cannot_stay(styled, tmp_path, capsys):
    for mix, space in (("0", "w"), ("4", "w"), ("2", "z")):
        told = [
            "interpolate",
            "--ckpt_path",
            styled,
            "--output",
            str(tmp_path / "a.gif"),
            "--mix",
            mix,
            "--space",
            space,
        ]
        assert f"--mix {mix} needs a style that can stay" in refusal([*told, "--space", space], capsys)


def test_straight_lines_keep_whole_what_does_not_change():
    shares = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert torch.equal(straight_lines(shares, walk(2, 7, loop=True)), shares[:1].repeat(7, 1))
