"""Terms of the generator beside the game: lengths of paths, matched features."""

from types import SimpleNamespace

import pytest
import torch
from conftest import fit, make_gan
from test_networks import build
from torch import nn

from src.images.measurements import MissingPatch
from src.networks import dcgan, stylegan2
from src.objectives.auxiliary import (
    Classification,
    DataToDataCrossEntropy,
    GeneratorClassification,
    GeneratorDataToDataCrossEntropy,
)
from src.objectives.terms import FeatureMatching, PathLength


def test_the_length_of_a_path_is_that_of_the_noise_times_the_jacobian():
    torch.manual_seed(0)
    generator = build(stylegan2.Generator, (8, 8), 2, 3).train()
    z, condition = torch.randn(2, *generator.latent_shape), torch.tensor([0, 2])
    torch.manual_seed(1)
    found = PathLength().lengths(generator, z, condition)
    torch.manual_seed(1)
    noise = torch.randn(2, 2, 8, 8) / 8
    for i in range(2):
        styles = generator.styles(z[i : i + 1], condition[i : i + 1]).detach()
        image_of = lambda styles, i=i: generator.from_styles(styles, z[i : i + 1])[0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(image_of, styles)[:, :, :, 0]  # [C, H, W, layer, dimension]
        along = torch.einsum("chw,chwld->ld", noise[i], jacobian)
        assert found[i].item() == pytest.approx(along.square().sum(1).mean().sqrt().item(), rel=1e-4)


def test_lengths_are_drawn_to_their_moving_average_which_lies_in_the_checkpoint(tmp_path):
    term = PathLength(weight=1.0, every=1, share=0.5, decay=0.9)
    given = []
    term.lengths = lambda generator, z, condition: given.append(len(z)) or torch.tensor([1.0, 3.0])
    model = SimpleNamespace(generator=None)
    assert term.penalty(model, torch.zeros(4, 1), None, None, None).item() == pytest.approx((0.8**2 + 2.8**2) / 2)
    assert term.average.item() == pytest.approx(0.2) and given == [2]
    term.lengths = lambda *_: torch.tensor([torch.nan])
    term.penalty(model, torch.zeros(4, 1), None, None, None)
    assert term.average.item() == pytest.approx(0.2)

    generator = build(stylegan2.Generator, (4, 4), 1, num_blocks=1, style_mixing=0.5)
    gan = fit(tmp_path, make_gan(generator=generator, g_regularizers=[PathLength(every=2)]), max_steps=2)
    assert gan.state_dict()["g_regularizers.0.average"] > 0


def test_features_are_matched_by_their_means():
    values = {"real": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "fake": torch.tensor([[0.0, 0.0], [2.0, 1.0]])}
    discriminator = SimpleNamespace(pooled=lambda images: values[images])
    model = SimpleNamespace(discriminator=discriminator, augment=nn.Identity(), seen=lambda fake, real: fake)
    assert FeatureMatching().penalty(model, None, "fake", "real", None).item() == 1.75


@pytest.mark.parametrize(
    ("classes", "of_discriminator", "term"),
    [
        ("classifier", [Classification()], GeneratorClassification(1.0)),
        ("proxies", [DataToDataCrossEntropy()], GeneratorDataToDataCrossEntropy()),
        ("projection", [], FeatureMatching()),
    ],
)
def test_the_discriminator_is_asked_about_what_it_sees_not_about_what_is_hidden(classes, of_discriminator, term):
    discriminator = dcgan.Discriminator((4, 4), 1, 2, width=4, num_blocks=1, classes=classes, proxy_dim=3)
    options = {"regularizers": of_discriminator, "g_regularizers": [term], "measurement": MissingPatch(paired=True)}
    gan = make_gan(num_classes=2, discriminator=discriminator, **options)
    real, fake = gan.measurement(torch.rand(6, 1, 4, 4) + 0.1), torch.rand(6, 1, 4, 4, requires_grad=True)
    term.penalty(gan, None, fake, real, torch.arange(6) % 2).backward()
    seen = gan.measurement.seen(real)
    assert not seen.all() and not fake.grad[~seen].any() and fake.grad[seen].any()


def test_feature_matching_reaches_the_generator_alone(tmp_path):
    players = [build(cls, (4, 4), 1, num_blocks=1) for cls in (dcgan.Generator, dcgan.Discriminator)]
    gan = make_gan(generator=players[0], discriminator=players[1], g_regularizers=[FeatureMatching()])
    fit(tmp_path, gan, max_steps=1)
    assert all(weight.grad is not None for weight in gan.generator.parameters())


@pytest.mark.parametrize(
    "term, message",
    [
        (lambda: PathLength(), "PathLength needs a generator with styles"),
        (lambda: FeatureMatching(), "FeatureMatching needs the features of"),
        (lambda: PathLength(share=0), "PathLength needs a share in"),
        (lambda: PathLength(decay=1.0), "PathLength needs a share in"),
    ],
)
def test_players_and_options_that_do_not_fit_are_refused(term, message):
    with pytest.raises(ValueError, match=message):
        make_gan(g_regularizers=[term()])
