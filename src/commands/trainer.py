"""The Trainer whose methods are the commands: their arguments and docstrings are the options and their help."""

import os
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from src.callbacks.predictions import Format, PredictionWriter
from src.commands.numbers import numbers_of
from src.commands.refusals import check_writable
from src.commands.truncation import Truncate, say_truncation
from src.engine import precision, threads

# Those that end in -true, but for 32-true, are refused with the remedy by `check_trainer`.
Precision = (
    Literal[32, 16]
    | Literal["auto", "32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16", "16-true", "bf16-true", "64-true"]
)


class Trainer(pl.Trainer):
    """Lightning's, where `precision` may be `auto`, a limit of 1 is one batch, and `threads` are an option.

    Args:
        threads: that compute on a CPU, in each process; "auto" is OMP_NUM_THREADS where that is set, else as many as
            there are idle cores. Another number rounds otherwise: a run that goes on keeps its own.
        precision: of the arithmetic; "auto" is bf16-mixed where that is faster (src/engine/precision.py), else 32-true.
        matmul_precision: of products of float32 matrices, see `torch.set_float32_matmul_precision`: "high" is TF32 on
            GPUs with tensor cores. Left out, PyTorch decides, which is "highest"; convolutions are TF32 there anyway.
        limit_train_batches: batches of an epoch, as a number (1) or as a share (1.0).
        limit_val_batches: batches of a validation, as a number or as a share.
        limit_test_batches: batches of a test, as a number or as a share.
        limit_predict_batches: batches of a prediction, as a number or as a share.
    """

    # Lightning's annotations reach the parser as float first: a limit of 1 batch became 1.0, which is all of them.
    def __init__(
        self,
        *args: Any,
        threads: PositiveInt | Literal["auto"] = "auto",
        precision: Precision | None = None,
        matmul_precision: Literal["highest", "high", "medium"] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ):
        if threads != "auto":
            os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that Lightning starts
            torch.set_num_threads(threads)
        if matmul_precision is not None:
            torch.set_float32_matmul_precision(matmul_precision)
            rank_zero_info(f"matrices of float32 are multiplied with precision {matmul_precision!r} where a device can")
        super().__init__(
            *args, precision=precision, limit_train_batches=limit_train_batches, limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches, limit_predict_batches=limit_predict_batches, **kwargs,
        )  # fmt: skip

    def fit(
        self,
        model: Any,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        init_from: str | None = None,
        resume: bool = False,
        minutes: PositiveFloat | None = None,
    ) -> None:
        """Train, and keep everything in the run folder.

        Args:
            ckpt_path: checkpoint to go on from.
            init_from: checkpoint to begin with: the weights that fit, by name and shape; a line says which do not.
            resume: go on from the run folder's last.ckpt, or start if there is none.
            minutes: train for so long: some seconds are measured, and max_steps, validations and schedules follow.
        """
        super().fit(model, datamodule, ckpt_path=ckpt_path)  # by position: it may be a loader, too

    def validate(self, model: Any, datamodule: Any = None, ckpt_path: str | None = None) -> Any:
        """Score a checkpoint with few samples, as during training.

        Args:
            ckpt_path: checkpoint to score; nothing else is needed.
        """
        return super().validate(model, datamodule, ckpt_path=ckpt_path, verbose=False)

    def test(self, model: Any, datamodule: Any = None, ckpt_path: str | None = None) -> Any:
        """Score a checkpoint with many samples, and write metrics.json.

        Args:
            ckpt_path: checkpoint to score; nothing else is needed.
        """
        return super().test(model, datamodule, ckpt_path=ckpt_path, verbose=False)

    def predict(
        self,
        model: Any,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        output: str | None = None,
        num_images: int | None = None,
        seeds: str | None = None,
        seed: int = 0,
        classes: str | None = None,
        truncation: float = 1.0,
        columns: PositiveInt | None = None,
        format: Format = "png",
        batch_size: int = 64,
    ) -> None:
        """Generate images from a checkpoint. Image number i depends on the seed, i and its class alone.

        Args:
            ckpt_path: checkpoint to sample from; nothing else is needed.
            output: new or empty folder; `predictions` in the run folder by default.
            num_images: how many, from number 0 on; 64 by default.
            seeds: numbers of the images instead, "3,7,11-20" for instance: those that the same numbers give otherwise.
            seed: of the noise; another one gives other images.
            classes: of a class-conditional model, numbers or names ("3,7"), which take turns; all of them by default.
            truncation: deviation of the samples from their mean, as a share above 0; less than 1 makes them more
                typical, and more alike. A line says what is done.
            columns: images a row of grid.png, which shows the first hundred.
            format: of the files, or of the one that holds all: .zip (of .png), or .npz, which is fastest.
            batch_size: images held at once; the files do not depend on it.
        """
        if seeds and num_images is not None:
            raise ValueError("--seeds says which images: leave out --num_images")
        numbers = numbers_of(seeds, "--seeds") if seeds else range(64 if num_images is None else num_images)
        datamodule.ask(numbers, classes, batch_size)
        model.seed = seed
        columns = columns or min(len(datamodule.classes), 10) or model.generator.columns
        output = output or str(Path(self.default_root_dir) / "predictions")
        check_writable(output, "--output")
        say_truncation(model.generator, truncation)
        self.callbacks += [Truncate(truncation), PredictionWriter(output, columns, format)]
        super().predict(model, datamodule=datamodule, ckpt_path=ckpt_path, return_predictions=False)


def settle_precision(options: Any, says: bool) -> None:
    """Puts what `auto` stands for on this machine in its place, so that config.yaml holds it.

    Args:
        options: of the Trainer; changed in place.
        says: whether to print what was taken, and why.
    """
    if options.precision == "auto":
        options.precision, why = precision.automatic(str(options.accelerator))
        if says and rank_zero_only.rank == 0:
            print(f"trainer.precision auto: {options.precision}, since {why}", flush=True)


def settle_threads(options: Any) -> None:
    """Puts the number of threads that `auto` stands for in its place, so that config.yaml holds it, and says why.

    Args:
        options: of the Trainer; changed in place.
    """
    idle = None if "OMP_NUM_THREADS" in os.environ else threads.idle_cores()
    said = ""
    if options.threads == "auto" and idle is None:
        options.threads = torch.get_num_threads()
    elif options.threads == "auto":
        options.threads, why = threads.automatic(idle, int(options.devices) if str(options.devices).isdigit() else 1)
        said = f"trainer.threads auto: {options.threads}, since {why}"
    elif idle is not None and options.threads > idle + threads.SLACK:
        said = (
            f"trainer.threads {options.threads}, but {idle:.1f} cores are idle: fewer may be faster; a run that began"
            " with more is then no longer bit by bit the same"
        )
    if said and rank_zero_only.rank == 0:
        print(said, flush=True)
