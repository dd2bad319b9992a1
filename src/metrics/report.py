"""Figures as people read them: a table, and under it the protocols that they mean nothing without."""

import textwrap
from typing import Any

WIDTH = 100  # letters of a line of what figures share


def say_figures(figures: list[dict[str, Any]]) -> None:
    """Prints each figure with its standard error and what only it depends on, then what those of one extractor share.

    Args:
        figures: dictionaries with `name`, `value`, `error` (or None) and `protocol`.
    """
    width = max((len(figure["name"]) for figure in figures), default=0)
    alike: dict[str, list[dict[str, Any]]] = {}
    for figure in figures:
        alike.setdefault(repr(figure["protocol"].get("extractor")), []).append(figure)
    for group in alike.values():
        protocols = [flat(figure["protocol"]) for figure in group]
        shared = {key: value for key, value in protocols[0].items() if all(p.get(key) == value for p in protocols)}
        for figure, protocol in zip(group, protocols, strict=True):
            error = "" if figure["error"] is None else f" ± {figure['error']:.2g}"
            own = {key: value for key, value in protocol.items() if key not in shared}
            print(f"  {figure['name']:<{width}} = {figure['value']:.4f}{error}  {words(own)}".rstrip(), flush=True)
        if shared:
            print(wrapped(f"({words(shared)})"), flush=True)


def wrapped(facts: str) -> str:
    """Facts between commas in lines of at most WIDTH letters, indented; a fact stays in one line."""
    kept = facts.replace(" ", "\xa0").replace(",\xa0", ", ")  # a space that does not break
    return textwrap.fill(kept, WIDTH, initial_indent="  ", subsequent_indent="   ").replace("\xa0", " ")


def flat(protocol: dict[str, Any]) -> dict[str, Any]:
    """One level: the extractor's facts beside the others, its hash shortened."""
    result: dict[str, Any] = {}
    for key, value in protocol.items():
        if isinstance(value, dict):
            result |= {f"{key} {inner}": str(v)[:8] if inner == "weights_hash" else v for inner, v in value.items()}
        else:
            result[key] = value
    return result


def words(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
