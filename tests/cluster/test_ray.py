"""Sweeps on a real Ray cluster on this machine: a worker killed, the launcher killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import digests, lines, own_parts, own_parts_were_found

from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder
from lstm_jax.workdir.files import read_json

from .conftest import same_search

PROGRAM = str(Path(sys.executable).parent / "lstm-jax")
RAY = Path(sys.executable).parent / "ray"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not RAY.exists(), reason="needs ray: pip install 'lstm-jax[ray]'"),
]
PORT = "6390"


@pytest.fixture(scope="module")
def cluster():
    """A head node of ours, bound to the loopback interface."""
    command = [str(RAY), "start", "--head", "--block", f"--port={PORT}", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    nowhere, env = subprocess.DEVNULL, {**os.environ, "RAY_worker_niceness": "0"}  # Ray's own: 15
    command += ["--disable-usage-stats"]
    head = subprocess.Popen(command, env=env, stdout=nowhere, stderr=nowhere)
    time.sleep(10)
    assert head.poll() is None
    yield f"127.0.0.1:{PORT}"
    head.terminate()
    head.wait()


def resume(workdir, address, *flags):
    argv = [PROGRAM, "sweep", "resume", f"--workdir={workdir}", "--launcher=ray"]
    return subprocess.Popen(
        [*argv, f"--address={address}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, workdir, undisturbed):
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    assert digests(workdir) == digests(undisturbed)
    for trial in range(6):
        assert lines(workdir, trial) == lines(undisturbed, trial)


def claimed(workdir):
    """Pid of a worker that is in the middle of a pack."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        for number in range(2):
            folder = pack_folder(workdir, number)
            step = read_json(folder / "heartbeat.json").get("step", 0)
            if 0 < step < 600:
                return read_json(folder / f"claim.{claims.attempts(folder)}")["pid"]
        time.sleep(0.05)
    raise TimeoutError("no pack was begun")


def test_packs_finish(cluster, workdir, undisturbed):
    finish(resume(workdir, cluster), workdir, undisturbed)


def test_parts_of_a_user_s_own(cluster, tmp_path):
    workdir = own_parts(tmp_path)
    out, _ = resume(workdir, cluster).communicate(timeout=500)
    assert (workdir / "results.csv").exists(), out
    own_parts_were_found(workdir, PROGRAM)


def test_a_worker_that_is_killed(cluster, workdir, undisturbed):
    process = resume(workdir, cluster)
    os.kill(claimed(workdir), signal.SIGKILL)
    finish(process, workdir, undisturbed)
    assert max(claims.attempts(pack_folder(workdir, n)) for n in range(2)) == 2


def test_a_launcher_that_is_killed(cluster, workdir, undisturbed):
    """Ray ends a dead driver's tasks; the next launch goes on from their checkpoints."""
    process = resume(workdir, cluster)
    claimed(workdir)
    process.kill()
    process.communicate()
    finish(resume(workdir, cluster), workdir, undisturbed)


def test_a_search_whose_worker_and_launcher_are_killed(cluster, search, searched):
    """Either of them in the middle; the same asks, the same results."""
    first = resume(search, cluster)
    os.kill(claimed(search), signal.SIGKILL)
    time.sleep(1)
    claimed(search)
    first.kill()
    first.communicate()
    out, _ = resume(search, cluster).communicate(timeout=500)
    assert "10 completed" in out, out
    same_search(search, searched)


def test_no_cluster_and_a_cluster_too_small(cluster, workdir):
    for address, flag, words in (
        ("127.0.0.1:1", "--cpus=1", "no Ray cluster"),
        (cluster, "--gpus=8", "the Ray cluster has 0"),
    ):
        out, _ = resume(workdir, address, flag).communicate(timeout=200)
        assert words in out
        assert "Traceback" not in out
