import copy
import os
import pickle
import warnings

import pytest
import torch
from torch import nn

from src.data.digits import Digits
from src.metrics.features import Classifier, Extractor, Inception
from src.metrics.fid import FrechetDistance, frechet_distance


def digits(split):
    images, labels = Digits().load(split)
    return torch.from_numpy(images), torch.from_numpy(labels)


def noisy(images, deviation):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * deviation
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def digits_metric(real=None):
    metric = FrechetDistance(Classifier())
    metric.setup("cpu")
    if real is not None:
        metric.update(real, real=True)
    return metric


def distance(metric, fake):
    metric.reset()
    metric.update(fake, real=False)
    return metric.compute()


class Pixels(Extractor):
    """The grey levels themselves: 64 features with closed forms, some of them constant."""

    name, distance, num_features, resize, weights_hash = "pixels", "fd-pixels", 64, "none", "0" * 64

    def build(self):
        return nn.Flatten()

    def features(self, images):
        return self.network(images).float()


def spd(d, seed, rank=None):
    x = torch.randn(d, rank or d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x @ x.T / d


ZERO = torch.zeros(64, dtype=torch.float64)


def test_diagonal_covariances():
    generator = torch.Generator().manual_seed(0)
    a, b, m1, m2 = torch.rand(4, 64, dtype=torch.float64, generator=generator)
    expected = (m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(m1, a.diag(), m2, b.diag()) == pytest.approx(expected.item(), rel=1e-12)


def test_scaled_covariance():
    cov = spd(64, 0)
    expected = (3 - 1) ** 2 * cov.trace().item()
    assert frechet_distance(ZERO, cov, ZERO, 9 * cov) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [64, 10])
def test_transported_covariance(rank):
    # x -> T x with T positive definite is the optimal map, so the distance is E|x - T x|^2.
    cov, transport = spd(64, 0, rank), spd(64, 1) + torch.eye(64, dtype=torch.float64)
    away = torch.eye(64, dtype=torch.float64) - transport
    expected = (cov @ away @ away).trace().item()
    value = frechet_distance(ZERO, cov, ZERO, transport @ cov @ transport)
    assert value == pytest.approx(expected, rel=1e-11)


def test_orthogonal_ranges():
    a, b = torch.zeros(2, 64, 64, dtype=torch.float64)
    a[:20, :20], b[20:50, 20:50] = spd(20, 0), spd(30, 1)
    assert frechet_distance(ZERO, a, ZERO, b) == pytest.approx((a.trace() + b.trace()).item(), rel=1e-12)
    assert frechet_distance(ZERO, a, ZERO, torch.zeros_like(a)) == pytest.approx(a.trace().item(), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 10, 64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_equal_covariances_of_any_rank(rank, scale):
    cov = spd(64, 0, rank) * scale
    assert 0 <= frechet_distance(ZERO, cov, ZERO, cov) < 1e-10 * scale


def test_gaussian_samples_have_the_bias_of_their_number():
    # E = (d + d (d + 1) / 4) / N for N samples of N(0, I) against the truth, to first order in 1 / N.
    d, num = 16, 2000
    mean, eye = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    values = []
    for seed in range(40):
        x = torch.randn(num, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        values.append(frechet_distance(x.mean(dim=0), x.T.cov(), mean, eye))
    assert sum(values) / len(values) == pytest.approx((d + d * (d + 1) / 4) / num, rel=0.05)


def test_agrees_with_torchmetrics_where_images_outnumber_features():
    metric = digits_metric(digits("train")[0])
    value = distance(metric, noisy(digits("test")[0], 30))
    # torchmetrics rounds its result to float32
    assert value == pytest.approx(metric.sums.compute().item(), rel=1e-6)


def test_sums_give_the_statistics_of_the_features():
    real, fake = digits("train")[0], noisy(digits("test")[0], 30)
    metric = digits_metric()
    for images, is_real in ((real, True), (fake, False)):
        for batch in images.split(100):
            metric.update(batch, real=is_real)
    x, y = (metric.extractor(images).double() for images in (real, fake))
    expected = frechet_distance(x.mean(dim=0), x.T.cov(), y.mean(dim=0), y.T.cov())
    assert metric.compute() == pytest.approx(expected, rel=1e-10)
    assert metric.protocol() == {
        "num_real": 1437,
        "num_fake": 360,
        "split": "train",
        "extractor": metric.extractor.describe(),
    }


@pytest.mark.parametrize("num", [30, 1437])
@pytest.mark.filterwarnings("ignore:.*biased upwards")
def test_a_set_has_no_distance_to_itself(num):
    real = digits("train")[0][:num]
    assert 0 <= distance(digits_metric(real), real) < 1e-6


def test_grows_with_noise_with_a_missing_class_and_with_collapse():
    images, labels = digits("train")
    metric = digits_metric(images)
    values = [distance(metric, noisy(images, deviation)) for deviation in (0, 8, 16, 32, 64)]
    assert values == sorted(values) and values[0] < 1e-6 < 1e-3 < values[1]
    missing = [distance(metric, images[labels >= dropped]) for dropped in range(5)]
    assert missing == sorted(missing) and missing[0] < 1e-6 < 1e-3 < missing[1]
    assert distance(metric, images[:5].repeat(72, 1, 1, 1)) > missing[-1]


def test_real_images_are_kept_over_reset_and_counted_once():
    real, fake = digits("train")[0], noisy(digits("test")[0], 30)
    metric = digits_metric()
    assert not metric.has_real
    metric.update(real, real=True)
    first = distance(metric, fake)
    assert metric.has_real
    assert metric.compute() == first  # a second call counts nothing twice
    metric.setup("cpu")  # as `test` after `fit` does
    assert distance(metric, fake) == first
    assert (metric.num_real, metric.num_fake) == (1437, 360)
    metric.reset(real=True)
    assert not metric.has_real
    metric.update(real[:500], real=True)
    assert distance(metric, fake) != first
    assert (metric.num_real, metric.num_fake) == (500, 360)


def test_too_few_images_are_refused():
    images = digits("test")[0]
    for num_real, num_fake in ((0, 5), (5, 0), (1, 5), (5, 1)):
        metric = digits_metric()
        for num, real in ((num_real, True), (num_fake, False)):
            if num:
                metric.update(images[:num], real=real)
        with pytest.raises(ValueError, match=f"{num_real} real and {num_fake} fake images"):
            metric.compute()


def test_no_more_images_than_features_warns_once():
    metric = digits_metric(digits("train")[0])
    images = digits("test")[0]
    with pytest.warns(UserWarning, match="64 fake images for 64 features.*biased"):
        distance(metric, images[:64])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance(metric, images[:64])
        distance(digits_metric(digits("train")[0]), images[:65])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_named(value):
    metric = FrechetDistance(Pixels())
    metric.setup("cpu")
    images = digits("test")[0]
    metric.update(images, real=True)
    metric.extractor.features = lambda images: torch.full((len(images), 64), value)
    metric.update(images, real=False)
    with pytest.raises(ValueError, match="features of the fake images are not finite.*pixels"):
        metric.compute()


def test_named_after_its_extractor_and_split():
    for split, suffix in (("train", ""), ("test", "-test")):
        metric = FrechetDistance(Classifier(), split=split)
        metric.setup("cpu")
        assert metric.name == Classifier().load().distance + suffix
    assert isinstance(FrechetDistance().extractor, Inception)


def test_is_no_part_of_a_module():
    module = nn.Linear(2, 2)
    module.metrics = [digits_metric()]
    module.metric = digits_metric(digits("train")[0])
    assert set(module.state_dict()) == {"weight", "bias"}
    module.to(torch.bfloat16)
    assert module.metric.sums.real_features_sum.dtype == torch.float64
    assert module.metric.extractor.network.head.weight.dtype == torch.float32
    pickle.dumps(FrechetDistance(Classifier()))
    copy.deepcopy(module)


def test_built_in_inference_mode_and_used_outside():
    metric = FrechetDistance(Classifier())
    real, fake = digits("train")[0], digits("test")[0]
    with torch.inference_mode():
        metric.setup("cpu")
        metric.update(real, real=True)
        metric.reset()
    metric.setup("cpu")
    metric.update(fake, real=False)
    value = metric.compute()
    assert value == distance(digits_metric(real), fake)


def test_the_yaml_of_a_metric_builds_it():
    from jsonargparse import ArgumentParser

    from src.metrics.base import Metric

    parser = ArgumentParser()
    parser.add_argument("--metrics", type=list[Metric])
    config = """[{class_path: src.metrics.fid.FrechetDistance,
                  init_args: {extractor: {class_path: src.metrics.features.Classifier}, split: test}},
                 {class_path: src.metrics.fid.FrechetDistance}]"""
    first, second = parser.instantiate_classes(parser.parse_args([f"--metrics={config}"])).metrics
    assert isinstance(first.extractor, Classifier) and first.split == "test"
    assert isinstance(second.extractor, Inception) and second.split == "train"


# Three processes of which the second sees nothing, the shares uneven.
SHARES = [(slice(0, 1000), slice(0, 41)), (slice(0, 0), slice(0, 0)), (slice(1000, None), slice(41, None))]


def process(rank, folder):
    torch.set_num_threads(1)  # a forked process must not use the thread pool of its parent
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=len(SHARES))
    real, fake = digits("train")[0], noisy(digits("test")[0], 30)
    metric, results = FrechetDistance(Classifier()), []
    metric.setup("cpu")
    for _ in range(2):  # the real images are fed the first time only
        for images, share, is_real in ((real, SHARES[rank][0], True), (fake, SHARES[rank][1], False)):
            if not (is_real and metric.has_real):
                for batch in images[share].split(50):
                    if len(batch):
                        metric.update(batch, is_real)
        results.append((metric.compute(), metric.num_real, metric.num_fake))
        metric.reset()
    try:
        metric.compute()
    except ValueError as error:  # on every process, or the others would wait for ever
        results.append(str(error))
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def test_processes_agree_with_one_process(tmp_path):
    # Forked, because importing everything again takes three processes half a minute.
    torch.multiprocessing.start_processes(process, (str(tmp_path),), nprocs=len(SHARES), start_method="fork")
    expected = distance(digits_metric(digits("train")[0]), noisy(digits("test")[0], 30))
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(SHARES))]
    assert results[0] == results[1] == results[2]
    first, second, error = results[0]
    assert first == second and first[1:] == (1437, 360)
    assert first[0] == pytest.approx(expected, rel=1e-10)
    assert "1437 real and 0 fake images" in error
