"""The command line: `python -m src {fit,validate,test,predict,score,compare,export,...}`."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

import src.data.digits
import src.data.folder
import src.data.requests
import src.data.vision
import src.metrics.fid
import src.metrics.inception_score
import src.metrics.kernel
import src.metrics.manifold  # noqa: F401  imported: known by short names, `--data ImageFolder`
from src import __version__
from src.callbacks.checkpoints import KeepConfig, refuse_other_images
from src.callbacks.loggers import CSV
from src.callbacks.monitors import Monitors
from src.callbacks.progress import Closing
from src.commands import size
from src.commands.choices import state_choices, state_mirrors
from src.commands.essentials import say_what_is_missing, with_essentials
from src.commands.first import ANSWERS, CONFIGS, check
from src.commands.folders import new_folder, run_folder
from src.commands.functions import FUNCTIONS, call
from src.commands.going_on import GoingOn
from src.commands.lightning import check_callbacks, check_processes, check_strategy, quieten, reasons, told, unnoticed
from src.commands.minutes import TimeLimit, plan
from src.commands.parser import Parser
from src.commands.refusals import check_numbers, check_trainer, check_writable, fail
from src.commands.remembered import complete, fact_of
from src.commands.seeds import seed_of
from src.commands.trainer import Trainer, settle_precision, settle_threads
from src.commands.warm_start import begin
from src.engine.moved import renewed
from src.engine.paths import near
from src.engine.weights import SUFFIX, read_checkpoint
from src.gan import GAN
from src.metrics.report import say_figures

BASE = CONFIGS / "base.yaml"
FACTS = ("image_size", "channels", "num_classes")
OF_USERS = (ValueError, OSError, ArithmeticError, ImportError)  # what they can cause, and mend


class CLI(LightningCLI):
    """Links the facts of the data to the networks, and gives each run its folder."""

    def __init__(self, *args: Any, **options: Any):
        self.asked = options["args"][:1]
        super().__init__(*args, **options)

    def subcommands(self) -> dict[str, set[str]]:
        """The one that is asked for, since each has a parser of its own, which takes time to build; or else all."""
        known = super().subcommands()
        return {name: known[name] for name in self.asked if name in known} or known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str | None, default=None,
            help="folder of the run; runs/<name of the first config> by default, or that of the checkpoint; or auto",
        )  # fmt: skip
        for network in ("generator", "discriminator"):
            for fact in FACTS:
                target = f"model.{network}.init_args.{fact}"
                parser.link_arguments("data", target, partial(fact_of, fact), apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning reads the whole file here for hyperparameters; `remembered` has the configuration."""

    def _set_seed(self) -> None:
        self.settle_seed()
        super()._set_seed()

    def settle_seed(self) -> None:
        self.run.seed_everything = self.run.model.seed = seed_of(self.run, self.subcommand)

    @property
    def run(self) -> Any:
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        for network in ("generator", "discriminator"):
            given = self.run.model[network].get("init_args", {})
            for fact in FACTS:
                if given.get(fact):
                    raise ValueError(f"model.{network}.{fact} follows the data: set --data.{fact} instead")
        check_numbers(self.run.model, "model")
        check_trainer(self.run.trainer)
        check_strategy(self.run.trainer.strategy)
        settle_precision(self.run.trainer, says=self.subcommand == "fit")
        settle_threads(self.run.trainer)
        if self.subcommand == "fit" and size.undecided(self.run) and not self.run.minutes:
            rank_zero_info(size.by_machine(self.run))
        named = [str(path) for path in self.run.get("config") or [] if path is not None]
        if self.subcommand == "fit":
            self.run.run_dir = new_folder(self.run, named)
        self.run.run_dir = near(run_folder(self.run.run_dir, self.run.trainer.default_root_dir, named))
        self.run.trainer.default_root_dir = self.run.run_dir
        if self.subcommand in ("fit", "test"):
            check_writable(self.run.run_dir, "--run_dir")

    def instantiate_classes(self) -> None:
        try:
            if self.run.get("minutes"):
                plan(self.run, lambda: self.parser.instantiate_classes(self.config)[self.subcommand])
            super().instantiate_classes()
        except (RuntimeError, TypeError, ArithmeticError, MemoryError) as error:  # of PyTorch, Lightning: -1 units, say
            raise ValueError(f"{error}: correct the options of --model, --data or --trainer that ask for it") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        given = self._get(self.config_init, "trainer")
        wanted = given.get("logger")
        self.wanted = [] if wanted in (None, True, False) else wanted if isinstance(wanted, list) else [wanted]
        for logger in self.wanted:
            if hasattr(logger, "place"):
                logger.place(self.run.run_dir)
        fits = self.subcommand == "fit"
        if fits:
            say_what_is_missing(given, BASE)
        loggers = [CSV(self.run.run_dir), *self.wanted] if fits else False
        trainer = super().instantiate_trainer(logger=loggers, **with_essentials(given), **kwargs)
        check_callbacks(trainer.callbacks)
        check_processes(trainer, bool(given.get("sync_batchnorm")))
        return trainer

    def before_fit(self) -> None:
        run_dir = Path(self.run.run_dir)
        path = self.run.ckpt_path
        inside = path is not None and Path(path).resolve().is_relative_to(run_dir.resolve())
        begun = (run_dir / "config.yaml").exists() and not self.trainer.fast_dev_run
        if begun and not self.run.resume and not inside and rank_zero_only.rank == 0:
            raise ValueError(
                f"{run_dir} already holds a run: name a folder for a new one with --run_dir, or go on with --resume"
            )
        state_choices(self.run.model, self.model, self.datamodule.image_size, but=FACTS)
        state_mirrors(self.run.data, self.datamodule)
        config = yaml.safe_load(self._parser("fit").dump(self.config.fit, skip_none=False))
        config |= {"resume": False, "minutes": None}
        if path:
            if Path(path).suffix == SUFFIX:
                raise ValueError(f"{path} holds weights alone: `fit` goes on from a .ckpt")
            checkpoint = self.check_images()
            old = yaml.safe_load(renewed(checkpoint["config"]))
            self.trainer.callbacks.insert(0, GoingOn(self.model, checkpoint, old, config, inside))
            if inside:  # the run as a whole began where it began
                config |= {"ckpt_path": old["ckpt_path"], "init_from": old.get("init_from")}
        begin(self.model, self.run, old if path else None)
        facts = {name: fact_of(name, self.datamodule) for name in (*FACTS, "class_names")}
        if not self.trainer.fast_dev_run:
            config = yaml.safe_dump(config, sort_keys=False)
            kept = KeepConfig(config, facts)
            self.trainer.callbacks[:0] = [kept, Monitors()]
            limits = [TimeLimit(self.run.minutes, None if path else kept)] if self.run.minutes else []
            self.trainer.callbacks += [*limits, Closing(self.after_fit)]

    def check_images(self) -> dict[str, Any]:
        checkpoint = read_checkpoint(self.run.ckpt_path)
        refuse_other_images(checkpoint, {name: getattr(self.datamodule, name) for name in FACTS})
        return checkpoint

    def before_test(self) -> None:
        self.check_images()
        if not self.model.metrics:
            raise ValueError("there is nothing to score: name figures with --model.metrics, FrechetDistance for one")

    before_validate = before_test

    def after_fit(self) -> None:
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            say("", f"{self.trainer.global_step} steps of training", *reasons(self.trainer))
            say_figures(self.model.results)
            but = self.model.untested()
            commands = ("predict",) if but else ("test", "predict")
            self.show_run(*(f"{command} --ckpt_path {self.checkpoint}" for command in commands), but=but)

    def after_validate(self) -> None:
        if self.trainer.is_global_zero:
            say_figures(self.model.results)

    def after_test(self) -> None:
        if not self.trainer.is_global_zero:
            return
        record = {
            "checkpoint": str(self.run.ckpt_path),
            "step": self.model.trained_steps,
            "results": self.model.results,
            "versions": {"gan-template": __version__, "torch": torch.__version__, "lightning": pl.__version__},
        }
        path = Path(self.run.run_dir) / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
        say_figures(self.model.results)
        for logger in self.wanted:  # on the page of the run, where it has one
            if hasattr(logger, "log_figures") and (Path(self.run.run_dir) / "wandb" / "run_id").exists():
                logger.log_figures("test", self.model.results)
                logger.finalize("success")
        classes = " --classes 3,7" if self.datamodule.num_classes > 7 else ""
        self.show_run(f"predict --ckpt_path {self.run.ckpt_path} --num_images 1000{classes}")

    def after_predict(self) -> None:
        if self.trainer.is_global_zero:
            writer = self.trainer.callbacks[-1]
            say(f"{writer.count} images in {writer.place}", f"the first of them in {writer.output / 'grid.png'}")

    @property
    def checkpoint(self) -> Path:
        return Path(self.run.run_dir) / "checkpoints" / "last.ckpt"

    def show_run(self, *commands: str, but: str = "") -> None:
        """Says where everything is, what to try next, and why not more."""
        run_dir = Path(self.run.run_dir)
        grids = sorted((run_dir / "samples").glob("step-*.png"))
        files = {"samples": grids[-1] if grids else None, "checkpoint": self.checkpoint}
        files |= {"report": run_dir / "report.html", "curves": run_dir / "metrics.csv"}
        files |= {"figures": run_dir / "metrics.json", "nearest": run_dir / "nearest.png"}
        say(f"In {run_dir}:", *(f"  {name:<11}{path}" for name, path in files.items() if path and path.exists()))
        here = Path(sys.prefix).resolve()
        inside = here != Path(sys.base_prefix).resolve() and here.is_relative_to(Path.cwd())
        python = here.relative_to(Path.cwd()) / "bin" / "python" if inside else "python"
        if self.checkpoint.exists():
            say("Try next:", *(f"  {python} -m src {command}" for command in commands), *filter(None, [but]))


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def start(cli_class: type[CLI], args: list[str]) -> CLI:
    quieten()
    args = complete(args)
    return cli_class(
        GAN, LightningDataModule, subclass_mode_data=True, trainer_class=Trainer, parser_class=Parser,
        auto_configure_optimizers=False, save_config_callback=None, seed_everything_default=0,
        parser_kwargs={name: {"default_config_files": [str(BASE)]} for name in args[:1]} | {"prog": "python -m src"},
        args=args,
    )  # fmt: skip


def main(args: list[str] | None = None) -> CLI | None:
    """Runs one command; what the user can mend ends in one line, unless `--debug` asks for the traceback."""
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if args and args[0] in ANSWERS:
        return say(ANSWERS[args[0]]())
    try:
        check(args)
        if args[0] in FUNCTIONS:
            return call(args[0], args[1:], main)
        return start(CLI, args)
    except (*OF_USERS, MisconfigurationException, torch.OutOfMemoryError) as error:
        if debug:
            raise
        fail(told(error))


class Loader(CLI):
    """Builds what `predict` would, and stops there."""

    def _set_seed(self) -> None:
        self.settle_seed()  # the random streams are left as they are: they belong to the caller

    def predict(self, **_: Any) -> None:
        checkpoint = read_checkpoint(self.run.ckpt_path)
        self.model.on_load_checkpoint(checkpoint)
        self.model.load_state_dict(checkpoint["state_dict"])

    def after_predict(self) -> None:
        pass


def load(path: str, *options: str) -> GAN:
    """The model of a checkpoint, on the CPU, ready to `sample`; for notebooks and scripts, which it does not disturb.

    Args:
        path: a checkpoint of this project.
        options: of `predict`: `"--data.image_size", "[64,96]"` for a fully convolutional generator, for instance.

    Raises:
        ValueError: as `read_checkpoint`.
    """
    with unnoticed():
        return start(Loader, ["predict", "--ckpt_path", path, *options]).model.eval()
