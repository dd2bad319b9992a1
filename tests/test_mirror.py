"""Mirror images: used where they look like the images themselves."""

import numpy as np
import pytest
import yaml
from conftest import ROOT

from src.cli import main
from src.commands import choices
from src.data.digits import Digits
from src.data.mirror import told_from_mirror

DIGITS = Digits().load("train")[0]


def test_digits_are_told_from_their_mirror_images_and_a_symmetric_set_is_not():
    assert told_from_mirror(DIGITS) > 0.8
    both = np.concatenate([DIGITS[::2], DIGITS[1::2, ..., ::-1]])  # no digit beside its own mirror image
    assert told_from_mirror(both) == pytest.approx(0.5, abs=0.05)


def test_it_is_the_shapes_that_count_not_their_order_or_what_is_transparent():
    rgba = np.zeros((200, 4, 9, 9), np.uint8)
    rgba[:, 3, :, 1] = 255  # a black bar on the left of each, on nothing
    assert told_from_mirror(rgba) == 1
    hidden = np.zeros_like(rgba)
    hidden[:, :3, :, 1] = 255  # colours alone, which nobody sees
    assert told_from_mirror(hidden) == 0.5
    left = np.tile(rgba[:2], (100, 1, 1, 1))
    left[1::2] = left[1::2, ..., ::-1]  # in turns: no side is more frequent
    assert told_from_mirror(left) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 1, 7, 7), (20, 3, 40, 20)])
def test_few_images_of_any_size_will_do(shape):
    assert 0 <= told_from_mirror(np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)) <= 1


def test_a_handful_that_look_one_way_by_chance_say_nothing():
    assert told_from_mirror(np.repeat(DIGITS[:1], 19, 0)) == 0.5
    assert told_from_mirror(np.repeat(DIGITS[:1], 20, 0)) == 1


@pytest.mark.parametrize(
    "said, limit, kept, line",
    [("null", 0.8, False, True), ("null", 0.9, True, False), ("true", 0.8, True, False), ("false", 0.9, False, False)],
)
def test_a_run_decides_where_nothing_is_said_and_says_so(tmp_path, monkeypatch, caplog, said, limit, kept, line):
    monkeypatch.setattr(choices, "TOLD_APART", limit)  # 83 % of these digits are told
    options = ["--config", str(ROOT / "configs" / "digits.yaml"), "--data.flip", said, "--trainer.max_steps", "1"]
    options += ["--model.metrics", "null", "--trainer.logger", "false", "--trainer.callbacks", "[]"]
    with caplog.at_level("INFO"):
        main(["fit", *options, "--run_dir", str(tmp_path / "run")])
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["init_args"]["flip"] is kept
    assert ("mirror images are not used: " in caplog.text) is line
    assert ("each is used mirrored as well" in caplog.text) is kept
