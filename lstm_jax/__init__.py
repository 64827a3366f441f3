"""lstm_jax: the LSTM as a pure function, every design choice a switch.

A name's module is imported when the name is asked for: `lstm-jax --help` needs no JAX, and who
calls `unroll` no Flax.
"""

from lstm_jax import signals as signals  # isort: skip  # before JAX, which takes seconds
import importlib
from typing import TYPE_CHECKING, Any

from lstm_jax.errors import UsageError
from lstm_jax.malloc import keep_freed

keep_freed()

if TYPE_CHECKING:
    from lstm_jax import cells as cells
    from lstm_jax import testing as testing
    from lstm_jax.cells import transforms
    from lstm_jax.core import Carry, Cell, Hidden, Info, Keys
    from lstm_jax.engines.unroll import trace, unroll
    from lstm_jax.model.layers import Recurrent, Valid
    from lstm_jax.model.stack import GRU, LSTM

__version__ = "0.1.0"
__all__ = [
    "GRU",
    "LSTM",
    "Carry",
    "Cell",
    "Hidden",
    "Info",
    "Keys",
    "Recurrent",
    "UsageError",
    "Valid",
    "cells",
    "trace",
    "transforms",
    "unroll",
]
HOMES = {
    "lstm_jax": ("cells", "testing"),
    "lstm_jax.cells": ("transforms",),
    "lstm_jax.core": ("Carry", "Cell", "Hidden", "Info", "Keys"),
    "lstm_jax.engines.unroll": ("trace", "unroll"),
    "lstm_jax.model.layers": ("Recurrent", "Valid"),
    "lstm_jax.model.stack": ("GRU", "LSTM"),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("cells", "testing", "transforms"):
        return importlib.import_module(f"{home}.{name}")
    found = globals()[name] = getattr(importlib.import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
