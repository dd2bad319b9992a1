"""What the project chooses when a run begins: said, and kept with the configuration."""

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from src.data.mirror import told_from_mirror

TOLD_APART = 0.9  # share of images that are told from their mirror images, from which on those are not used


def state_choices(config: Any, model: Any, image_size: tuple[int, int], but: tuple[str, ...]) -> None:
    """Puts what the networks chose for themselves into the configuration, as if it had been said, and says it.

    Args:
        config: of the model.
        model: the `GAN`.
        image_size: height and width, by which they chose.
        but: options that follow the data.
    """
    chosen = []
    for player in ("generator", "discriminator"):
        options = config[player].get("init_args", {})
        for option in [name for name, value in options.items() if value is None and name not in but]:
            if (choice := getattr(getattr(model, player), option, None)) is not None:
                options[option] = choice
                chosen.append(f"{player}.{option} {choice}")
    if chosen:
        height, width = image_size
        rank_zero_info(f"chosen for images of {height}x{width}, see config.yaml: {', '.join(chosen)}")


def state_mirrors(config: Any, data: Any) -> None:
    """Where nothing says whether mirror images are used, puts into the configuration what the images say, and says it.

    Args:
        config: of the data.
        data: the `ImageDataModule`, which follows.
    """
    options = config.get("init_args", {})
    if options.get("flip", False) is not None:
        return
    told = told_from_mirror(data.split("train")[0])
    options["flip"] = data.flip = told < TOLD_APART
    if not data.flip:
        data.found.remarks.append(
            f"mirror images are not used: {told:.0%} of the images are told from theirs (--data.flip true uses them)"
        )
