"""Signals that reach the program `lstm-jax` while it still imports: exit code 4, as later on.

Importing JAX takes seconds. Nothing exists by then that could be saved. Whoever imports the package
as a library keeps the handlers they have.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

INTERRUPTED = 4  # core.INTERRUPTED, which is not imported yet


def leave(number: int, frame: Any) -> None:
    os.write(2, b"lstm-jax: interrupted before it began; the same command starts again\n")
    os._exit(INTERRUPTED)


if Path(*sys.argv[:1]).stem == "lstm-jax":
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), leave)
