"""What the networks choose for themselves: said, and kept with the configuration."""

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info


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
