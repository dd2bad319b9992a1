"""Regularizers: closed forms, the second derivative, float32 under autocast, and what they refuse."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from conftest import fit, make_gan
from torch import nn

from src.images.augment import Augmentation
from src.objectives import regularizers

OF_NORM = {  # of the gradient of an image
    regularizers.R1: lambda norm: norm**2 / 2,
    regularizers.R2: lambda norm: norm**2 / 2,
    regularizers.GradientPenalty: lambda norm: (norm - 1) ** 2,
    regularizers.ZeroCenteredGradientPenalty: lambda norm: norm**2,
}
PENALTIES = list(OF_NORM)


class Linear(nn.Module):
    """D(x) = <w_y, x>; its gradient is w_y everywhere."""

    def __init__(self, num_classes: int = 1):
        super().__init__()
        self.w = nn.Parameter(torch.randn(num_classes, 3 * 4 * 4))

    def forward(self, x, condition=None):
        w = self.w[0] if condition is None else self.w[condition]
        return (w * x.flatten(1)).sum(1)


class Quadratic(nn.Module):
    """D(x) = x^T A x / 2; its gradient is the symmetric part of A times x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(48, 48))

    def forward(self, x, condition=None):
        x = x.flatten(1)
        return (x @ self.a * x).sum(1) / 2

    def gradient(self, x):
        return x.flatten(1) @ (self.a + self.a.T) / 2


class Convolutional(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x, condition=None):
        return super().forward(x).squeeze(1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def real():
    return torch.rand(5, 3, 4, 4) * 2 - 1


@pytest.fixture
def fake():
    return torch.rand(5, 3, 4, 4) * 2 - 1


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_a_linear_discriminator_has_the_penalty_of_its_weight(regularizer, real, fake):
    discriminator = Linear()
    expected = OF_NORM[regularizer](discriminator.w.norm())
    torch.testing.assert_close(regularizer(1.0).penalty(discriminator, real, fake, None), expected)


def test_r1_is_taken_at_the_real_images_and_r2_at_the_fakes(real, fake):
    discriminator = Quadratic()
    for regularizer, images in [(regularizers.R1(1.0), real), (regularizers.R2(1.0), fake)]:
        expected = discriminator.gradient(images).norm(dim=1).square().mean() / 2
        torch.testing.assert_close(regularizer.penalty(discriminator, real, fake, None), expected)


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_the_penalty_is_free_of_weight_and_every(regularizer, real, fake):
    discriminator, penalties = Quadratic(), []
    for weight, every in [(1.0, 1), (7.0, 16)]:
        torch.manual_seed(1)
        penalties.append(regularizer(weight, every).penalty(discriminator, real, fake, None))
    assert penalties[0] == penalties[1]


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_each_image_is_judged_under_its_own_condition(regularizer, real, fake):
    discriminator, condition = Linear(num_classes=3), torch.tensor([0, 2, 2, 1, 0])
    expected = OF_NORM[regularizer](discriminator.w[condition].norm(dim=1))
    torch.testing.assert_close(regularizer(1.0).penalty(discriminator, real, fake, condition), expected.mean())


def test_the_gradient_penalty_draws_one_point_per_image_on_the_line_from_fake_to_real(real, fake):
    class Recorder(Linear):
        def forward(self, x, condition=None):
            self.x = x.detach()
            return super().forward(x)

    discriminator = Recorder()
    regularizers.GradientPenalty().penalty(discriminator, real, fake, None)
    alpha = ((discriminator.x - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(alpha, alpha.median(dim=1, keepdim=True).values.expand_as(alpha), rtol=0, atol=1e-3)
    assert (alpha > -1e-3).all() and (alpha < 1 + 1e-3).all() and alpha[:, 0].std() > 0.05


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_the_second_derivative_agrees_with_finite_differences(regularizer, real, fake):
    def penalty():
        torch.manual_seed(1)  # the points of the gradient penalty
        return regularizer(1.0).penalty(discriminator, real, fake, None)

    discriminator = Quadratic()
    penalty().backward()
    direction = torch.randn_like(discriminator.a)
    slope = (discriminator.a.grad * direction).sum()
    discriminator.a.data += 0.01 * direction
    above = penalty().detach()
    discriminator.a.data -= 0.02 * direction
    below = penalty().detach()
    torch.testing.assert_close((above - below) / 0.02, slope, rtol=1e-2, atol=1e-2)


def test_the_second_derivative_of_a_network_agrees_with_functional_differentiation(real, fake):
    discriminator = Convolutional()
    parameters = {name: p.detach() for name, p in discriminator.named_parameters()}

    def r1(parameters):
        def logit(x):
            return torch.func.functional_call(discriminator, parameters, (x[None],))[0]

        return torch.vmap(torch.func.grad(logit))(real).flatten(1).square().sum(1).mean() / 2

    regularizers.R1(1.0).penalty(discriminator, real, fake, None).backward()
    for name, expected in torch.func.grad(r1)(parameters).items():
        gradient = discriminator.get_parameter(name).grad
        torch.testing.assert_close(torch.zeros_like(expected) if gradient is None else gradient, expected)


class Kinked(nn.Module):
    """Every layer with constant slopes, between two with weights."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 1)
        self.bend = nn.Sequential(nn.LeakyReLU(0.2), nn.AvgPool2d(2), nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True))

    def forward(self, x, condition=None):
        self.inside = self.first(x)
        h = F.avg_pool2d(self.bend(self.inside), 2, stride=1, divisor_override=3)
        return self.last(h.flatten(2).sum(2)).squeeze(1)


def test_zeros_of_second_derivatives_are_left_out_and_the_gradient_is_the_same(real, monkeypatch):
    discriminator = Kinked()
    gradients, returned = [], []
    for mode in (contextlib.nullcontext, regularizers.PiecewiseLinear):
        monkeypatch.setattr(regularizers, "PiecewiseLinear", mode)
        discriminator.zero_grad()
        penalty = regularizers.R1(1.0).penalty(discriminator, real, None, None)
        came = []
        discriminator.inside.register_hook(came.append)
        penalty.backward()
        gradients.append([weight.grad for weight in discriminator.parameters() if weight.grad is not None])
        returned.append(came)
    assert not returned[0][0].any() and returned[1] == [None]
    slopes = [[gradient for gradient in found if gradient.any()] for found in gradients]
    assert len(slopes[0]) == len(slopes[1]) == 3 and all(map(torch.equal, *slopes))


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_autocast_changes_neither_the_penalty_nor_its_gradient(regularizer, real, fake):
    results = []
    for enabled in (False, True):
        torch.manual_seed(1)
        discriminator = Convolutional()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            discriminator(real)  # fills autocast's cache of bfloat16 weights, as the logits of a step do
            penalty = regularizer(1.0).penalty(discriminator, real, fake, None)
        penalty.backward()
        results.append([penalty.detach(), *(p.grad for p in discriminator.parameters() if p.grad is not None)])
    assert results[1][0].dtype == torch.float32
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_bfloat16_fakes_are_penalized_in_float32(regularizer, real, fake):
    penalty = regularizer(1.0).penalty(Quadratic(), real, fake.bfloat16(), None)
    assert penalty.dtype == torch.float32 and penalty.isfinite()


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_nothing_flows_back_to_the_generator(regularizer, real, fake):
    fake.requires_grad_(True)
    regularizer(1.0).penalty(Quadratic(), real, fake, None).backward()
    assert fake.grad is None


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_a_flat_discriminator_has_a_finite_gradient(regularizer, real, fake):
    discriminator = Linear()
    nn.init.zeros_(discriminator.w)
    penalty = regularizer(1.0).penalty(discriminator, real, fake, None)
    penalty.backward()
    assert penalty.item() == OF_NORM[regularizer](0)
    assert discriminator.w.grad.isfinite().all()


@pytest.mark.parametrize("regularizer", PENALTIES)
def test_a_discriminator_compiled_in_place_is_differentiated_twice(regularizer, real, fake):
    discriminator = Convolutional()
    discriminator.compile(backend="aot_eager")  # AOTAutograd is where the second derivative is refused
    regularizer(1.0).penalty(discriminator, real, fake, None).backward()
    assert discriminator[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("regularizer", PENALTIES)
def test_batch_normalization_is_refused_under_a_gradient_penalty(regularizer, norm):
    with pytest.raises(ValueError, match="set batch_norm to false"):
        regularizer(1.0).check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(norm(4))))
    regularizer(1.0).check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)))


def test_batch_normalization_is_accepted_without_a_gradient_penalty():
    class Plain(regularizers.Regularizer):
        def penalty(self, discriminator, real, fake, condition):
            return real.sum()

    Plain(1.0).check(nn.BatchNorm2d(4))


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"weight": 1.0, "every": 0}])
@pytest.mark.parametrize("regularizer", PENALTIES)
def test_impossible_options_are_refused(regularizer, options):
    with pytest.raises(ValueError, match=f"of {regularizer.__name__} must be"):
        regularizer(**options)


class Scaled(Augmentation):
    """Images times a number, and a note of all that it was given."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor, self.given = factor, []

    def forward(self, images):
        self.given.append(images.detach().clone())
        return self.factor * images


@pytest.mark.parametrize("regularizer, number", [(regularizers.R1, 1), (regularizers.R2, 0)])
def test_r1_and_r2_are_gradients_with_respect_to_the_image_before_augmentation(regularizer, number, tmp_path):
    """Against differences of D(augment(x)) between neighbours of x, in float64."""
    augment = Scaled(3.0)
    gan = make_gan(regularizers=[regularizer(2.0)], augment=[augment])
    before = {name: value.clone() for name, value in gan.discriminator.state_dict().items()}
    fit(tmp_path, gan, max_steps=1, log_every_n_steps=1)
    gan.discriminator.load_state_dict(before)
    images, discriminator = augment.given[number].double(), gan.discriminator.double()
    neighbours = images[:, None] + 1e-5 * torch.eye(16, dtype=torch.float64).view(1, 16, 1, 4, 4)
    with torch.no_grad():
        logits = discriminator(3 * neighbours.flatten(0, 1)).view(-1, 16) - discriminator(3 * images)[:, None]
    expected = 2 * (logits / 1e-5).square().sum(1).mean() / 2
    assert gan.logged["loss/penalty"] == pytest.approx(expected.item(), rel=1e-3)


def test_the_gradient_penalty_is_one_of_the_discriminator_alone(tmp_path):
    """The scale of the augmentation must not enter the slope, which is to be 1."""
    seen = []

    class Watch(regularizers.GradientPenalty):
        def penalty(self, discriminator, real, fake, condition):
            seen.append((discriminator, real, fake))
            return super().penalty(discriminator, real, fake, condition)

    augment = Scaled(3.0)
    gan = fit(tmp_path, make_gan(regularizers=[Watch()], augment=[augment]), max_steps=1)
    assert seen[0][0] is gan.discriminator
    torch.testing.assert_close(seen[0][1:], (3 * augment.given[1], 3 * augment.given[0]))
