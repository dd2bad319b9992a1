"""From samples to figures: shared features, kept statistics, exact counts, comparable protocols."""

import json
import logging
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from conftest import Squares, fit, in_processes, make_gan, make_trainer, refusal, run_command
from PIL import Image

from src.callbacks.loggers import CSV
from src.callbacks.players import PlayerBalance
from src.cli import main
from src.data.digits import Digits
from src.evaluation import Evaluation
from src.metrics.bags import BagScore, ComponentPurity
from src.metrics.critic import Critic
from src.metrics.features import Classifier
from src.metrics.fid import ClassFrechetDistance, FrechetDistance, FrechetDistanceInfinity
from src.metrics.inception_score import InceptionScore
from src.metrics.kernel import KernelDistance
from src.metrics.manifold import DensityCoverage, Memorization, PrecisionRecall
from src.metrics.probe import LinearProbe
from src.metrics.report import say_figures
from src.networks import mlp

ALL = ["FrechetDistance", "KernelDistance", "MeanDiscrepancy", "PrecisionRecall", "DensityCoverage", "Memorization"]
EXTRACTOR = {"extractor": "src.metrics.features.Classifier"}


def metrics_yaml(folder, names=ALL, **options):
    path = folder / "metrics.yaml"
    entries = [{"class_path": name, "init_args": EXTRACTOR | options} for name in names]
    path.write_text(yaml.safe_dump({"model": {"metrics": entries}}))
    return str(path)


def last(run):
    return str(run / "checkpoints" / "last.ckpt")


def figures(folder):
    return {figure["name"]: figure for figure in json.loads((folder / "metrics.json").read_text())["results"]}


def test_all_metrics_share_one_pass_over_the_fakes_and_none_over_the_reals(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    both = Classifier.both
    monkeypatch.setattr(Classifier, "both", lambda self, images: seen.append(len(images)) or both(self, images))
    arguments = ["test", "--ckpt_path", last(run), "--config", metrics_yaml(tmp_path)]
    main(arguments)
    assert sum(seen) == 1437 + 360 + 150  # training and held-out images, samples
    seen.clear()
    main(arguments)
    assert sum(seen) == 150  # the real ones come from disk


class Rows(mlp.Generator):
    """As kernels that round differently for each row of a batch and for each size of it, so that one can see it."""

    def forward(self, z, condition=None):
        images = super().forward(z, condition)
        return images + torch.arange(len(z)).view(-1, 1, 1, 1) / 100 + len(z)


def test_a_sample_has_its_row_whatever_is_asked_for_beside_it():
    gan = make_gan(generator=Rows((4, 4), 1, latent_dim=4, hidden=(8,)))
    all_of_them = gan.sample(torch.arange(40))
    for indices in ([0], [7], [3, 5], [39, 2, 17], list(range(39, 15, -1)), [5, 5, 21, 5]):
        assert torch.equal(gan.sample(torch.tensor(indices)), all_of_them[indices]), indices


def test_every_figure_has_an_error_and_its_protocol(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["test", "--ckpt_path", last(run), "--config", metrics_yaml(tmp_path)])
    found = figures(run)
    assert len(found) >= 8
    printed = capsys.readouterr().out
    for name, figure in found.items():
        protocol = figure["protocol"]
        assert np.isfinite(figure["value"]) and figure["error"] > 0 or figure["value"] in (0.0, 1.0, 100.0), name
        assert protocol["num_fake"] == 150 and protocol["seed"] == 0
        assert protocol["split"] == ("test" if name.endswith("-test") else "train")
        assert protocol["extractor"]["weights_hash"].startswith("9895c19c")
        assert name in printed and "9895c19c" in name
    assert "9895c19c" in printed and "150" in printed
    train, test = (found["fcd-digits-9895c19c" + split] for split in ("", "-test"))
    assert train["protocol"]["num_real"] == 1437 and test["protocol"]["num_real"] == 360
    assert train["value"] != test["value"]


def test_too_few_held_out_images_cost_their_own_figures_alone(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load = Digits.load
    monkeypatch.setattr(
        Digits, "load", lambda self, split: [part[: 1 if split == "test" else None] for part in load(self, split)]
    )
    with pytest.warns(UserWarning, match="the 1 held-out images are too few .* at least 2 real images"):
        main(["test", "--ckpt_path", last(run)])
    assert list(figures(run)) == ["fcd-digits-9895c19c"]


def test_held_out_images_stand_for_all_classes(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load = Digits.load

    def by_class(self, split):
        images, labels = load(self, split)
        order = labels.argsort(kind="stable")
        return images[order], labels[order]

    monkeypatch.setattr(Digits, "load", by_class)
    extractor = {"class_path": "src.metrics.features.Classifier"}
    overlay = metrics_yaml(tmp_path, ["FrechetDistance"], extractor=extractor, split="test")
    main(["test", "--ckpt_path", last(run), "--config", overlay, "--model.test_images", "100"])
    held_out = figures(run)["fcd-digits-9895c19c-of-100-held-out"]
    assert held_out["value"] < 10 and held_out["protocol"]["num_real"] == 1437  # the first 100 are 40 away


def test_a_metric_without_its_split_is_refused_before_training(tmp_path):
    class Unsplit(Squares):
        splits = ("train",)

    gan = make_gan(metrics=[FrechetDistance(Classifier(), split="test")])
    with pytest.raises(ValueError, match="FrechetDistance needs test images, and the data have none"):
        fit(tmp_path, gan, Unsplit(), max_steps=1, limit_val_batches=1.0)


@pytest.mark.parametrize(
    ("metric", "num_images", "message"),
    [
        (FrechetDistance, 1, "at least 2 real images, and there are 1: add some, or choose other metrics"),
        (KernelDistance, 1, "at least 2 real images"),
        (FrechetDistanceInfinity, 2, "at least 3 real images"),
        (PrecisionRecall, 3, "at least 4 real images"),
        (DensityCoverage, 5, "at least 6 real images"),
        (Memorization, 1, "at least 2 real images"),
        (ClassFrechetDistance, 3, "at least 2 real images of class 1, and there are 1"),
        (partial(PrecisionRecall, k=60), 100, "at least 61 generated images, and there are 50: raise --model.test_im"),
        (partial(KernelDistance, max_images=1), 9, "takes at least 2 images: raise its max_images 1"),
    ],
)
def test_too_few_images_are_refused_before_the_first_step(tmp_path, metric, num_images, message, caplog):
    data = Squares(num_images, labels=True)
    model = make_gan(num_classes=2, metrics=[metric(Classifier())], val_images=50, test_images=50)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, model, data, limit_val_batches=1.0)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path).test(model, datamodule=data)
    assert model.images_seen == 0 and not model.fakes
    assert fit(tmp_path, model, data).images_seen > 0  # a run without validation goes on
    assert [r.message for r in caplog.records if "`test` will be refused" in r.message and message in r.message]


def test_fit_says_which_figures_test_will_lack(tmp_path, caplog):
    metrics = [FrechetDistance(Classifier()), PrecisionRecall(), Critic(), DensityCoverage()]
    fit(tmp_path, make_gan(metrics=metrics, val_images=50, test_images=50), Squares(3), limit_val_batches=1.0)
    (said,) = [r.message for r in caplog.records if "`test` will be refused" in r.message]
    assert "precision" in said and "density" in said and "fcd" not in said and "\n" not in said


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (LinearProbe(), "LinearProbe is of data with several modalities: leave it out of --model.metrics"),
        (BagScore(), "BagScore is of bags, those of src.data.bags: leave it out of --model.metrics"),
        (ComponentPurity(Classifier()), "ComponentPurity is of bags, those of src.data.bags: leave it out"),
        (ClassFrechetDistance(Classifier()), "images have no labels: leave it out of --model.metrics"),
    ],
)
def test_figures_of_other_data_are_known_before_the_first_step(metric, message, tmp_path, caplog):
    gan = make_gan(metrics=[FrechetDistance(Classifier()), metric], val_images=50, test_images=50)
    fit(tmp_path, gan, limit_val_batches=1.0)
    (said,) = [r.message for r in caplog.records if "`test` will be refused" in r.message]
    assert message in said and gan.untested() == f"`test` needs other data for {type(metric).__name__}, or other " + (
        "--model.metrics"
    )
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path).test(gan, datamodule=Squares())
    assert not gan.fakes  # nothing was sampled for it


@pytest.mark.parametrize("metric", [InceptionScore, ComponentPurity])
def test_classes_of_an_extractor_without_any_are_refused_before_the_first_step(metric, tmp_path):
    class Unclassed(Classifier):
        def logits(self, features):
            return None

    gan = make_gan(metrics=[FrechetDistance(Classifier()), metric(Unclassed())])
    with pytest.raises(ValueError, match=f"{metric.__name__} needs an extractor with classes, and digits has none"):
        fit(tmp_path, gan)
    assert gan.images_seen == 0


def test_a_critic_needs_an_image_to_hold_out(tmp_path):
    class Unsplit(Squares):
        splits = ("train",)

    with pytest.raises(ValueError, match="at least 2 training images"):
        make_trainer(tmp_path).test(make_gan(metrics=[Critic()]), datamodule=Unsplit(1))


def test_folders_with_too_few_images_are_not_scored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    real, fake = write_digits(tmp_path / "real", 9), write_digits(tmp_path / "fake", 5)
    overlay = tmp_path / "score.yaml"
    entries = [{"class_path": name, "init_args": EXTRACTOR} for name in ("FrechetDistance", "DensityCoverage")]
    overlay.write_text(yaml.safe_dump({"metrics": entries}))
    said = refusal(["score", "--config", str(overlay), "--real", real, "--fake", fake], capsys)
    assert "at least 6 generated images, and there are 5" in said
    assert not (tmp_path / ".cache" / "features").exists()


def test_training_goes_on_without_weights_that_are_not_to_be_had(tiny_config, tmp_path, monkeypatch, caplog, capsys):
    """One attempt, one line, also where time is measured first; whoever asks for the figures themselves is refused."""
    attempts = []
    monkeypatch.setattr("src.commands.minutes.MEASURED", 0.01)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, *_, **__: attempts.append(url) or unreachable())
    overlay = tmp_path / "inception.yaml"
    inception = {"class_path": "FrechetDistance", "init_args": {"extractor": "src.metrics.features.Inception"}}
    overlay.write_text(yaml.safe_dump({"model": {"metrics": [inception, "KernelDistance"]}}))
    monkeypatch.setattr(Evaluation, "sample", lambda *_: pytest.fail("samples that no metric looks at"))
    files = ["--config", str(tiny_config), "--config", str(overlay), "--trainer.callbacks", "[]"]
    files += ["--trainer.callbacks+", "src.callbacks.checkpoints.BestCheckpoint"]
    files += ["--trainer.callbacks+", "src.callbacks.checkpoints.LastCheckpoint"]
    with caplog.at_level(logging.INFO):
        main(["fit", *files, "--run_dir", str(tmp_path / "run"), "--minutes", "0.01"])
    (said,) = [r.getMessage() for r in caplog.records if "Training goes on without" in r.getMessage()]
    assert said.startswith("cannot download weights (no network): fetch https://") and "\n" not in said
    assert "without FrechetDistance, KernelDistance: no best.ckpt is kept, last.ckpt is the newest" in said
    assert len(attempts) == 1 and attempts[0] in said
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
    out, err = capsys.readouterr()
    assert err.count("downloading") == 1
    told = "`test` needs the weights for FrechetDistance, KernelDistance, or other --model.metrics\n"
    assert "src test" not in out and out.endswith(told)
    for command in ("validate", "test"):
        assert "cannot download weights" in refusal([command, "--ckpt_path", last(tmp_path / "run")], capsys)


def unreachable():
    raise OSError("no network")


def test_weights_that_the_user_names_are_not_done_without(tmp_path):
    gan = make_gan(metrics=[FrechetDistance(Classifier("none.safetensors"))])
    with pytest.raises(FileNotFoundError, match="correct `weights`"):
        fit(tmp_path, gan, max_steps=1)


def test_figures_of_unlike_images_are_not_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overlay = tmp_path / "score.yaml"
    overlay.write_text(yaml.safe_dump({"metrics": [{"class_path": "FrechetDistance", "init_args": EXTRACTOR}]}))
    real, others = write_digits(tmp_path / "real", 60), write_digits(tmp_path / "others", 60, shift=1)
    fake = write_digits(tmp_path / "fake", 60, split="test")
    score = ["score", "--config", str(overlay), "--fake", fake]
    main([*score, "--real", real, "--output", "new/a.json"])
    main([*score, "--real", others, "--output", "new/b.json"])
    main([*score, "--real", real, "--resize", "stretch", "--output", "new/c.json"])
    assert "real_data" in refusal(["compare", "new/a.json", "new/b.json"], capsys)
    assert "resize crop and stretch" in refusal(["compare", "new/a.json", "new/c.json"], capsys)


def test_classes_of_folders_are_matched_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in ("real/cat", "real/dog", "fake/bird", "fake/cat", "fake/dog"):
        write_digits(tmp_path / path, 30)
    overlay = tmp_path / "score.yaml"
    overlay.write_text(yaml.safe_dump({"metrics": [{"class_path": "ClassFrechetDistance", "init_args": EXTRACTOR}]}))
    said = refusal(["score", "--config", str(overlay), "--real", "real", "--fake", "fake"], capsys)
    assert "real has ['cat', 'dog'], fake ['bird', 'cat', 'dog']" in said
    Image.new("L", (9, 9)).save("real/cat/another.png")
    assert "choose one with --image_size" in refusal(["score", "--real", "real", "--fake", "fake"], capsys)


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_give_the_same_figures(run, tmp_path, devices, monkeypatch):
    """Also where one of them has nothing to generate: 90 samples are two chunks."""
    overlay = metrics_yaml(tmp_path, ["FrechetDistance", "KernelDistance", "PrecisionRecall"])
    monkeypatch.chdir(tmp_path)
    for count in (1, devices):
        options = ["--model.test_images", 90, "--run_dir", count, "--trainer.devices", count]
        in_processes(count, run_command, "test", "--ckpt_path", last(run), "--config", overlay, *options,
                     "--trainer.accelerator", "cpu")  # fmt: skip
        (tmp_path / ".cache").rename(tmp_path / f"cache{count}")  # the real ones are computed by all, too
    one, many = figures(tmp_path / "1"), figures(tmp_path / str(devices))
    for name, figure in one.items():
        assert many[name]["value"] == pytest.approx(figure["value"], rel=1e-10, abs=1e-12)
        assert many[name]["error"] == pytest.approx(figure["error"], rel=1e-8, abs=1e-12)
        assert many[name]["protocol"] == figure["protocol"]


def write_digits(folder, count, shift=0, split="train"):
    folder.mkdir(parents=True)
    images, _ = Digits().load(split)
    for i, image in enumerate(images[:count]):
        Image.fromarray(np.roll(image[0], shift, axis=1)).save(folder / f"{i:05d}.png")
    return str(folder)


def test_folders_are_scored_with_the_same_code(run, tmp_path, monkeypatch, capsys):
    """Images that `predict` wrote give the figure that `test` gave for the same samples."""
    monkeypatch.chdir(tmp_path)
    main(["predict", "--ckpt_path", last(run), "--num_images", "150", "--output", "out", "--classes", "3"])
    real = write_digits(tmp_path / "real", 1437)
    overlay = tmp_path / "score.yaml"
    overlay.write_text(yaml.safe_dump({"metrics": [{"class_path": "FrechetDistance", "init_args": EXTRACTOR}]}))
    score = ["score", "--config", str(overlay), "--real", real]
    main([*score, "--fake", real, "--output", "same.json"])
    main([*score, "--fake", "out/images", "--output", "fake.json"])
    same, fake = (json.loads((tmp_path / name).read_text())["results"][0] for name in ("same.json", "fake.json"))
    assert same["value"] < 1e-6 < fake["value"]
    assert fake["protocol"]["num_real"] == 1437 and fake["protocol"]["num_fake"] == 150

    capsys.readouterr()
    main(["compare", "same.json", "same.json"])
    assert f"{same['value']:.4f}" in capsys.readouterr().out
    assert "cannot be compared" in refusal(["compare", "same.json", "fake.json"], capsys)
    assert "holds no figures" in refusal(["compare", "score.yaml"], capsys)
    assert "does not exist" in refusal([*score, "--fake", "nowhere"], capsys)


def test_levels_name_the_white_of_deep_images_that_are_scored(tmp_path, monkeypatch, capsys):
    """Images of 12 bits are those of 8 bits once their white is known."""
    monkeypatch.chdir(tmp_path)
    fake = write_digits(tmp_path / "fake", 60)
    (tmp_path / "real").mkdir()
    for i, image in enumerate(Digits().load("train")[0][:60]):
        Image.fromarray(image[0].astype(np.uint16) * 16).save(tmp_path / "real" / f"{i:05d}.png")
    score = ["score", "--real", "real", "--fake", fake, "--metrics", "FrechetDistance", "--output", "score.json"]
    score += ["--metrics.extractor", "src.metrics.features.Classifier"]
    found = []
    for options in ([], ["--levels", "4080"]):
        main([*score, *options])
        found += json.loads((tmp_path / "score.json").read_text())["results"]
    assert found[1]["value"] < 1e-6 < found[0]["value"]
    assert found[1]["protocol"]["levels"] == 4080 and "levels" not in found[0]["protocol"]
    assert "--levels" in refusal([*score, "--levels", "0"], capsys)


def test_the_table_says_what_is_shared_once(capsys):
    protocol = {"split": "train", "extractor": {"name": "x", "weights_hash": "0123456789"}}
    say_figures([
        {"name": "a", "value": 1.0, "error": 0.25, "protocol": protocol | {"k": 3}},
        {"name": "bb", "value": 2.0, "error": None, "protocol": protocol | {"k": 5}},
    ])  # fmt: skip
    first, second, shared = capsys.readouterr().out.splitlines()
    assert first == "  a  = 1.0000 ± 0.25  k 3" and second == "  bb = 2.0000  k 5"
    assert shared == "  (split train, extractor name x, extractor weights_hash 01234567)".replace(
        "weights_hash", "weights hash"
    )


def test_a_figure_of_another_kind_does_not_lengthen_the_lines_of_the_others(capsys):
    of_features = {"num_fake": 100, "extractor": {"name": "x"}, "seed": 0}
    say_figures([
        {"name": "a", "value": 1.0, "error": None, "protocol": of_features},
        {"name": "own", "value": 2.0, "error": None, "protocol": {"seed": 0, "grey": 255}},
        {"name": "bare", "value": 3.0, "error": None, "protocol": {}},
        {"name": "b", "value": 4.0, "error": None, "protocol": of_features},
    ])  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "  a    = 1.0000", "  b    = 4.0000", "  (num fake 100, extractor name x, seed 0)",
        "  own  = 2.0000  seed 0, grey 255", "  bare = 3.0000",
    ]  # fmt: skip
    say_figures([])
    assert capsys.readouterr().out == ""


def test_a_long_protocol_is_wrapped(capsys):
    protocol = {f"fact {number}": "of " + "x" * 20 for number in range(9)}
    say_figures([{"name": "a", "value": 1.0, "error": None, "protocol": protocol}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("  (fact 0 of xx") and lines[2].startswith("   fact 3 of xx") and len(lines) == 4
    assert max(map(len, lines)) <= 100 and " ".join(lines).count("x" * 20) == 9


def test_the_balance_of_the_players_is_logged(tmp_path):
    """A discriminator that calls everything real is right on real images and wrong on generated ones."""
    gan = make_gan(val_images=20)
    with torch.no_grad():
        for parameter in gan.discriminator.parameters():
            parameter.zero_()
        list(gan.discriminator.parameters())[-1].fill_(1.0)
    log = CSV(str(tmp_path))
    still = {"g_optimizer": torch.optim.SGD, "d_optimizer": torch.optim.SGD}
    gan.optimizer_callables = tuple(lambda p, make=make: make(p, lr=0.0) for make in still.values())
    fit(tmp_path, gan, Squares(), max_steps=2, callbacks=[PlayerBalance()], logger=[log], limit_val_batches=1.0,
        val_check_interval=2, check_val_every_n_epoch=None)  # fmt: skip
    row = log.rows[-1]
    assert (row["accuracy/train"], row["accuracy/held_out"], row["accuracy/fake"]) == (1.0, 1.0, 0.0)
    assert row["logits/train"] == pytest.approx(1.0)
