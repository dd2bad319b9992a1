"""Ctrl-C: the first one ends a command in order, the second one at once."""

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

FIRST = os.environ.get("LOCAL_RANK", "0") == "0"  # of the processes that Lightning starts on a machine
IMPORT = "<frozen importlib._bootstrap>"  # the file of Python's own functions that import a module


def exit_code(number: int) -> int:
    """Of a process that a signal ended; Lightning kills the first process if one that it started ends with another."""
    return 128 + number if FIRST else 0


def is_interrupt(exception: BaseException) -> bool:
    """Whether training ends by Ctrl-C, after it has saved: somebody is there, and looks at what it has made."""
    return isinstance(exception, SystemExit) and exception.code == exit_code(signal.SIGINT)


def tell(line: str) -> None:
    """Says it past Python's buffers: the signal may have come while these were written."""
    if FIRST:
        os.write(2, f"\n{line}\n".encode())


def end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(exit_code(number))


def end(number: int, frame: FrameType | None) -> None:
    """Unwinds the stack, so that no file is left half written; what comes again does not wait for that.

    Not out of an import: PyTorch, for one, takes any exception there for a NumPy that is missing, and goes on.
    """
    signal.signal(number, end_at_once)
    tell(f"{signal.Signals(number).name}: ended before it was done")
    if any(caller.f_code.co_filename == IMPORT for caller, _ in traceback.walk_stack(frame)):
        end_at_once(number, frame)
    raise SystemExit(exit_code(number))


def handle(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
    """Lets `handler` answer a signal, unless it is ignored, as in a job that a script has put in the background."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, handler)


@contextmanager
def ends_on_interrupt() -> Iterator[None]:
    """Lets Ctrl-C end what is done inside in one line, and later what Python does at its exit."""
    handle(signal.SIGINT, end)
    try:
        yield
    finally:
        handle(signal.SIGINT, end_at_once)
