"""Terms without a second derivative: check values, closed forms, what they refuse."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer
from torch import nn

from src.commands.parts import parts
from src.engine.schedules import Schedule, Steps
from src.networks import biggan, mlp
from src.objectives.consistency import ApproximateR1, ApproximateR2, BalancedConsistency, Consistency
from src.objectives.lecam import LeCam
from src.objectives.losses import Hinge, RelativisticPairing, Wasserstein
from src.objectives.regularizers import R1, Regularizer
from src.objectives.terms import GeneratorRegularizer, Orthogonality, matrices


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Linear(nn.Module):
    """D(x) = <w, x>."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 8, 8))

    def forward(self, x, condition=None):
        return (self.w * x).sum((1, 2, 3))


REAL, FAKE = torch.rand(2, 64, 3, 8, 8, generator=torch.manual_seed(0)) * 2 - 1


# LeCam


def test_lecam_has_its_check_value_and_leaves_the_generator_alone():
    loss = LeCam(Hinge(), weight=0.5, decay=0.0)
    loss.discriminator(torch.full((3,), 0.8), torch.full((3,), -0.6))  # the averages are these
    loss.follow = lambda *logits: None
    real, fake = torch.tensor([1, 0.2, -0.9]), torch.tensor([-1.2, 0.5, 1.1])
    term = loss.discriminator(real, fake) - Hinge().discriminator(real, fake)
    assert term.item() == pytest.approx(0.5 * 2.43)
    assert loss.generator(None, fake) == Hinge().generator(None, fake)


def test_averages_start_from_the_first_logits_and_move_before_they_are_used():
    loss = LeCam(Wasserstein(), weight=1.0, decay=0.9)
    real, fake = (
        torch.tensor([[1.0, 3.0], [4.0, 4.0], [0.0, 1.0]]),
        torch.tensor([[-1.0, -1.0], [0.0, 2.0], [3.0, 0.0]]),
    )
    expected = [(2.0, -1.0), (2.2, -0.8), (2.03, -0.57)]
    for i, (of_real, of_fake) in enumerate(expected):
        value = loss.discriminator(real[i], fake[i]) - Wasserstein().discriminator(real[i], fake[i])
        assert loss.averages.tolist() == pytest.approx([of_real, of_fake])
        term = (real[i] - of_fake).clamp(min=0).square().mean() + (of_real - fake[i]).clamp(min=0).square().mean()
        assert value.item() == pytest.approx(term.item(), abs=1e-5)
    loss.discriminator(torch.tensor([torch.nan]), torch.tensor([0.0]))  # an update that `on_nonfinite` leaves out
    assert loss.averages.isfinite().all()


def test_a_run_with_lecam_resumes_bitwise(tmp_path):
    def gan():
        return make_gan(loss=LeCam(weight=Steps([0.0, 1.0], [24])))

    whole = fit(tmp_path, gan(), max_steps=8)
    trainer = make_trainer(tmp_path, max_steps=5)
    trainer.fit(gan(), datamodule=Squares())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = gan()
    make_trainer(tmp_path, max_steps=8).fit(resumed, datamodule=Squares(), ckpt_path=tmp_path / "half.ckpt")
    assert whole.loss.weight == 1.0 and whole.loss.averages.abs().min() > 0
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_lecam_is_what_it_wraps_to_others():
    assert LeCam(RelativisticPairing()).relativistic and not LeCam(RelativisticPairing()).calibrated
    assert not LeCam().relativistic and LeCam().calibrated


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"decay": 1.0}])
def test_impossible_options_of_lecam_are_refused(options):
    with pytest.raises(ValueError, match="LeCam needs"):
        LeCam(**options)


def test_every_weight_may_follow_a_schedule():
    kinds = [LeCam, *(kind for base in (Regularizer, GeneratorRegularizer) for kind in parts(base))]
    assert len(kinds) > 10
    for kind in kinds:
        assert inspect.signature(kind).parameters["weight"].annotation == float | Schedule, kind


# Consistency


def test_images_are_shifted_and_flipped_with_mirrored_borders():
    term = Consistency(ratio=0.25)  # 2 pixels of 8
    result, found = term.transformed(REAL), torch.zeros(len(REAL), dtype=torch.int64)
    padded = nn.functional.pad(REAL, (2, 2, 2, 2), mode="reflect")
    seen = set()
    for flipped in (False, True):
        for i in range(5):
            for j in range(5):
                window = padded[:, :, i : i + 8, j : j + 8]
                equal = (result == (window.flip(3) if flipped else window)).flatten(1).all(1)
                found += equal
                seen |= {(flipped, i, j)} if equal.any() else set()
    assert (found == 1).all() and len(seen) > 25 and {flipped for flipped, _, _ in seen} == {False, True}


@pytest.mark.parametrize(("kind", "batches"), [(Consistency, 1), (BalancedConsistency, 2)])
def test_consistency_is_its_formula(kind, batches):
    discriminator, term = Linear(), kind(weight=10.0)
    torch.manual_seed(1)
    value = term.penalty(discriminator, REAL, FAKE, None)
    torch.manual_seed(1)
    changes = [((x - term.transformed(x)) * discriminator.w).sum((1, 2, 3)) for x in (REAL, FAKE)[:batches]]
    expected = sum(change.square().mean() for change in changes)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, discriminator.w)
    assert gradient.abs().max() > 0
    constant = torch.full_like(REAL, 0.3)
    torch.testing.assert_close(term.penalty(discriminator, constant, constant, None), torch.tensor(0.0))


def test_without_flips_letters_stay_readable():
    term = Consistency(ratio=0.0, flip=False)
    assert torch.equal(term.transformed(REAL), REAL)
    with pytest.raises(ValueError, match="ratio of Consistency"):
        Consistency(ratio=0.5)


# Finite differences


def test_finite_differences_have_the_expectation_of_r1():
    discriminator = Linear()
    images = REAL[:1].expand(20000, -1, -1, -1)
    expected = R1(1.0).penalty(discriminator, images[:1], images[:1], None).item()
    for sigma in (0.01, 0.1):
        value = ApproximateR1(1.0, sigma=sigma).penalty(discriminator, images, -images, None)
        assert value.item() == pytest.approx(expected, rel=0.05)  # 3 standard deviations are 0.03


def test_each_is_taken_at_its_own_images_and_reaches_the_weights_without_a_second_derivative():
    class Quadratic(Linear):
        def forward(self, x, condition=None):
            return super().forward(x).square()

    class Once(torch.autograd.Function):  # as a kernel without a second derivative
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient

    discriminator, once = Quadratic(), lambda x, condition: Once.apply(Quadratic.forward(discriminator, x))
    zeros = torch.zeros_like(REAL)
    assert ApproximateR1(1.0, sigma=1e-3).penalty(discriminator, REAL, zeros, None) > 10
    assert ApproximateR1(1.0, sigma=1e-3).penalty(discriminator, zeros, REAL, None) < 1
    assert ApproximateR2(1.0, sigma=1e-3).penalty(discriminator, zeros, REAL, None) > 10
    ApproximateR1(1.0).penalty(once, REAL, zeros, None).backward()
    assert discriminator.w.grad.abs().max() > 0


def test_finite_differences_are_taken_in_float32_under_autocast():
    discriminator = biggan.Discriminator((8, 8), 3, width=4)
    values = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append(ApproximateR1(1.0).penalty(discriminator.eval(), REAL, FAKE, None))
    assert values[0] == values[1] > 0


def test_dropout_and_impossible_steps_are_refused():
    with pytest.raises(ValueError, match="set dropout to 0"):
        ApproximateR1(1.0).check(mlp.Discriminator((8, 8), 3, hidden=(4,), dropout=0.1))
    ApproximateR1(1.0).check(mlp.Discriminator((8, 8), 3, hidden=(4,)))
    with pytest.raises(ValueError, match="sigma of ApproximateR2 must be above 0"):
        ApproximateR2(1.0, sigma=0.0)


# Orthogonality


def test_orthogonality_has_its_check_value_and_the_true_gradient():
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[1.0, 2, 0], [0, 1, 1]])
    value = Orthogonality().penalty(SimpleNamespace(generator=layer), None, torch.zeros(1), None, None)
    (gradient,) = torch.autograd.grad(value, layer.weight)
    assert value == 8 and gradient.tolist() == [[0, 8, 8], [8, 16, 0]]


def test_matrices_are_those_before_spectral_norm_without_the_shared_embedding():
    network = biggan.Generator((8, 8), 3, 5, latent_dim=4, width=4, shared_dim=6)
    found = {weight.data_ptr() for weight in matrices(network)}
    expected = {p.data_ptr() for name, p in network.named_parameters() if p.dim() >= 2 and name != "shared.weight"}
    assert found == expected and len(found) > 10
    with pytest.raises(ValueError, match="needs weight matrices"):
        Orthogonality().build(nn.BatchNorm2d(3), None)
