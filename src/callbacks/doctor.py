"""The doctor: what is wrong between the two players, by the figures of `PlayerBalance`, and what may mend it."""

import inspect
from typing import Any

from torch import nn

from src.engine.batch_norm import has_batch_norm

EARLIEST = 50_000  # images seen by D: until then a healthy run, too, shows samples of one kind, hue or pattern

CAUSES = {
    "overfitting": "the discriminator learns the training images by heart",
    "collapse": "the samples resemble each other far more than real images do (mode collapse)",
    "one_hue": "the samples are nearly all of one colour or brightness, and real images are not",
    "checkerboard": "the samples have a checkerboard or stripes of single pixels, and real images have not",
    "vanishing": "hardly any gradient reaches the generator",
    "d_wins": "the discriminator tells real from generated images without fail",
    "g_wins": "the discriminator takes nearly all generated images for real",
}


def diagnose(values: dict[str, float], calibrated: bool = True) -> list[str]:
    """Keys of `CAUSES` for what is wrong.

    Args:
        values: figures of `PlayerBalance`, and `gradient`, the norm of the generator's gradient over its largest.
        calibrated: whether a logit above 0 means "real".
    """
    fooled, caught = values["accuracy/fake"] < 0.05, values["accuracy/fake"] > 0.99
    collapsed = values["diversity"] < 0.3
    return [
        ailment
        for ailment, present in {
            "overfitting": values.get("overfitting", 0.0) > 0.6,  # the target of ADA, arXiv:2006.06676, Section 3.1
            "collapse": collapsed,
            "one_hue": not collapsed and values.get("color_diversity", 1.0) < 0.25,
            "checkerboard": values.get("checkerboard", 0.0) > 1.0,
            "vanishing": values["gradient"] < 0.001,
            "d_wins": calibrated and caught and values["accuracy/train"] > 0.99,
            "g_wins": calibrated and fooled and values["accuracy/train"] > 0.5,
        }.items()
        if present
    ]


def remedies(ailment: str, gan: Any, has_best: bool) -> list[str]:
    """What may mend it, without what is in use already.

    Args:
        ailment: a key of `CAUSES`.
        gan: the `GAN`, with its parts.
        has_best: whether there is a best.ckpt.
    """
    used = {type(part).__name__ for part in gan.objectives}
    penalty = "add R1 to model.regularizers" + ", with batch_norm false in D" * has_batch_norm(gan.discriminator)
    stronger = "raise the weight of the penalty in model.regularizers"
    noise = "add InstanceNoise to model.augment"
    transposed = any(isinstance(module, nn.ConvTranspose2d) for module in gan.generator.modules())
    otherwise = "upsampling" in inspect.signature(type(gan.generator)).parameters
    known = {
        "overfitting": {
            "add Translation to model.augment": not used & {"Translation", "Color", "Cutout", "Adaptive", "Pipeline"},
            penalty: not gan.regularizers,
            stronger: bool(gan.regularizers),
            "get more data": True,
        },
        "collapse": {
            "lower model.g_optimizer.lr and model.d_optimizer.lr": True,
            penalty: not gan.regularizers,
            "go back to best.ckpt": has_best,
        },
        "one_hue": {
            "lower model.g_optimizer.lr": True,
            penalty: not gan.regularizers,
            "raise model.d_steps": True,
        },
        "checkerboard": {
            "set model.generator.upsampling to nearest": transposed and otherwise,
            "take src.networks.resnet.Generator, which has no transposed convolutions": transposed and not otherwise,
            "lower model.g_optimizer.lr": not transposed,
        },
        "vanishing": {
            "take model.loss NonSaturating": "Minimax" in used,
            noise: "InstanceNoise" not in used,
            "lower model.d_optimizer.lr": True,
        },
        "d_wins": {
            "lower model.d_optimizer.lr": True,
            penalty: not gan.regularizers,
            stronger: bool(gan.regularizers),
            noise: "InstanceNoise" not in used,
        },
        "g_wins": {"raise model.d_optimizer.lr": True, "raise model.d_steps": True},
    }
    return [remedy for remedy, applies in known[ailment].items() if applies]
