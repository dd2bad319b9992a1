"""Numbers as people write them: 3,7,11-20."""

import re


def numbers_of(text: str, option: str) -> list[int]:
    """The numbers in `text`, in its order.

    Args:
        text: numbers and ranges, which include their ends, with commas between them.
        option: that it was given to, for the message.

    Raises:
        ValueError: it is anything else, or names a number twice.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        numbers = ends and range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        if not numbers:
            raise ValueError(f"{option} {text} is no list of numbers from 0: write 3,7,11-20 for instance")
        found += numbers
    if len(set(found)) < len(found):
        twice = next(number for place, number in enumerate(found) if number in found[:place])
        raise ValueError(f"{option} {text} names {twice} twice: leave one out")
    return found
