"""Several configurations over several seeds, and what comes of it in one table: `python -m src study`."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from src.callbacks.report import hardware
from src.commands.first import parsed
from src.commands.numbers import numbers_of
from src.commands.parser import reader
from src.commands.refusals import check_writable
from src.commands.results import differences, scored
from src.commands.summary import Study, finished, reason, scores, summarize
from src.engine.interrupts import end, handle

OWN = {  # options of `fit` that a study sets, and what to take instead
    "--seed_everything": "take --seeds",
    "--run_dir": "--run_dir outside of the arms is the folder of the study",
    "--resume": "the same command goes on",
    "--ckpt_path": "a study trains anew",
}
RUN = "import json, sys; from src.cli import main; from src.commands.study import measure; "
RUN += "measure(main, *json.loads(sys.argv[1]))"


def study(args: list[str], main: Callable[[list[str]], Any]) -> None:
    """Train and score configurations over several seeds, and put the results into a table; what is done stays.

    Args:
        args: words of the command line.
        main: runs another command.

    Raises:
        ValueError: an option that is malformed or that `fit` refuses, another study in the folder, or runs that failed.
    """
    parser = reader("study", study)
    parser.epilog = "Any other option is one of `fit`, for all arms."
    parser.add_argument("--config", action="append", default=[], help="configuration of all arms; may come again")
    parser.add_argument("--arm", action="append", default=[], metavar='NAME="OPTIONS"', help=(
        "what is compared: a name, and options of `fit` ('hinge=--model.loss Hinge'); may come again, the first is what"
        " the others are compared with"))  # fmt: skip
    parser.add_argument("--seeds", default="0-2", help="numbers and ranges, 0-4 or 0,1,7; 0-2 by default")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--test", default="", metavar='"OPTIONS"', help="further options of `test`")
    parser.add_argument("--run_dir", help="folder of the study; runs/studies/NAME OF THE FIRST CONFIG by default")
    given, shared = parser.parse_known_args(args)
    if given.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {given.jobs}")
    name = Path(given.config[0]).stem if given.config else "gan"
    base = [word for path in given.config for word in ("--config", path)] + shared
    arms = dict(map(named, given.arm or ["plain"]))
    if len(arms) < len(given.arm):
        raise ValueError("two --arm have one name: each has a folder that is called so")
    folder, test = Path(given.run_dir or f"runs/studies/{name}"), split(given.test, "--test")
    plan = Study(folder, arms, numbers_of(given.seeds, "--seeds"), base)
    check_writable(str(folder), "--run_dir")
    fits = {arm: [*base, *options] for arm, options in arms.items()}
    keep({folder / arm: resolved(main, arm, options, test) for arm, options in fits.items()})
    try:
        carry_out(fits, plan.seeds, folder, test, given.jobs)
    finally:
        summarize(plan)
    if left := plan.unfinished():
        whole = len(plan.runs())
        raise ValueError(f"{len(left)} of {whole} runs failed, as the table says: the same command tries them again")


def named(text: str) -> tuple[str, list[str]]:
    """The name of an arm and its options."""
    name, _, options = text.partition("=")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"--arm {text}: begin with a name and =, such as --arm hinge='--model.loss Hinge'")
    return name, split(options, f"--arm {name}")


def split(text: str, option: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{option} {text}: {error}; close it") from error


def resolved(main: Callable[[list[str]], Any], arm: str, options: list[str], test: list[str]) -> str:
    """The whole configuration of an arm as YAML text; what `fit` refuses of it is refused."""
    for word in options:
        if instead := OWN.get(word.partition("=")[0]):
            raise ValueError(f"{word} is set by the study: leave it out, {instead}")
    said, refused = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(refused):
            main(["fit", *options, "--print_config"])
    except SystemExit as stopped:
        if stopped.code:
            error = refused.getvalue().strip().rpartition("error: ")[2]
            raise ValueError(f"arm {arm}: {error}") from stopped
    return said.getvalue() + f"test: {json.dumps(test)}\n"


def keep(configs: dict[Path, str]) -> None:
    """Writes `arm.yaml` into the folder of each arm; refuses to mix its runs with earlier ones of other options."""
    for folder, text in configs.items():
        path = folder / "arm.yaml"
        begun = path.is_file() and any(folder.glob("seed*/config.yaml"))
        if unlike := differences([parsed(path.read_bytes(), str(path)), parsed(text, folder.name)]) if begun else {}:
            said = "; ".join(f"{option} was {old}, is {new}" for option, (old, new) in unlike.items())
            raise ValueError(f"{folder} holds runs of other options ({said}): name another --run_dir or another arm")
    for folder, text in configs.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "arm.yaml").write_text(text)


def carry_out(
    arms: dict[str, list[str]], seeds: Iterable[int], folder: Path, test: list[str] | None = None, jobs: int = 1
) -> None:
    """Trains and scores each arm with each seed, each run in a process of its own; those that are finished stay.

    A run that fails leaves its reason in its `log.txt`, and the others go on.

    Args:
        arms: name and options of `fit`.
        seeds: of the runs.
        folder: of the study; the runs lie in `ARM/seedN` there.
        test: further options of `test`.
        jobs: processes at a time, which share the cores.
    """
    runs = {
        folder / arm / f"seed{seed}": [*arms[arm], "--seed_everything", str(seed)] for seed in seeds for arm in arms
    }
    waiting = [run_dir for run_dir in runs if not finished(run_dir)]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // jobs))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = f"{hardware(device)}, {jobs} at a time, threads each: {threads}"
    if waiting:
        print(f"{len(waiting)} of {len(runs)} runs are to be done; {machine}", flush=True)
    running: dict[Path, tuple[subprocess.Popen, float]] = {}
    handle(signal.SIGTERM, end)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run_dir = waiting.pop(0)
                running[run_dir] = start(run_dir, runs[run_dir], test or [], threads), time.monotonic()
            time.sleep(0.1)
            for run_dir, (process, since) in list(running.items()):
                if process.poll() is not None:
                    del running[run_dir]
                    close(run_dir, process.returncode, time.monotonic() - since, machine)
    finally:
        for process, _ in running.values():  # of a study that is told to end: they save, and end
            process.terminate()
        for run_dir, (process, since) in running.items():
            close(run_dir, process.wait(), time.monotonic() - since, machine)


def start(run_dir: Path, options: list[str], test: list[str], threads: str) -> subprocess.Popen:
    """Starts the process that trains and scores a run, and writes what it says into `log.txt`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", RUN, json.dumps([str(run_dir), options, test])]
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    with open(run_dir / "log.txt", "wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def close(run_dir: Path, code: int, seconds: float, machine: str) -> None:
    """Notes the time of a run, of all processes that worked at it, and says how it ended."""
    path = run_dir / "study.json"
    before = json.loads(path.read_bytes())["seconds"] if path.is_file() else 0.0
    path.write_text(json.dumps({"seconds": round(before + seconds, 1), "machine": machine}) + "\n")
    if code < 0:
        with open(run_dir / "log.txt", "a") as log:
            print(f"\nerror: ended by {signal.Signals(-code).name}", file=log)
    ending = "done" if finished(run_dir) else f"not done, {reason(run_dir)}"
    print(f"{run_dir}: {ending}, after {seconds:.0f} s", flush=True)


def measure(main: Callable[[list[str]], Any], run_dir: str, options: list[str], test: list[str]) -> None:
    """Trains a run to its end, and scores its last and its best checkpoint.

    Args:
        main: runs a command.
        run_dir: folder of the run.
        options: of `fit`.
        test: of `test`.
    """
    if not scored(Path(run_dir)):
        main(["fit", *options, "--run_dir", run_dir, "--resume"])
    for checkpoint, folder in scores(Path(run_dir)).items():
        if not scored(folder):
            main(["test", "--ckpt_path", str(checkpoint), "--run_dir", str(folder), *test])
