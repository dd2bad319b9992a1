"""Lightning's own Trainer with any loader: the step takes a batch for each update, and says what it makes of them."""

import logging

import pytest
import torch
import yaml
from conftest import make_gan, make_trainer, refusal
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from src.callbacks.pictures import SampleGrid
from src.cli import main
from src.engine.ema import EMA
from src.gan import GAN
from src.images.loaders import Shared, accepted
from src.images.pixels import from_uint8
from src.networks.classical import Gaussian
from src.objectives.losses import RelativisticPairing

GREY = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 1, 4, 4) * 6
LABELS = torch.arange(40) % 2


def loader(*tensors, batch_size=4, **options):
    return DataLoader(TensorDataset(*tensors), batch_size, **options)


class Elsewhere(LightningDataModule):
    """Of a user: it knows nothing of steps, and inverts the images on the device."""

    def __init__(self, *tensors, **options):
        super().__init__()
        self.loaded = loader(*tensors, **options)

    def train_dataloader(self):
        return self.loaded

    def val_dataloader(self):
        return self.loaded

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        return 255 - images, labels


class Stream(IterableDataset):
    def __iter__(self):
        return iter(from_uint8(GREY))


def watch(gan):
    """The batches of real images, as they come to the discriminator."""
    seen, update = [], gan.update_discriminator

    def updated(batch, *others):
        seen.append(batch)
        update(batch, *others)

    gan.update_discriminator = updated
    return seen


def said(caplog, words):
    return sum(words in line for line in caplog.messages)


@pytest.mark.parametrize("d_steps", [1, 3])
@pytest.mark.parametrize("kind", ["loader", "module", "stream"])
def test_any_loader_trains_with_a_batch_for_each_update(kind, d_steps, tmp_path, caplog):
    gan = make_gan(num_classes=2 * (kind != "stream"), d_steps=d_steps, ema=EMA(100))
    trainer = Trainer(max_steps=7, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False)
    seen = watch(gan)
    data = {"loader": loader(from_uint8(GREY), LABELS), "module": Elsewhere(GREY, LABELS)}
    data["stream"] = DataLoader(Stream(), 4)
    with caplog.at_level(logging.INFO):
        trainer.fit(gan, data[kind], loader(GREY) if kind == "loader" else None)
    assert trainer.global_step == 7 and len(seen) == 7 * d_steps and said(caplog, "a loader from elsewhere: it") == 1
    grey = torch.cat([images for images, _ in seen])[:, 0, 0, 0] * (-1 if kind == "module" else 1)
    whole = 10 // d_steps * d_steps  # batches of an epoch that its steps take
    order = [4 * (i % whole) for i in range(7 * d_steps)]
    expected = torch.cat([from_uint8(GREY)[start : start + 4, 0, 0, 0] for start in order])
    if kind == "stream":  # Lightning fetches a batch ahead, which comes later
        grey, expected = grey[: 4 * 7].unique(), expected[: 4 * 7].unique()
    torch.testing.assert_close(grey, expected)
    assert GAN.load_from_checkpoint(trainer.checkpoint_callback.best_model_path).trained_steps == 7
    assert "latent_dim: 4" in (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()


def test_a_relativistic_generator_has_a_batch_of_its_own(tmp_path):
    gan = make_gan(loss=RelativisticPairing(), d_steps=2, d_warmup_steps=2)
    seen = watch(gan)
    make_trainer(tmp_path, 2).fit(gan, loader(GREY))
    assert [int(images[0, 0, 0, 0].add(1).mul(127.5).round()) // 24 for images, _ in seen] == [0, 1, 0, 1, 3, 4]


def test_a_loader_shorter_than_a_step_is_read_again():
    shared = Shared(["a", "b"], 3)
    steps = [(first, shared.take(), shared.take()) for first in shared]
    assert steps == [("a", "b", "a")] and len(shared) == 1


def test_going_on_with_a_loader_from_elsewhere_says_that_it_begins_anew(tmp_path, caplog):
    gan = make_gan()
    trainer = make_trainer(tmp_path, 5)
    trainer.fit(gan, loader(GREY))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with caplog.at_level(logging.INFO):
        again = make_trainer(tmp_path, 8)
        again.fit(make_gan(), loader(GREY), ckpt_path=tmp_path / "a.ckpt")
    assert again.global_step == 8 and said(caplog, "going on from step 5: Lightning begins the loader") == 1


FLOATS, X = from_uint8(GREY[:4]), GREY[:4]


@pytest.mark.parametrize(
    ("batch", "num_classes", "words"),
    [
        (FLOATS * 2, 0, "go from -2 to .*: give torch.uint8, or \\[-1, 1\\]"),
        (FLOATS * torch.nan, 0, "nan"),
        (X.long(), 0, "torch.int64: give torch.uint8"),
        (X.expand(4, 3, 4, 4), 0, r"are \[3, 4, 4\], and the networks are for \[1, 4, 4\]"),
        (X[..., :3], 0, r"are \[1, 4, 3\]"),
        ({"image": X}, 0, r"is a dict: give images, or \(images, labels\)"),
        ((X, LABELS[:4], LABELS[:4]), 0, "is a tuple of 3"),
        (X[:3], 0, r"3 images cannot be cut into 2 equal parts .*drop_last"),
        (X, 2, "the networks have 2 classes: give"),
        ((X, LABELS[:4].float()), 2, "whole numbers"),
        ((X, LABELS[:4] + 1), 2, "labels of the loader go from 1 to 2: there are 2 classes"),
        ((X, LABELS[:4] - 1), 2, "labels of the loader go from -1 to 0"),
    ],
)
def test_other_batches_are_refused_in_one_line(batch, num_classes, words):
    with pytest.raises(ValueError, match=words) as refused:
        accepted(batch, (1, 4, 4), num_classes, parts=2, look=True, first=True)
    assert "\n" not in str(refused.value)


def test_what_is_made_of_a_batch_is_said_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        make_trainer(tmp_path).fit(make_gan(d_steps=2), loader(GREY / 255.0, LABELS))
    assert said(caplog, "images from 0 to") == 1 and said(caplog, "the labels of the loader are not used") == 1


@pytest.mark.parametrize(
    ("gan", "options", "words"),
    [
        ({}, {"callbacks": [SampleGrid()]}, "SampleGrid needs a data module of src.data"),
        ({"generator": Gaussian((4, 4), 1)}, {}, "fitted to all images at once: give a data module of src.data"),
    ],
)
def test_what_needs_more_than_batches_is_refused(gan, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        make_trainer(tmp_path, **options).fit(make_gan(**gan), loader(GREY))


MINE = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset


class Silent(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(12, 1, 8, 8), torch.arange(12) % 3), 4)


class Mine(Silent):
    image_size, channels, num_classes = (8, 8), 1, 3
"""


def test_the_command_line_takes_a_data_module_that_knows_nothing_of_steps(tiny_config, tmp_path, monkeypatch, capsys):
    (tmp_path / "data_of_a_user.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = yaml.safe_load(tiny_config.read_text())
    experiment["model"] |= {"metrics": None, "d_steps": 2}
    experiment["data"] = {"class_path": "data_of_a_user.Mine"}
    tiny_config.write_text(yaml.safe_dump(experiment))
    words = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")]
    assert "SampleGrid needs a data module of src.data" in (line := refusal(words, capsys))
    assert line.endswith("give one, or leave it out of the callbacks")
    silent = refusal([*words, "--data", "data_of_a_user.Silent"], capsys)
    assert silent.startswith("error: Silent states no image_size: a data module has image_size, channels and")
    assert main([*words, "--trainer.callbacks", "[]"]).trainer.global_step == 4
    said = capsys.readouterr().out.partition("Try next:")[2]
    assert "src predict" in said and "src test" not in said and "`test` needs a data module of src.data" in said
    assert GAN.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").generator.num_classes == 3


def test_a_run_is_stopped_and_kept_by_curves_under_the_names_of_the_players(tmp_path):
    gan, checkpoints = make_gan(), tmp_path / "kept"
    stops = EarlyStopping("loss/generator", stopping_threshold=1e9, check_on_train_epoch_end=True)
    keeps = ModelCheckpoint(
        checkpoints, monitor="loss/discriminator", every_n_train_steps=5, filename="{lr/generator:.2f}"
    )
    options = {"log_every_n_steps": 5, "enable_checkpointing": True, "callbacks": [stops, keeps]}
    trainer = make_trainer(tmp_path, 50, **options)
    trainer.fit(gan, loader(GREY))
    assert trainer.global_step == 10 and len(list(checkpoints.rglob("*.ckpt"))) == 1
    assert {
        "lr/generator",
        "lr/discriminator",
        "loss/generator",
        "grad_norm/generator",
    } <= trainer.callback_metrics.keys()


def test_several_loaders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="several loaders.*give one"):
        make_trainer(tmp_path).fit(make_gan(), [loader(GREY), loader(GREY)])


def test_scoring_on_a_loader_from_elsewhere_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`test` needs a data module of src.data"):
        make_trainer(tmp_path).test(make_gan(), loader(GREY))
