"""lstm_jax: the LSTM as a pure function, every design choice a switch."""

from lstm_jax import signals as signals  # isort: skip  # before JAX, which takes seconds
import importlib
from typing import TYPE_CHECKING, Any

from lstm_jax import cells
from lstm_jax.cells import transforms
from lstm_jax.core import Carry, Cell, Hidden, Info, Keys
from lstm_jax.engines.unroll import trace, unroll
from lstm_jax.errors import UsageError

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """The names that bring Flax, whose import takes a second, and the laws, once asked for."""
    if name == "testing":
        return importlib.import_module("lstm_jax.testing")
    if name not in ("GRU", "LSTM", "Recurrent", "Valid"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lstm_jax.model import layers, stack  # start-up

    return getattr(stack if name in ("GRU", "LSTM") else layers, name)
