"""Metrics of torchmetrics in `model.metrics`, and ours offered as metrics of torchmetrics."""

import copy
import csv
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torchmetrics
import yaml
from conftest import Squares, in_processes, make_gan, make_trainer, refusal
from PIL import Image
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from src.cli import main
from src.engine.batches import EVAL_BATCH
from src.images.pixels import to_uint8
from src.metrics import as_torchmetrics
from src.metrics.features import Classifier, Extractor, match_channels
from src.metrics.fid import frechet_distance
from src.metrics.from_torchmetrics import FromTorchmetrics
from src.metrics.statistics import Features


class TinyNet(nn.Module):
    """Eight random features, and what it was shown; half the features are off while it trains."""

    num_features = 8

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())
        self.saw: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.saw.append(images.clone())
        return self.layers(images.float())


def fid(**options):
    return FrechetInceptionDistance(TinyNet(), **options)


def kid(**options):
    return KernelInceptionDistance(TinyNet(), subsets=5, subset_size=20, **options)


def mifid(**options):
    return MemorizationInformedFrechetInceptionDistance(TinyNet(), **options)


def inception_score(**options):
    return InceptionScore(TinyNet(), splits=3, **options)


EVERY = [fid, kid, mifid, inception_score]


def evaluated(tmp_path, metrics, precision="32-true", command="test", data=None, **options):
    gan = make_gan(metrics=metrics, test_images=60, val_images=60, **options)
    trainer = make_trainer(tmp_path, precision=precision)
    getattr(trainer, command)(gan, datamodule=data or Squares())
    return gan


def images_of(gan):
    """Real and generated images, with three channels."""
    real = torch.cat(list(gan.trainer.datamodule.real_batches("train")))
    return real.expand(-1, 3, -1, -1), to_uint8(gan.sample(torch.arange(60))).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_figure_is_that_of_torchmetrics_on_all_images(make, precision, tmp_path):
    gan = evaluated(tmp_path, [make()], precision)
    real, fake = images_of(gan)
    metric = make().eval()
    if make is not inception_score:
        metric.update(real, real=True)
    metric.update(fake, **({} if make is inception_score else {"real": False}))
    torch.manual_seed(0)
    expected = metric.compute()
    value, error = expected if isinstance(expected, tuple) else (expected, None)
    (figure,) = gan.results
    assert figure["value"] == pytest.approx(value.item(), rel=1e-5)
    assert figure["error"] == (None if error is None else pytest.approx(error.item(), rel=1e-5))
    protocol = figure["protocol"]
    assert protocol["num_fake"] == 60 and protocol["torchmetrics"] == torchmetrics.__version__
    if make is not inception_score:
        assert (protocol["num_real"], protocol["split"]) == (100, "train")
    assert protocol["extractor"]["name"] == "TinyNet" and len(protocol["extractor"]["weights_hash"]) == 64
    assert protocol["metric"] == f"{type(metric).__module__}.{type(metric).__name__}"


def test_the_protocol_holds_the_arguments_and_the_name_the_network():
    metrics = [FromTorchmetrics(KernelInceptionDistance(TinyNet(seed), subset_size=7, degree=2)) for seed in (0, 1)]
    options = {"coef": 1.0, "degree": 2, "gamma": None, "normalize": False, "reset_real_features": True}
    assert metrics[0].facts["options"] == options | {"subset_size": 7, "subsets": 100}
    names = [metric.name for metric in metrics]
    assert names[0] != names[1] and all(n.startswith("torchmetrics-kernel-inception-distance-tinynet-") for n in names)


@pytest.mark.parametrize("normalize", [False, True])
def test_images_come_in_the_range_that_the_metric_wants(normalize, tmp_path):
    metric = fid(normalize=normalize)
    gan = evaluated(tmp_path, [metric])
    fakes = torch.cat(metric.inception.saw[:1])
    expected = images_of(gan)[1][: len(fakes)]
    assert torch.equal(fakes, expected.float() / 255 if normalize else expected)


def test_nothing_of_a_metric_reaches_the_checkpoint_or_the_random_numbers(tmp_path):
    gan = evaluated(tmp_path, [kid()])
    assert set(gan.state_dict()) == set(make_gan().state_dict())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    gan.metrics[0].compute()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_second_evaluation_gives_the_same_and_real_images_are_shown_again_unless_they_are_kept(tmp_path):
    for keep in (False, True):
        metric = kid(reset_real_features=not keep)
        gan = make_gan(metrics=[metric], test_images=60)
        trainer = make_trainer(tmp_path)
        seen, values = [], []
        for _ in range(2):
            trainer.test(gan, datamodule=Squares())
            seen.append(sum(len(images) for images in metric.inception.saw))
            values.append(gan.results[0]["value"])
        assert values[0] == values[1]
        assert seen == ([160, 220] if keep else [160, 320])


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (torchmetrics.classification.BinaryAccuracy(), "BinaryAccuracy takes no images"),
        (torchmetrics.image.StructuralSimilarityIndexMeasure(), "takes no images"),
        (torchmetrics.MeanMetric(), "MeanMetric takes no images"),
        (fid(sync_on_compute=False), "leave out sync_on_compute"),
    ],
)
def test_other_metrics_are_refused(metric, told):
    with pytest.raises(ValueError, match=told):
        make_gan(metrics=[metric])


def test_what_a_metric_cannot_do_is_said_in_one_line(tmp_path):
    many = KernelInceptionDistance(TinyNet(), subset_size=1000)
    with pytest.raises(
        ValueError, match="shown 100 real and 60 generated images: Argument `subset_size`.*raise --model"
    ):
        evaluated(tmp_path, [many])


def test_a_metric_of_single_images_takes_floats(tmp_path, monkeypatch):
    gan = evaluated(tmp_path, [torchmetrics.image.TotalVariation(reduction="mean")])
    assert gan.results[0]["higher_is_better"] is torchmetrics.image.TotalVariation.higher_is_better
    expected = torchmetrics.functional.image.total_variation(images_of(gan)[1] / 255, reduction="mean")
    assert gan.results[0]["value"] == pytest.approx(expected.item(), rel=1e-5)
    assert gan.results[0]["name"] == "torchmetrics-total-variation"
    monkeypatch.setattr(torchmetrics.image.TotalVariation, "higher_is_better", None)
    assert gan.metrics[0].directed([{}]) == [{"higher_is_better": None}]  # where torchmetrics does not say it


def test_rgba_is_shown_on_mid_grey():
    metric = FromTorchmetrics(fid())
    metric.setup("cpu")
    images = torch.randint(0, 256, (5, 4, 4, 4), dtype=torch.uint8)
    metric.observe(images, torch.arange(5))
    assert torch.equal(metric.metric.inception.saw[0], match_channels(images, 3))


def share(rank, world_size, folder, make, number):
    """One process's share of `number` generated images and of the real ones; the second has none of the former."""
    if world_size > 1:
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    data = Squares(num_images=130)
    metric = FromTorchmetrics(make())
    metric.setup("cpu")
    images = torch.randint(0, 256, (number, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for start in range(rank * EVAL_BATCH, number, world_size * EVAL_BATCH):
        metric.observe(images[start : start + EVAL_BATCH], torch.arange(number)[start : start + EVAL_BATCH])
    trainer = SimpleNamespace(datamodule=data, world_size=world_size)
    figures = metric.evaluate(SimpleNamespace(trainer=trainer, global_rank=rank, protocol=dict), False)
    Path(folder, f"{world_size}-{rank}.json").write_text(json.dumps(figures))


SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in ((fid, 140), (kid, 40), (inception_score, 140))]


@pytest.mark.parametrize(("make", "number"), [(kid, 140), (fid, 40), *SLOW])
def test_two_processes_give_the_figure_of_one(make, number, tmp_path):
    share(0, 1, tmp_path, make, number)
    in_processes(2, share, 2, tmp_path, make, number)
    one, first, second = (json.loads((tmp_path / name).read_text())[0] for name in ("1-0.json", "2-0.json", "2-1.json"))
    assert first == second and one["protocol"] == first["protocol"]
    assert first["value"] == pytest.approx(one["value"], rel=1e-6)
    assert first["error"] == (None if one["error"] is None else pytest.approx(one["error"], rel=1e-6))
    assert one["protocol"]["num_fake"] == number


@pytest.fixture
def experiment(tiny_config, tmp_path):
    """An experiment whose first metric is of torchmetrics, by its own name."""
    config = yaml.safe_load(tiny_config.read_text())
    options = {"feature": {"class_path": "test_torchmetrics.TinyNet"}, "subsets": 5, "subset_size": 30}
    config["model"]["metrics"].insert(
        0, {"class_path": "torchmetrics.image.kid.KernelInceptionDistance", "init_args": options}
    )
    tiny_config.write_text(yaml.safe_dump(config))
    return tiny_config


def test_a_run_is_selected_by_it_and_its_checkpoint_remembers_it(experiment, tmp_path, capsys):
    folder = tmp_path / "run"
    main(["fit", "--config", str(experiment), "--run_dir", str(folder)])
    with open(folder / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    name, error = sorted(column for column in table[0] if column.startswith("val/torchmetrics"))
    assert error == f"{name}-error"  # the report draws it as a band
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    rows = {int(row["step"]): float(row[name]) for row in table if row[name]}
    assert best["global_step"] == min(rows, key=rows.get)
    assert not [key for key in best["state_dict"] if "inception" in key]
    main(["test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")])
    figures = json.loads((folder / "metrics.json").read_text())["results"]
    assert figures[0]["name"] == name.removeprefix("val/") and figures[0]["protocol"]["options"]["subset_size"] == 30
    assert figures[0]["error"] > 0


def test_folders_are_scored_by_torchmetrics_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = fid()
    for folder, number, real in (("real", 70, True), ("fake", 60, False)):
        images = np.random.RandomState(number).randint(0, 256, (number, 8, 8), dtype=np.uint8)
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02d}.png")
        expected.eval().update(torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1), real=real)
    options = {"feature": {"class_path": "test_torchmetrics.TinyNet"}}
    metric = {"class_path": "torchmetrics.image.fid.FrechetInceptionDistance", "init_args": options}
    ours = {"class_path": "FrechetDistance", "init_args": {"extractor": "src.metrics.features.Classifier"}}
    (tmp_path / "score.yaml").write_text(yaml.safe_dump({"metrics": [metric, ours]}))
    main(["score", "--config", "score.yaml", "--real", "real", "--fake", "fake", "--output", "score.json"])
    figure, other = json.loads((tmp_path / "score.json").read_text())["results"]
    assert figure["value"] == pytest.approx(expected.compute().item(), rel=1e-4)
    assert (figure["protocol"]["num_real"], figure["protocol"]["num_fake"]) == (70, 60)
    assert figure["protocol"]["real_data"] == other["protocol"]["real_data"] and other["name"].startswith("fcd-digits")


def test_the_command_line_takes_the_names_of_torchmetrics_and_refuses_other_metrics(experiment, capsys):
    base = ["fit", "--config", str(experiment)]
    with pytest.raises(SystemExit) as stopped:
        main([*base, "--model.metrics+=torchmetrics.image.fid.FrechetInceptionDistance", "--print_config"])
    assert stopped.value.code == 0 and "torchmetrics.image.fid.FrechetInceptionDistance" in capsys.readouterr().out
    for text in ("torchmetrics.classification.BinaryAccuracy", '{"class_path": "torchmetrics.MeanMetric"}'):
        said = refusal([*base, f"--model.metrics+={text}"], capsys)
        assert " is no Score, nor a metric of torchmetrics that takes images" in said and "torchmetrics." in said
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model.metrics.help", "torchmetrics.image.kid.KernelInceptionDistance"])
    assert stopped.value.code == 0 and "subset_size" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "torchmetrics.audio" not in capsys.readouterr().out  # two hundred classes that are no metrics of images


class Tiny(Extractor):
    """`TinyNet` as an extractor of ours."""

    name, distance, resize, weights_hash, num_features = "tiny", "fd-tiny", "none", "0" * 64, 8

    def build(self):
        return TinyNet()

    def features(self, images):
        return self.network(images)


def sets(number=300):
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (number, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return real, (real.flip(0)[: number // 2] // 2)


def halves(metric, real, fake):
    for images, kind in ((real, True), (fake, False)):
        for part in images.split(64):
            metric.update(part, real=kind)
    return metric


def test_ours_is_the_distance_of_the_evaluation_and_of_torchmetrics():
    real, fake = sets()
    metric = halves(as_torchmetrics.FrechetDistance(Tiny()), real, fake)
    expected = frechet_distance(Features(Tiny()(real)), Features(Tiny()(fake)))
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)
    theirs = halves(FrechetInceptionDistance(TinyNet()).eval(), real, fake)
    assert metric.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-5)  # theirs is rounded to float32


def test_ours_agrees_with_the_evaluation_on_the_shipped_classifier(tmp_path):
    from src.metrics.fid import FrechetDistance

    gan = evaluated(tmp_path, [FrechetDistance(Classifier())])
    real, fake = images_of(gan)
    metric = halves(as_torchmetrics.FrechetDistance(Classifier()), real[:, :1], fake[:, :1])
    assert metric.compute().item() == pytest.approx(gan.results[0]["value"], rel=1e-9)


def test_ours_is_a_metric_of_torchmetrics(tmp_path):
    real, fake = sets()
    metric = halves(as_torchmetrics.FrechetDistance(Tiny(), reset_real_features=False), real, fake)
    value = metric.compute()
    assert not metric.state_dict() and not list(metric.parameters())
    for other in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert other.compute() == value
    metric.reset()
    halves(metric, real[:0], fake)
    assert metric.compute() == value  # the real images are kept
    metric.reset_real_features = True
    metric.reset()
    with pytest.raises(ValueError, match="at least 2 real and 2 generated images, and there are 0 and 150"):
        halves(metric, real[:0], fake).compute()
    collection = torchmetrics.MetricCollection([as_torchmetrics.FrechetDistance(Tiny()), fid()]).eval()
    both = halves(collection, real, fake).compute()
    assert both["FrechetDistance"] == value == pytest.approx(both["FrechetInceptionDistance"].item(), rel=1e-4)
    lower = as_torchmetrics.FrechetDistance(Tiny()).to(torch.float32)  # which Lightning does to modules
    assert halves(lower, real, fake).compute() == value


def reduced(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    real, fake = sets()
    metric = halves(as_torchmetrics.FrechetDistance(Tiny()), real[rank::2], fake if rank == 0 else fake[:0])
    torch.save(metric.compute(), f"{folder}/{rank}.pt")


def test_ours_is_the_same_in_two_processes(tmp_path):
    in_processes(2, reduced, tmp_path)
    value = halves(as_torchmetrics.FrechetDistance(Tiny()), *sets()).compute()
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), value, rtol=1e-10, atol=0)
