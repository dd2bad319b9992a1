"""Auxiliary tasks: the cross-entropies are those of their papers, and train whom they should."""

import math
from types import SimpleNamespace

import pytest
import torch

from src.networks import bags, mlp
from src.objectives.auxiliary import Classification, GeneratorClassification, Information

FACTS = {"image_size": (4, 4), "channels": 1, "num_classes": 3}


def players():
    torch.manual_seed(0)
    generator = bags.Generator(**FACTS, bag_size=5, num_components=4, latent_dim=3, width=8)
    discriminator = bags.Discriminator(**FACTS, width=8)
    with torch.no_grad():
        generator.weights.normal_()
    return generator, discriminator


def batch(generator):
    z = torch.randn(6, *generator.latent_shape)
    label = torch.arange(6) % 3
    condition = {"label": label, "mask": torch.arange(5) < torch.tensor([5, 1, 2, 3, 4, 5])[:, None]}
    return z, condition, torch.rand(6, 5, 1, 4, 4) * 2 - 1


def mean_log_loss(logits, labels):
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -sum(math.log(p[y]) for p, y in zip(probabilities.tolist(), labels.tolist(), strict=True)) / len(labels)


@pytest.mark.parametrize("fake_weight", [0.0, 0.5])
def test_the_classes_of_real_and_generated_bags_count_by_their_weights(fake_weight):
    generator, discriminator = players()
    z, condition, real = batch(generator)
    fake = generator(z, condition).detach()
    expected = mean_log_loss(discriminator.class_logits(real, condition), condition["label"])
    expected += fake_weight * mean_log_loss(discriminator.class_logits(fake, condition), condition["label"])
    term = Classification(fake_weight=fake_weight).penalty(discriminator, real, fake, condition)
    assert term.item() == pytest.approx(expected, rel=1e-5)


def test_plain_labels_are_a_condition_too():
    generator, discriminator = players()
    z, condition, real = batch(generator)
    everyone = condition | {"mask": torch.ones_like(condition["mask"])}
    term = Classification()
    plain, mapped = (term.penalty(discriminator, real, real, c) for c in (condition["label"], everyone))
    assert plain == mapped


def test_the_generator_learns_to_be_classified():
    generator, discriminator = players()
    z, condition, real = batch(generator)
    model = SimpleNamespace(generator=generator, discriminator=discriminator)
    fake = generator(z, condition)
    term = GeneratorClassification(1.0).penalty(model, z, fake, real, condition)
    expected = mean_log_loss(discriminator.class_logits(fake, condition), condition["label"])
    assert term.item() == pytest.approx(expected, rel=1e-5)
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(term, list(generator.parameters())))


def test_information_is_the_log_loss_of_the_component_of_each_instance_that_is_there():
    generator, discriminator = players()
    z, condition, real = batch(generator)
    model = SimpleNamespace(generator=generator, discriminator=discriminator)
    term = Information(1.0)
    term.build(generator, discriminator)
    fake = generator(z, condition)
    value = term.penalty(model, z, fake, real, condition)
    present, components = condition["mask"], generator.components(z, condition)
    expected = mean_log_loss(term.head(discriminator.encoder(fake[present])), components[present])
    assert value.item() == pytest.approx(expected, rel=1e-5)
    trained = [*generator.parameters(), *term.parameters()]
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(value, trained))


def test_players_without_classes_or_codes_are_refused():
    dense = mlp.Generator(**FACTS), mlp.Discriminator(**FACTS)
    with pytest.raises(ValueError, match="needs a discriminator with class_logits"):
        Classification().check(dense[1])
    with pytest.raises(ValueError, match="needs a discriminator with class_logits"):
        GeneratorClassification(1.0).build(*dense)
    with pytest.raises(ValueError, match="needs a generator with codes"):
        Information(1.0).build(*dense)
