"""A sweep that nothing disturbed, and another of the same study that is still to be run."""

import shutil

import pytest
from sweeps import planned

from lstm_jax.sweep.workers.worker import work

TRIALS = '    yield from grid({"cell.gates": ("lstm", "cifg"), "seed": range(3)})'
CONFIG = "config.train.num_steps = 600\nconfig.train.log_every = config.train.eval_every = 10\n"
CONFIG += "config.train.checkpoint_every = 20"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    planned(root / "study", root / "w", trials=TRIALS, config=CONFIG)
    assert work(root / "w") == 0
    return root / "w"


@pytest.fixture
def workdir(undisturbed, tmp_path):
    folder = tmp_path / "w"
    folder.mkdir()
    shutil.copy(undisturbed / "sweep.json", folder)
    return folder
