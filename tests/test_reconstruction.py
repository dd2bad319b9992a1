"""The encoder beside the two players."""

import pytest
import torch
from conftest import Squares, fit, make_gan
from torch import distributions, nn

from src.images.measurements import MissingPixels, RandomProjection
from src.networks import fully_convolutional
from src.objectives.reconstruction import Reconstruction


def make(term, num_classes=0, **options):
    torch.manual_seed(0)
    facts = {"image_size": (4, 4), "channels": 1, "num_classes": num_classes, "width": 8, "num_blocks": 1}
    generator = fully_convolutional.Generator(**facts, latent_dim=3)
    networks = {"generator": generator, "discriminator": fully_convolutional.Discriminator(**facts)}
    return make_gan(num_classes, **networks, g_regularizers=[term], **options)


@pytest.mark.parametrize("num_classes", [0, 2])
@pytest.mark.parametrize("measurement", [None, MissingPixels(0.5)], ids=["whole", "measured"])
def test_the_term_is_the_negative_evidence_lower_bound(measurement, num_classes):
    """By PyTorch's distributions: -log p(y | z) + KL(E(y) || N(0, 1)), of what was observed."""
    term = Reconstruction(sigma=0.2, width=4)
    gan = make(term, num_classes, measurement=measurement)
    real = torch.rand(6, 1, 4, 4) * 2 - 1
    labels = torch.arange(6) % 2 if num_classes else None
    real = measurement(real) if measurement else real
    torch.manual_seed(1)
    value = term.penalty(gan, None, None, real, labels)

    mean, log_variance = term.encoder(real)
    posterior = distributions.Normal(mean, (log_variance / 2).exp())
    torch.manual_seed(1)
    images = gan.generator(posterior.mean + posterior.stddev * torch.randn_like(mean), labels)
    likelihood = distributions.Normal(images, 0.2).log_prob(real) - distributions.Normal(0, 0.2).log_prob(
        torch.zeros(())
    )
    seen = real != 0 if measurement else torch.ones_like(real, dtype=torch.bool)
    divergence = distributions.kl_divergence(posterior, distributions.Normal(0, 1)).sum()
    torch.testing.assert_close(value, (divergence - likelihood[seen].sum()) / real.numel())


def test_generator_and_encoder_learn_to_reconstruct(tmp_path):
    """Without the game: what is left is a variational autoencoder."""
    term = Reconstruction(weight=1.0, sigma=0.3, width=8)
    adam = lambda weights: torch.optim.Adam(weights, lr=0.01)  # noqa: E731
    gan = make(term, g_optimizer=adam, d_optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0))
    data = Squares(batch_size=50)
    images = data.examples("train", 100)[0]
    before = term.penalty(gan, None, None, images, None).item()
    weights = [parameter.detach().clone() for parameter in term.parameters()]
    fit(tmp_path, gan, data, max_steps=20)
    assert term.penalty(gan, None, None, images, None).item() < before / 2
    assert all(not torch.equal(a, b) for a, b in zip(weights, term.parameters(), strict=True))
    names = gan.state_dict().keys()
    assert any("g_regularizers.0.encoder" in name for name in names)


def test_what_cannot_be_reconstructed_is_refused():
    with pytest.raises(ValueError, match="noise in the shape of an image"):
        make_gan(g_regularizers=[Reconstruction()])
    with pytest.raises(ValueError, match="sigma"):
        Reconstruction(sigma=0)
    term = Reconstruction(width=4)
    gan = make(term, measurement=RandomProjection())
    with pytest.raises(ValueError, match="cannot be repeated"):
        term.penalty(gan, None, None, torch.zeros(2, 1, 4, 4), None)


def test_missing_pixels_have_no_part_in_the_gradient():
    term = Reconstruction(width=4)
    gan = make(term, measurement=MissingPixels(0.5))
    kept = []

    class Kept(nn.Module):
        def __init__(self, generator):
            super().__init__()
            self.generator = generator

        def forward(self, z, condition):
            kept.append(self.generator(z, condition))
            kept[0].retain_grad()
            return kept[0]

    gan.generator = Kept(gan.generator)
    real = gan.measurement(torch.rand(6, 1, 4, 4) * 2 - 1)
    term.penalty(gan, None, None, real, None).backward()
    assert (kept[0].grad[real == 0] == 0).all() and (kept[0].grad[real != 0] != 0).all()
