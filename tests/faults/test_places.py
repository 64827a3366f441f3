"""Disks that are full, folders that may not be written, clocks and names that change."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import time

import faulty
import pytest

from lstm_jax.errors import UsageError
from lstm_jax.training import train
from lstm_jax.workdir import arrays

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place]).returncode:
        pytest.skip("no right to mount a small disk here")
    yield place
    subprocess.run(["umount", place], check=True)


# Several writes fail at once; TensorStore tells of the later ones when Orbax no longer listens.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kilobytes", [300, 500, 700, 800])
def test_a_full_disk(disk, config, whole, kilobytes):
    """Ballast leaves room for some of the run; then it goes."""
    (disk / "ballast").write_bytes(bytes(kilobytes * 1024))
    workdir = disk / "run"
    with pytest.raises(UsageError, match="No space left"):
        train.train(config, workdir)
    found = faulty.summary(workdir)
    assert found["status"] == "failed" and "No space left" in found["error"]
    assert all(info.status == "ok" for info in faulty.Checkpoints(workdir).steps())
    (disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    train.train(config, workdir)
    faulty.same(workdir, whole)


def test_a_disk_that_may_not_be_written(disk, config, whole, monkeypatch):
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    workdir = disk / "run"
    faulty.stopped_at(workdir, 65, train.train, config, monkeypatch)
    before = sorted(faulty.Checkpoints(workdir).listed())
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UsageError, match="Read-only file system"):
        train.train(config, workdir)
    assert [i.step for i in faulty.Checkpoints(workdir).steps() if i.status == "ok"] == before
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    train.train(config, workdir)
    faulty.same(workdir, whole)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_save_that_the_disk_refuses(number, tmp_path, config, whole, monkeypatch):
    real, workdir = arrays.save, tmp_path / "run"

    def refuse(folder, leaves):
        if leaves["step"] == 40:
            raise OSError(number, os.strerror(number))
        real(folder, leaves)

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "save", refuse)
        with pytest.raises(UsageError, match=f"{os.strerror(number)}; step 30 is intact"):
            train.train(config, workdir)
    assert faulty.summary(workdir)["status"] == "failed"
    train.train(config, workdir)
    faulty.same(workdir, whole)


def clock_back(workdir, patch):
    patch.setattr(time, "time", lambda: 1e9)
    return workdir


def hostname_changed(workdir, patch):
    patch.setattr(socket, "gethostname", lambda: "another")
    return workdir


def moved(workdir, patch):
    return shutil.move(workdir, workdir.with_name("elsewhere"))


@pytest.mark.parametrize("change", [clock_back, hostname_changed, moved])
def test_a_run_goes_on_in_a_changed_world(change, tmp_path, config, whole, monkeypatch):
    workdir = tmp_path / "run"
    faulty.stopped_at(workdir, 65, train.train, config, monkeypatch)
    workdir = change(workdir, monkeypatch)
    train.train(config, workdir)
    monkeypatch.undo()
    faulty.same(workdir, whole)
