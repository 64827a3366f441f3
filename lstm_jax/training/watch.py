"""What watches over a run while it trains: signals, the clock, and under `train.strict` JAX."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import jax

from lstm_jax import signals
from lstm_jax.compute.compile_cache import compilations

SLOW_FACTOR = 10  # times the median of the chunks before it
SLOW_SECONDS = 1.0  # nothing shorter is worth a word
SLOW_ENOUGH = 5  # chunks that make a median


class Alarms:
    """Actions at a moment of the monotonic clock, by a thread of their own.

    Setting one takes no lock, so that a signal handler may do it at any point of the program.
    """

    def __init__(self, tick: float = 0.1):
        self._due: dict[str, tuple[float, Callable[[], None]]] = {}
        self._tick, self._over = tick, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="alarms")

    def __enter__(self) -> Alarms:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def set(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._due[name] = time.monotonic() + seconds, action

    def clear(self, name: str) -> None:
        self._due.pop(name, None)

    def _run(self) -> None:
        while not self._over.wait(self._tick):
            for name, (moment, action) in list(self._due.items()):
                if time.monotonic() >= moment:
                    self.clear(name)
                    action()


@contextlib.contextmanager
def asked_to_stop(
    alarms: Alarms, grace_seconds: float, leave: Callable[[], None]
) -> Iterator[list[str]]:
    """The names of the signals that want the run to stop.

    From the first on it has `grace_seconds` (0: as long as it takes); then `leave` is called.
    """

    def begin_grace() -> None:
        if grace_seconds:
            alarms.set("grace", grace_seconds, leave)

    try:
        with signals.asked(begin_grace) as seen:
            yield seen
    finally:
        alarms.clear("grace")


class Watchdog:
    """Reports a chunk of steps that takes 10 times the median, while it lasts and afterwards."""

    def __init__(self, alarms: Alarms, report: Callable[[str, float, float], None]):
        self._alarms, self._report = alarms, report
        self._times: deque[float] = deque(maxlen=100)  # seconds a step
        self.took = 0.0

    @contextlib.contextmanager
    def watch(self, num_steps: int) -> Iterator[None]:
        """Times what is run under it: that many steps."""
        usual = statistics.median(self._times) * num_steps if self._times else 0.0
        limit = max(SLOW_FACTOR * usual, SLOW_SECONDS)
        known = len(self._times) >= SLOW_ENOUGH
        if known:
            self._alarms.set("slow", limit, lambda: self._report("running", limit, usual))
        began = time.perf_counter()
        try:
            yield
        finally:
            self.took = time.perf_counter() - began
            self._alarms.clear("slow")
        self._times.append(self.took / num_steps)
        if known and self.took > limit:
            self._report("done", self.took, usual)


# ---------------------------------------------------------------- train.strict


class StrictError(RuntimeError):
    """Under train.strict: a program was compiled although nothing about it had changed."""


class Strict:
    """Under `train.strict`: no data moves to or from a device unasked, nothing compiles twice.

    JAX raises at the line that moves data; StrictError names the part that compiled again.
    """

    def __init__(self, on: bool):
        self.on, self._seen = on, set[str]()

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if not self.on:
            yield
            return
        before = compilations()
        with jax.transfer_guard("disallow"):
            yield
        if part in self._seen and compilations() > before:
            raise StrictError(
                f"{part} was compiled again though it had run before: a shape, a type or a Python "
                "value changes from call to call; JAX_EXPLAIN_CACHE_MISSES=1 says which"
            )
        self._seen.add(part)


def leak_checks(on: bool) -> contextlib.AbstractContextManager:
    """JAX's check that no traced value outlives its trace."""
    return jax.checking_leaks() if on else contextlib.nullcontext()
