"""A task in one file and one line, as docs/guides/task.md shows it: the page is tested here."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from lstm_jax.config import default_config
from lstm_jax.tasks import TASKS
from lstm_jax.training.program import build_task

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "task.md"


@pytest.fixture
def peaks(tmp_path, monkeypatch):
    """The module on the page, with the page's line in the registry."""
    source = re.search(r"```python\n(\"\"\"Where is the peak.*?)```", PAGE.read_text(), re.DOTALL)
    assert source, "docs/guides/task.md shows no task"
    assert len(source[1].splitlines()) < 45
    place = tmp_path / "peaks.py"
    place.write_text(source[1])
    spec = importlib.util.spec_from_file_location("lstm_jax.tasks.peaks", place)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(TASKS, "peaks", module)
    return module


@pytest.mark.slow
def test_the_task_on_the_page_has_batches_a_loss_and_baselines(peaks):
    config = default_config("peaks")
    task = build_task(config)
    batch = jax.jit(task.batch)(task.data, jax.random.key(0), 3)
    assert batch["inputs"].shape == (20, config.train.batch_size, 1)
    scalar, means = task.loss(np.zeros((config.train.batch_size, 20), np.float32), batch)
    np.testing.assert_allclose(scalar, np.log(20), rtol=1e-6)
    assert set(means) == {"loss", "accuracy"}
    assert task.baselines["test"]["a guess"]["accuracy"] == 1 / 20


@pytest.mark.slow
def test_the_task_on_the_page_trains(peaks, tmp_path):
    from lstm_jax.training import train

    config = default_config("peaks")
    config.task.length, config.task.eval_size = 5, 64
    config.cell.hidden = 16
    config.optimizer.learning_rate = 0.02
    config.train.num_steps, config.train.batch_size = 200, 32
    config.train.log_every = config.train.eval_every = 100
    config.train.checkpoint_every = 200
    summary = train.train(config, tmp_path / "run")
    assert summary["status"] == "completed"
    assert summary["metrics"]["test"]["accuracy"] > 0.5
