"""What Lightning ships: each callback and strategy works with two players, or is refused with what to take instead."""

import csv
import inspect
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT, fit, make_trainer, refusal
from lightning.pytorch import Trainer
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import AsyncCheckpointIO, TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from src.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint
from src.callbacks.curves import read
from src.callbacks.monitors import check, validation_interval
from src.cli import main
from src.commands.essentials import with_essentials
from src.commands.lightning import STRATEGIES, check_callbacks, check_strategy, quieten
from src.commands.refusals import NOT_HERE, OF_ONE_OPTIMIZER

# A new one in `lightning.pytorch.callbacks` fails the test below until somebody decides.
WORK = {
    "EarlyStopping": {"monitor": "loss/generator"},
    "LambdaCallback": {},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"every_n_train_steps": 3},
    "ModelSummary": {},
    "ThroughputMonitor": {"batch_size_fn": "test_lightning.number"},
    "Timer": {"duration": "00:00:30:00"},
    "TQDMProgressBar": {},
}
NEED_A_PACKAGE = {"DeviceStatsMonitor": "psutil", "RichModelSummary": "rich", "RichProgressBar": "rich"}
REFUSED = {
    "BackboneFinetuning": (lightning.BackboneFinetuning(), "--model.freeze"),
    "BatchSizeFinder": (lightning.BatchSizeFinder(), "--data.batch_size"),
    "EMAWeightAveraging": (lightning.EMAWeightAveraging(), "--model.ema"),
    "GradientAccumulationScheduler": (lightning.GradientAccumulationScheduler({1: 2}), "--model.accumulate"),
    "LearningRateFinder": (lightning.LearningRateFinder(), "--model.g_optimizer.lr"),
    "ModelPruning": (lightning.ModelPruning("l1_unstructured"), "torch.nn.utils.prune"),
    "OnExceptionCheckpoint": (lightning.OnExceptionCheckpoint("unused"), "LastCheckpoint"),
    "SpikeDetection": (lightning.SpikeDetection(), "--model.on_nonfinite"),
    "StochasticWeightAveraging": (lightning.StochasticWeightAveraging(0.1), "--model.ema"),
    "WeightAveraging": (lightning.WeightAveraging(), "--model.ema"),
}
TO_DERIVE_FROM = {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}


# Options of the Trainer that a run takes, all at once; a new one in Lightning fails a test until somebody decides.
TAKEN = {
    "benchmark": False, "check_val_every_n_epoch": None, "detect_anomaly": True, "deterministic": True,
    "enable_autolog_hparams": False, "enable_checkpointing": True, "enable_model_summary": True,
    "enable_progress_bar": True, "inference_mode": False, "limit_predict_batches": 1, "limit_test_batches": 1,
    "limit_train_batches": 2, "limit_val_batches": 1, "log_every_n_steps": 1, "max_epochs": 3, "max_steps": 4,
    "max_time": "00:01:00:00", "min_epochs": 1, "min_steps": 2, "num_sanity_val_steps": 1, "profiler": "simple",
    "reload_dataloaders_every_n_epochs": 1, "sync_batchnorm": True, "val_check_interval": "00:00:00:01",
}  # fmt: skip
WHERE_IT_RUNS = {"accelerator", "default_root_dir", "devices", "fast_dev_run", "num_nodes", "precision", "strategy"}
OF_CLASSES = {"callbacks", "logger", "plugins"}


def number(batch):
    return len(batch[0])


def with_callbacks(config, *more, leave_out="none"):
    """The experiment of a file with those callbacks that a run has by default, and more."""
    base = yaml.safe_load((ROOT / "configs" / "base.yaml").read_text())["trainer"]["callbacks"]
    experiment = yaml.safe_load(config.read_text())
    experiment["trainer"]["callbacks"] = [c for c in base if not c["class_path"].endswith(leave_out)] + [*more]
    config.write_text(yaml.safe_dump(experiment))
    return ["fit", "--config", str(config)]


def of_lightning(name, **options):
    return {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": options}


def test_a_warning_is_one_line_without_its_code(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        quieten()
    assert warnings.formatwarning("no gradient", UserWarning, "doctor.py", 3, "warn()") == "warning: no gradient\n"


def test_nobody_is_told_of_a_tpu_that_is_not_there(caplog):
    with warnings.catch_warnings(), caplog.at_level("INFO"):
        quieten()
        for said in ("TPU available: False, using: 0 TPU cores", "TPU available: True, using: 8 TPU cores"):
            rank_zero_info(said)
    assert [record.getMessage()[:19] for record in caplog.records] == ["TPU available: True"]


def test_each_callback_of_lightning_is_decided():
    decided = [*WORK, *NEED_A_PACKAGE, *REFUSED, *TO_DERIVE_FROM]
    assert sorted(decided) == sorted(lightning.__all__)


def test_each_option_of_the_trainer_is_decided():
    refused = {name for name, *_ in OF_ONE_OPTIMIZER} | {*NOT_HERE}
    decided = {*TAKEN} | WHERE_IT_RUNS | OF_CLASSES | refused
    assert decided == set(inspect.signature(Trainer.__init__).parameters) - {"self"}


def test_options_of_the_trainer_work_together(tiny_config, tmp_path, capsys):
    experiment = yaml.safe_load(tiny_config.read_text())
    experiment["trainer"] |= TAKEN | {"callbacks": []}
    tiny_config.write_text(yaml.safe_dump(experiment))
    try:
        cli = main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")])
    finally:  # both are switched on for the whole process
        torch.use_deterministic_algorithms(False)
        torch.autograd.set_detect_anomaly(False)
    assert cli.trainer.global_step == 4 and (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_those_that_work_do_so_together(tiny_config, tmp_path):
    more = [of_lightning(name, **options) for name, options in WORK.items()]
    cli = main([*with_callbacks(tiny_config, *more, leave_out="StepBar"), "--run_dir", str(tmp_path / "run")])
    assert cli.trainer.global_step == 4
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert found == ["best.ckpt", "epoch=0-step=3.ckpt", "last.ckpt"]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "epoch=0-step=3.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    names = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"lr-Adam/generator", "lr-Adam-1/discriminator", "lr/generator", "lr/discriminator"} <= {*names}


@pytest.mark.parametrize("name", NEED_A_PACKAGE)
def test_what_needs_a_package_names_it(name, tiny_config, tmp_path, capsys):
    try:
        __import__(NEED_A_PACKAGE[name])
    except ImportError:
        arguments = with_callbacks(tiny_config, of_lightning(name), leave_out="StepBar")
        assert NEED_A_PACKAGE[name] in refusal([*arguments, "--run_dir", str(tmp_path / "run")], capsys)
        assert not (tmp_path / "run").exists()
    else:
        pytest.skip("it is installed here")


def test_a_callback_that_is_given_wrong_options_says_which(tiny_config, tmp_path, capsys):
    arguments = [
        *with_callbacks(tiny_config, of_lightning("Timer", duration="soon")),
        "--run_dir",
        str(tmp_path / "run"),
    ]
    assert "'soon'" in refusal(arguments, capsys) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_say_what_to_take_instead(name):
    callback, instead = REFUSED[name]
    with pytest.raises(ValueError, match=f"{name} does not go with two players.*{instead}"):
        check_callbacks([callback])


@pytest.mark.parametrize("strategy", StrategyRegistry.available_strategies())
def test_a_strategy_of_lightning_works_or_is_refused_by_name(strategy, tmp_path):
    if strategy in STRATEGIES:  # ddp with two processes: tests/test_distributed.py
        fit(tmp_path, strategy=strategy if strategy == "ddp" else "auto", devices=1, max_steps=1)
        return
    with pytest.raises(ValueError, match=f"{strategy} does not go with two players: take auto or ddp"):
        check_strategy(strategy)


def test_a_wrapping_strategy_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="leave --trainer.strategy at auto"):
        fit(tmp_path, strategy=DDPStrategy(), devices=1)


def test_a_refused_callback_or_strategy_leaves_nothing(tiny_config, tmp_path, capsys):
    arguments = ["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")]
    assert "take auto or ddp" in refusal([*arguments, "--trainer.strategy", "ddp_spawn"], capsys)
    arguments = [*with_callbacks(tiny_config, of_lightning("LearningRateFinder")), "--run_dir", str(tmp_path / "run")]
    assert "LearningRateFinder does not go" in refusal(arguments, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        ([ModelCheckpoint(train_time_interval="1s")], "never saves by time.*every_n_train_steps"),
        ([ModelCheckpoint(save_last=True)], "over last.ckpt"),
        ([ModelCheckpoint(filename="best")], "over best.ckpt"),
        ([BestCheckpoint(), BestCheckpoint("diversity")], "same best.ckpt"),
    ],
)
def test_a_checkpoint_that_would_be_lost_is_refused(callbacks, said):
    with pytest.raises(ValueError, match=said):
        check_callbacks(callbacks)


def test_checkpoints_stay_atomic_beside_other_plugins():
    batch_norm = TorchSyncBatchNorm()
    first, writer = with_essentials({"plugins": batch_norm})["plugins"]
    assert first is batch_norm and isinstance(writer, AtomicCheckpointIO)
    assert len(with_essentials({"plugins": [AtomicCheckpointIO()]})["plugins"]) == 1
    with pytest.raises(ValueError, match="AsyncCheckpointIO.*AtomicCheckpointIO writes"):
        with_essentials({"plugins": [AsyncCheckpointIO()]})


# ------------------------------------------------------------------------------------------------------- curves

PENALTY = [{"class_path": "src.objectives.regularizers.R1", "init_args": {"weight": 1.0, "every": 2}}]
TERM = [{"class_path": "src.objectives.markov.MarkovChain", "init_args": {"weight": 0.01}}]
ADA = {"class_path": "src.images.augment.Adaptive", "init_args": {"augmentations": ["src.images.augment.Translation"]}}


def test_every_curve_of_the_file_can_be_monitored_and_is_foretold(tiny_config, tmp_path):
    experiment = yaml.safe_load(tiny_config.read_text())
    experiment["model"] |= {"regularizers": PENALTY, "g_regularizers": TERM, "augment": [ADA]}
    tiny_config.write_text(yaml.safe_dump(experiment))
    cli = main(["fit", "--config", str(tiny_config), "--run_dir", str(tmp_path / "run")])
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = set(rows[0]) - {"step"}
    foretold = {*cli.model.curve_intervals(), *cli.model.figure_names()}
    foretold |= {n for c in cli.trainer.callbacks if hasattr(c, "curve_names") for n in c.curve_names(cli.datamodule)}
    assert foretold == columns
    (distance,) = [name for name in columns if re.fullmatch(r"val/fcd-\w+-\w{8}", name)]
    assert rows[-1]["val/fcd"] == rows[-1][distance] and "val/fcd" not in read(tmp_path / "run" / "metrics.csv")
    for name in columns:
        assert float(cli.trainer.callback_metrics[name]) == pytest.approx(float(rows[-1][name])), name
    for name, interval in cli.model.curve_intervals().items():
        for row in rows[interval - 1 :: interval]:
            assert row[name] != "", name


@pytest.mark.parametrize("monitor", ["loss/generator", "diversity", "images_per_second"])
def test_a_run_stops_by_any_curve_and_says_why(monitor, tiny_config, tmp_path, capsys):
    stop = of_lightning("EarlyStopping", monitor=monitor, stopping_threshold=1e9)
    callbacks = with_callbacks(tiny_config, stop)
    cli = main([*callbacks, "--run_dir", str(tmp_path / "run")])
    assert cli.trainer.global_step == 2  # after the first validation
    assert f"Stopping threshold reached: {monitor}" in capsys.readouterr().out


def test_a_curve_that_will_not_be_is_refused_with_those_that_will(tiny_config, tmp_path, capsys):
    arguments = [*with_callbacks(tiny_config, of_lightning("EarlyStopping", monitor="loss/gen"))]
    message = refusal([*arguments, "--run_dir", str(tmp_path / "run")], capsys)
    assert "'loss/gen'" in message and "accuracy/fake" in message and "loss/generator" in message
    assert "val/fcd-digits" in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("callback", "looks", "said"),
    [
        (EarlyStopping("a"), 10, "every 10 steps, and the curve has a value every 4"),
        (EarlyStopping("a"), 12, None),
        (EarlyStopping("v"), 10, None),
        (EarlyStopping("v"), None, "there is none"),
        (EarlyStopping("v", check_on_train_epoch_end=True), 10, "leave out check_on_train_epoch_end"),
        (EarlyStopping("x"), 10, "choose one of a, v"),
        (ModelCheckpoint(monitor="a", every_n_train_steps=6), 8, "every 6 steps, and the curve has a value every 4"),
        (ModelCheckpoint(monitor="a", every_n_train_steps=8), 9, None),
        (ModelCheckpoint(monitor="v", every_n_train_steps=10), 10, "the validation before it"),
        (ModelCheckpoint(monitor="v"), 10, None),
    ],
)
def test_a_step_is_judged_by_its_own_value(callback, looks, said):
    if said is None:
        check(callback, {"a": 4}, ["v"], looks, others=False)
    else:
        with pytest.raises(ValueError, match=said):
            check(callback, {"a": 4}, ["v"], looks, others=False)


def test_curves_of_a_callback_of_your_own_are_left_to_it():
    check(EarlyStopping("mine"), {"a": 4}, ["v"], 10, others=True)


def test_validations_by_epochs_or_time_come_at_any_step(tmp_path):
    trainer = {"limit_val_batches": 1.0, "val_check_interval": 10, "check_val_every_n_epoch": None}
    assert validation_interval(SimpleNamespace(**trainer)) == 10
    assert validation_interval(SimpleNamespace(**trainer | {"check_val_every_n_epoch": 1})) == 1
    assert validation_interval(SimpleNamespace(**trainer | {"limit_val_batches": 0})) is None
    assert validation_interval(make_trainer(tmp_path, val_check_interval="00:00:00:30", limit_val_batches=1.0)) == 1
