"""The signals that ask a program to stop, and who hears them.

While the program `lstm-jax` still imports (JAX takes seconds) nothing exists that could be saved:
it leaves with exit code 4, as later on. Whoever imports the package as a library keeps the
handlers they have.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
INTERRUPTED = 4  # errors.INTERRUPTED, which is not imported yet


@contextlib.contextmanager
def handled(handler: Any) -> Iterator[None]:
    """`handler` hears every signal that asks to stop; in a thread they are not ours."""
    numbers = [getattr(signal, name) for name in SIGNALS]
    ours = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if ours}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def asked(at_first: Callable[[], None] = lambda: None) -> Iterator[list[str]]:
    """The names of the signals that came; the first calls `at_first`, a second SIGINT raises."""
    seen: list[str] = []

    def catch(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not seen:
            at_first()
        seen.append(signal.Signals(number).name)

    with handled(catch):
        yield seen


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Every signal raises KeyboardInterrupt, twice a second until it is heard.

    Python swallows what is raised inside some callbacks, JAX's of the garbage collector among them,
    and reports it; that report says nothing here, since the signal comes again. Compiled code that
    calls Python may end with an error of its own.
    """
    timers: list[threading.Timer] = []
    report = sys.unraisablehook

    def unheard(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            report(unraisable)

    def interrupt(number: int, frame: Any) -> None:
        timers.append(threading.Timer(0.5, os.kill, (os.getpid(), number)))
        timers[-1].daemon = True
        timers[-1].start()
        raise KeyboardInterrupt

    with handled(interrupt):
        sys.unraisablehook = unheard
        try:
            yield
        except Exception as error:
            if timers:
                raise KeyboardInterrupt from error
            raise
        finally:
            sys.unraisablehook = report
            for timer in timers:
                timer.cancel()


def heard_by(handler: Any) -> None:
    """`handler` hears every signal that asks to stop, from now on."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), handler)


def leave(number: int, frame: Any) -> None:
    os.write(2, b"lstm-jax: interrupted before it began; the same command starts again\n")
    os._exit(INTERRUPTED)


if Path(*sys.argv[:1]).stem == "lstm-jax":
    heard_by(leave)
