"""Processes that end when nobody asked them, and signals that do ask."""

from __future__ import annotations

import random
import signal
import time

import faulty
import pytest

pytestmark = pytest.mark.faults
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    faulty.run(workdir)
    return workdir


@pytest.mark.parametrize("case", faulty.cases(100, least=6))
def test_kill_at_any_moment_and_resume(case, whole, tmp_path):
    stage, times, wait = faulty.moment(case)
    code, workdir = 0, tmp_path / "run"
    while code == 0:  # it ended first: the same again, hit sooner
        workdir, wait = tmp_path / f"run{wait:.6f}", wait / 2
        attempt = faulty.Attempt(workdir)
        attempt.reach(stage, times)
        time.sleep(2 * wait)
        code = attempt.hit(signal.SIGKILL)
    assert code == -signal.SIGKILL
    faulty.run(workdir)
    faulty.same(workdir, whole)


@pytest.mark.parametrize("case", faulty.cases(40, least=4))
def test_signals_stop_after_the_chunk_and_lose_nothing(case, whole, tmp_path):
    name, dice, workdir = SIGNALS[case % 4], random.Random(case), tmp_path / "run"
    attempt = faulty.Attempt(workdir)
    attempt.reach("step", dice.randint(1, 18))
    time.sleep(dice.uniform(0, 0.01))
    code = attempt.hit(getattr(signal, name))
    found = faulty.summary(workdir)
    if code == 0:  # it came too late, in the last chunk or after it
        assert found["status"] == "completed"
    else:
        assert (code, found["status"]) == (4, "interrupted"), attempt.words()
        lines = [line["step"] for line in faulty.read_metrics(workdir) if line["split"] == "train"]
        assert found["step"] == lines[-1] == max(faulty.Checkpoints(workdir).listed())
        assert f"interrupted at step {found['step']}" in attempt.words()
        said = faulty.run(workdir)
        assert f"going on from step {found['step']}" in said
    faulty.same(workdir, whole)


def test_the_grace_time_is_kept(tmp_path):
    """A chunk of minutes and a second's grace: the run leaves, the checkpoint has to do."""
    workdir, steps = tmp_path / "run", 5_000_000
    periods = ("log_every", "eval_every", "checkpoint_every")
    words = [f"--config.train.{name}={steps}" for name in periods]
    words += ["--config.train.grace_seconds=1", "--config.train.num_steps=50000000"]
    attempt = faulty.Attempt(workdir, *words)
    attempt.reach("step")
    time.sleep(0.5)
    began = time.monotonic()
    assert attempt.hit(signal.SIGTERM) == 4, attempt.words()
    assert time.monotonic() - began < 60, "a second, and what a busy machine takes"
    assert "did not end within train.grace_seconds=1" in attempt.words()
    assert faulty.summary(workdir)["status"] == "interrupted"


def test_two_processes_on_one_workdir(tmp_path):
    workdir, config = tmp_path / "run", faulty.CONFIG + ":long"
    first = faulty.Attempt(workdir, config=config)
    first.reach("save")
    second = faulty.Attempt(workdir, config=config)
    assert second.wait() == 2
    assert f"in use by process {first.pid} on" in second.words()
    assert first.hit(signal.SIGKILL) == -signal.SIGKILL
    third = faulty.Attempt(workdir, config=config)
    third.reach("step", 3)
    assert "going on from step" in third.words()
    assert third.hit(signal.SIGKILL) == -signal.SIGKILL
