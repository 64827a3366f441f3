"""Disks that fill up and processes that are killed: no half step, and all earlier ones whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.workdir import seal
from lstm_jax.workdir.checkpoint import CheckpointError, Checkpoints


def make_state(step: int) -> dict[str, jax.Array]:
    return {"kernel": jax.random.normal(jax.random.key(step), (4, 12))}


def abstract() -> dict[str, jax.ShapeDtypeStruct]:
    return jax.eval_shape(lambda: make_state(0))


@pytest.fixture
def two_steps(tmp_path: Path) -> Checkpoints:
    """Steps 100 and 200, on disk."""
    saved = Checkpoints(tmp_path)
    saved.save(100, make_state(100))
    saved.save(200, make_state(200))
    saved.wait()
    return saved


# ---------------------------------------------------------------- disks


def test_a_failed_save_surfaces_at_wait_and_at_the_next_save(two_steps, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(seal, "write_seal", full)
        two_steps.save(300, make_state(300))
        with pytest.raises(
            CheckpointError, match=r"step 300 .* No space left .* step 200 is intact"
        ):
            two_steps.wait()
        two_steps.save(400, make_state(400))
        with pytest.raises(CheckpointError, match="step 400"):
            two_steps.save(500, make_state(500))
    assert sorted(os.listdir(two_steps.root)) == ["100", "200"]
    two_steps.save(600, make_state(600))
    assert two_steps.restore(abstract())[0] == 600


def test_a_defect_of_ours_is_not_blamed_on_the_disk(two_steps, monkeypatch):
    monkeypatch.setattr(seal, "write_seal", lambda *_: 1 / 0)
    two_steps.save(300, make_state(300))
    with pytest.raises(ZeroDivisionError):
        two_steps.close()
    assert two_steps.restore(abstract())[0] == 200


def test_a_disk_that_is_really_full(tmp_path):
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path]).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    try:
        saved = Checkpoints(tmp_path)
        saved.save(1, {"x": jnp.ones(1000)})
        saved.wait()
        noise = jax.random.bits(jax.random.key(0), (500_000,))
        saved.save(2, {"x": noise})
        with pytest.raises(CheckpointError, match=r"step 2 .* step 1 is intact"):
            saved.wait()
        assert [(i.step, i.status) for i in saved.steps()] == [(1, "ok")]
        assert os.listdir(saved.root) == ["1"]
        saved.save(3, {"x": jnp.ones(1000)})
        saved.wait()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    saved = Checkpoints(tmp_path)
    saved.save(1, make_state(1))
    with pytest.raises(CheckpointError, match="no earlier checkpoint exists"):
        saved.wait()


# ---------------------------------------------------------------- kill -9

SAVER = """
import sys, numpy as np
from lstm_jax.workdir.checkpoint import Checkpoints
saved = Checkpoints(sys.argv[1])
for step in range(1, 10**6):
    saved.save(step, {"x": np.full(200_000, step, np.float32), "step": np.int32(step)})
    saved.wait()
    print(step, flush=True)
"""


@pytest.mark.slow
def test_kill_in_the_middle_of_saves_leaves_only_whole_steps(tmp_path):
    target = {"x": np.zeros(200_000, np.float32), "step": np.int32(0)}
    for attempt in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path / str(attempt))], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        time.sleep(random.Random(attempt).uniform(0.1, 0.6))
        child.send_signal(signal.SIGKILL)
        said = [1, *map(int, child.stdout.read().split())]
        child.wait()
        child.stdout.close()
        saved = Checkpoints(tmp_path / str(attempt))
        assert all(info.status == "ok" for info in saved.steps())
        step, state = saved.restore(target)
        assert step in (said[-1], said[-1] + 1)
        assert (state["x"] == step).all() and state["step"] == step
        saved.save(10**6, state)
        saved.wait()
        assert not list(saved.root.glob(".tmp-*"))
