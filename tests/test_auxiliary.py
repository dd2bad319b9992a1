"""Auxiliary tasks: the cross-entropies are those of their papers, and train whom they should."""

import math
from types import SimpleNamespace

import pytest
import torch

from src.networks import bags, biggan, dcgan, mlp
from src.objectives.auxiliary import (
    BagLikelihood,
    Classification,
    DataToDataCrossEntropy,
    GeneratorClassification,
    GeneratorDataToDataCrossEntropy,
    Information,
    data_to_data,
)

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


def as_they_are(fake, real):
    return fake


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
    model = SimpleNamespace(generator=generator, discriminator=discriminator, seen=as_they_are)
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


def test_a_sample_without_a_label_does_not_count():
    generator, discriminator = players()
    z, condition, real = batch(generator)
    model = SimpleNamespace(generator=generator, discriminator=discriminator, seen=as_they_are)
    fake = generator(z, condition).detach()
    some = torch.tensor([0, 1, 4])
    labelled = {name: values[some] for name, values in condition.items()}
    hidden = condition | {"label": torch.where(torch.isin(torch.arange(6), some), condition["label"], -1)}
    term, of_generator = Classification(), GeneratorClassification(1.0)
    expected = term.penalty(discriminator, real[some], fake[some], labelled)
    torch.testing.assert_close(term.penalty(discriminator, real, fake, hidden), expected)
    expected = of_generator.penalty(model, z, fake[some], real, labelled)
    torch.testing.assert_close(of_generator.penalty(model, z, fake, real, hidden), expected)
    nobody = condition | {"label": torch.full((6,), -1)}
    assert term.penalty(discriminator, real, fake, nobody) == 0


def fitted(posterior, weights, condition):
    """The term where `posterior` [B, N, K] is that of the components of the instances."""
    generator = SimpleNamespace(weights=weights, component_logits=lambda: weights)
    information = Information(1.0)
    information.head = torch.nn.Identity()
    discriminator = SimpleNamespace(instance_features=lambda images: posterior.flatten(0, 1).log())
    model = SimpleNamespace(generator=generator, discriminator=discriminator, g_regularizers=[information])
    return BagLikelihood(1.0).penalty(model, None, None, torch.zeros(*posterior.shape[:2], 1), condition)


def test_the_likelihood_of_a_bag_is_the_mean_over_who_may_be_the_witness():
    """By going through the witnesses; up to the density of the instances themselves, which no weight changes."""
    generator, _ = players()
    _, condition, _ = batch(generator)
    condition["label"][3] = -1
    posterior = torch.rand(6, 5, 4).softmax(2)
    value = fitted(posterior, generator.weights, condition)
    of = generator.weights.double().softmax(2)  # [class, witness or other, K]
    sizes = condition["mask"].sum(1)
    share = 1 / sizes.double().mean()
    prior = (share * of[:, 0] + (1 - share) * of[:, 1]).mean(0)
    total = instances = 0
    for bag, label in enumerate(condition["label"].tolist()):
        if label >= 0:
            evidence = posterior[bag, : sizes[bag]].double() / prior
            witness, other = (evidence @ of[label, j] for j in (0, 1))
            places = range(sizes[bag])
            chances = [witness[j] * other[[i for i in places if i != j]].prod() for j in places]
            total, instances = total - (sum(chances) / len(chances)).log(), instances + len(chances)
    assert value.item() == pytest.approx((total / instances).item(), rel=1e-4)


def test_the_weights_of_a_class_are_found_from_its_bags():
    """Positive bags hold one instance of component 3 and others of 0 to 2; negative ones others alone.

    The posterior is that of who knows the densities, and by which weights the components are drawn.
    """
    torch.manual_seed(0)
    label = torch.arange(60) % 2
    component = torch.randint(3, (60, 6))
    component[torch.arange(60), torch.randint(6, (60,))] = torch.where(label == 1, 3, component[:, 0])
    density = 0.9 * torch.nn.functional.one_hot(component, 4) + 0.025
    weights = torch.zeros(2, 2, 4, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.1)
    for _ in range(300):
        adam.zero_grad()
        share = weights.detach().softmax(2)
        posterior = density * ((share[:, 0] + 5 * share[:, 1]) / 6).mean(0)
        fitted(
            posterior / posterior.sum(2, keepdim=True), weights, {"label": label, "mask": torch.ones(60, 6) > 0}
        ).backward()
        adam.step()
    of = weights.softmax(2)
    assert of[1, 0, 3] > 0.9 and of[1, 1, 3] < 0.05 and of[0, :, 3].max() < 0.05


def test_players_without_classes_or_codes_are_refused():
    dense = mlp.Generator(**FACTS), mlp.Discriminator(**FACTS)
    with pytest.raises(ValueError, match="with a second output, class_logits: set classes to"):
        Classification().check(dense[1])
    with pytest.raises(ValueError, match="with a second output, class_logits: set classes to"):
        GeneratorClassification(1.0).build(*dense)
    with pytest.raises(ValueError, match="needs a generator with codes"):
        Information(1.0).build(*dense)
    with pytest.raises(ValueError, match="needs a generator with components"):
        BagLikelihood(1.0).build(*dense)
    with pytest.raises(ValueError, match="goes by what Information learns: add that"):
        BagLikelihood(1.0).penalty(SimpleNamespace(g_regularizers=[]), None, None, None, None)


# Image networks with a second output


@pytest.mark.parametrize(
    ("temperature", "margin", "expected"), [(0.5, 0.98, 2.19269), (0.25, 0.98, 3.07725), (1, 1, 1.88379)]
)
def test_data_to_data_cross_entropy_has_its_check_values(temperature, margin, expected):
    """Six embeddings and three proxies on the circle; the released code of ReACGAN gives other values."""
    angles = torch.tensor([0, 0.3, 1, 2, 3, 4.5]), torch.tensor([0.1, 1.5, 4.0])
    embeddings, proxies = (torch.stack([angle.cos(), angle.sin()], 1) for angle in angles)
    value = data_to_data(embeddings, proxies, torch.tensor([0, 0, 1, 1, 2, 2]), temperature, margin)
    assert value.item() == pytest.approx(expected, abs=1e-5)


def test_data_to_data_cross_entropy_is_0_where_all_is_easy_and_finite_with_one_class():
    embeddings = torch.eye(2)[torch.tensor([0, 0, 0])]
    assert data_to_data(embeddings, torch.eye(2), torch.tensor([0, 0, 0]), 0.1, 0.98) == 0


@pytest.mark.parametrize("cls", [biggan.Discriminator, dcgan.Discriminator])
def test_the_logit_of_a_discriminator_with_a_second_output_knows_no_class(cls):
    torch.manual_seed(0)
    x, labels = torch.rand(3, 3, 8, 8) * 2 - 1, torch.tensor([0, 2, 3])
    for classes in ("classifier", "proxies"):
        network = cls((8, 8), 3, 4, width=4, classes=classes, proxy_dim=6).eval()
        assert network.classifies and network.has_proxies == (classes == "proxies")
        torch.testing.assert_close(network(x, labels), network.head.psi(network.pooled(x)).squeeze(1))
        assert network.class_logits(x, labels).shape == (3, 4)
        with pytest.raises(ValueError, match="pass a class label"):
            network(x)
        with pytest.raises(ValueError, match="needs labelled data: set data.labels to true, or classes to projection"):
            cls((8, 8), 3, 0, width=4, classes=classes)
    embeddings, proxies = network.class_embeddings(x)
    assert embeddings.shape == (3, 6) and proxies.shape == (4, 6)
    for vectors in (embeddings, proxies):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    torch.testing.assert_close(network.class_logits(x), embeddings @ proxies.T)
    assert not cls((8, 8), 3, 4, width=4).classifies


@pytest.mark.parametrize(
    ("width", "proxy_dim", "published"), [(96, 512, 2_517_186), (8, 16, 17_794)], ids=["32", "32-tiny"]
)
def test_the_discriminator_of_reacgan_has_its_published_size(width, proxy_dim, published):
    with torch.device("meta"):
        network = biggan.Discriminator(
            (32, 32), 3, 10, width, num_down=2, num_plain=2, spectral_norm=False, classes="proxies", proxy_dim=proxy_dim
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == published


@pytest.mark.parametrize(
    ("classes", "of_discriminator", "of_generator"),
    [
        ("classifier", Classification(), GeneratorClassification(1.0)),
        ("proxies", DataToDataCrossEntropy(), GeneratorDataToDataCrossEntropy()),
    ],
)
def test_both_players_learn_the_classes_of_images(classes, of_discriminator, of_generator):
    torch.manual_seed(0)
    generator = dcgan.Generator((8, 8), 3, 4, latent_dim=3, width=4)
    discriminator = dcgan.Discriminator((8, 8), 3, 4, width=4, classes=classes, proxy_dim=6)
    model = SimpleNamespace(generator=generator, discriminator=discriminator, seen=as_they_are)
    z, real, labels = torch.randn(6, 3), torch.rand(6, 3, 8, 8) * 2 - 1, torch.tensor([0, 1, 2, 3, 0, 1])
    fake = generator(z, labels)
    of_discriminator.check(discriminator)
    value = of_discriminator.penalty(discriminator, real, fake.detach(), labels)
    trained = [weight for name, weight in discriminator.named_parameters() if "psi" not in name]
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(value, trained))
    of_generator.build(generator, discriminator)
    value = of_generator.penalty(model, z, fake, real, labels)
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(value, list(generator.parameters())))


@pytest.mark.parametrize("kind", [DataToDataCrossEntropy, GeneratorDataToDataCrossEntropy])
def test_discriminators_without_proxies_and_impossible_options_are_refused(kind):
    discriminator = dcgan.Discriminator((8, 8), 3, 4, width=4, classes="classifier")
    with pytest.raises(ValueError, match="set classes to proxies in biggan.Discriminator"):
        kind().check(discriminator) if kind is DataToDataCrossEntropy else kind().build(None, discriminator)
    for options in ({"temperature": 0.0}, {"positive_margin": 1.1}):
        with pytest.raises(ValueError, match="needs a temperature above 0 and a positive_margin in"):
            kind(**options)
