"""Sweeps that nothing disturbed, and others of the same studies that are still to be run."""

import shutil

import pytest
from sweeps import digests, lines, planned

from lstm_jax.sweep.define.plan import read_plan
from lstm_jax.sweep.workers.worker import work

TRIALS = '    yield from grid({"cell.gates": ("lstm", "cifg"), "seed": range(3)})'
CONFIG = "config.train.num_steps = 600\nconfig.train.log_every = config.train.eval_every = 10\n"
CONFIG += "config.train.checkpoint_every = 20"


def ended(root, **study):
    """The workdir of a sweep that was run to its end here."""
    planned(root / "study", root / "w", config=CONFIG, **study)
    assert work(root / "w") == 0
    return root / "w"


def planned_alone(other, root):
    """Another workdir of the same sweep, of which nothing has been run."""
    folder = root / "w"
    folder.mkdir()
    shutil.copy(other / "sweep.json", folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return ended(tmp_path_factory.mktemp("undisturbed"), trials=TRIALS)


@pytest.fixture
def workdir(undisturbed, tmp_path):
    return planned_alone(undisturbed, tmp_path)


SEARCH = """
from lstm_jax.sweep import choice, log_uniform, uniform
SEARCH = {"sampler": "tpe", "trials": 10, "batch": 4, "space": {
    "cell.gates": choice(("lstm", "cifg")),
    "optimizer.learning_rate": log_uniform(1e-4, 1e-1), "optimizer.momentum": uniform(0.1, 0.9),
}}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search over two programs in three batches or more."""
    pytest.importorskip("optuna")
    return ended(tmp_path_factory.mktemp("searched"), trials="    yield {}", more=SEARCH)


@pytest.fixture
def search(searched, tmp_path):
    return planned_alone(searched, tmp_path)


def same_search(workdir, other):
    """The same asks in the same packs, and the same results."""
    ours, theirs = read_plan(workdir), read_plan(other)
    assert (ours.trials, ours.packs) == (theirs.trials, theirs.packs)
    assert len(ours.trials) == 10 and len(ours.grown) >= 2
    assert digests(workdir) == digests(other)
    for trial in range(10):
        assert lines(workdir, trial) == lines(other, trial)
