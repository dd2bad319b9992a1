"""How many threads `--trainer.threads auto` stands for. A command begins to look before it imports anything slow."""

import os
import time
from pathlib import Path
from typing import NamedTuple

STAT = Path("/proc/stat")
SLACK = 0.2  # of a core: something runs on every machine


class Reading(NamedTuple):
    """Seconds since some moment: on the clock, of this process, and of all work on the cores that it may use."""

    clock: float
    own: float
    work: float


_begun: Reading | None = None


def watch() -> None:
    """Begins to look at what else the cores do; only where Linux tells."""
    global _begun
    _begun = read() if STAT.exists() else None


def read() -> Reading:
    """The state of now."""
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in STAT.read_text().splitlines()]
    # user, nice, system, idle, waiting for disks, interrupts, soft interrupts, and what other virtual machines took
    ticks = sum(sum(map(int, (*line[1:4], *line[6:9]))) for line in lines if line[0] in names)
    return Reading(time.monotonic(), sum(os.times()[:4]), ticks / os.sysconf("SC_CLK_TCK"))


def idle_cores() -> float | None:
    """Cores without other work, on average since `watch`; None where nobody looked."""
    if _begun is None:
        return None
    clock, own, work = (now - then for now, then in zip(read(), _begun, strict=True))
    return len(os.sched_getaffinity(0)) - max(0.0, work - own) / clock


def automatic(idle: float, processes: int) -> tuple[int, str]:
    """One thread for each idle core, shared out over the processes, at least one.

    All threads wait for the last one at each layer. So one that shares its core with other work holds up the others:
    with networks of 28x28 pixels two threads made 42 steps/s on two idle cores, and 5 to 11 beside one busy process,
    where a single thread made 30.

    Args:
        idle: cores without other work.
        processes: that train together on this machine.

    Returns:
        The number, and why.
    """
    number = max(1, int(idle + SLACK) // processes)
    return number, f"{idle:.1f} of {len(os.sched_getaffinity(0))} cores are idle"
