"""Losses: their published formulas, the direction in which they push, and what becomes of extreme logits."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from src.engine.schedules import Linear
from src.objectives import losses
from src.objectives.topk import TopK


def subclasses(cls: type) -> list[type]:
    return [each for child in cls.__subclasses__() for each in (child, *subclasses(child))]


LOSSES = [loss for loss in subclasses(losses.Loss) if loss.__module__ == losses.__name__]  # other tests have their own

# (generator, discriminator) of each, as written in its paper.
FORMULAS = {
    losses.Minimax: (
        lambda r, f: np.mean(np.log(1 - expit(f))),
        lambda r, f: -np.mean(np.log(expit(r))) - np.mean(np.log(1 - expit(f))),
    ),
    losses.NonSaturating: (
        lambda r, f: -np.mean(np.log(expit(f))),
        lambda r, f: -np.mean(np.log(expit(r))) - np.mean(np.log(1 - expit(f))),
    ),
    losses.Hinge: (
        lambda r, f: -np.mean(f),
        lambda r, f: -np.mean(np.minimum(0, -1 + r)) - np.mean(np.minimum(0, -1 - f)),
    ),
    losses.LeastSquares: (
        lambda r, f: np.mean((f - 1) ** 2) / 2,
        lambda r, f: np.mean((r - 1) ** 2) / 2 + np.mean(f**2) / 2,
    ),
    losses.Wasserstein: (
        lambda r, f: -np.mean(f),
        lambda r, f: -(np.mean(r) - np.mean(f)),
    ),
    losses.RelativisticPairing: (
        lambda r, f: -np.mean(np.log(expit(f - r))),
        lambda r, f: -np.mean(np.log(expit(r - f))),
    ),
}


def logits(*values, **options) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True, **options)


@pytest.mark.parametrize("loss", FORMULAS)
def test_values_are_those_of_the_published_formula(loss):
    real, fake = 3 * np.random.default_rng(0).standard_normal((2, 16))
    generator, discriminator = FORMULAS[loss]
    real_logits = torch.from_numpy(real) if loss.relativistic else None
    assert loss().generator(real_logits, torch.from_numpy(fake)).item() == pytest.approx(generator(real, fake))
    value = loss().discriminator(torch.from_numpy(real), torch.from_numpy(fake))
    assert value.item() == pytest.approx(discriminator(real, fake))


@pytest.mark.parametrize("loss", LOSSES)
def test_each_player_pushes_the_logits_its_own_way(loss):
    real, fake = logits(0.2, 0.8, 0.5), logits(0.6, 0.1, 0.3)
    d_real, d_fake = torch.autograd.grad(loss().discriminator(real, fake), [real, fake])
    (g_fake,) = torch.autograd.grad(loss().generator(real if loss.relativistic else None, fake), fake)
    assert (d_real < 0).all() and (d_fake > 0).all() and (g_fake < 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("real_value", [-1e4, 1e4])
@pytest.mark.parametrize("fake_value", [-1e4, 1e4])
def test_extreme_logits_have_finite_losses_and_gradients(loss, real_value, fake_value):
    real = torch.full((4,), real_value, requires_grad=True)
    fake = torch.full((4,), fake_value, requires_grad=True)
    for value in (
        loss().discriminator(real, fake),
        loss().generator(real if loss.relativistic else None, fake),
    ):
        assert value.shape == () and value.isfinite()
        gradients = torch.autograd.grad(value, [real, fake], allow_unused=True)
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("loss", [losses.Minimax, losses.NonSaturating])
def test_the_optimal_discriminator_is_the_log_density_ratio(loss):
    """Images a and b: p(a) = 3/4 real, 1/4 fake, and b the reverse; D*(a) = log 3 (arXiv:1406.2661, Prop. 1)."""
    logit = logits(np.log(3), -np.log(3))
    value = loss().discriminator(logit[[0, 0, 0, 1]], logit[[0, 1, 1, 1]])
    (gradient,) = torch.autograd.grad(value, logit)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("loss", [losses.Minimax, losses.NonSaturating])
def test_smoothing_gives_real_images_the_label_and_leaves_fakes_and_the_generator(loss):
    """Cross-entropy with labels 0.9 and 0; at its least, D(x) is 0.9 where only real images lie."""
    real, fake = 3 * np.random.default_rng(1).standard_normal((2, 16))
    smooth = loss(real_label=0.9)
    entropy = -np.mean(0.9 * np.log(expit(real)) + 0.1 * np.log(1 - expit(real))) - np.mean(np.log(1 - expit(fake)))
    value = smooth.discriminator(torch.from_numpy(real), torch.from_numpy(fake))
    assert value.item() == pytest.approx(entropy)
    best = logits(np.log(9))
    (gradient,) = torch.autograd.grad(smooth.discriminator(best, logits(-50.0)), best)
    assert gradient.abs() < 1e-12
    assert smooth.generator(None, torch.from_numpy(fake)) == loss().generator(None, torch.from_numpy(fake))


@pytest.mark.parametrize("real_label", [0.5, 1.1, -0.9])
def test_labels_that_mean_nothing_are_refused(real_label):
    with pytest.raises(ValueError, match="real_label must be in"):
        losses.NonSaturating(real_label)


def test_only_the_minimax_generator_saturates_where_the_discriminator_wins():
    fake = logits(-20.0)
    (saturated,) = torch.autograd.grad(losses.Minimax().generator(None, fake), fake)
    (steep,) = torch.autograd.grad(losses.NonSaturating().generator(None, fake), fake)
    assert abs(saturated) < 1e-8 and steep == pytest.approx(-1)


def test_hinge_ignores_what_lies_beyond_the_margin():
    real, fake = logits(1.5, 0.5), logits(-1.5, -0.5)
    d_real, d_fake = torch.autograd.grad(losses.Hinge().discriminator(real, fake), [real, fake])
    assert d_real.tolist() == [0, -0.5] and d_fake.tolist() == [0, 0.5]


def test_relativistic_pairing_is_antisymmetric_and_blind_to_a_common_shift():
    loss, (real, fake) = losses.RelativisticPairing(), torch.randn(2, 8, generator=torch.manual_seed(0))
    torch.testing.assert_close(loss.generator(real, fake), loss.discriminator(fake, real))
    torch.testing.assert_close(loss.discriminator(real + 5, fake + 5), loss.discriminator(real, fake))


def test_relativistic_pairing_refuses_batches_without_pairs():
    with pytest.raises(ValueError, match="4 real and 8 fake images; set both batch sizes equal"):
        losses.RelativisticPairing().discriminator(torch.zeros(4), torch.zeros(8))


def test_a_weighted_loss_is_a_multiple_for_both_players():
    real, fake = torch.randn(2, 8, generator=torch.manual_seed(0))
    plain, weighted = losses.RelativisticPairing(), losses.Weighted(losses.RelativisticPairing(), 0.25)
    assert weighted.relativistic and not losses.Weighted().relativistic
    for player in ("generator", "discriminator"):
        torch.testing.assert_close(getattr(weighted, player)(real, fake), getattr(plain, player)(real, fake) / 4)
    with pytest.raises(ValueError, match="weight of Weighted must be 0 or more"):
        losses.Weighted(weight=-1)


@pytest.mark.parametrize("share, kept", [(1.0, 4), (0.7, 2), (0.01, 1)])
def test_the_largest_logits_alone_count_for_the_generator(share, kept):
    real, fake = logits(0.5, 0.1, -0.2, 0.9), logits(-1.0, 3.0, 0.5, -2.0)
    loss = TopK(losses.Hinge(), share)
    expected = np.sort(fake.detach().numpy())[::-1][:kept].mean()
    assert loss.generator(None, fake).item() == pytest.approx(-expected)
    assert loss.discriminator(real, fake) == losses.Hinge().discriminator(real, fake)


def test_top_k_refuses_pairs_and_shares_out_of_range():
    with pytest.raises(ValueError, match="TopK leaves out generated images, and a relativistic loss pairs each"):
        TopK(losses.RelativisticPairing())
    for share in (0, 1.1, Linear(1, 0, 10)):
        with pytest.raises(ValueError, match="share of TopK must be in"):
            TopK(share=share)
