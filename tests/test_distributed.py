"""Two processes are one: the same parameters as one process on the joined batch."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import yaml
from conftest import fit, in_processes, make_gan, run_command
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from src.engine import distributed
from src.engine.distributed import average_, averaging_on_the_way, batch_norm_statistics
from src.networks.base import Discriminator
from src.objectives.regularizers import R1, Regularizer

# Fused, and so in need of gradients in the order of their weights; convolutions have another one than matrices.
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "fused": True}}
CONVOLUTIONAL = {"width": 4, "num_blocks": 2, "batch_norm": False}


def experiment(folder, **model):
    """The digits with small networks and SGD, written to a file."""
    config = {
        "trainer": {"max_steps": 5, "accelerator": "cpu", "logger": False, "val_check_interval": 5},
        "model": {
            "generator": {"class_path": "src.networks.mlp.Generator", "init_args": {"hidden": [16]}},
            "discriminator": {"class_path": "src.networks.dcgan.Discriminator", "init_args": CONVOLUTIONAL},
            "g_optimizer": SGD,
            "d_optimizer": SGD,
            "metrics": [
                {
                    "class_path": "src.metrics.fid.FrechetDistance",
                    "init_args": {"extractor": "src.metrics.features.Classifier"},
                }
            ],
            "val_images": 130,
            "test_images": 130,
        }
        | model,
        "data": {"class_path": "src.data.digits.Digits", "init_args": {"batch_size": 16}},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_two_processes_equal_one(tmp_path):
    """With several discriminator steps, R1 now and then, accumulation, a warm-up, a larger generator batch, and ADA."""
    penalties = [{"class_path": "src.objectives.regularizers.R1", "init_args": {"weight": 1.0, "every": 2}}]
    silent = {
        "class_path": "src.images.augment.InstanceNoise",
        "init_args": {"sigma": 0},
    }  # noise itself differs by process
    ada = [{"class_path": "src.images.augment.Adaptive", "init_args": {"augmentations": [silent], "images": 1000}}]
    config = experiment(tmp_path, d_steps=2, accumulate=2, regularizers=penalties, d_warmup_steps=2, g_batch_multiple=2,
                        augment=ada)  # fmt: skip
    run_command(0, "fit", "--config", config, "--run_dir", tmp_path / "1", "--trainer.devices", 1)
    in_processes(2, run_command, "fit", "--config", config, "--run_dir", tmp_path / "2", "--trainer.devices", 2)
    one, two = state(tmp_path / "1"), state(tmp_path / "2")
    assert one["global_step"] == two["global_step"] == 5
    for name, tensor in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], tensor, rtol=0, atol=1e-6, msg=name)

    # The distance too: every sample and every real image counted once.
    last = {name: (tmp_path / name / "metrics.csv").read_text().splitlines()[-1].split(",")[-1] for name in ("1", "2")}
    assert float(last["2"]) == pytest.approx(float(last["1"]), rel=1e-4)

    # And what two processes generate from one checkpoint are the same files.
    predict = ["predict", "--ckpt_path", tmp_path / "1/checkpoints/last.ckpt", "--num_images", 120,
               "--trainer.accelerator", "cpu"]  # fmt: skip
    run_command(0, *predict, "--output", tmp_path / "out1", "--trainer.devices", 1)
    in_processes(2, run_command, *predict, "--output", tmp_path / "out2", "--trainer.devices", 2)
    files = [{p.name: p.read_bytes() for p in (tmp_path / f"out{n}").rglob("*.png")} for n in (1, 2)]
    assert len(files[0]) == 121 and files[0] == files[1]


def keep(rank, folder, *arguments):
    torch.save(run_command(rank, *arguments).state_dict(), folder / f"rank{rank}.pt")


def test_batch_norm_statistics_agree_before_they_are_saved(tmp_path):
    layers = {"class_path": "src.networks.mlp.Generator", "init_args": {"hidden": [16], "batch_norm": True}}
    config = experiment(tmp_path, generator=layers)
    in_processes(2, keep, tmp_path, "fit", "--config", config, "--run_dir", tmp_path / "run", "--trainer.devices", 2,
                 "--trainer.val_check_interval", 3)  # fmt: skip
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, tensor in ranks[0].items():
        assert torch.equal(ranks[1][name], tensor), name
        assert torch.equal(state(tmp_path / "run")["state_dict"][name], tensor), name


def test_only_the_gradients_of_the_stepped_player_travel_once_a_step(tmp_path, monkeypatch):
    gan = make_gan(d_steps=2, accumulate=4, regularizers=[R1(1.0)])
    travelled = []
    monkeypatch.setattr("src.training.average_", lambda tensors: travelled.append(sum(t.numel() for t in tensors)))
    fit(tmp_path, gan, max_steps=1)
    g, d = (sum(p.numel() for p in network.parameters()) for network in (gan.generator, gan.discriminator))
    assert travelled == [d, d, g]


class Odd(Discriminator):
    """A weight that is used twice, one that only a lazy penalty reaches, and one that nothing does."""

    def __init__(self):
        super().__init__((4, 4), 1, 0)
        self.twice, self.last = nn.Linear(16, 16), nn.Linear(16, 1)
        self.seldom, self.never = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(3))

    def forward(self, x, condition=None):
        return self.last(self.twice(self.twice(x.flatten(1)).tanh()).tanh()).squeeze(1)


class Seldom(Regularizer):
    """Is due now and then; its gradient is not finite at the third time."""

    def __init__(self):
        super().__init__(0.1, every=2)
        self.times = 0

    def penalty(self, discriminator, real, fake, condition):
        self.times += 1
        bad = torch.inf if self.times == 5 else 1.0  # twice an update, since that has two parts
        return (discriminator.seldom * real.flatten(1)).square().mean() * bad


def train_as(rank, folder):
    """One of two processes: trains with the gradients averaged after each backward pass, then anew on the way."""
    distributed.BUCKET = 100  # bytes
    for overlaps in (False, True):
        parts = {"discriminator": Odd(), "regularizers": [R1(1.0, every=2), Seldom()], "on_nonfinite": "skip"}
        torch.manual_seed(0)
        parts["discriminator"].apply(lambda m: m.reset_parameters() if isinstance(m, nn.Linear) else None)
        gan = make_gan(**parts, d_steps=2, accumulate=2, overlap_reduce=overlaps)
        fit(folder, gan, max_steps=4, devices=2)
        assert gan.overlaps == overlaps and gan.faults.count == 1 and dist.get_world_size() == 2
        torch.save(gan.state_dict(), folder / f"{overlaps}-{rank}.pt")


def test_gradients_that_are_averaged_on_the_way_are_the_same(tmp_path):
    in_processes(2, train_as, tmp_path)
    plain, *others = (torch.load(tmp_path / f"{name}.pt") for name in ("False-0", "False-1", "True-0", "True-1"))
    began = Odd().state_dict()
    assert torch.equal(plain["discriminator.never"], began["never"])
    assert not torch.equal(plain["discriminator.seldom"], began["seldom"])
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in plain.items())


def test_buckets_leave_in_order_while_the_backward_pass_goes_on(monkeypatch):
    network = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(5)))
    weights = [*network.parameters()]
    there = []  # gradients, whenever a bucket leaves

    def leaves(flat, async_op):
        there.append([weight.grad is not None for weight in weights])
        flat *= 2  # two equal processes
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(distributed, "BUCKET", 100)  # a weight and a half: two in a bucket
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", leaves)
    x = torch.randn(3, 4)
    expected = torch.autograd.grad(network(x).square().sum(), weights)
    with averaging_on_the_way(weights):
        network(x).square().sum().backward()
    assert there == [[False] * 3 + [True] * 2, [False] + [True] * 4, [True] * 5]
    assert all(torch.equal(weight.grad, gradient) for weight, gradient in zip(weights, expected, strict=True))
    assert not any(weight._post_accumulate_grad_hooks for weight in weights)


def test_one_process_has_nothing_to_overlap(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        gan = fit(tmp_path, make_gan(overlap_reduce=True), max_steps=1)
    assert not gan.overlaps and "model.overlap_reduce changes nothing: there is one process" in caplog.messages


def test_every_process_draws_its_own_noise():
    gan = make_gan()
    slices = []
    for rank in (0, 1):
        gan._trainer = SimpleNamespace(world_size=2, global_rank=rank)
        slices.append(gan.latents(8, 0, 0))
    gan._trainer = SimpleNamespace(world_size=1, global_rank=0)
    assert torch.equal(torch.cat(slices), gan.latents(16, 0, 0))
    assert not torch.equal(slices[0], slices[1])


def test_one_process_averages_nothing():
    tensor = torch.ones(3)
    average_([tensor])
    assert torch.equal(tensor, torch.ones(3))


def test_statistics_are_found_at_any_depth():
    network = nn.Sequential(
        nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3)), nn.BatchNorm1d(3, track_running_stats=False)
    )
    assert [t.shape for t in batch_norm_statistics(network)] == [(3,), (3,)]


def test_other_strategies_are_refused():
    gan = make_gan()
    gan._trainer = SimpleNamespace(world_size=2, strategy=DDPStrategy())
    with pytest.raises(ValueError, match="leave --trainer.strategy at auto"):
        gan.check_strategy()
