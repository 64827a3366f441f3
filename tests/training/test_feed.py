"""Grain on the host: the batches of the on-device path, one for one, and exact resumes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.compute import sharding
from lstm_jax.errors import UsageError
from lstm_jax.sweep.pack.program import pack_program
from lstm_jax.training import train
from lstm_jax.training.check import load_config
from lstm_jax.training.feed import Feed
from lstm_jax.training.program import build_program
from lstm_jax.workdir.checkpoint import Checkpoints

pytest.importorskip("grain")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Three small texts, and the overrides of configs/words.py that name them."""
    folder = tmp_path_factory.mktemp("words")
    rng = np.random.default_rng(0)
    for name, lines in (("train", 100), ("valid", 8), ("test", 8)):
        words = rng.choice(["the", "cat", "sat", "on", "a", "mat"], (lines, 9))
        (folder / f"{name}.txt").write_text("\n".join(map(" ".join, words)) + "\n")
    files = {
        f"task.{name}_file": str(folder / f"{name}.txt") for name in ("train", "valid", "test")
    }
    return files | {"train.batch_size": 4, "train.log_every": 5, "train.eval_every": 10}


def words(text, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config("configs/words.py:smoke", text | {"train.checkpoint_every": 10} | changes)


@pytest.mark.parametrize(("devices", "start"), [(1, 0), (2, 45)])
def test_batches_are_those_of_the_device(text, devices, start):
    """Over more than one epoch, which has 50 steps, from its first step or from a later one."""
    on_device = build_program(words(text))
    assert on_device.task.steps_per_epoch == 50
    program = build_program(words(text, task__pipeline="grain", parallel__data=devices))
    feed = Feed(program, {})
    for first in (start, start + 5):
        data = feed(first)
        for step in range(first, first + 5):
            assert feed(step)["window"] is data["window"], "a window serves all its steps"
            key = jax.random.key(0)
            ours = program.task.batch(data, key, jnp.int32(step))
            theirs = on_device.task.batch(on_device.task.data, key, jnp.int32(step))
            assert ours.keys() == theirs.keys()
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
                assert ours[name].dtype == theirs[name].dtype
    if devices > 1:
        inputs = data["window"]["batches"]["inputs"]
        assert inputs.addressable_shards[0].data.shape == (5, 5, 2), "its own examples alone"


@pytest.mark.slow  # and compiled as users do: less optimised programs differ in last digits
def test_the_same_run_and_an_exact_resume(text, tmp_path):
    train.train(words(text), tmp_path / "device")
    half = words(text, task__pipeline="grain", train__num_steps=10)
    train.train(half, tmp_path / "grain")
    train.train(words(text, task__pipeline="grain"), tmp_path / "grain")
    device, grain = (Checkpoints(tmp_path / name).steps()[-1] for name in ("device", "grain"))
    assert (device.step, grain.step) == (20, 20)
    assert device.digest == grain.digest


def test_packs_want_their_data_on_the_device(text):
    with pytest.raises(UsageError, match="task.pipeline=device"):
        pack_program(words(text, task__pipeline="grain"))
    with pytest.raises(UsageError, match="did you mean 'grain'"):
        build_program(words(text, task__pipeline="gain"))


def test_the_text_is_not_on_the_device(text):
    data = build_program(words(text, task__pipeline="grain")).task.data
    assert "train" not in data
    assert sharding.place(data, None)["window"]["batches"]["inputs"].shape == (5, 5, 4)
