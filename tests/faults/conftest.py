"""The run that is damaged, and what becomes of it when nothing happens to it."""

import faulty
import pytest

from lstm_jax.training import train
from lstm_jax.training.check import load_config


@pytest.fixture(scope="module")
def config():
    return load_config(faulty.CONFIG)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train.train(config, workdir)
    return workdir
