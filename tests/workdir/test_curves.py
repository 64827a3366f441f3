"""Learning curves: what is drawn is what was logged."""

from __future__ import annotations

import numpy as np
import pytest
from sweeps import planned, summary

from lstm_jax.config.overrides import apply_overrides, read_config
from lstm_jax.sweep.workers.worker import work
from lstm_jax.training.train import train
from lstm_jax.workdir.curves import learning_curves
from lstm_jax.workdir.metrics import open_writer, read_metrics


def artists(workdir, **options):
    """{label: [(x, y), ...]} of the lines of the figure."""
    lines = learning_curves(workdir, **options).axes[0].lines
    return {str(line.get_label()): list(zip(*line.get_data(), strict=True)) for line in lines}


def test_learning_curves_show_training_validation_and_the_best_step(tmp_path):
    with open_writer(tmp_path, tensorboard=False) as writer:
        for step in range(10, 101, 10):
            writer.scalars(step, "train", {"loss": 100 / step**2})
            writer.scalars(step, "valid", {"loss": abs(step - 60) + 1.0, "rmse": np.nan})
    axes = learning_curves(tmp_path).axes[0]
    by_label = {line.get_label(): line for line in axes.lines}
    assert set(by_label) == {"training", "validation", "best: 1 at step 60"}
    assert list(by_label["training"].get_xdata()) == list(range(10, 101, 10))
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "loss"


def test_learning_curves_of_nothing_are_an_empty_figure(tmp_path):
    assert learning_curves(tmp_path).axes[0].lines[:] == []


def write_run(workdir):
    """The loss is best at step 30, the accuracy at step 20, and again at 40."""
    with open_writer(workdir, tensorboard=False) as writer:
        for step, loss, accuracy in ((10, 3, 0.1), (20, 2, 0.9), (30, 1, 0.3), (40, 4, 0.9)):
            writer.scalars(step, "train", {"loss": loss / 2})
            writer.scalars(step, "valid", {"loss": float(loss), "accuracy": accuracy})
        writer.scalars(10, "test", {"loss": 3.5, "accuracy": 0.2})  # before it went on
        writer.scalars(20, "test", {"loss": 2.5, "accuracy": 0.8})


def test_best_is_where_the_best_metric_is_best(tmp_path):
    """Training keeps the first of equals, and of accuracies the largest."""
    write_run(tmp_path)
    assert artists(tmp_path)["best: 1 at step 30"] == [(30, 1.0)]
    assert artists(tmp_path, metric="accuracy")["best: 0.9 at step 20"] == [(20, 0.9)]
    found = artists(tmp_path, best_metric="accuracy")
    assert found["best by accuracy: 2 at step 20"] == [(20, 2.0)]
    assert found["test"] == [(20, 2.5)]
    assert len(found) == 4


def test_no_point_is_marked_where_the_best_metric_was_never_finite(tmp_path):
    write_run(tmp_path)
    assert set(artists(tmp_path, best_metric="rmse")) == {"training", "validation", "test"}


RUN = {
    "train.num_steps": 40, "train.log_every": 5, "train.eval_every": 5,
    "train.checkpoint_every": 10, "train.best_metric": "mae", "optimizer.learning_rate": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose mae is best at another step than its loss."""
    workdir = tmp_path_factory.mktemp("run")
    config = apply_overrides(read_config("configs/airline.py:smoke"), RUN)
    return workdir, train(config, workdir)


@pytest.mark.slow
def test_a_run_is_tested_marked_and_drawn_at_its_best_step(run):
    workdir, found = run
    lines = read_metrics(workdir)
    valid = {line["step"]: line for line in lines if line["split"] == "valid"}
    assert found["best_step"] == min(valid, key=lambda step: valid[step]["mae"])
    assert found["best_step"] != min(valid, key=lambda step: valid[step]["loss"])
    assert found["best_step"] < 40
    (test,) = [line for line in lines if line["split"] == "test"]
    assert test["step"] == found["best_step"]
    drawn = artists(workdir, best_metric="mae")
    assert drawn["test"] == [(found["best_step"], test["loss"])]
    (best,) = (points for label, points in drawn.items() if label.startswith("best by mae"))
    assert best == [(found["best_step"], valid[found["best_step"]]["loss"])]


@pytest.mark.slow
def test_a_trial_of_a_pack_is_tested_at_its_best_step(tmp_path):
    trials = '    yield from grid({"optimizer.learning_rate": (0.3,), "seed": range(2)})'
    planned(tmp_path / "s", tmp_path / "w", trials=trials)
    assert work(tmp_path / "w") == 0
    for trial in range(2):
        lines = read_metrics(tmp_path / "w" / "trials" / f"{trial:04d}")
        (test,) = [line for line in lines if line["split"] == "test"]
        assert test["step"] == summary(tmp_path / "w", trial)["best_step"] < 40
