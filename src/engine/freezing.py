"""Weights that stay as they are, named by patterns."""

from fnmatch import fnmatchcase

from torch import nn


def freeze_(players: dict[str, nn.Module], patterns: list[str]) -> None:
    """Gives the weights that a pattern names no gradient; statistics of batch norm go on.

    Args:
        players: modules by name; a weight is named `<player>.<its name in there>`.
        patterns: names of weights or of modules around them, `*` stands for any part.

    Raises:
        ValueError: a pattern that names no weight, or patterns that leave a player none.
    """
    weights = {f"{player}.{name}": w for player, network in players.items() for name, w in network.named_parameters()}
    trained = {name for name, weight in weights.items() if weight.requires_grad}
    for pattern in patterns:
        named = [name for name in weights if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not named:
            there = dict.fromkeys(name.rpartition(".")[0] for name in weights)
            raise ValueError(f"model.freeze {pattern} names no weight: there are {', '.join(there)}")
        for name in named:
            weights[name].requires_grad_(False)
    for player in players:
        before = [name for name in trained if name.startswith(f"{player}.")]
        if before and not any(weights[name].requires_grad for name in before):
            raise ValueError(f"model.freeze leaves nothing of the {player} to train: name less of it")
