"""Where curves go: a CSV file, always, and Weights & Biases unless switched off."""

import csv
import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

PATIENCE = 5  # seconds that W&B has for an answer at the start,
FINISH = 60  # and for what is yet to be uploaded at the end
ABSENT = "not logged in"


class CSV(Logger):
    """One row a step in `metrics.csv`, complete on disk after every call.

    Lightning's own CSVLogger deletes the file of the run that it resumes, and gives training and validation of one
    step two rows.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str):
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.columns = ["step"]
        self.last_row = 0  # where it begins in the file

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Takes up the rows of an earlier process, except those after `step`, which come again.

        Where training begins anew the file is kept under another name.
        """
        if self.path.is_file() and step == 0:
            others = (self.path.with_stem(f"{self.path.stem}-{number}") for number in itertools.count(1))
            kept = next(path for path in others if not path.exists())
            os.replace(self.path, kept)
            rank_zero_info(f"no checkpoint to go on from: training begins anew, the curves so far are kept in {kept}")
        elif self.path.is_file():
            with open(self.path, newline="") as file:
                whole = (line for line in file if line.endswith("\n"))  # a process may have died while it wrote
                reader = csv.DictReader(whole)
                self.columns = list(reader.fieldnames or self.columns)
                rows = [{k: v for k, v in row.items() if v != ""} | {"step": int(row["step"])} for row in reader]
            self.rows = [row for row in rows if row["step"] <= step]
            self._rewrite()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` lies beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        same_row = bool(self.rows) and self.rows[-1]["step"] == step
        if same_row:
            self.rows[-1].update(values)
        else:
            self.rows.append({"step": step, **values})
        new_columns = [name for name in values if name not in self.columns]
        self.columns += new_columns
        if new_columns or not self.path.is_file():
            self._rewrite()
            return
        with open(self.path, "r+", newline="") as file:
            if same_row:
                file.seek(self.last_row)
                file.truncate()
            else:
                self.last_row = file.seek(0, os.SEEK_END)
            csv.DictWriter(file, self.columns).writerow(self.rows[-1])

    def _rewrite(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows[:-1])
            self.last_row = file.tell()
            writer.writerows(self.rows[-1:])
        os.replace(temporary, self.path)  # all rows of the run are in it: never half of them


class WandB(WandbLogger):
    """Weights & Biases: online when you are logged in, offline where it does not answer, else off; one line says so.

    Nobody is prompted. `WANDB_MODE` decides where it is set: with "online" a run that cannot be is refused, with
    "offline" one is recorded without a login, too.

    Args:
        project: name of the project there.
        name: name of the run; that of the run folder by default.
        entity: user or team.
        tags: for finding the run again.
        group: runs that belong together, several seeds of one experiment for instance.
    """

    def __init__(
        self,
        project: str = "gan",
        name: str | None = None,
        entity: str | None = None,
        tags: list[str] | None = None,
        group: str | None = None,
    ):
        super().__init__(project=project, name=name, entity=entity, tags=tags, group=group, save_dir=".")
        self.lost = False

    def place(self, run_dir: str) -> None:
        """Puts the run's files into `run_dir`, and goes on with the run that is there."""
        folder = Path(run_dir)
        del self._wandb_init["anonymous"]  # wandb warns that it ignores it
        self._save_dir = self._wandb_init["dir"] = str(folder)
        self._wandb_init["name"] = self._wandb_init["name"] or folder.name
        earlier = folder / "wandb" / "run_id"
        if earlier.is_file() and (run_id := earlier.read_text().strip()):  # empty: died while it was written
            self._wandb_init["id"] = self._id = run_id

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb; not begun where Lightning asks for it, before anything that may refuse to train."""
        return self._experiment or Later(self.begin)

    def begin(self) -> Any:
        """The run, started on first use.

        Raises:
            ValueError: settings that W&B does not know, or no way to be online where that is insisted on.
        """
        if self._experiment is not None:
            return self._experiment
        os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(PATIENCE))
        import wandb
        from wandb.errors import Error

        folder = Path(self._save_dir) / "wandb"
        made = [path for path in (folder, folder.parent) if not path.exists()]
        try:
            mode = wandb.setup().settings.mode  # from the environment, and files that `wandb offline` writes
            without = None
            if mode != "disabled":
                without = "WANDB_MODE" if mode in ("offline", "dryrun") else obstacle()
            if without and os.environ.get("WANDB_MODE") in ("online", "run", "shared"):
                raise ValueError(without)
            if without == ABSENT:
                mode, without = "disabled", None
                rank_zero_info(f"W&B is off ({ABSENT}): `wandb login` switches it on, WANDB_MODE=offline records a run")
                wandb.teardown()  # of the process that was asked
            settings = {"silent": True} if without else {"finish_timeout": FINISH}
            self._wandb_init |= {"mode": "offline" if without else mode, "settings": wandb.Settings(**settings)}
            if mode == "disabled":
                self._wandb_init["dir"] = None
                return super().experiment
            # wandb falls back to the system's temporary folder where its own does not exist
            folder.mkdir(parents=True, exist_ok=True)
            run = super().experiment
        except (Error, ValueError) as error:  # no key or a wrong one, no answer, settings that it does not know
            with suppress(OSError):  # a run that was refused leaves no folder behind
                for path in made:
                    path.rmdir()
            raise ValueError(
                f"Weights & Biases: {error}; `wandb login` or WANDB_MODE=offline, or --trainer.logger false"
            ) from error
        (folder / "run_id").write_text(str(run.id))
        if without:
            rank_zero_info(f"W&B is offline ({without}): `wandb sync {Path(run.dir).parent}` uploads the run later")
        return run

    def unless_lost(self, call: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Once begun, a run does not end because W&B does: its service may die, or its disk be full."""
        run = self.begin()
        if self.lost:
            return
        try:
            call(*args, **kwargs)
        except Exception as error:
            self.lost = True
            rank_zero_warn(
                f"Weights & Biases failed ({type(error).__name__}: {error}): training goes on without it; metrics.csv"
                f" and the pictures are complete, `wandb sync {Path(run.dir).parent}` uploads what it has"
            )

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.unless_lost(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self.unless_lost(super().log_hyperparams, params)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.unless_lost(super().log_image, key, images, step, **kwargs)

    @rank_zero_only
    def summarize(self, values: dict[str, Any]) -> None:
        """Sets what stands in the table of runs."""
        self.unless_lost(lambda: self.experiment.summary.update(values))

    @rank_zero_only
    def log_figures(self, prefix: str, figures: list[dict[str, Any]]) -> None:
        """Figures of an evaluation with their standard errors and the protocol that they mean nothing without."""
        for figure in figures:
            name = f"{prefix}/{figure['name']}"
            self.summarize({name: figure["value"], f"{name}-error": figure["error"]})
            self.summarize({f"{name}-protocol": figure["protocol"]})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self.unless_lost(super().finalize, status)
            self.unless_lost(self._experiment.finish)  # otherwise the end of the process decides how much is on disk


class Later:
    """Stands for what `begin` returns, and begins when something of it is asked for."""

    def __init__(self, begin: Callable[[], Any]):
        self._begin = begin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._begin(), name)


def obstacle() -> str | None:
    """Why W&B cannot be online, in its own words; None if it can. Prompts for nothing, and waits `PATIENCE` at most."""
    import wandb
    from wandb.errors import AuthenticationError

    settings = wandb.setup().settings
    silent, settings.silent = settings.silent, True
    try:
        return None if wandb.login(prompt=False, verify=True) else ABSENT
    except AuthenticationError as error:
        return str(error)
    finally:
        settings.silent = silent
