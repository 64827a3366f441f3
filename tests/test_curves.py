"""Learning curves: what is drawn is what was logged."""

from __future__ import annotations

import numpy as np

from lstm_jax.curves import learning_curves
from lstm_jax.writers import open_writer


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
