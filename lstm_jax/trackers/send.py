"""Passes on what metrics.jsonl holds: every line once, whatever was killed on the way.

    WORKDIR/tracked/NAME/cursor.json  {"place", "id", "sent": {split: step}, "closed": "STATE STEP"}

The cursor is written after the tracker has accepted. A tracker that can be asked is asked when a
run is opened, so that a kill between the two neither repeats nor loses a point.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lstm_jax.config.fields import flatten
from lstm_jax.errors import UsageError
from lstm_jax.trackers import Named
from lstm_jax.trackers.contract import Point, Run, Tracker, home_of
from lstm_jax.workdir.files import CREATED, read_json, write_json
from lstm_jax.workdir.lock import LOCK, is_dead, owner
from lstm_jax.workdir.metrics import PLACE, read_metrics

FOLDER, CURSOR = "tracked", "cursor.json"
OVER = ("completed", "diverged", "pruned")  # a run that goes on no more
BATCH = 500  # lines between two cursors

Line = dict[str, Any]
Sent = dict[str, int]  # the last step of each split that a tracker has accepted
Handles = dict[Path, Any]  # of the runs that are open in a tracker


# ---------------------------------------------------------------- sending


def send(named: Named, workdir: Path, opened: Handles, last: bool = True) -> int:
    """The number of lines sent of a run, or of all trials of a sweep.

    `opened` keeps what is open from call to call; the `last` call closes it.
    """
    return sum(send_run(named, folder, opened, last) for folder in runs(workdir))


def send_run(named: Named, folder: Path, opened: Handles, last: bool) -> int:
    """The number of lines sent of one run."""
    tracker, cursor = named.tracker, read_cursor(named, folder)
    lines, end = read_metrics(folder), ending(folder, last)
    new = [line for line in lines if is_new(line, cursor["sent"])]
    if not new and (not end or cursor["closed"] == end):
        return 0
    if folder not in opened:
        write_cursor(named, folder, cursor)  # its id, before anybody knows of it
        opened[folder] = tracker.open(run_of(folder, cursor["id"]))
        new = lacking(tracker, opened[folder], lines) if tracker.held else new
    number = send_lines(named, folder, opened[folder], new, cursor)
    if end:
        close(tracker, folder, opened.pop(folder), end)
        write_cursor(named, folder, {**cursor, "closed": end})
    return number


def send_lines(
    named: Named, folder: Path, handle: Any, lines: Sequence[Line], cursor: dict[str, Any]
) -> int:
    for start in range(0, len(lines), BATCH):
        some = lines[start : start + BATCH]
        named.tracker.scalars(handle, [point(line) for line in some])
        for line in some:
            split = line["split"]
            cursor["sent"][split] = max(line["step"], cursor["sent"].get(split, -1))
        write_cursor(named, folder, cursor)
    return len(lines)


def close(tracker: Tracker, folder: Path, handle: Any, end: str) -> None:
    """Figures, words and the summary; all of them again after a kill, which replaces them."""
    state, _, step = end.partition(" ")
    for path in sorted((folder / "figures").glob("*.png")):
        tracker.figure(handle, int(step), path.stem, path)
    for name, words in texts(folder).items():
        tracker.text(handle, int(step), name, words)
    tracker.summary(handle, int(step), summary(folder, state))
    tracker.close(handle, state)


# ---------------------------------------------------------------- what is there to send


def runs(workdir: Path) -> list[Path]:
    """The folder of a run, or those of a sweep's trials that have begun."""
    is_sweep = (workdir / "sweep.json").exists()
    folders = sorted((workdir / "trials").glob("*")) if is_sweep else [workdir]
    return [f for f in folders if (f / "config.json").exists() and (f / "manifest.json").exists()]


def run_of(folder: Path, ours: str) -> Run:
    """What a tracker is told of the run in `folder`."""
    manifest, place = read_json(folder / "manifest.json"), read_json(folder / PLACE)
    notes = {"workdir": str(folder.resolve()), "config_hash": str(manifest.get("config_hash"))}
    name, group = folder.resolve().name, ""
    if commit := manifest.get("git", {}).get("commit"):
        notes["commit"] = commit
    if place:  # a trial
        name, group = Path(place["events"]).name, folder.resolve().parents[1].name
        notes |= {"trial": folder.resolve().name, "variant": place["group"]}
    config = flatten(read_json(folder / "config.json"))
    return Run(ours, name, group, home_of(folder), config, notes, *times(folder, manifest))


def times(folder: Path, manifest: Mapping[str, Any]) -> tuple[float, float]:
    """When the first attempt began and the last one ended, in seconds since 1970; 0: unknown."""
    last, found = seconds(manifest), read_json(folder / "summary.json")
    first = seconds([*manifest.get("earlier", []), manifest][0])
    over = last and found.get("status") in OVER
    return first, last + (found.get("wall_seconds") or 0.0) if over else 0.0


def seconds(attempt: Mapping[str, Any]) -> float:
    """When an attempt began."""
    try:
        return float(calendar.timegm(time.strptime(attempt.get("created", ""), CREATED)))
    except ValueError:
        return 0.0


def identity(folder: Path) -> str:
    """16 hex digits of where the run lies, its config and when its first attempt began."""
    manifest = read_json(folder / "manifest.json")
    first = [*manifest.get("earlier", []), manifest][0].get("created", "")
    words = f"{folder.resolve()}\n{manifest.get('config_hash')}\n{first}"
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def point(line: Line) -> Point:
    values = {k: v for k, v in line.items() if k not in ("step", "split")}
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
    return Point(line["step"], {f"{line['split']}/{k}": v for k, v in numbers.items()})


def is_new(line: Line, sent: Sent) -> bool:
    return line["step"] > sent.get(line["split"], -1)


def lacking(tracker: Tracker, handle: Any, lines: Sequence[Line]) -> list[Line]:
    """The lines, or what is left of them, that the tracker does not hold."""
    assert tracker.held is not None
    tags = sorted({tag for line in lines for tag in point(line).values})
    held = tracker.held(handle, tags)
    found = [{k: v for k, v in line.items() if not _has(held, line, k)} for line in lines]
    return [line for line in found if len(line) > 2]


def _has(held: Mapping[str, set[int]], line: Line, name: str) -> bool:
    return line["step"] in held.get(f"{line['split']}/{name}", ())


def ending(folder: Path, last: bool) -> str:
    """`STATE STEP` of a run that is to be closed, "" while it goes on."""
    found = read_json(folder / "summary.json")
    status, step = found.get("status", ""), found.get("step", 0)
    if status in OVER:
        return f"{status} {step}"
    return f"{'running' if is_running(folder) else status or 'interrupted'} {step}" if last else ""


def is_running(folder: Path) -> bool:
    """Whether a process trains there, or the sweep believes so."""
    them = read_json(folder / LOCK)
    alive = bool(them) and not is_dead(them, owner())
    return alive or read_json(folder / "status.json").get("status") == "running"


def summary(folder: Path, state: str) -> dict[str, Any]:
    """What tables compare: the metrics of the best weights `best/`, sizes and times `run/`."""
    found = read_json(folder / "summary.json")
    names = ("best_step", "parameters", "wall_seconds", "steps_per_second", "reason", "rollbacks")
    values = {"run/status": state} | {f"run/{k}": found[k] for k in names if found.get(k)}
    tested = {s: m for s, m in found.get("metrics", {}).items() if s != "train"}
    return values | {
        f"best/{s}/{k}": v for s, m in tested.items() for k, v in m.items() if v is not None
    }


def texts(folder: Path) -> dict[str, str]:
    """How it was made, and what went wrong on the way."""
    manifest = read_json(folder / "manifest.json")
    found = {"command": "    " + " ".join(manifest.get("command", []))}
    with contextlib.suppress(OSError):
        lines = (folder / "incidents.jsonl").read_text(errors="replace").splitlines()
        found["incidents"] = "\n".join("    " + line for line in lines)
    return found


# ---------------------------------------------------------------- the cursor


def folder_of(named: Named, folder: Path) -> Path:
    return folder / FOLDER / re.sub(r"[^\w.-]+", "_", named.name)


def read_cursor(named: Named, folder: Path) -> dict[str, Any]:
    """What was sent there; nothing yet to a place that is new."""
    found = read_json(folder_of(named, folder) / CURSOR)
    ours = found.get("id") or identity(folder)
    place = named.tracker.place(run_of(folder, ours).home)
    fresh = {"place": place, "id": ours, "sent": {}, "closed": ""}
    return fresh | (found if found.get("place") == place else {})


def write_cursor(named: Named, folder: Path, cursor: Mapping[str, Any]) -> None:
    path = folder_of(named, folder) / CURSOR
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, cursor)


@contextlib.contextmanager
def alone(named: Named, workdir: Path) -> Iterator[None]:
    """Nobody else sends this run or sweep there meanwhile; UsageError if somebody does."""
    path = folder_of(named, workdir) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            import fcntl  # not on Windows

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process sends {workdir} to {named.name}; wait until it has ended"
            ) from None
        except (ImportError, OSError):  # a file system without locks
            pass
        yield
