"""Checkpoints that can be trusted: Orbax writes the arrays, a seal proves them, one rename commits.

    WORKDIR/checkpoints/300/state/            arrays by name; plain Orbax reads them too
    WORKDIR/checkpoints/300/integrity.json    checksums of leaves and files (see integrity.py)
    WORKDIR/checkpoints/corrupt/300-1/        set aside by a restore, with the reason in 300-1.txt
    WORKDIR/checkpoints/.tmp-...              a save that never finished; counts for nothing

A step exists from the moment its directory is renamed into place, complete with its seal: there
is no state between "not saved" and "saved and provable".
"""

from __future__ import annotations

import errno
import functools
import itertools
import math
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import UsageError
from lstm_jax.workdir import arrays
from lstm_jax.workdir import seal as integrity
from lstm_jax.workdir.seal import Damage

__all__ = ["CheckpointError", "CheckpointInfo", "Checkpoints"]

FOLDER = "checkpoints"
_COUNTER = itertools.count()
# A disk that is full, read-only or over quota, as OSError says it and as TensorStore words it.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
_DISK |= {errno.ENOTDIR, errno.EEXIST, errno.EIO}
_WORDS = tuple(os.strerror(number) for number in sorted(_DISK)) + ("RESOURCE_EXHAUSTED",)


class CheckpointError(UsageError):
    """A checkpoint could not be written or read for a reason outside the program."""


class CheckpointInfo(NamedTuple):
    """One line of `lstm-jax checkpoint`; `digest` is empty unless the status is "ok"."""

    step: int
    status: str  # "ok" or "corrupt: why"
    digest: str
    bytes: int
    metrics: dict[str, float]


class Skipped(NamedTuple):
    """A step that a restore did not believe, why, and where it lies now."""

    step: int
    why: str
    moved_to: Path | None


class Checkpoints:
    """Saves in the background, restores only what verifies, keeps what the policy says.

    Kept are the newest `keep_last` steps (0: all), the `keep_best` steps with the best `metric`
    among those saved with metrics, and every step divisible by `keep_every` (0: none).
    Opening touches no file. Every process of a run calls `save` and `restore`; process 0 writes.
    """

    def __init__(
        self,
        workdir: str | Path,
        keep_last: int = 3,
        keep_best: int = 1,
        keep_every: int = 0,
        *,
        metric: str = "loss",
        larger_is_better: bool = False,
        report: Callable[[str], None] | None = None,
    ):
        self.root = Path(workdir).absolute() / FOLDER
        self.keep_last, self.keep_best, self.keep_every = keep_last, keep_best, keep_every
        self.metric, self.sign = metric, -1.0 if larger_is_better else 1.0
        self.skipped: list[Skipped] = []
        self._report = report or (lambda line: print(line, file=sys.stderr, flush=True))
        self._pending: Future | None = None
        self._metrics: dict[int, dict[str, float]] | None = None

    # ------------------------------------------------------------ saving

    def save(self, step: int, state: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Copy `state` to the host and write it in the background.

        Raises what the save before this one met (CheckpointError for a full or unwritable disk).
        """
        self.wait()
        leaves = integrity.snapshot(state)
        if jax.process_index() == 0:
            scores = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(float(v))}
            self._pending = _pool(os.getpid()).submit(self._write, int(step), leaves, scores)

    def wait(self) -> None:
        """Block until the pending save is on disk; raise what it met."""
        if self._pending is None:
            return
        try:
            self._pending.result()
        finally:
            if self._pending.done():  # not so when a signal ended the wait
                self._pending = None

    def close(self) -> None:
        self.wait()

    def _write(self, step: int, leaves: dict[str, np.ndarray], metrics: dict[str, float]) -> None:
        tmp = self._scratch(step)
        try:
            self._commit(tmp, step, leaves, metrics)
            self._retain(step, metrics)
        except Exception as error:
            shutil.rmtree(tmp, ignore_errors=True)
            raise self._explain(step, error) from error

    def _commit(self, tmp: Path, step: int, leaves: dict, metrics: dict[str, float]) -> None:
        records = integrity.hash_leaves(leaves)
        total = integrity.combine(records)
        final = self.root / str(step)
        if self._holds(final, total):
            return
        tmp.mkdir(parents=True)
        arrays.save(tmp / "state", leaves)
        seal = {
            "version": integrity.VERSION,
            "step": step,
            "digest": total,
            "bytes": sum(x.nbytes for x in leaves.values()),
            "metrics": metrics,
            "orbax": arrays.version(),
            "leaves": {path: leaf._asdict() for path, leaf in records.items()},
            "files": integrity.hash_files(tmp),
        }
        integrity.write_seal(tmp, seal)
        _sync_folder(tmp)
        if final.exists():
            self._remove(final)
        os.rename(tmp, final)
        _sync_folder(self.root)

    def _holds(self, folder: Path, total: str) -> bool:
        """Whether the step is there already with these very leaves (a resumed run saves again)."""
        try:
            seal = integrity.read_seal(folder)
            integrity.check_files(folder, seal)
        except (Damage, OSError):
            return False
        return seal["digest"] == total

    def _explain(self, step: int, error: Exception) -> Exception:
        words = str(error)
        number = error.errno if isinstance(error, OSError) else None
        if number not in _DISK and not any(word in words for word in _WORDS):
            return error
        why = os.strerror(number) if number else next(w for w in _WORDS if w in words)
        left = max(self.listed(), default=None)
        intact = "no earlier checkpoint exists" if left is None else f"step {left} is intact"
        return CheckpointError(
            f"could not save step {step} in {self.root}: {why}; {intact}. Make room or make the "
            "directory writable, then run the same command again: it resumes"
        )

    # ------------------------------------------------------------ retention

    def _retain(self, step: int, metrics: dict[str, float]) -> None:
        if self._metrics is None:
            self._metrics = {n: self._read_metrics(n) for n in self.listed()}
            self._clear_unfinished()
        self._metrics[step] = metrics
        for n in set(self._metrics) - self._kept(self._metrics):
            del self._metrics[n]
            if (self.root / str(n)).is_dir():
                self._remove(self.root / str(n))

    def _kept(self, metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps that the policy keeps, of those given with their metrics."""
        if self.keep_last <= 0:
            return set(metrics)
        scored = [(self.sign * m[self.metric], n) for n, m in metrics.items() if self.metric in m]
        best = {n for _, n in sorted(scored)[: self.keep_best]}
        every = {n for n in metrics if self.keep_every and n % self.keep_every == 0}
        return best | every | set(sorted(metrics)[-self.keep_last :])

    def _remove(self, folder: Path) -> None:
        """Take a step away at once, then delete it: no reader ever sees half of one."""
        gone = self._scratch(folder.name)
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _scratch(self, name: object) -> Path:
        return self.root / f".tmp-{name}-{_mark(os.getpid())}-{next(_COUNTER)}"

    def _clear_unfinished(self) -> None:
        """Delete what earlier processes left behind when they were killed."""
        for folder in self.root.glob(".tmp-*"):
            if _mark(os.getpid()) not in folder.name:
                shutil.rmtree(folder, ignore_errors=True)

    def _read_metrics(self, step: int) -> dict[str, float]:
        try:
            return integrity.read_seal(self.root / str(step))["metrics"]
        except (Damage, OSError):
            return {}

    # ------------------------------------------------------------ restoring

    def restore(self, target: Any, step: int | None = None, *, move: bool = True) -> Any:
        """(step, state) of the newest step that verifies, or None; `step` asks for that one only.

        `target` gives structure, shapes, dtypes and, where it has them, shardings. A step that does
        not verify is reported, listed in `skipped` and (unless `move=False`) moved to `corrupt/`.
        CheckpointMismatch when a sound checkpoint does not fit the target: nothing is moved then.
        """
        self.wait()
        found = self._walk(target, step, move) if jax.process_index() == 0 else None
        if jax.process_count() > 1:
            found = self._agree(found, target)
        if found is None:
            return None
        leaves = iter([_place(found[1][path], x) for path, x in integrity.flatten(target).items()])
        return found[0], jax.tree.map(lambda _: next(leaves), target)

    def _walk(self, target: Any, step: int | None, move: bool) -> tuple[int, dict] | None:
        for n in sorted(self.listed(), reverse=True):
            if step is not None and n != step:
                continue
            try:
                return n, self._load(n, target)
            except Damage as damage:
                if (self.root / str(n)).is_dir():  # else the policy of a running process took it
                    self._set_aside(n, str(damage), move)
            except OSError as error:
                raise CheckpointError(f"could not read step {n}: {error}") from error
        return None

    def _agree(self, found: tuple[int, dict] | None, target: Any) -> tuple[int, dict] | None:
        """Every process restores the step that process 0 chose."""
        from jax.experimental import multihost_utils  # start-up

        chosen = int(multihost_utils.broadcast_one_to_all(np.int32(found[0] if found else -1)))
        if chosen < 0 or found is not None:
            return found
        try:
            return chosen, self._load(chosen, target)
        except Damage as damage:
            raise CheckpointError(
                f"process {jax.process_index()} cannot read step {chosen} in {self.root}: "
                f"{damage}; the workdir must be shared by all processes"
            ) from damage

    def _load(self, step: int, target: Any = None) -> dict[str, np.ndarray]:
        """The verified leaves of one step by path; Damage when they cannot be believed."""
        folder = self.root / str(step)
        seal = integrity.read_seal(folder)
        integrity.check_files(folder, seal)
        if target is not None:
            integrity.check_target(target, seal, f"{FOLDER}/{step}")
        try:
            leaves = arrays.load(folder / "state", seal["leaves"])
        except Exception as error:
            # Every byte is as written, so this is no damage: setting it aside would lose the run.
            raise CheckpointError(
                f"step {step} is intact, but orbax {arrays.version()} cannot read what orbax "
                f"{seal['orbax']} wrote: {error}"
            ) from error
        integrity.check_leaves(leaves, seal)
        return leaves

    def _set_aside(self, step: int, why: str, move: bool) -> None:
        moved = self._move_aside(step, why) if move else None
        self.skipped.append(Skipped(step, why, moved))
        where = f"moved to {FOLDER}/corrupt/{moved.name}" if moved else "left where it is"
        self._report(f"checkpoint {step} is corrupt: {why}; {where}")

    def _move_aside(self, step: int, why: str) -> Path | None:
        corrupt = self.root / "corrupt"
        try:
            corrupt.mkdir(exist_ok=True)
            numbers = itertools.count(1)
            moved = next(p for i in numbers if not (p := corrupt / f"{step}-{i}").exists())
            os.rename(self.root / str(step), moved)
            moved.with_suffix(".txt").write_text(why + "\n")
        except OSError:
            return None
        if self._metrics is not None:
            self._metrics.pop(step, None)
        return moved

    def leaves(self) -> tuple[int, str, dict[str, np.ndarray]] | None:
        """(step, digest, {path: array}) of the newest step that verifies, of whatever state."""
        found = self._walk(None, None, move=False)
        if found is None:
            return None
        return found[0], integrity.read_seal(self.root / str(found[0]))["digest"], found[1]

    # ------------------------------------------------------------ listing

    def steps(self) -> list[CheckpointInfo]:
        """Every step on disk, oldest first, each read and verified in full; changes nothing."""
        self.wait()
        return [self._inspect(step) for step in sorted(self.listed())]

    def _inspect(self, step: int) -> CheckpointInfo:
        folder = self.root / str(step)
        try:
            self._load(step)
            seal = integrity.read_seal(folder)
        except (Damage, CheckpointError, OSError) as error:
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            return CheckpointInfo(step, f"corrupt: {error}", "", size, {})
        return CheckpointInfo(step, "ok", seal["digest"], seal["bytes"], seal["metrics"])

    def listed(self) -> list[int]:
        """The steps on disk, believed or not."""
        try:
            names = [entry.name for entry in os.scandir(self.root) if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [int(name) for name in names if name.isdecimal() and str(int(name)) == name]


@functools.cache
def _mark(pid: int) -> str:
    """This process's name for its unfinished files: a pid alone would come again, and a process
    that was forked must not take its parent's files for its own."""
    return uuid.uuid4().hex[:12]


@functools.cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """Writers shared by all trials of a process; Python joins them before it exits."""
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="checkpoint")


def _place(x: np.ndarray, like: Any) -> Any:
    """The restored leaf as NumPy or on the devices, as the target's leaf is."""
    if isinstance(like, np.ndarray | np.generic):
        return x
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return jnp.array(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _sync_folder(folder: Path) -> None:
    """Force names in a directory to the disk: after a power cut a rename must not be lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
