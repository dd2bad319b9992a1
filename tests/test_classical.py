"""Classical models, their Markov-chain term, the held-back critic, and data with less diversity."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer, refusal

from src.data.dataset import ImageDataset
from src.data.digits import Digits
from src.images.measurements import MissingPixels, Whole
from src.images.pixels import from_uint8, to_uint8
from src.metrics.critic import Critic
from src.networks.classical import Bernoulli, Gaussian, Markov
from src.objectives.markov import MarkovChain

SIZE = (3, 4)
MODELS = [Bernoulli, lambda *facts: Bernoulli(*facts, levels=5), Gaussian, lambda *facts: Gaussian(*facts, 2), Markov]


def correlated(count=4000, channels=1, seed=0):
    """uint8 images [N, channels, 3, 4] of a Gaussian that hardly touches black and white, and two classes."""
    random = np.random.RandomState(seed)
    noise = random.randn(count, channels * 12) @ np.tril(random.rand(channels * 12, channels * 12))
    labels = random.randint(0, 2, count)
    images = 100 + 40 * labels[:, None] + 12 * noise / noise.std(0)
    return images.round().clip(0, 255).astype(np.uint8).reshape(count, channels, *SIZE), labels


def fitted(make, images, labels=None):
    generator = make(SIZE, images.shape[1], 0 if labels is None else 2)
    with torch.no_grad():
        generator.fit(ImageDataset(images, None if labels is None else labels.astype(np.int64), flip=False))
    return generator


def draws(generator, count=20000, condition=None):
    torch.manual_seed(0)
    return generator(torch.randn(count, *generator.latent_shape), condition)


def flat(images):
    return from_uint8(torch.from_numpy(images)).flatten(1)


def test_the_gaussian_has_the_moments_of_the_data():
    images, _ = correlated(channels=2)
    real, fake = flat(images), draws(fitted(Gaussian, images)).flatten(1)
    torch.testing.assert_close(fake.mean(0), real.mean(0), atol=0.005, rtol=0)
    expected = real.T.cov(correction=0) + 1e-3 * torch.eye(24)
    torch.testing.assert_close(fake.T.cov(), expected, atol=0.002, rtol=0)


def test_the_mixture_finds_the_clusters_of_unlabelled_data():
    images, labels = correlated()
    generator = fitted(lambda *facts: Gaussian(*facts, components=2, ridge=1e-6), images)
    means = torch.stack([flat(images[labels == k]).mean(0) for k in (0, 1)])
    found = generator.means[0][generator.means[0].mean(1).argsort()]
    torch.testing.assert_close(found, means, atol=0.01, rtol=0)
    three = draws(fitted(lambda *facts: Gaussian(*facts, components=3), images)).flatten(1)
    torch.testing.assert_close(three.mean(0), flat(images).mean(0), atol=0.01, rtol=0)
    share = (draws(generator).flatten(1).mean(1) > means.mean()).float().mean().item()
    assert abs(share - labels.mean()) < 0.02


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_bernoulli_pixels_have_the_histograms_of_the_data_and_are_independent(levels):
    images, _ = correlated()
    fake = draws(fitted(lambda *facts: Bernoulli(*facts, levels=levels), images)).flatten(1)
    rounded = ((flat(images) + 1) / 2 * (levels - 1)).round() / (levels - 1) * 2 - 1
    for value in torch.linspace(-1, 1, levels):
        share, expected = ((x - value).abs().lt(1e-3).float().mean(0) for x in (fake, rounded))
        torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    off_diagonal = fake.T.cov() - fake.T.cov().diag().diag()
    assert off_diagonal.abs().max() < 0.035 * fake.var(0).max()


def test_markov_repeats_a_chain_that_its_reach_covers():
    """With a context that holds every earlier pixel the model is the full Gaussian, factored."""
    images, _ = correlated(channels=2)
    real = flat(images)
    fake = draws(fitted(lambda *facts: Markov(*facts, reach=4, ridge=1e-6), images)).flatten(1)
    torch.testing.assert_close(fake.mean(0), real.mean(0), atol=0.005, rtol=0)
    torch.testing.assert_close(fake.T.cov(), real.T.cov(), atol=0.002, rtol=0)


def test_a_context_holds_no_later_pixel():
    generator = Markov((5, 6), 2, reach=2)
    canvas = generator.padded(torch.arange(1.0, 31).view(1, 1, 5, 6).repeat(1, 2, 1, 1))
    for t, (y, x) in enumerate(generator.positions):
        context = generator.context(canvas, y, x)[0, :-1]
        assert context.max() <= t and (x == 0 or t in context)


@pytest.mark.parametrize("make", MODELS)
def test_a_sample_is_a_function_of_its_noise_and_class_alone_and_classes_differ(make):
    images, labels = correlated()
    generator = fitted(make, images, labels)
    assert not any(weight.requires_grad for weight in generator.parameters())
    z = torch.randn(16, *generator.latent_shape)
    others, classes = z.clone(), torch.zeros(16, dtype=torch.long)
    samples = generator(z, classes)
    others[1::2], classes[1::2] = 0.0, 1
    assert torch.equal(samples[::2], generator(others, classes)[::2])
    means = [draws(generator, condition=torch.full((20000,), k)).flatten(1).mean(0) for k in (0, 1)]
    assert (means[1] - means[0]).min() > 0.1


@pytest.mark.parametrize("make", MODELS)
def test_a_class_of_one_image_and_a_class_of_none(make):
    images, _ = correlated()
    generator = fitted(make, images[:1], np.array([1]))
    flat_one, seen = (draws(generator, 100, torch.full((100,), k)) for k in (0, 1))
    assert seen.isfinite().all() and flat_one.var(0).max() == 0


def test_training_leaves_the_fit_and_trains_the_critic(tmp_path):
    gan = make_gan(generator=Gaussian((4, 4), 1))
    before = [weight.clone() for weight in gan.discriminator.parameters()]
    fit(tmp_path, gan)
    real = flat(Squares().load("train")[0])
    torch.testing.assert_close(gan.generator.means[0, 0], real.mean(0))
    assert not any(torch.equal(a, b) for a, b in zip(before, gan.discriminator.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bernoulli(SIZE, 1, levels=1), "levels must be 2 to 256"),
        (lambda: Gaussian(SIZE, 1, components=0), "components >= 1"),
        (lambda: Gaussian((64, 64), 3), "set --data.image_size 36 or less"),
        (lambda: Markov(SIZE, 1, reach=0), "reach >= 1"),
        (lambda: MarkovChain(ridge=0.0), "ridge of MarkovChain"),
        (lambda: Critic(steps=0), "must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The Markov-chain term


def chain_images(count, noise=0.1, seed=0):
    """Images [N, 1, 6, 2] whose rows follow x_t = A x_{t-1} + b + noise."""
    torch.manual_seed(seed)
    rows, mixed = [0.2 * torch.randn(count, 2)], torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    for _ in range(5):
        rows.append(rows[-1] @ torch.tensor([[0.5, 0.3], [-0.4, 0.6]]) + 0.1 + noise * torch.randn(count, 2) @ mixed)
    return torch.stack(rows, 1)[:, None]


WHOLE = SimpleNamespace(measurement=Whole())


def built(shape=(1, 6, 2), **options):
    term = MarkovChain(**options)
    term.build(SimpleNamespace(output_shape=shape), None)
    return term


def test_the_chain_is_the_maximum_of_the_likelihood():
    term, real = built(ridge=1e-6), chain_images(20000)
    for part in real.split(5000):
        term.observe(part)
    maps, factor, of_real = term.chain()
    expected = torch.tensor([[0.5, 0.3], [-0.4, 0.6], [0.1, 0.1]])
    torch.testing.assert_close(maps, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(factor @ factor.T, torch.tensor([[0.01, 0.008], [0.008, 0.01]]), atol=3e-4, rtol=0)
    assert of_real.item() == pytest.approx(2, abs=0.01)


def test_the_term_is_the_squared_difference_of_log_likelihoods():
    term, real, fake = built(), chain_images(500), chain_images(400, 0.2, 1).requires_grad_()
    value = term.penalty(WHOLE, None, fake, real, None)
    maps, factor, _ = term.chain()
    density = torch.distributions.MultivariateNormal(torch.zeros(2), scale_tril=factor)
    rates = []
    for x in (fake, real):
        rows = x[:, 0]
        past = torch.cat([rows[:, :-1], torch.ones(len(x), 5, 1)], 2)
        rates.append(density.log_prob(rows[:, 1:] - past @ maps).mean() / 2)
    torch.testing.assert_close(value, (rates[0] - rates[1]).square(), rtol=1e-3, atol=1e-5)
    value.backward()
    assert fake.grad.abs().max() > 0


def test_the_mode_is_likelier_than_the_data_and_is_penalised_and_data_are_not():
    real, others = chain_images(5000), chain_images(5000, seed=1)
    noisy, mode = chain_images(5000, 0.3), chain_images(5000, 0.0)
    values = [built().penalty(WHOLE, None, fake, real, None).item() for fake in (others, noisy, mode)]
    assert values[0] < 1e-3 < 0.1 < min(values[1:])


def test_samples_are_measured_as_the_data_are():
    mask = MissingPixels(0.5, paired=True)
    real, fake = mask(chain_images(50) + 5), chain_images(50, seed=1).requires_grad_()
    built().penalty(SimpleNamespace(measurement=mask), None, fake, real, None).backward()
    assert not fake.grad[~mask.seen(real)].any() and fake.grad.any()


def test_time_is_the_dimension_asked_for():
    frames = torch.randn(50, 4, 1, 2, 3)
    by_rows = built((1, 4, 6)).pairs(frames.view(50, 1, 4, 6))
    torch.testing.assert_close(built((4, 1, 2, 3), dim=1).pairs(frames), by_rows)
    with pytest.raises(ValueError, match="set dim to another one"):
        built((1, 4, 6), dim=1)


def test_the_moments_lie_in_the_checkpoint_and_resume(tmp_path):
    def gan():
        return make_gan(g_regularizers=[MarkovChain()])

    whole = fit(tmp_path, gan(), max_steps=4)
    assert whole.state_dict()["g_regularizers.0.count"] == 4
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(gan(), datamodule=Squares())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = gan()
    make_trainer(tmp_path, 4).fit(resumed, datamodule=Squares(), ckpt_path=str(tmp_path / "half.ckpt"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


# The held-back critic


class Draws:
    """Samples that are the training images, or their negatives."""

    test_images = 50

    def __init__(self, data, honest):
        self.trainer, self.honest = SimpleNamespace(datamodule=data), honest
        self.device = torch.device("cpu")
        self.images = from_uint8(torch.from_numpy(data.load("train")[0]))
        self.asked = []

    def shown(self, numbers, condition):
        self.asked += numbers.tolist()
        images = self.images[numbers % len(self.images)]
        return to_uint8(images if self.honest else -images), numbers, condition

    def protocol(self):
        return {}


def test_the_critic_tells_other_images_and_not_the_same_and_judges_by_unseen_ones():
    data = Digits()
    same, other = (Critic(steps=150, num_fake=1000).evaluate(Draws(data, honest), True) for honest in (True, False))
    assert abs(same[0]["value"] - 0.5) < 0.07 and same[1]["value"] > 0.6
    assert other[0]["value"] > 0.9 and other[1]["value"] < 0.3
    assert 0 <= other[0]["error"] < same[0]["error"] < 0.03
    assert [figure["higher_is_better"] for figure in Critic().directed(other)] == [False, True]  # what it tells apart
    model = Draws(data, True)
    Critic(steps=1, num_fake=100).evaluate(model, True)
    assert model.asked == list(range(50, 50 + 100 + 360))  # after those of the other metrics


def test_the_critic_is_a_function_of_its_images():
    model = Draws(Squares(), False)
    torch.manual_seed(7)
    first = Critic(steps=5, num_fake=50).evaluate(model, True)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert Critic(steps=5, num_fake=50).evaluate(model, True) == first
    assert torch.equal(torch.get_rng_state(), state)
    model.trainer.datamodule.splits = ("train",)
    protocol = Critic(steps=1, num_fake=50).evaluate(model, True)[0]["protocol"]
    assert (protocol["split"], protocol["num_real"], protocol["num_held_out"]) == ("train", 80, 20)


# Less diverse data


def test_a_subset_and_a_missing_class_concern_the_training_images_alone():
    whole, less = Digits(), Digits(subset=100, subset_seed=1, without=[3, 5])
    images, labels = less.split("train")
    assert len(images) == 100 and not np.isin(labels, [3, 5]).any()
    assert {image.tobytes() for image in images} <= {image.tobytes() for image in whole.split("train")[0]}
    assert len({image.tobytes() for image in images}) == 100
    assert np.array_equal(less.split("test")[0], whole.split("test")[0])
    assert not np.array_equal(Digits(subset=100).split("train")[0], Digits(subset=100, subset_seed=1).split("train")[0])
    assert len(Digits(without=[3], labels=False).split("train")[0]) == (whole.split("train")[1] != 3).sum()
    assert np.array_equal(Digits(subset=1437).split("train")[0], whole.split("train")[0])


@pytest.mark.parametrize("subset", ["0", "1438"])
def test_an_impossible_subset_is_refused(subset, tiny_config, tmp_path, capsys):
    line = refusal(
        ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "r"), "--data.subset", subset], capsys
    )
    assert f"data.subset must be 1 to 1437, the number of training images, got {subset}" in line


def test_it_is_fitted_to_what_training_sees(tmp_path):
    """Mirrored images too, and measurements in place of the images."""
    means = []
    for options in ({}, {"flip": True}, {"measurement": MissingPixels(0.9)}):
        gan = make_gan(generator=Gaussian((4, 4), 1))
        fit(tmp_path, gan, Lopsided(**options), max_steps=1)
        means.append(gan.sample(torch.arange(400)).mean((0, 1, 2)))
    assert means[0][0] - means[0][3] > 0.5
    assert abs(means[1][0] - means[1][3]) < 0.1
    assert means[2].abs().max() < 0.3 * means[0].abs().max()


class Lopsided(Squares):
    """Bright on the left."""

    def load(self, split):
        images, labels = super().load(split)
        images = images // 2
        images[..., :2] += 100
        return images, labels
