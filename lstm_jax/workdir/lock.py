"""One process per workdir: a lock that ends with its process, however that dies.

The kernel holds it (flock), so neither a clock, nor the host's name, nor the folder's path matters.
Where a file system has no locks, the owner's own words decide: host, boot, process and its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.errors import UsageError
from lstm_jax.workdir.files import read_json

LOCK = ".lock"
RESERVE = 1 << 16  # bytes held by the lock file; given back when a full disk ends the run


class Lock:
    """`with Lock(workdir)`: nobody else trains there meanwhile; UsageError names who does."""

    def __init__(self, workdir: Path):
        self.workdir, self.path = workdir, workdir / LOCK
        self._file: Any = None

    def __enter__(self) -> Lock:
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+")  # "w" would empty what its holder wrote
        except OSError as error:
            raise UsageError(
                f"could not create workdir {self.workdir}: {error.strerror}"
            ) from error
        try:
            self._take(file)
        except UsageError:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        self.give_room()
        self._file.close()

    def give_room(self) -> None:
        """Empty the file: a disk that was full has room for a last word then."""
        with contextlib.suppress(OSError):
            self._file.truncate(0)

    def _take(self, file: Any) -> None:
        them, held = read_json(self.path), _is_held(file)
        alive = held if held is not None else bool(them) and not is_dead(them, owner())
        if alive:
            raise UsageError(refusal(self.workdir, them))
        me = json.dumps({**owner(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        try:
            file.truncate(0)
            data = me.ljust(RESERVE).encode() + b"\n"
            while data:  # past Python's buffer, which a full disk would make fail again at close
                data = data[os.write(file.fileno(), data) :]
        except OSError as error:
            raise UsageError(f"could not write {self.path}: {error.strerror}") from error


def _is_held(file: Any) -> bool | None:
    """Whether another process has the lock, else it is ours; None: the file system has no locks."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    return False


def refusal(workdir: Path, them: Mapping[str, Any]) -> str:
    who = "another process"
    if them:
        who = f"process {them.get('pid')} on {them.get('host')} (since {them.get('since')})"
    return (
        f"{workdir} is in use by {who}; wait for it, end it, or name another directory with "
        f"--workdir=DIR (if it is gone for certain: remove {workdir / LOCK})"
    )


# ---------------------------------------------------------------- owners


def owner() -> dict[str, Any]:
    """What tells this process from every other one, here and on other hosts."""
    found = {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "pids": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if "SLURM_JOB_ID" in os.environ:
        found["slurm"] = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
        found["restart"] = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    return found


def is_dead(them: Mapping[str, Any], me: Mapping[str, Any]) -> bool:
    """Whether the owner is certainly gone; False when nobody here can know."""
    if "slurm" in them and them["slurm"] == me.get("slurm"):
        return them.get("restart", 0) < me.get("restart", 0)  # SLURM ended it to start us
    if not them.get("boot") or any(them.get(k) != me[k] for k in ("host", "boot", "pids")):
        return False
    return _started(them["pid"]) != them["started"]


def _started(pid: int) -> str:
    """When a process began, in ticks since boot; "" where there is none (or it is a zombie)."""
    words = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return words[19] if len(words) > 19 and words[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
