"""A held-back critic: a discriminator that had no part in training tells held-out real images from fresh samples."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.images.pixels import from_uint8
from src.metrics.base import Score


class Critic(Score):
    """Accuracy and loss of a classifier trained from nothing on training images against samples of the generator.

    Measured on samples that it has not seen and on held-out real images (where the data have no test split, a fifth of
    the training images, kept from it alone), both kinds counted alike: 0.5 if it cannot tell them apart (the classifier
    two-sample test, arXiv:1610.06545). Its network is the same for all generators, so that their figures compare.
    A generator that repeats its training images fools the critic too: read `Memorization` beside it.
    The standard error of the accuracy is that of the images judged, not that of another training of the critic.

    Args:
        steps: updates of the critic.
        batch_size: real images of an update, and as many samples.
        width: channels of its first layer.
        num_fake: samples it is trained on; as many held-back ones as there are held-out real images judge it.

    Raises:
        ValueError: fewer than 1 of something.
    """

    figure_names = ("critic_accuracy", "critic_loss")

    def __init__(self, steps: int = 500, batch_size: int = 64, width: int = 32, num_fake: int = 5000):
        if min(steps, batch_size, width, num_fake) < 1:
            raise ValueError("Critic steps, batch_size, width and num_fake must be at least 1")
        self.steps, self.batch_size, self.width, self.num_fake = steps, batch_size, width, num_fake

    def check(self, data: Any, num_fake: int) -> None:
        if "test" not in data.splits and data.num_images("train") < 2:
            raise ValueError("Critic takes at least 2 training images, or held-out ones: add some")

    @torch.inference_mode(False)
    def evaluate(self, model: Any, errors: bool) -> list[dict[str, Any]]:
        data = model.trainer.datamodule
        real = torch.cat(list(data.real_batches("train")))
        split = "test" if "test" in data.splits else "train"
        if split == "test":
            held_out = torch.cat(list(data.real_batches("test")))
        else:
            fifth = torch.arange(len(real)) % 5 == 0
            real, held_out = real[~fifth], real[fifth]
        images = samples(model, self.num_fake + len(held_out))
        fake, fresh = images[: -len(held_out)], images[-len(held_out) :]
        critic = self.train(real, fake, model.device)
        with torch.no_grad():
            logits = [
                torch.cat([critic(from_uint8(part.to(model.device))).cpu() for part in kind.split(500)])
                for kind in (held_out, fresh)
            ]
        right = [(logits[0] > 0).double(), (logits[1] <= 0).double()]
        accuracy = sum(hits.mean().item() for hits in right) / 2
        error = math.sqrt(sum(hits.var(correction=0).item() / len(hits) for hits in right)) / 2
        loss = (functional.softplus(-logits[0]).mean() + functional.softplus(logits[1]).mean()).item() / 2
        facts = {"num_real": len(real), "num_fake": len(fake), "num_held_out": len(held_out), "steps": self.steps}
        facts |= {"batch_size": self.batch_size, "width": self.width, "split": split}
        rows = ((accuracy, error, False), (loss, None, True))  # higher is better of the loss: the critic's
        return [
            {"name": name, "value": value, "error": deviation, "higher_is_better": higher}
            | {"protocol": facts | model.protocol()}
            for name, (value, deviation, higher) in zip(self.names, rows, strict=True)
        ]

    def train(self, real: Tensor, fake: Tensor, device: torch.device) -> nn.Module:
        """The trained critic, images to logits [B, 1]: a function of the two sets of uint8 images alone."""
        with torch.random.fork_rng(devices=[]), torch.autocast(device.type, enabled=False):
            torch.manual_seed(0)
            critic = network(self.width, *real.shape[1:]).to(device)
            optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
            with torch.enable_grad():
                for _ in range(self.steps):
                    batch = [kind[torch.randint(len(kind), (self.batch_size,))] for kind in (real, fake)]
                    of_real, of_fake = critic(from_uint8(torch.cat(batch).to(device))).split(self.batch_size)
                    optimizer.zero_grad()
                    (functional.softplus(-of_real).mean() + functional.softplus(of_fake).mean()).backward()
                    optimizer.step()
        return critic.eval()


def network(width: int, channels: int, height: int, breadth: int) -> nn.Sequential:
    """Convolutions that halve the image to 4 pixels or fewer, and double the channels, up to eight times the first."""
    layers = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
    widest = 8 * width
    while max(height, breadth) > 4:
        following = min(2 * width, widest)
        layers += [nn.Conv2d(width, following, 3, 2, 1), nn.LeakyReLU(0.2)]
        width, height, breadth = following, (height + 1) // 2, (breadth + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * height * breadth, 1))


def samples(model: Any, count: int) -> Tensor:
    """Images uint8 [M, C, H, W] of the samples after those that the other metrics see."""
    parts = torch.arange(model.test_images, model.test_images + count).split(50)
    return torch.cat([model.shown(part, model.trainer.datamodule.conditions(part))[0].cpu() for part in parts])
