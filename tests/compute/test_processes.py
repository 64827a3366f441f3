"""Several processes: who they are, what they compare, and real ones that are killed and stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lstm_jax import cli
from lstm_jax.compute import processes as distributed
from lstm_jax.compute.processes import Place
from lstm_jax.config import default_config
from lstm_jax.errors import UsageError
from lstm_jax.training import train
from lstm_jax.training.check import load_config
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.metrics import read_metrics

STEP = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "gpu[007,009-011]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}
TWO_A_NODE = STEP | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
TWO = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    "where, environment, place",
    [
        ("off", STEP, None),
        ("auto", {}, None),
        ("auto", STEP, Place("gpu007:61441", 4, 2)),
        ("auto", TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1"}, Place("gpu007:61441", 4, 2, (1,))),
        ("auto", TWO_A_NODE | {"CUDA_VISIBLE_DEVICES": "1"}, Place("gpu007:61441", 4, 2)),
        ("auto", STEP | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ("auto", {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),
        ("10.0.0.1:99", STEP, Place("10.0.0.1:99", 4, 2)),
        ("10.0.0.1:99", TWO, Place("10.0.0.1:99", 2, 1)),
        ("auto", TWO | {"JAX_COORDINATOR_ADDRESS": "a:1"}, Place("a:1", 2, 1)),
    ],
)
def test_who_a_process_is(where, environment, place):
    assert distributed.find(where, environment) == place


@pytest.mark.parametrize(
    "where, environment, words",
    [
        ("on", {}, "expected auto, off or HOST:PORT"),
        ("host:123456", {}, "expected auto, off or HOST:PORT"),
        ("a:1", {}, "set JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        ("a:1", TWO | {"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID='2'"),
        ("a:1", TWO | {"JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID='x'"),
    ],
)
def test_who_a_process_cannot_be(where, environment, words):
    with pytest.raises(UsageError, match=words):
        distributed.find(where, environment)


@pytest.mark.parametrize(
    "nodes, host",
    [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[01,5]x,m", "n01x"), ("a,n[1-3]", "a")],
)
def test_first_host_of_a_list(nodes, host):
    assert distributed.first_host(nodes) == host


def meeting(*notes, seconds=20.0, count=None, guests=()):
    """What each process is told: "" where it may go on."""
    address, said = f"127.0.0.1:{free_port()}", ["nothing"] * len(notes)

    def come(index):
        try:
            place = Place(address, count or len(notes), index)
            distributed.meet(place, notes[index], seconds)
            said[index] = ""
        except UsageError as error:
            said[index] = str(error)

    threads = [threading.Thread(target=come, args=(i,)) for i in range(len(notes))]
    threads += [threading.Thread(target=guest, args=(address,)) for guest in guests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return said


def stranger(address):
    host, _, port = address.partition(":")
    for _ in range(100):
        try:
            with socket.create_connection((host, int(port)), timeout=5) as line:
                line.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return
        except OSError:
            threading.Event().wait(0.02)


def test_processes_that_run_the_same_go_on():
    assert (
        meeting(*[distributed.about(default_config("adding"))] * 3, guests=[stranger]) == [""] * 3
    )


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("config.seed", "1", "config.seed: 0 in process 0 on .*, 1 in process 1 on"),
        (
            "code lstm_jax/training/train.py",
            "0123",
            "code lstm_jax/training/train.py: .*, 0123 in process 1",
        ),
        ("version of jax", "0.1", "version of jax: .*, 0.1 in process 1"),
        ("platform", "gpu", "platform: cpu in process 0 on .*, gpu in process 1"),
    ],
)
def test_processes_that_differ_are_refused_everywhere(name, value, words):
    notes = distributed.about(default_config("adding"))
    for said in meeting(notes, notes | {name: value}):
        assert "the processes do not run the same" in said
        assert len(said.splitlines()) == 2
        with pytest.raises(UsageError, match=words):
            raise UsageError(said)


def test_one_that_does_not_come():
    said = meeting({}, {}, seconds=1.0, count=4)
    assert all("process 2, 3 of 4 did not come to 127.0.0.1:" in line for line in said)


def test_a_coordinator_that_does_not_answer(tmp_path, monkeypatch, capsys):
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.parallel.distributed={address}", "--config.parallel.timeout=1"]
    argv = ["train", "--config=configs/adding.py:smoke", f"--workdir={tmp_path / 'w'}", *flags]
    assert cli.main(argv) == 2
    assert f"no answer from process 0 at {address} within 1 s" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"cannot listen on {address}"):
            distributed.meet(Place(address, 2, 0), {}, 1.0)


# ---------------------------------------------------------------- two real processes

CONFIG = """
import os, signal
from lstm_jax.config import default_config
from lstm_jax.training.journal import Journal

trained = Journal.trained

def stopping(self, state, metrics):
    trained(self, state, metrics)
    if self.step == int(os.environ.get("STOP_AT", -1)):
        os.kill(os.getpid(), getattr(signal, os.environ["STOP_BY"]))

Journal.trained = stopping

def get_config(arg=""):
    config = default_config("adding")
    config.task.update({"length": 12, "eval_size": 21})
    config.cell.hidden = 4
    config.model.head_dropout = 0.1
    config.train.update({"num_steps": 60, "batch_size": 8, "log_every": 5})
    config.train.update({"eval_every": 20, "checkpoint_every": 20})
    config.parallel.data = -1
    return config
"""


class Pair:
    """Two processes on this machine that share the runs in a folder."""

    def __init__(self, root: Path):
        self.root = root
        (root / "config.py").write_text(CONFIG)

    def train(self, workdir: str, victim: int = -1, stop: tuple = (), flags: tuple = ((), ())):
        """(exit codes, what each printed, what each complained about)."""
        address = f"127.0.0.1:{free_port()}"
        processes = []
        for index in range(2):
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_NUM_PROCESSES": "2"}
            environment |= {"JAX_PROCESS_ID": str(index)}
            if index == victim:
                environment |= dict(zip(("STOP_AT", "STOP_BY"), stop, strict=True))
            argv = [f"--config={self.root / 'config.py'}", f"--workdir={self.root / workdir}"]
            argv += [f"--config.parallel.distributed={address}", *flags[index]]
            command = [sys.executable, "-m", "lstm_jax.cli", "train", *argv]
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
        try:
            said = [process.communicate(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [p.returncode for p in processes], *zip(*said, strict=True)

    def digest(self, workdir: str) -> tuple[int, str]:
        """Step and digest of the newest checkpoint."""
        newest = Checkpoints(self.root / workdir).steps()[-1]
        return newest.step, newest.digest


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """With a run that nothing disturbed."""
    found = Pair(tmp_path_factory.mktemp("pair"))
    codes, out, errors = found.train("whole")
    assert codes == [0, 0], errors
    assert "4 x" not in out[0] and "2 of 2 of 2 processes" in out[0]
    assert out[1] == "", "process 0 alone prints"
    return found


@pytest.mark.parallel
def test_two_processes_train_what_one_does(pair):
    """Losses, and an evaluation of 21 examples, which two cannot share evenly."""
    config = load_config(str(pair.root / "config.py"), {"parallel.data": 1})
    train.train(config, pair.root / "alone")
    alone, two = (read_metrics(pair.root / name) for name in ("alone", "whole"))
    assert [(x["step"], x["split"]) for x in two] == [(x["step"], x["split"]) for x in alone]
    for a, b in zip(alone, two, strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-5)
    assert [info.step for info in Checkpoints(pair.root / "whole").steps()] == [20, 40, 60]
    manifest = json.loads((pair.root / "whole" / "manifest.json").read_text())
    assert manifest["devices"]["processes"] == 2


@pytest.mark.parallel
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed(pair, victim):
    """Both end, the other one says why; the same command in both goes on to the same digest."""
    name = f"killed-{victim}"
    codes, _, errors = pair.train(name, victim, ("25", "SIGKILL"))
    other = 1 - victim
    assert (codes[victim], codes[other]) == (-9, 4), errors
    assert f"lstm-jax: process {other} of 2: another process of the run is gone" in errors[other]
    codes, _, errors = pair.train(name)
    assert codes == [0, 0], errors
    assert pair.digest(name) == pair.digest("whole")


@pytest.mark.parallel
def test_one_is_asked_to_stop(pair):
    """SIGTERM to process 1: both stop at the same step with a checkpoint, and go on from it."""
    codes, out, errors = pair.train("asked", 1, ("25", "SIGTERM"))
    assert codes == [4, 4], errors
    assert "interrupted at step 25" in out[0]
    assert pair.digest("asked")[0] == 25
    codes, out, errors = pair.train("asked")
    assert codes == [0, 0], errors
    assert "going on from step 25" in out[0]
    assert pair.digest("asked") == pair.digest("whole")


@pytest.mark.parallel
def test_two_seeds_are_refused(pair):
    codes, _, errors = pair.train("seeds", flags=((), ("--config.seed=3",)))
    assert codes == [2, 2]
    for said in errors:
        assert "config.seed: 0 in process 0" in said and "3 in process 1" in said
    assert not (pair.root / "seeds").exists()
