"""Truncated samples are nearer to their mean, in w where there is one, otherwise in z."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_gan

from src.commands.truncation import Truncated, bound_of, squeezed
from src.networks import biggan, dcgan, mlp, r3gan, resnet, stylegan2

TINY = {"width": 4, "latent_dim": 6, "channel_base": 16}


@pytest.mark.parametrize("share", [0.05, 0.4, 0.7, 0.95])
def test_a_cut_normal_distribution_has_the_deviation_that_is_asked_for(share):
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    cut, bound = squeezed(z, bound_of(share)), bound_of(share)
    assert cut.std().item() == pytest.approx(share, rel=0.01) and cut.abs().max() <= bound
    assert (cut[z.argsort()].diff() >= 0).all()  # quantile by quantile
    inside = torch.distributions.Normal(0, 1).cdf(torch.tensor(bound / 2)).item() - 0.5
    whole = torch.distributions.Normal(0, 1).cdf(torch.tensor(bound)).item() - 0.5
    assert (cut.abs() < bound / 2).float().mean().item() == pytest.approx(inside / whole, abs=0.005)  # a normal one


def test_the_ends_of_the_range():
    z = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])
    assert torch.equal(squeezed(z, bound_of(1.0)), z)
    torch.testing.assert_close(squeezed(z, bound_of(0.9999))[1:4], z[1:4], atol=1e-3, rtol=0)
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match="--truncation must be above 0"):
            Truncated(make_gan().generator, share)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_w_goes_straight_to_the_mean_of_its_class(num_classes):
    torch.manual_seed(0)
    generator = stylegan2.Generator((8, 8), 1, num_classes, **TINY).eval()
    truncated, whole = Truncated(generator, 0.3), Truncated(generator, 1.0)
    z = torch.randn(5, *generator.latent_shape)
    labels = torch.tensor([0, 1, 2, 1, 1]) if num_classes else None
    assert torch.equal(whole(z, labels), generator(z, labels))
    w = generator.to_w(z, labels)
    for row, label in enumerate([None] * 5 if labels is None else labels.tolist()):
        other = torch.randn(20_000, *generator.latent_shape)
        mean = generator.to_w(other, None if label is None else torch.full((20_000,), label)).mean(0)
        torch.testing.assert_close(truncated.mean_w(label), mean, atol=0.05, rtol=0)
        here = truncated.to_w(z, labels)[row] - truncated.mean_w(label)
        torch.testing.assert_close(here, 0.3 * (w[row] - truncated.mean_w(label)))
    styles = truncated.to_w(z, labels)[:, None].expand(-1, generator.num_styles, -1)
    assert torch.equal(truncated(z, labels), generator.from_styles(styles, z))


def test_latents_without_styles_are_cut_and_batch_norm_follows_them():
    torch.manual_seed(0)
    plain = make_gan(2).generator
    z, labels = torch.randn(6, *plain.latent_shape), torch.arange(6) % 2
    assert torch.equal(Truncated(plain, 0.5)(z, labels), plain.eval()(squeezed(z, bound_of(0.5)), labels))
    generator = dcgan.Generator((8, 8), 1, latent_dim=16, width=8, num_blocks=1).eval()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    small, large = (Truncated(generator, share).generator.state_dict() for share in (0.1, 0.99))
    variances = [name for name in small if name.endswith("running_var")]
    assert variances and (small[variances[0]] < 0.05 * large[variances[0]]).all()
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


@pytest.mark.parametrize(
    "generator",
    [
        mlp.Generator((8, 8), 1, 3, latent_dim=4, hidden=(8,)),
        dcgan.Generator((8, 8), 1, 3, latent_dim=4, width=4, num_blocks=1),
        resnet.Generator((8, 8), 1, 3, latent_dim=4, width=4, num_blocks=1),
        r3gan.Generator((8, 8), 1, 3, latent_dim=4, width=16, num_blocks=1, group_size=16),
        biggan.Generator((8, 8), 1, 3, latent_dim=8, width=4, num_blocks=1, shared_dim=0),
        biggan.Generator((8, 8), 1, 3, latent_dim=8, width=4, num_blocks=1, shared_dim=4),
        stylegan2.Generator((8, 8), 1, 3, **TINY),
    ],
    ids=lambda network: type(network).__module__,
)
def test_classes_may_be_given_as_shares(generator):
    torch.manual_seed(0)
    for weight in generator.parameters() if generator.num_styles == 0 else ():  # some gains are 1, some weights 0
        torch.nn.init.normal_(weight, std=0.5)
    z, labels = torch.randn(4, *generator.latent_shape), torch.tensor([0, 1, 2, 1])
    shares = F.one_hot(labels, 3).float()
    with torch.no_grad():
        torch.testing.assert_close(generator.eval()(z, shares), generator(z, labels))
        half = generator(z, 0.5 * shares + 0.5 * shares.roll(1, 1))
    assert not torch.allclose(half, generator(z, labels))
