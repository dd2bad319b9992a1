"""Bags: how they are made, that their order and padding do not matter, and what their figures say."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Squares, refusal
from sklearn.metrics import roc_auc_score

from src.cli import load, main
from src.data.bags import ImageBags, TableBags
from src.data.digits import Digits
from src.images.pixels import to_uint8
from src.metrics import bags as figures
from src.metrics.features import Classifier
from src.metrics.statistics import Features
from src.networks.bags import Discriminator, Generator

FACTS = {"image_size": (8, 8), "channels": 1, "num_classes": 3}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def digit_bags(**options):
    return ImageBags(Digits(), **({"targets": ["9", "4"], "num_bags": 60, "num_test_bags": 30} | options))


def split_up(bags):
    ends = bags.sizes.cumsum()
    return [slice(end - size, end) for end, size in zip(ends, bags.sizes, strict=True)]


def digits_of(data, split):
    """The digit of each instance, found again by its pixels; all 1,797 of them differ."""
    images, labels = data.source.split(split)
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    return np.array([known[image.tobytes()] for image in data.bags(split).instances])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bag_has_the_class_of_the_target_that_it_holds(split):
    data = digit_bags()
    bags, digits = data.bags(split), digits_of(data, split)
    assert bags.labels.tolist() == [i % 3 for i in range(len(bags.labels))]
    for label, where in zip(bags.labels, split_up(bags), strict=True):
        held = set(digits[where]) & {9, 4}
        assert held == [set(), {9}, {4}][label]
        assert (bags.keys[where] == np.isin(digits[where], [9, 4])).all()


def test_sizes_and_witnesses_have_their_distributions():
    data = digit_bags(num_bags=3000, mean_size=8.0, size_deviation=2.0, witness_rate=0.25)
    bags = data.bags("train")
    assert bags.sizes.mean() == pytest.approx(8, abs=0.15) and bags.sizes.std() == pytest.approx(2, abs=0.1)
    keys = np.array([bags.keys[where].sum() for where in split_up(bags)])
    positive = bags.labels > 0
    expected = 1 + 0.25 * (bags.sizes[positive] - 1)
    assert keys[positive].mean() == pytest.approx(expected.mean(), rel=0.03) and keys[~positive].max() == 0
    assert digit_bags(mean_size=40.0).bags("train").sizes.max() == 16


def test_bags_are_functions_of_seed_split_and_number():
    small, large, other = digit_bags(num_bags=20), digit_bags(), digit_bags(seed=1)
    few, many = small.bags("train"), large.bags("train")
    assert (many.sizes[:20] == few.sizes).all() and (many.instances[: len(few.instances)] == few.instances).all()
    assert small.fingerprint("test") == large.fingerprint("test")
    assert other.fingerprint("train") != large.fingerprint("train")
    assert not np.array_equal(small.bags("test").sizes[:20], few.sizes)


def test_batches_are_padded_bags():
    data = digit_bags()
    bags, dataset = data.bags("train"), data.training_set()
    x, condition = dataset[[5, 0, 5]]
    assert x.shape == (3, 16, 1, 8, 8) and x.dtype == torch.uint8 and len(dataset) == 60
    for row, i in enumerate([5, 0, 5]):
        here = condition["mask"][row]
        assert (x[row, here].numpy() == bags.instances[split_up(bags)[i]]).all() and (x[row, ~here] == 0).all()
        assert condition["label"][row] == bags.labels[i]
    examples, condition = data.examples("train", 1000)
    assert len(examples) == 60 and (condition["mask"].sum(1).numpy() == bags.sizes).all()
    assert (data.keys("train").sum(1).numpy() == [bags.keys[where].sum() for where in split_up(bags)]).all()


def test_generated_bags_have_the_classes_and_sizes_of_the_training_bags():
    data = digit_bags()
    condition = data.conditions(torch.arange(60))
    pairs = sorted(zip(condition["label"].tolist(), condition["mask"].sum(1).tolist(), strict=True))
    assert pairs == sorted(zip(*(part.tolist() for part in data.bags("train")[2:0:-1]), strict=True))
    assert torch.equal(data.conditions(torch.tensor([61]))["mask"][0], condition["mask"][1])


def test_bags_without_a_label_are_those_of_more_bags_and_half_of_what_training_reads():
    data, more = digit_bags(num_bags=20, num_unlabelled=60), digit_bags(num_bags=80)
    assert (data.bags("train").labels[20:] == -1).all() and (
        data.bags("train").instances == more.bags("train").instances
    ).all()
    dataset = data.training_set()
    _, condition = dataset[list(range(len(dataset)))]
    assert len(dataset) == 120 and (condition["label"] >= 0).sum() == 60
    sizes = more.bags("train").sizes
    assert (condition["mask"].sum(1).numpy() == [*sizes[:20]] * 3 + [*sizes[20:]]).all()
    assert (data.conditions(torch.arange(200))["label"] >= 0).all()
    assert data.class_sizes() == [7, 7, 6] and len(data.split("train")[0]) == sizes[:20].sum()
    assert data.amount("train") == f"80 bags of {sizes.sum()} instances, 60 of them without a label"
    assert len(digit_bags(num_bags=20, num_unlabelled=5).training_set()) == 25


@pytest.mark.parametrize("targets", [[], ["11"], [str(digit) for digit in range(10)]])
def test_targets_that_make_no_bags_are_refused(targets):
    with pytest.raises(ValueError, match="must be some, not all, of the classes of the source: 0, 1, 2"):
        digit_bags(targets=targets)
    with pytest.raises(ValueError, match="none, it has no labels"):
        ImageBags(Squares(labels=False), ["bright"])


LINES = [("a", "sick", 1, 3.0, 7), ("b", "well", 0, 1.0, 7), ("a", "sick", 0, 2.0, 7), ("b", "well", 0, 2.5, 7)]


def write(path, lines, header="bag,label,key,size,flat"):
    path.write_text("\n".join([header, *(",".join(map(str, line)) for line in lines)]) + "\n")
    return str(path)


def test_bags_of_vectors_from_tables(tmp_path):
    test = write(tmp_path / "test.csv", [("c", "well", 0, 9.0, 7)])
    data = TableBags(write(tmp_path / "train.csv", LINES), test, key="key", bag_size=3, batch_size=2)
    assert (data.image_size, data.channels, data.class_names) == ((1, 2), 1, ["sick", "well"])
    x, condition = data.examples("train", 9)
    assert x[:, :, 0, 0, 0].tolist() == [[1, 0, 0], [-1, 0.5, 0]]  # 1 to 3 become -1 to 1; the third is padding
    assert condition["label"].tolist() == [0, 1] and condition["mask"].tolist() == [[True, True, False]] * 2
    assert data.keys("train").tolist() == [[True, False, False], [False, False, False]]
    assert data.examples("test", 1)[0][0, 0].flatten().tolist() == [1, -1]  # cut at the range of training
    images, labels = data.split("train")
    assert (
        images.dtype == np.uint8
        and images[:, 0, 0, 0].tolist() == [255, 128, 0, 191]
        and labels.tolist() == [0] * 2 + [1] * 2
    )


def test_a_bag_of_a_table_without_a_label_is_unlabelled_in_training_and_refused_elsewhere(tmp_path):
    lines = [*LINES, ("c", "", 0, 2.0, 7)]
    path = write(tmp_path / "train.csv", lines)
    assert TableBags(path, bag_size=3).bags("train").labels.tolist() == [0, 1, -1]
    with pytest.raises(ValueError, match="test bag c has no label: only training bags may lack theirs"):
        TableBags(path, path, bag_size=3).bags("test")


@pytest.mark.parametrize(
    "lines, header, message",
    [
        (LINES, "bag,klass,key,size,flat", "needs a header with label"),
        ([], "bag,label,key,size,flat", "needs a header with bag, label"),
        ([*LINES, ("a", "well", 0, 1, 1)], None, "bag a has the labels sick and well"),
        ([*LINES, ("a", "sick", 0, "x", 1)], None, "holds a value that is no number"),
        ([*LINES, ("a", "sick", 0, "nan", 1)], None, "not finite"),
        ([*LINES, ("a", "sick", 0, "1,5", 1)], None, "line 6 has more cells than the header"),
        ([*LINES, *[("a", "sick", 0, 1, 1)] * 2], None, "has 4 instances: set --data.bag_size"),
    ],
)
def test_tables_that_make_no_bags_are_refused(lines, header, message, tmp_path):
    path = write(tmp_path / "train.csv", lines, *([header] if header else []))
    with pytest.raises(ValueError, match=message):
        TableBags(path, bag_size=3).bags("train")


def discriminator(**options):
    return Discriminator(**FACTS, width=8, **options).eval()


@pytest.mark.parametrize("num_blocks", [0, 2])
def test_order_and_padding_of_a_bag_do_not_matter(num_blocks):
    network = discriminator(num_blocks=num_blocks)
    x, label = torch.rand(4, 6, 1, 8, 8) * 2 - 1, torch.tensor([0, 1, 2, 0])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]] * 4).bool()
    order = torch.randperm(6)
    for judge in (network.forward, network.class_logits):
        logits = judge(x, {"label": label, "mask": mask})
        torch.testing.assert_close(judge(x[:, order], {"label": label, "mask": mask[:, order]}), logits)
        torch.testing.assert_close(judge(x[:, :3], label), logits)  # any size; plain labels: all are there
        assert not torch.allclose(judge(x, label), logits)
    attention = network.attention(x, {"mask": mask})
    torch.testing.assert_close(attention.sum(1), torch.ones(4))
    assert (attention[~mask] == 0).all()


def test_attention_is_that_of_the_paper():
    """a_k = exp(w'(tanh(V h_k) * sigm(U h_k))) / sum_j ..., Eq. 9 of arXiv:1802.04712, and z = sum a_k h_k, Eq. 7."""
    network, x = discriminator(), torch.rand(1, 5, 1, 8, 8)
    h = network.encoder(x[0])
    v, u, w = network.gate_tanh, network.gate_sigmoid, network.scores.weight[0]
    scores = torch.stack([w @ (torch.tanh(v(each)) * torch.sigmoid(u(each))) for each in h]).exp()
    expected = scores / scores.sum()
    torch.testing.assert_close(network.attention(x)[0], expected)
    logits = network.classes((expected[:, None] * h).sum(0))
    torch.testing.assert_close(network.class_logits(x)[0], logits)


@pytest.mark.parametrize("critic", [0, 6])
def test_a_bag_without_a_label_is_judged_without_its_projection(critic):
    network = discriminator(critic=critic)
    x, label = torch.rand(3, 4, 1, 8, 8), torch.tensor([0, 1, 2])
    known, unknown = network(x, label)[:3], network(x, torch.tensor([0, -1, 2]))[:3]
    (network.critic or network).head.embed.weight.data.zero_()
    torch.testing.assert_close(network(x, label)[1], unknown[1])
    assert known[1] != unknown[1] and torch.equal(known[[0, 2]], unknown[[0, 2]])


def test_a_critic_judges_the_bags_and_every_instance_that_is_present():
    """The logit of an instance is its own alone, whatever its place; that of a bag moves with all it holds."""
    network = discriminator(critic=6)
    x, label = torch.rand(2, 4, 1, 8, 8), torch.tensor([0, 1])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    logits = network(x, {"label": label, "mask": mask})
    assert logits.shape == (2 + 5,) and logits.unique().numel() == 7
    torch.testing.assert_close(network(x[:, :3], {"label": label, "mask": mask[:, :3]}), logits)
    order = torch.tensor([2, 0, 1, 3])
    moved = network(x[:, order], {"label": label, "mask": mask[:, order]})
    torch.testing.assert_close(moved, logits[[0, 1, 4, 2, 3, 5, 6]])
    torch.testing.assert_close(network(x[1:, :2], label[1:])[1:], logits[5:])
    x[0, 0] += 1
    changed = network(x, {"label": label, "mask": mask}) != logits
    assert changed.tolist() == [True, False, True, False, False, False, False]


def test_noise_and_dropout_are_of_training_alone():
    network = discriminator(noise=0.5)
    x = torch.rand(2, 4, 1, 8, 8)
    assert torch.equal(network.class_logits(x), network.class_logits(x))
    network.train()
    assert not torch.equal(network.class_logits(x), network.class_logits(x))


def generator(**options):
    network = Generator(**FACTS, **({"bag_size": 6, "num_components": 4, "latent_dim": 3, "width": 8} | options))
    with torch.no_grad():
        network.weights.normal_()
    return network


def test_components_have_the_probabilities_of_their_weights():
    network = generator()
    label = torch.arange(3).repeat(4000)
    components = network.components(torch.randn(len(label), *network.latent_shape), label)
    for c in range(3):
        drawn = torch.nn.functional.one_hot(components[label == c], 4).double()
        expected = network.weights[c].double().softmax(1)
        torch.testing.assert_close(drawn[:, 0].mean(0), expected[0], atol=0.03, rtol=0)  # the witness
        torch.testing.assert_close(drawn[:, 1:].mean((0, 1)), expected[1], atol=0.015, rtol=0)


def test_a_bag_without_a_label_is_drawn_of_all_classes_alike():
    network = generator()
    z = torch.randn(6000, *network.latent_shape)
    drawn = torch.nn.functional.one_hot(network.components(z, torch.full((6000,), -1)), 4).double()
    expected = network.weights.double().softmax(2).mean(0)
    torch.testing.assert_close(drawn[:, 0].mean(0), expected[0], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn[:, 1:].mean((0, 1)), expected[1], atol=0.015, rtol=0)


def test_an_instance_is_the_work_of_one_component_and_the_weights_have_its_softmax_gradient():
    network = generator(num_components=2).eval()
    z, label = torch.randn(5, *network.latent_shape), torch.tensor([0, 1, 2, 0, 1])
    components = network.components(z, label)
    samples = network(z, label)
    with torch.no_grad():
        network.embed[1] += 1.0
    changed = (network(z, label) != samples).flatten(2).any(2)
    assert torch.equal(changed, components == 1) and 0 < changed.float().mean() < 1
    network.zero_grad()
    network(z, label).sum().backward()
    assert (network.weights.grad.abs() > 1e-9).all()


@pytest.mark.parametrize("critic", [0, 6])
@pytest.mark.parametrize("num_blocks", [0, 2])
def test_bags_are_images_in_range_that_train_every_parameter(num_blocks, critic):
    network, judge = generator(num_blocks=num_blocks), discriminator(num_blocks=num_blocks, critic=critic)
    z, label = torch.randn(7, *network.latent_shape), torch.arange(7) % 3
    samples = network(z, label)
    assert samples.shape == (7, *network.output_shape) == (7, 6, 1, 8, 8) and samples.abs().max() <= 1
    (judge(samples, label).sum() + judge.class_logits(samples, label)[:, 0].sum()).backward()
    for name, parameter in [*network.named_parameters(), *judge.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name


def test_instances_are_shown_with_their_numbers_and_the_label_of_their_bag():
    network = generator()
    samples = torch.arange(18.0).view(3, 6, 1, 1, 1).expand(3, 6, 1, 8, 8)
    mask = torch.arange(6) < torch.tensor([2, 6, 1])[:, None]
    condition = {"label": torch.tensor([2, 0, 1]), "mask": mask}
    images, numbers, labels = network.as_images(samples, torch.tensor([0, 1, 10]), condition)
    assert images[:, 0, 0, 0].tolist() == [0, 1, *range(6, 12), 12]
    assert numbers.tolist() == [0, 1, *range(6, 12), 60] and labels.tolist() == [2, 2, 0, 0, 0, 0, 0, 0, 1]
    assert len(network.as_images(samples, torch.arange(3), condition["label"])[0]) == 18
    z = torch.randn(3, *network.latent_shape)
    assert torch.equal(network.codes(z, condition), network.components(z, condition)[mask])


def test_bags_that_do_not_fit_are_refused():
    network = generator()
    with pytest.raises(ValueError, match=r"set --model.generator.bag_size 9"):
        condition = {"label": torch.zeros(1).long(), "mask": torch.ones(1, 9).bool()}
        network(torch.randn(1, *network.latent_shape), condition)
    for player in (Generator, Discriminator):
        with pytest.raises(ValueError, match="bags need classes"):
            player((8, 8), 1)
        with pytest.raises(ValueError, match="not a multiple"):
            player((1, 7), 1, 2, num_blocks=1)


def test_areas_under_the_curve_are_those_of_scikit_learn():
    random = np.random.RandomState(0)
    scores, positive = torch.from_numpy(random.randint(0, 20, 300) / 20), torch.from_numpy(random.rand(300) < 0.3)
    assert figures.auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    for num_classes in (2, 3):
        logits, labels = torch.from_numpy(random.randn(90, num_classes)), torch.arange(90) % num_classes
        p = logits.softmax(1)
        expected = roc_auc_score(labels, p[:, 1] if num_classes == 2 else p, multi_class="ovr")
        assert figures.class_auc(logits, labels) == pytest.approx(expected)
    with pytest.raises(ValueError, match="needs positives and negatives"):
        figures.auc(scores, torch.ones(300).bool())


def test_attention_is_judged_within_each_bag():
    attention = torch.randint(0, 5, (8, 12)) / 5
    mask = torch.arange(12) < torch.randint(6, 12, (8, 1))
    keys = (torch.rand(8, 12) < 0.4) & mask
    keys[0], keys[1] = False, mask[1]
    areas = figures.attention_aucs(attention, keys, mask)
    assert areas[:2].isnan().all()
    expected = [roc_auc_score(keys[i][mask[i]], attention[i][mask[i]]) for i in range(2, 8)]
    assert areas[2:].tolist() == pytest.approx(expected)


def test_purity_counts_the_most_frequent_class_of_each_component():
    classes, codes = torch.tensor([0, 0, 1, 2, 2, 2, 2]), torch.tensor([0, 0, 0, 2, 2, 4, 4])
    fake = Features(torch.zeros(7, 1), torch.nn.functional.one_hot(classes, 3).float(), codes)
    assert figures.contingency(fake).tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 2], [0, 0, 0], [0, 0, 2]]
    assert figures.ComponentPurity().values(fake, fake) == [6 / 7, 2.0]


def test_a_positive_bag_holds_its_target_and_a_negative_one_none():
    found = torch.tensor([9, 1, 2, 4, 9, 9, 3, 3, 4])  # of targets 9 and 4
    bags = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4, 5])
    classes = torch.tensor([1, 1, 0, 2, 0, 2])
    assert figures.truths(found, bags, classes, [9, 4]).tolist() == [True, False, False, False, True, True]


class Knowing(torch.nn.Module):
    """Knows the answers: of each bag by its first pixels, of each instance by its pixels."""

    def __init__(self, data, sure=True):
        super().__init__()
        self.data, self.sure = data, sure
        x, condition = data.examples("test", 1000)
        self.of_bag = {bag.numpy().tobytes(): y for bag, y in zip(x, condition["label"], strict=True)}
        self.of_key = {bag.numpy().tobytes(): keys for bag, keys in zip(x, data.keys("test"), strict=True)}

    def class_logits(self, x, condition):
        labels = torch.stack([self.of_bag[bag.numpy().tobytes()] for bag in x])
        return torch.nn.functional.one_hot(labels, self.data.num_classes) * float(self.sure)

    def attention(self, x, condition):
        return torch.stack([self.of_key[bag.numpy().tobytes()] for bag in x]) * float(self.sure)


@pytest.mark.parametrize("sure, expected", [(True, [1, 1, 1]), (False, [1 / 3, 0.5, 0.5])])
def test_who_knows_the_answers_scores_one_and_who_does_not_scores_chance(sure, expected):
    data = digit_bags(num_test_bags=150)
    model = SimpleNamespace(trainer=SimpleNamespace(datamodule=data), device="cpu", protocol=dict)
    model.discriminator = Knowing(data, sure)
    found = figures.BagScore().evaluate(model, errors=True)
    assert [figure["value"] for figure in found] == pytest.approx(expected)
    assert [figure["name"] for figure in found] == ["bag-accuracy", "bag-auc", "attention-auc"]


def test_a_class_without_held_out_bags_is_known_before_the_first_step():
    data = digit_bags(num_test_bags=2)  # of "none" and of 9
    with pytest.raises(ValueError, match="BagScore needs held-out bags of each of two classes or more: add some of 4"):
        figures.BagScore().check(data, 100)
    data = digit_bags()
    figures.BagScore().check(data, 100)
    data.splits = ("train",)
    with pytest.raises(ValueError, match="BagScore needs test images, and the data have none"):
        figures.BagScore().check(data, 100)


@pytest.fixture
def small(tmp_path):
    """The experiment of the digits, made small."""
    network, judge = {"init_args": {"width": 4}}, {"init_args": {"width": 4, "critic": 4}}
    overlay = {
        "trainer": {"max_steps": 4, "val_check_interval": 2, "logger": False},
        "model": {"generator": network, "discriminator": judge, "val_images": 20, "test_images": 20},
        "data": {"init_args": {"num_bags": 12, "num_unlabelled": 20, "num_test_bags": 40, "batch_size": 4}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(overlay))
    experiment = ROOT / "configs" / "systems" / "simmim_digits.yaml"
    return ["fit", "--config", str(experiment), "--config", str(tmp_path / "small.yaml")]


def test_a_run_resumes_to_the_same_weights_and_is_scored(small, tmp_path):
    main([*small, "--run_dir", str(tmp_path / "whole")])
    main([*small, "--run_dir", str(tmp_path / "halved"), "--trainer.max_steps", "2"])
    main([*small, "--run_dir", str(tmp_path / "halved"), "--resume"])
    whole, halved = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "halved")
    )
    assert all(torch.equal(whole[name], halved[name]) for name in whole) and whole.keys() == halved.keys()

    checkpoint = str(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    main(["test", "--ckpt_path", checkpoint])
    results = json.loads((tmp_path / "whole" / "metrics.json").read_text())["results"]
    values = {figure["name"].split("-digits")[0]: figure["value"] for figure in results}
    assert all(0 <= values[name] <= 1 for name in figures.BagScore.figure_names)

    gan, condition = load(checkpoint), digit_bags(targets=["9"], num_bags=12).conditions(torch.arange(20))
    images = to_uint8(gan.sample(torch.arange(20), condition))[condition["mask"]]
    codes = gan.generator_ema.codes(gan.latents_of(torch.arange(20)), condition)
    judged = Features(*Classifier().both(images), codes)
    assert values["component-purity"] == figures.ComponentPurity().values(judged, judged)[0]
    digits, bags = judged.logits.argmax(1), condition["mask"].nonzero()[:, 0]
    right = figures.truths(digits, bags, condition["label"], [9]).double()
    for name, label in (("none", 0), ("9", 1)):
        assert values[f"label-truth-{name}"] == right[condition["label"] == label].mean()

    main(["predict", "--ckpt_path", checkpoint, "--output", str(tmp_path / "out"), "--num_images", "3"])
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3 * 16


def test_bags_of_another_size_than_the_generators_are_refused_in_one_line(small, tmp_path, capsys):
    line = refusal([*small, "--run_dir", str(tmp_path / "run"), "--data.bag_size", "12"], capsys)
    assert "set --model.generator.bag_size 12" in line


def test_features_go_by_their_names(tmp_path):
    train = write(tmp_path / "train.csv", [("a", "sick", 1.0, 5.0), ("b", "well", 3.0, 7.0)], "bag,label,f1,f2")
    test = write(tmp_path / "test.csv", [("a", "sick", 5.0, 1.0)], "bag,label,f2,f1")
    data = TableBags(train, test, bag_size=3, batch_size=2)
    assert torch.equal(data.examples("test", 1)[0], data.examples("train", 1)[0])
    with pytest.raises(ValueError, match="needs a header with f1"):
        TableBags(train, write(tmp_path / "less.csv", [("a", "sick", 5.0)], "bag,label,f2"), bag_size=3)


def test_options_that_bags_would_ignore_are_refused():
    with pytest.raises(ValueError, match="leave out its flip"):
        ImageBags(Squares(labels=True, flip=True), ["bright"])
