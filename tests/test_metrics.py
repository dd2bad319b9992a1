"""Figures of merit: closed forms, independent computations in NumPy, and the properties that make them trustworthy."""

import copy
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from src.data.digits import Digits
from src.metrics import kernel, manifold
from src.metrics.base import GROUPS, NARROW, Metric, key_of
from src.metrics.features import Classifier, Inception
from src.metrics.fid import ClassFrechetDistance, FrechetDistance, FrechetDistanceInfinity, distance, frechet_distance
from src.metrics.inception_score import InceptionScore
from src.metrics.kernel import KernelDistance, MeanDiscrepancy
from src.metrics.manifold import DensityCoverage, Memorization, PrecisionRecall
from src.metrics.statistics import Features, factor_of

ALL = [
    FrechetDistance, FrechetDistanceInfinity, ClassFrechetDistance, KernelDistance, MeanDiscrepancy, PrecisionRecall,
    DensityCoverage, Memorization, InceptionScore,
]  # fmt: skip


def gaussians(mean1, cov1, mean2, cov2):
    return distance(mean1, factor_of(cov1), cov1.trace(), mean2, factor_of(cov2), cov2.trace())


def spd(d, seed, rank=None):
    x = torch.randn(d, rank or d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x @ x.T / d


def random_features(n, d=8, seed=0, shift=0.0, **parts):
    values = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift
    return Features(values, **parts)


def with_extractor(metric):
    metric.setup("cpu")
    return metric


def digits(split, deviation=0.0):
    """Features of the digits, with noise of so many grey levels."""
    images, labels = map(torch.from_numpy, Digits().load(split))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * deviation
    values, logits = Classifier().both((images + noise).round().clamp(0, 255).to(torch.uint8))
    return Features(values.clone(), logits.clone(), labels)


# ------------------------------------------------------------------------------------------------ Frechet distance

ZERO = torch.zeros(64, dtype=torch.float64)


def test_diagonal_covariances():
    a, b, m1, m2 = torch.rand(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert gaussians(m1, a.diag(), m2, b.diag()) == pytest.approx(expected.item(), rel=1e-12)


def test_scaled_covariance():
    cov = spd(64, 0)
    assert gaussians(ZERO, cov, ZERO, 9 * cov) == pytest.approx((3 - 1) ** 2 * cov.trace().item(), rel=1e-12)


@pytest.mark.parametrize("rank", [64, 10])
def test_transported_covariance(rank):
    # x -> T x with T positive definite is the optimal map, so the distance is E|x - T x|^2.
    cov, transport = spd(64, 0, rank), spd(64, 1) + torch.eye(64, dtype=torch.float64)
    away = torch.eye(64, dtype=torch.float64) - transport
    expected = (cov @ away @ away).trace().item()
    assert gaussians(ZERO, cov, ZERO, transport @ cov @ transport) == pytest.approx(expected, rel=1e-11)


def test_orthogonal_ranges():
    a, b = torch.zeros(2, 64, 64, dtype=torch.float64)
    a[:20, :20], b[20:50, 20:50] = spd(20, 0), spd(30, 1)
    assert gaussians(ZERO, a, ZERO, b) == pytest.approx((a.trace() + b.trace()).item(), rel=1e-12)
    assert gaussians(ZERO, a, ZERO, torch.zeros_like(a)) == pytest.approx(a.trace().item(), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 10, 64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_equal_covariances_of_any_rank(rank, scale):
    cov = spd(64, 0, rank) * scale
    assert 0 <= gaussians(ZERO, cov, ZERO, cov) < 1e-10 * scale


def test_gaussian_samples_have_the_bias_of_their_number():
    # E = (d + d (d + 1) / 4) / N for N samples of N(0, I) against the truth, to first order in 1 / N.
    d, num = 16, 2000
    mean, eye = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    values = []
    for seed in range(40):
        x = torch.randn(num, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        values.append(gaussians(x.mean(dim=0), x.T.cov(), mean, eye))
    assert sum(values) / len(values) == pytest.approx((d + d * (d + 1) / 4) / num, rel=0.05)


@pytest.mark.parametrize("num", [20, 300])
def test_features_give_the_distance_of_their_statistics(num):
    """With fewer images than features the images themselves take the part of the factor."""
    real, fake = random_features(500, 64, 0), random_features(num, 64, 1, shift=0.3)
    x, y = (f.values.double().numpy() for f in (real, fake))
    s1, s2 = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)
    statistics = gaussians(real.mean, torch.from_numpy(s1), fake.mean, torch.from_numpy(s2))
    assert frechet_distance(real, fake) == pytest.approx(statistics, rel=1e-11)


def test_agrees_with_torchmetrics_where_images_outnumber_features():
    real, fake = digits("train"), digits("test", 30)

    class Given(nn.Module):
        num_features = 64

        def forward(self, values):
            return values

    theirs = FrechetInceptionDistance(Given())
    theirs.update(real.values, real=True)
    theirs.update(fake.values, real=False)
    assert frechet_distance(real, fake) == pytest.approx(theirs.compute().item(), rel=1e-5)


def test_agrees_with_clean_fid():
    """With as many images of both sets, all of them one subset, its KID has no random choice either."""
    cleanfid = pytest.importorskip("cleanfid.fid")
    real, fake = random_features(500, 64), random_features(500, 64, seed=1, shift=0.2)
    sets = [features.values.double().numpy() for features in (real, fake)]
    statistics = [part for x in sets for part in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet_distance(real, fake) == pytest.approx(cleanfid.frechet_distance(*statistics), rel=1e-9)
    theirs = cleanfid.kernel_distance(*sets, num_subsets=1, max_subset_size=500)
    assert KernelDistance(Classifier()).values(real, fake) == pytest.approx([theirs], rel=1e-9)


@pytest.mark.parametrize("num", [30, 1437])
def test_a_set_has_no_distance_to_itself(num):
    features = digits("train").select(torch.arange(num))
    assert 0 <= frechet_distance(features, features) < 1e-6


def test_no_more_images_than_features_warns_once():
    metric = with_extractor(FrechetDistance(Classifier()))
    few = digits("train").select(torch.arange(64))
    with pytest.warns(UserWarning, match="64 real and 64 generated images .* biased upwards"):
        metric.figures(few, few, True, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.figures(few, few, True, {})


def test_extrapolation_removes_the_bias_of_the_number():
    metric = FrechetDistanceInfinity(Classifier())
    real = random_features(20000, 16, 0)
    biased, corrected = [], []
    for seed in range(1, 11):
        fake = random_features(400, 16, seed)
        biased.append(frechet_distance(real, fake))
        corrected += metric.values(real, fake)
    assert np.mean(biased) > 0.1 and abs(np.mean(corrected)) < 0.3 * np.mean(biased)


def test_distance_within_classes():
    real, fake = digits("train"), digits("test", 20)
    metric = with_extractor(ClassFrechetDistance(Classifier(), classes=True))
    values = metric.values(real, fake)
    own = [frechet_distance(*(f.select(f.labels == c) for f in (real, fake))) for c in range(10)]
    assert values == pytest.approx([np.mean(own), *own])
    assert metric.names[0] == "frechet-in-class-digits-9895c19c" and len(metric.names) == 11
    with pytest.raises(ValueError, match="at least 2 generated images of class 7, and there are 1"):
        metric.values(real, fake.select((fake.labels != 7) | (torch.arange(360) == (fake.labels == 7).nonzero()[0])))
    with pytest.raises(ValueError, match="generated images have no labels: leave it out of --model.metrics"):
        metric.values(real, Features(fake.values))


# ---------------------------------------------------------------------------------------------- kernels, neighbours


def test_kid_is_its_formula(monkeypatch):
    monkeypatch.setattr(kernel, "ROWS", 7)
    real, fake = random_features(30), random_features(23, seed=1, shift=0.5)
    x, y = real.values.numpy().astype(np.float64), fake.values.numpy().astype(np.float64)

    def k(a, b):
        return (a @ b / 8 + 1) ** 3

    def within(s):
        return np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])

    expected = within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert KernelDistance(Classifier()).values(real, fake) == pytest.approx([expected], rel=1e-9)


def test_kid_is_that_of_torchmetrics_where_one_subset_has_all_images():
    real, fake = random_features(200, 64), random_features(200, 64, seed=1, shift=0.2)
    theirs = poly_mmd(real.values.double(), fake.values.double()).item()
    assert KernelDistance(Classifier()).values(real, fake) == pytest.approx([theirs], rel=1e-9)


def test_kid_has_no_bias():
    values = [
        KernelDistance(Classifier()).values(*(random_features(50, seed=s) for s in (i, i + 1000)))[0]
        for i in range(300)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_cmmd_is_its_formula():
    real, fake = random_features(30), random_features(23, seed=1, shift=0.5)
    x, y = (f.values.numpy().astype(np.float64) for f in (real, fake))
    x, y = x / np.linalg.norm(x, axis=1, keepdims=True), y / np.linalg.norm(y, axis=1, keepdims=True)

    def k(a, b):
        return np.mean([np.exp(-((p - q) ** 2).sum() / 200) for p in a for q in b])

    expected = 1000 * (k(x, x) + k(y, y) - 2 * k(x, y))
    assert MeanDiscrepancy(Classifier()).values(real, fake) == pytest.approx([expected], rel=1e-6)


def prdc(x, y, k):
    """Precision and recall with `<=`, density and coverage with `<`, pair by pair."""
    between = np.array([[((a - b) ** 2).sum() for b in y] for a in x])

    def radius(s):
        return np.array(
            [sorted(((a - b) ** 2).sum() for j, b in enumerate(s) if j != i)[k - 1] for i, a in enumerate(s)]
        )

    rx, ry = radius(x), radius(y)
    precision, recall = (between <= rx[:, None]).any(0).mean(), (between <= ry[None]).any(1).mean()
    density, coverage = (between < rx[:, None]).sum() / (k * len(y)), (between.min(1) < rx).mean()
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbours_are_those_of_numpy(monkeypatch, k):
    monkeypatch.setattr(manifold, "ROWS", 7)
    real, fake = random_features(40), random_features(33, seed=1, shift=0.4)
    expected = prdc(*(f.values.numpy().astype(np.float64) for f in (real, fake)), k)
    pair = PrecisionRecall(Classifier(), k=k).values(real, fake) + DensityCoverage(Classifier(), k=k).values(real, fake)
    assert pair == pytest.approx(expected, abs=1e-12)


def test_neighbours_of_equal_and_of_distant_sets():
    real, far = random_features(40), random_features(40, shift=1000.0)
    for metric in (PrecisionRecall(Classifier()), DensityCoverage(Classifier())):
        assert metric.values(real, far) == [0.0, 0.0]
        assert metric.values(real, real)[1] == 1.0
    assert PrecisionRecall(Classifier()).values(real, real) == [1.0, 1.0]
    twice = Features(real.values.repeat(5, 1))  # duplicates: balls of no radius, whose border counts
    assert PrecisionRecall(Classifier()).values(twice, twice) == [1.0, 1.0]
    with pytest.raises(ValueError, match="at least 4 real images"):
        with_extractor(PrecisionRecall(Classifier())).values(real.select(torch.arange(3)), real)


def test_copies_are_memorized_and_strangers_are_not():
    real = random_features(60)
    near = Features(real.values[:30] + 1e-3)
    assert Memorization(Classifier()).values(real, near) == [1.0]
    assert Memorization(Classifier()).values(real, random_features(30, shift=50.0)) == [0.0]


def test_copies_count_as_near_whatever_the_rounding():
    """Repeated real images have balls of no radius; copies of them lie on the border."""
    values = random_features(40, d=64, shift=30.0).values
    real, copies = Features(values.repeat(5, 1)), Features(values.repeat(2, 1).flip(0))
    assert PrecisionRecall(Classifier()).values(real, copies) == [1.0, 1.0]
    assert DensityCoverage(Classifier(), k=3).values(real, copies)[0] == 0.0
    assert Memorization(Classifier()).values(real, copies) == [1.0]


def test_a_bound_on_the_images_does_not_leave_out_classes():
    """As in a folder, the images come class by class."""
    classes = torch.arange(10).repeat_interleave(60)
    centres = torch.randn(10, 8, generator=torch.Generator().manual_seed(7)) * 5
    real, fake = (Features(random_features(600, seed=s).values + centres[classes]) for s in (0, 1))
    shuffled = fake.select(torch.randperm(600, generator=torch.Generator().manual_seed(2)))
    for metric in (PrecisionRecall, DensityCoverage):
        whole, part = (metric(Classifier(), max_images=n).values(real, shuffled) for n in (600, 300))
        assert part == pytest.approx(whole, abs=0.12)


def test_an_error_that_cannot_be_estimated_is_none():
    real, fake = digits("train"), digits("test")
    two = (fake.labels == 3).nonzero()[:2, 0]
    few = fake.select(torch.cat([(fake.labels != 3).nonzero()[:, 0], two]))
    metric = with_extractor(ClassFrechetDistance(Classifier()))
    (figure,) = metric.figures(real, few, True, {})
    assert figure["value"] > 0 and figure["error"] is None


def test_inception_score_counts_classes():
    certain = torch.eye(10).repeat(20, 1) * 1000
    assert InceptionScore(Classifier()).values(None, random_features(200, logits=certain)) == pytest.approx([10.0])
    flat = torch.zeros(200, 10)
    assert InceptionScore(Classifier()).values(None, random_features(200, logits=flat)) == pytest.approx([1.0])
    p = np.random.RandomState(0).dirichlet(np.ones(10), 200)
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    found = InceptionScore(Classifier()).values(None, random_features(200, logits=torch.from_numpy(np.log(p))))
    assert found == pytest.approx([expected], rel=1e-9)


# --------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("metric", ALL)
def test_noise_makes_every_figure_worse(metric):
    metric = with_extractor(metric(Classifier()))
    real = digits("train")
    clean, worse = (metric.values(real, digits("test", deviation))[0] for deviation in (0, 60))
    if isinstance(metric, Memorization):
        assert clean > worse  # noise takes images away from those of training
    else:
        assert (clean > worse) == metric.higher_is_better


@pytest.mark.parametrize(("features", "errors"), [(NARROW, [False, True]), (NARROW + 1, [True])])
def test_a_validation_has_errors_where_features_are_few(features, errors, monkeypatch):
    metric, asked = with_extractor(FrechetDistance(Classifier())), []
    monkeypatch.setattr(metric.extractor, "num_features", features)
    assert metric.has_errors(1000) == (len(errors) == 2) and not metric.has_errors(2 * GROUPS - 1)
    monkeypatch.setattr(metric, "figures", lambda *args: asked.append(args[2]) or [])
    some = Features(torch.zeros(4, features))
    datamodule = SimpleNamespace(digest=lambda split: "12345678")
    model = SimpleNamespace(real=lambda *_: some, fakes={key_of(metric): some}, protocol=dict)
    model.trainer = SimpleNamespace(datamodule=datamodule)
    for given in (False, True):
        metric.evaluate(model, given)
    assert [given for given, done in zip((False, True), asked, strict=True) if done] == errors


@pytest.mark.parametrize("metric", ALL)
def test_figures_name_their_extractor_and_say_how_they_came_about(metric):
    metric = with_extractor(metric(Classifier(), split="test"))
    real, fake = digits("test"), digits("train").select(torch.arange(200))
    figures = metric.figures(real, fake, errors=False, protocol={"seed": 5})
    assert [figure["name"] for figure in figures] == metric.names and metric.name == metric.names[0]
    for figure in figures:
        assert figure["name"].endswith("digits-9895c19c-test") and figure["error"] is None
        protocol = figure["protocol"]
        assert (protocol["num_real"], protocol["num_fake"], protocol["split"], protocol["seed"]) == (
            360,
            200,
            "test",
            5,
        )
        assert protocol["extractor"] == metric.extractor.describe() and metric.options().items() <= protocol.items()


class Mean(Metric):
    """A toy figure whose standard error is known."""

    figure_names = ("mean",)

    def values(self, real, fake):
        return [fake.values.mean().item()]


def test_the_error_is_the_standard_error():
    metric = with_extractor(Mean(Classifier()))
    errors, means = [], []
    for seed in range(200):
        fake = random_features(100, d=1, seed=seed)
        (figure,) = metric.figures(fake, fake, True, {})
        errors.append(figure["error"] ** 2)
        means.append(figure["value"])
    assert np.sqrt(np.mean(errors)) == pytest.approx(0.1, rel=0.1)  # 1 / sqrt(100)
    assert np.std(means) == pytest.approx(0.1, rel=0.15)
    few = random_features(2 * GROUPS - 1)
    assert metric.figures(few, few, True, {})[0]["error"] is None


@pytest.mark.parametrize(
    "metric", [FrechetDistance, KernelDistance, MeanDiscrepancy, PrecisionRecall, DensityCoverage, Memorization]
)
@pytest.mark.parametrize("num", [40, 250])
def test_errors_in_one_pass_are_those_of_computing_anew(metric, num, monkeypatch):
    monkeypatch.setattr(kernel, "ROWS", 70)
    monkeypatch.setattr(manifold, "ROWS", 70)
    metric = with_extractor(metric(Classifier()))
    real, fake = random_features(300, 64), random_features(num, 64, seed=1, shift=0.1)
    values, without = metric.jackknife(real, fake)
    assert values == pytest.approx(metric.values(real, fake), rel=1e-10)
    anew = [metric.values(real, fake.select(fake.groups != group)) for group in range(GROUPS)]
    np.testing.assert_allclose(without, anew, rtol=1e-10)


@pytest.mark.parametrize("metric", [KernelDistance, MeanDiscrepancy, PrecisionRecall, DensityCoverage, Memorization])
def test_figures_of_pairs_take_no_more_images_than_they_say(metric):
    metric = with_extractor(metric(Classifier(), max_images=100))
    real, fake = random_features(300), random_features(250, seed=1, shift=0.1)
    few = [features.some(100) for features in (real, fake)]
    assert [len(features) for features in few] == [100, 100] and few[0] is real.some(100)
    bounded, of_few = metric.figures(real, fake, True, {}), metric.figures(*few, True, {})
    for a, b in zip(bounded, of_few, strict=True):
        assert (a["value"], a["error"]) == (b["value"], b["error"]) and a["protocol"]["max_images"] == 100


def broken(count=50, bad=()):
    features = random_features(count, 64, labels=torch.arange(count) % 2)
    features.values[list(bad)] = float("nan")
    return features


ONE_OF_CLASS_1 = broken(50).select((torch.arange(50) % 2 == 0) | (torch.arange(50) == 1))


@pytest.mark.parametrize(
    "metric, real, fake, message",
    [
        (FrechetDistance, broken(bad=[3]), broken(), "digits of 1 of 50 real images are not finite"),
        (KernelDistance, broken(), broken(bad=[3, 4]), "digits of 2 of 50 generated images are not finite"),
        (FrechetDistance, broken(1), broken(), "digits takes at least 2 real images, and there are 1: add"),
        (InceptionScore, broken(), broken(1), "digits takes at least 2 generated images, .* 1: raise --model.test_im"),
        (PrecisionRecall, broken(), broken(3), "digits takes at least 4 generated images, and there are 3: raise"),
        (DensityCoverage, broken(5), broken(), "digits takes at least 6 real images, and there are 5: add some"),
        (ClassFrechetDistance, ONE_OF_CLASS_1, broken(), "digits takes at least 2 real images of class 1, .* 1: add"),
        (ClassFrechetDistance, broken(), ONE_OF_CLASS_1, "digits takes at least 2 generated images of class 1, .* 1"),
        (ClassFrechetDistance, random_features(50, 64), broken(), "real images have no labels"),
    ],
)
def test_what_gives_no_figure_is_refused_in_one_line_that_names_it(metric, real, fake, message):
    with pytest.raises(ValueError, match=message) as caught:
        with_extractor(metric(Classifier())).figures(real, fake, True, {})
    assert "\n" not in str(caught.value)


def test_a_metric_is_no_module_and_can_be_copied():
    metric = with_extractor(FrechetDistance(Classifier()))
    assert not isinstance(metric, nn.Module)
    assert pickle.loads(pickle.dumps(metric)).name == copy.deepcopy(metric).name == metric.name


def test_metrics_without_an_extractor_share_one():
    shared, own = Classifier(), Classifier()
    sharing, keeping = KernelDistance(), KernelDistance(own)
    sharing.setup("cpu", shared)
    keeping.setup("cpu", shared)
    assert sharing.extractor is shared and keeping.extractor is own
    with pytest.raises((FileNotFoundError, ValueError), match="inception"):
        FrechetDistance(Inception(weights="inception.pth")).setup("cpu")
