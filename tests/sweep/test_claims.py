"""Claims: one owner at a time, whoever dies, whatever the clocks say."""

import subprocess
import sys
import threading
import time

import pytest

from lstm_jax.sweep import claims
from lstm_jax.sweep.claims import Lost, Watcher
from lstm_jax.workdir.files import create_json, read_json

CLAIM = """
import sys, time
from pathlib import Path
from lstm_jax.sweep.claims import Watcher
claim = Watcher().claim(Path(sys.argv[1]))
with claim:
    print("mine", flush=True)
    time.sleep(600)
"""


def elsewhere(monkeypatch, watcher, **changes):
    """The watcher as if it ran on another host."""
    watcher.me = {**watcher.me, "host": "another", "boot": "other", **changes}
    return watcher


def test_one_of_many_gets_it(tmp_path):
    got, barrier = [], threading.Barrier(16)

    def grab():
        watcher = Watcher()
        barrier.wait()
        if claim := watcher.claim(tmp_path / "p"):
            got.append(claim)

    threads = [threading.Thread(target=grab) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [claim.attempt for claim in got] == [1]
    assert not list((tmp_path / "p").glob(".*"))


def test_released_ended_and_running(tmp_path):
    folder, watcher = tmp_path / "p", Watcher()
    assert watcher.state(folder) == "pending"
    first = watcher.claim(folder)
    assert first
    with first:
        assert watcher.state(folder) == "running"
        assert Watcher().claim(folder) is None
    assert watcher.state(folder) == "pending"
    second = watcher.claim(folder)
    assert second
    with second:
        assert (first.attempt, second.attempt) == (1, 2)
        second.progress = {"step": 7}
        second.end("completed")
    assert watcher.state(folder) == "ended"
    assert claims.ended(folder)["step"] == 7
    assert Watcher().claim(folder) is None


def test_the_dead_are_followed_at_once_on_their_host(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path / "p")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"mine\n"
        assert Watcher().claim(tmp_path / "p") is None
        process.kill()
        process.wait()
        claim = Watcher().claim(tmp_path / "p")
    assert claim is not None
    assert claim.attempt == 2


def test_another_host_waits_for_a_heart_that_stands_still(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    claim = Watcher().claim(folder)
    assert claim
    claim.beat()
    watcher = elsewhere(monkeypatch, Watcher(stale_seconds=0.3))
    assert watcher.claim(folder) is None
    time.sleep(0.2)
    claim.beat()
    assert watcher.claim(folder) is None
    time.sleep(0.2)
    assert watcher.claim(folder) is None, "0.2 s after a beat is not stale"
    time.sleep(0.3)
    taken = watcher.claim(folder)
    assert taken is not None
    assert taken.attempt == 2
    with pytest.raises(Lost):
        claim.check()
    with pytest.raises(Lost):
        claim.end("completed")
    assert claims.ended(folder) == {}


def test_clocks_that_differ_change_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    monkeypatch.setattr(time, "time", lambda: 1.0)  # the owner lives in 1970
    claim = Watcher().claim(folder)
    assert claim
    claim.beat()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    watcher = elsewhere(monkeypatch, Watcher())
    assert watcher.claim(folder) is None
    claim.beat()
    assert watcher.claim(folder) is None


def test_a_requeued_slurm_job_takes_its_own_pack_back(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert Watcher().claim(tmp_path / "p")
    assert elsewhere(monkeypatch, Watcher()).claim(tmp_path / "p") is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert elsewhere(monkeypatch, Watcher()).claim(tmp_path / "p") is not None


def test_a_loser_does_not_release_what_is_no_longer_his(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    first = Watcher().claim(folder)
    assert first
    with first:
        watcher = elsewhere(monkeypatch, Watcher(stale_seconds=-1))
        watcher.claim(folder)
        second = watcher.claim(folder)
        assert second is not None
        second.beat()
    assert Watcher().state(folder) == "running"


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    assert create_json(tmp_path / "a", {"b": 1})
    assert not create_json(tmp_path / "a", {"b": 2})
    assert read_json(tmp_path / "a") == {"b": 1}


def test_damaged_files_are_no_files(tmp_path):
    (tmp_path / "heartbeat.json").write_text('{"atte')
    (tmp_path / "claim.1").write_text("")
    assert claims.heartbeat(tmp_path, 1) == {}
    assert Watcher().state(tmp_path) == "running"  # whose it is nobody knows: wait
