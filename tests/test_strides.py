"""Convolutions compute in channels_last, and no optimizer mixes the order of a checkpoint with that of its weights."""

from functools import partial

import pytest
import torch
from conftest import Squares, fit, make_gan, make_trainer
from torch import nn

from src.engine.faults import roll_back
from src.engine.strides import channels_last_, like_weights_
from src.networks import biggan, dcgan, fastgan, r3gan, resnet

ADAM = partial(torch.optim.Adam, lr=0.01, fused=True)


def convolutional(**options):
    torch.manual_seed(0)
    facts = {"image_size": (4, 4), "channels": 1}
    players = {
        "generator": dcgan.Generator(**facts, width=4, num_blocks=2),
        "discriminator": dcgan.Discriminator(**facts, width=4, num_blocks=2),
    }
    return make_gan(**(players | {"g_optimizer": ADAM, "d_optimizer": ADAM} | options))


def in_order(tree):
    """The same numbers, every tensor in the order that PyTorch builds weights in: a checkpoint of an older version."""
    if isinstance(tree, dict):
        return {key: in_order(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [in_order(value) for value in tree]
    return tree.clone(memory_format=torch.contiguous_format) if isinstance(tree, torch.Tensor) else tree


def states(gan):
    return [state for optimizer in gan.trainer.optimizers for state in optimizer.state.items()]


def order(tensor):
    """Strides of the dimensions that have any."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def test_weights_gradients_and_moments_of_convolutions_are_channels_last(tmp_path):
    gan = convolutional()
    fit(tmp_path, gan)
    kernels = [weight for weight in gan.parameters() if weight.dim() == 4]
    assert len(kernels) == 4
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    assert not all(weight.is_contiguous() for weight in kernels)
    for weight, state in states(gan):
        assert order(weight.grad) == order(state["exp_avg"]) == order(state["exp_avg_sq"]) == order(weight)


@pytest.mark.parametrize(
    "make",
    [
        biggan.Generator,
        dcgan.Generator,
        partial(dcgan.Generator, upsampling="nearest", self_modulation=True),
        fastgan.Generator,
        resnet.Generator,
        partial(dcgan.Discriminator, batch_norm=False),
    ],
)
def test_maps_and_their_gradients_stay_in_channels_last(make):
    """A gradient in another order takes batch norm 7 times as long, and one layer can lose the order for all."""
    network = make((32, 32), 3, width=4)
    channels_last_(network)
    maps, gradients = [], []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LeakyReLU):
            module.register_forward_hook(lambda _, __, out: maps.append(out))
            module.register_full_backward_hook(lambda _, __, out: gradients.append(out[0]))
    out = network(torch.randn(2, *getattr(network, "latent_shape", (3, 32, 32))))
    out.backward(torch.randn_like(out))
    first = not isinstance(network, dcgan.Generator)  # elsewhere a linear layer's map keeps its order
    behind = [tensor for tensor in (*maps[first:], *gradients[: len(gradients) - first]) if tensor.dim() == 4]
    assert behind and all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in behind)


def test_a_network_that_is_slower_in_it_keeps_its_order():
    gan = make_gan(generator=r3gan.Generator((8, 8), 1, width=16, num_blocks=1))
    assert all(weight.is_contiguous() for weight in gan.generator.parameters())


def test_other_weights_stay_as_they_are():
    network = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(2, 3, 5), nn.Conv3d(2, 3, 2))
    before = [weight.stride() for weight in network.parameters()]
    channels_last_(network)
    assert [weight.stride() for weight in network.parameters()] == before


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)])
@pytest.mark.parametrize("written, read", [("contiguous", "channels_last"), ("channels_last", "contiguous")])
def test_a_state_of_the_other_order_goes_on_as_in_the_plain_optimizer(make, written, read):
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    gradients = torch.randn(6, 4, 3, 2, 2)

    def trained(first, second, **options):
        weight = torch.ones(4, 3, 2, 2)
        state = None
        for order, three in ((first, gradients[:3]), (second, gradients[3:])):
            weight = nn.Parameter(weight.detach().clone(memory_format=formats[order]))
            optimizer = make([weight], lr=0.1, **options)
            optimizer.register_load_state_dict_post_hook(like_weights_)
            if state:
                optimizer.load_state_dict(state)
            for gradient in three:
                weight.grad = gradient.clone(memory_format=formats[order])
                optimizer.step()
            state = optimizer.state_dict()
        return weight.detach()

    plain = trained("contiguous", "contiguous", fused=False)
    torch.testing.assert_close(trained(written, read, fused=True), plain)


def test_a_run_goes_on_from_a_checkpoint_of_the_other_order_to_the_same_weights(tmp_path):
    straight = convolutional()
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(straight, datamodule=Squares())
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    torch.save(in_order(torch.load(tmp_path / "new.ckpt", weights_only=True)), tmp_path / "old.ckpt")
    ends = []
    for name in ("new.ckpt", "old.ckpt"):
        gan = convolutional()
        make_trainer(tmp_path, max_steps=4).fit(gan, datamodule=Squares(), ckpt_path=tmp_path / name)
        ends.append(gan.state_dict())
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name

    roll_back(gan, tmp_path / "old.ckpt")
    assert all(order(state["exp_avg"]) == order(weight) for weight, state in states(gan))
