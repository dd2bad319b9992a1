"""A sweep with Optuna: `python -m configs.sweep`, after `.venv/bin/pip install optuna`; options of `fit` may follow."""

import sys

import optuna

from src.cli import main


def search(num_trials: int, *options: str) -> optuna.Study:
    def objective(trial: optuna.Trial) -> float:
        rates = {player: trial.suggest_float(player, 2e-4, 5e-3, log=True) for player in "gd"}
        chosen = (f"--model.{player}_optimizer.lr={rate}" for player, rate in rates.items())
        cli = main(["fit", *options, "--run_dir", "auto", "--trainer.logger", "false", *chosen])
        return cli.trainer.callback_metrics["val/fcd"].item()

    study = optuna.create_study()
    study.optimize(objective, n_trials=num_trials)
    return study


if __name__ == "__main__":
    print(search(20, "--config", "configs/digits.yaml", *sys.argv[1:]).best_params)
