"""Sweeps on a real SLURM: killed, preempted, out of time, without its controller."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from sweeps import digests, held, lines, own_parts, own_parts_were_found, stepping

from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder

from . import slurm
from .conftest import same_search

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not slurm.is_installed() or os.geteuid() != 0, reason="needs root, SLURM"),
]
PROGRAM = str(Path(sys.executable).parent / "lstm-jax")


@pytest.fixture(scope="module")
def cluster():
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    with slurm.cluster(root) as found:
        yield found
    shutil.rmtree(root, ignore_errors=True)


def resume(cluster, workdir, *flags):
    argv = [PROGRAM, "sweep", "resume", f"--workdir={workdir}", "--launcher=slurm", "--cpus=1"]
    return subprocess.Popen(
        [*argv, *flags],
        env=cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, workdir, undisturbed):
    """It ends by itself, every trial once, with the digests of a sweep that nothing disturbed."""
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out + logs(workdir)
    assert digests(workdir) == digests(undisturbed)
    for trial in range(6):
        assert lines(workdir, trial) == lines(undisturbed, trial)
    for number in range(2):
        assert claims.ended(pack_folder(workdir, number))["status"] == "completed"


def logs(workdir):
    found = sorted((workdir / "logs" / "slurm").glob("*.out"))
    return "\n".join(path.read_text()[-2000:] for path in found)


def attempts(workdir):
    return [claims.attempts(pack_folder(workdir, n)) for n in range(2)]


def test_an_array_of_packs_finishes(cluster, workdir, undisturbed):
    finish(resume(cluster, workdir), workdir, undisturbed)
    assert attempts(workdir) == [1, 1]
    assert (workdir / "code" / "lstm_jax" / "core.py").exists()


def test_parts_of_a_user_s_own(cluster, tmp_path):
    workdir = own_parts(tmp_path)
    out, _ = resume(cluster, workdir).communicate(timeout=500)
    assert (workdir / "results.csv").exists(), out + logs(workdir)
    own_parts_were_found(workdir, PROGRAM)


def test_a_job_that_is_killed(cluster, workdir, undisturbed):
    process = resume(cluster, workdir)
    slurm.until(lambda: stepping(workdir), 200)
    with held(workdir):
        for job in cluster.jobs():
            cluster.ask("scancel", "-s", "KILL", job)
    finish(process, workdir, undisturbed)
    assert sum(attempts(workdir)) > 2


def test_a_job_that_is_preempted(cluster, workdir, undisturbed):
    process = resume(cluster, workdir, "--partition=low")
    slurm.until(lambda: stepping(workdir), 200)
    with held(workdir):
        cluster.ask("sbatch", "-p", "high", "-n", "2", "--output=/dev/null", "--wrap=sleep 5")
        time.sleep(6)
    finish(process, workdir, undisturbed)
    assert sum(attempts(workdir)) > 2


def test_what_preemption_cancels_or_a_kill_ends_comes_back_without_a_launcher(
    cluster, workdir, undisturbed
):
    """A worker that gets a signal puts itself back; for one that gets none there is the keeper."""
    process = resume(cluster, workdir, "--partition=spot", "--keeper", "--nowait")
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, out
    slurm.until(lambda: stepping(workdir), 200)
    with held(workdir):
        cluster.ask("sbatch", "-p", "high", "-n", "2", "--output=/dev/null", "--wrap=sleep 5")
        time.sleep(6)
    slurm.until(lambda: max(attempts(workdir)) > 1 and stepping(workdir), 200)
    with held(workdir) as pids:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    slurm.until(lambda: all(claims.ended(pack_folder(workdir, n)) for n in range(2)), 300)
    assert digests(workdir) == digests(undisturbed)
    kept = "".join(path.read_text() for path in (workdir / "logs/slurm").glob("keeper-*.out"))
    assert "submitted again: [" in kept, logs(workdir)
    links = {path.name for path in (workdir / "logs" / "variants").iterdir()}
    assert links == {"lstm_000.log", "cifg_001.log"}


def kill(workdir):
    """SIGKILL for whoever has a pack."""
    with held(workdir) as pids:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    return pids


def kill_tasks(workdir):
    """SIGKILL for every task, between two packs as well."""
    wanted = ["pgrep", "-f", f"submitit.core._submit {workdir}/"]
    pids = subprocess.run(wanted, capture_output=True, text=True).stdout.split()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    return pids


def in_batch(workdir, number):
    """Whether trials of the batch `number` are training."""
    return (workdir / f"sweep.{number:03d}.json").exists() and stepping(workdir)


def test_a_search_whose_worker_and_launcher_are_killed(cluster, search, searched):
    """The worker in the second batch, the launcher after it; the same command goes on."""
    first = resume(cluster, search)
    slurm.until(lambda: in_batch(search, 1), 300)
    assert kill(search)
    time.sleep(1)
    first.kill()
    first.communicate()
    out, _ = resume(cluster, search).communicate(timeout=500)
    assert "trials in packs of" in out, out + logs(search)
    same_search(search, searched)


def test_a_search_that_nobody_watches(cluster, search, searched):
    """Its workers are killed in the second batch: the keeper submits what they left."""
    out, _ = resume(cluster, search, "--keeper", "--nowait").communicate(timeout=100)
    slurm.until(lambda: in_batch(search, 1), 300)
    assert kill_tasks(search)
    slurm.until(lambda: (search / "trials/0009/summary.json").exists(), 400)
    slurm.until(lambda: not cluster.jobs(), 100)
    same_search(search, searched)
    kept = "".join(path.read_text() for path in (search / "logs/slurm").glob("keeper-*.out"))
    assert "submitted again: [" in kept, out + logs(search)


def test_the_controller_is_restarted(cluster, workdir, undisturbed):
    process = resume(cluster, workdir)
    slurm.until(lambda: stepping(workdir), 200)
    cluster.restart_controller()
    finish(process, workdir, undisturbed)


def test_the_launcher_is_killed(cluster, workdir, undisturbed):
    first = resume(cluster, workdir)
    slurm.until(lambda: stepping(workdir), 200)
    first.kill()
    first.communicate()
    finish(resume(cluster, workdir), workdir, undisturbed)
    assert attempts(workdir) == [1, 1]


def test_the_time_limit(cluster, workdir, undisturbed):
    """Two minutes, the signal one before the end."""
    process = resume(cluster, workdir, "--time=2")
    slurm.until(lambda: stepping(workdir), 200)
    with held(workdir):
        time.sleep(70)
    finish(process, workdir, undisturbed)
    assert max(attempts(workdir)) > 1


def test_without_waiting_jobs_go_on_and_cancel_stops_them(cluster, workdir):
    process = resume(cluster, workdir, "--nowait")
    process.communicate(timeout=100)
    assert process.returncode == 0
    slurm.until(lambda: stepping(workdir), 200)
    argv = [PROGRAM, "sweep", "cancel", f"--workdir={workdir}"]
    with held(workdir):
        subprocess.run(argv, env=cluster.env, check=True, capture_output=True)
    slurm.until(lambda: not cluster.ask("squeue", "-h", "--me").strip(), 120)
    time.sleep(1)
    assert any(not claims.ended(pack_folder(workdir, n)) for n in range(2))


def test_the_script_of_a_dry_run_is_one_that_slurm_takes(cluster, undisturbed, tmp_path):
    argv = [PROGRAM, "sweep", "launch", f"--study={undisturbed.parent / 'study'}", "--dry-run"]
    argv += ["--launcher=slurm", "--keeper", "--conda=jax", f"--workdir={tmp_path / 'w'}"]
    done = subprocess.run(argv, env=cluster.env, capture_output=True, text=True, check=True)
    script, _, keeper = done.stdout.partition("# then")
    assert "conda run --no-capture-output --name jax python" in script and "afterany" in keeper
    assert not (tmp_path / "w").exists()
    (tmp_path / "script").write_text(script)
    taken = subprocess.run(
        ["sbatch", "--test-only", tmp_path / "script"],
        env=cluster.env,
        capture_output=True,
        text=True,
    )
    assert taken.returncode == 0, taken.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--partition=hgih"], "this cluster has: high, low, spot"),
        (["--time=soon"], "--time='soon'"),
        (["--gres=gpu:9"], "sbatch"),
    ],
)
def test_what_slurm_refuses(cluster, workdir, flags, words):
    process = resume(cluster, workdir, *flags)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 2, out
    assert words in out
    assert "Traceback" not in out
