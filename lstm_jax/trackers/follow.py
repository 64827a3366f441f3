"""Sends while a run or a sweep trains: a thread a tracker, which reads files and stops nothing."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lstm_jax import plugins
from lstm_jax.errors import UsageError
from lstm_jax.trackers import Named
from lstm_jax.trackers.contract import home_of
from lstm_jax.trackers.send import Handles, alone, runs, send

POLL_SECONDS = 5.0
RETRY_SECONDS = 30.0  # after a failure
LAST_SECONDS = 60.0  # that the end of a run waits for its trackers
SHARE = 20  # of the time that a pass took, so that long files cost little


@contextlib.contextmanager
def following(
    chosen: Sequence[Named], workdir: Path, seconds: float = POLL_SECONDS
) -> Iterator[None]:
    """What is logged in `workdir` meanwhile is sent; all of it has been when the block ends.

    A tracker that fails is said once, tried again, and given up at the end.
    """
    stop = threading.Event()
    threads = [
        threading.Thread(target=follow, args=(named, workdir, stop, seconds), daemon=True)
        for named in chosen
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        until = time.monotonic() + LAST_SECONDS
        for named, thread in zip(chosen, threads, strict=True):
            thread.join(max(until - time.monotonic(), 0.0))
            if thread.is_alive():
                say(f"{named.name}: no answer for {LAST_SECONDS:g} s; {later(named, workdir)}")


def follow(named: Named, workdir: Path, stop: threading.Event, seconds: float) -> None:
    opened: Handles = {}
    number, pause, failed = 0, seconds, False
    with contextlib.ExitStack() as guards:
        mine = False
        while True:
            last, began = stop.wait(pause), time.monotonic()
            try:
                if not mine and runs(workdir):
                    guards.enter_context(alone(named, workdir))
                    mine = True
                number += send(named, workdir, opened, last) if mine else 0
                pause = max(seconds, SHARE * (time.monotonic() - began))
            except Exception as error:
                if last or not failed:
                    what = later(named, workdir) if last else "the run goes on, tried again later"
                    say(f"{named.name}: {reason(error)}; {what}")
                failed, pause = True, max(seconds, RETRY_SECONDS)
                opened.clear()  # opened again, a tracker says what it has
                number = 0 if last else number
            if last:
                break
    if number:
        place = named.tracker.place(home_of(workdir))
        print(f"{named.name}: {number} lines sent; {place}", flush=True)


def reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, UsageError):
        return str(error)
    lines = str(error).strip().splitlines()
    return plugins.told(error) or f"{type(error).__name__}: {lines[0] if lines else 'no reason'}"


def later(named: Named, workdir: Path) -> str:
    return f"to send it later: lstm-jax track --workdir={workdir} --tracker={named.name}"


def say(line: str) -> None:
    print(f"note: {line}", file=sys.stderr, flush=True)
