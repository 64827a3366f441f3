"""Who runs which pack: files that work across processes, hosts, and clocks that disagree.

    packs/003/claim.1        made once, never changed: the first attempt and its owner
    packs/003/claim.2        the second; whoever can make this file owns the pack from then on
    packs/003/heartbeat.json replaced every BEAT_SECONDS: which attempt, a counter, progress
    packs/003/ended.json     the pack is done or has failed

An attempt may be followed by another when its owner released it, when its owner is known to be
dead (same host), or when its counter stood still for STALE_SECONDS by the *observer's* clock: no
time stamps are compared. An owner that finds a younger claim stops before it writes anything.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.workdir.files import create_json, read_json, replace_json
from lstm_jax.workdir.lock import is_dead, owner

__all__ = ["Claim", "Lost", "Watcher"]

BEAT_SECONDS = 2.0
STALE_SECONDS = 60.0
ENDED = "ended.json"


class Lost(Exception):
    """Another worker took the pack over: it was believed dead. Nothing more may be written."""


# ---------------------------------------------------------------- claiming


def attempts(folder: Path) -> int:
    """The number of the newest claim, 0 where there is none."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return 0
    numbers = [name.removeprefix("claim.") for name in names if name.startswith("claim.")]
    return max((int(n) for n in numbers if n.isdecimal()), default=0)


def ended(folder: Path) -> dict[str, Any]:
    """How the pack ended, {} while it has not."""
    return read_json(folder / ENDED)


class Watcher:
    """One observer's memory of heartbeats, for as long as the observer lives."""

    def __init__(self, stale_seconds: float = STALE_SECONDS):
        self.stale_seconds, self.me = stale_seconds, owner()
        self._seen: dict[Path, tuple[Any, float]] = {}

    def state(self, folder: Path) -> str:
        """ended | pending (nobody has it, or its owner let go or died) | running"""
        if ended(folder):
            return "ended"
        return "pending" if self.next_attempt(folder) else "running"

    def next_attempt(self, folder: Path) -> int:
        """The attempt that may be claimed now; 0 while the newest one may be alive."""
        newest = attempts(folder)
        if newest == 0:
            return 1
        beat = heartbeat(folder, newest)
        them = read_json(folder / f"claim.{newest}")
        if beat.get("released") or is_dead(them, self.me) or self._is_stale(folder, newest, beat):
            return newest + 1
        return 0

    def _is_stale(self, folder: Path, newest: int, beat: Mapping[str, Any]) -> bool:
        mark, now = (newest, beat.get("beat")), time.monotonic()
        seen, since = self._seen.get(folder, (None, now))
        if seen != mark:
            self._seen[folder] = mark, now
            return False
        return now - since > self.stale_seconds

    def claim(self, folder: Path) -> Claim | None:
        """The pack's next attempt if it may be made and nobody else makes it first."""
        if ended(folder) or not (attempt := self.next_attempt(folder)):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        if not create_json(folder / f"claim.{attempt}", self.me):
            return None
        if ended(folder):  # its last owner ended it between our two looks
            release(folder, attempt)
            return None
        return Claim(folder, attempt)


def heartbeat(folder: Path, attempt: int) -> dict[str, Any]:
    """The newest heartbeat, {} if it belongs to an earlier attempt."""
    beat = read_json(folder / "heartbeat.json")
    return beat if beat.get("attempt") == attempt else {}


def release(folder: Path, attempt: int, **progress: Any) -> None:
    replace_json(folder / "heartbeat.json", {**progress, "attempt": attempt, "released": True})


class Claim:
    """An attempt of ours: `with claim:` its heart beats; it is released at the end."""

    def __init__(self, folder: Path, attempt: int):
        self.folder, self.attempt = folder, attempt
        self.progress: dict[str, Any] = {}
        self._beat, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def __enter__(self) -> Claim:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.is_ours():
            release(self.folder, self.attempt, **self.progress)

    def is_ours(self) -> bool:
        return attempts(self.folder) == self.attempt

    def check(self) -> None:
        """Raises Lost if another attempt has been started."""
        if not self.is_ours():
            raise Lost(f"{self.folder} was taken over from attempt {self.attempt}")

    def beat(self) -> None:
        self._beat += 1
        mark = {"attempt": self.attempt, "beat": self._beat, "time": time.time()}
        replace_json(self.folder / "heartbeat.json", {**self.progress, **mark})

    def end(self, status: str, **more: Any) -> None:
        """The pack is over: nobody will claim it again."""
        self.check()
        found = {**self.progress, **more, "status": status, "attempt": self.attempt}
        replace_json(self.folder / ENDED, found)

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            if not self.is_ours():
                return  # the loop finds out by itself, before it writes
            try:
                self.beat()
            except OSError:
                continue  # a full disk: the loop meets it too, and says so
