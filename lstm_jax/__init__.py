"""lstm_jax: the LSTM as a pure function, every design choice a switch."""

from lstm_jax import early as early  # isort: skip  # before JAX, which takes seconds
from lstm_jax import cells, transforms
from lstm_jax.core import Carry, Cell, Hidden, Keys, UsageError
from lstm_jax.unroll import trace, unroll

__version__ = "0.1.0"
__all__ = [
    "Carry",
    "Cell",
    "Hidden",
    "Keys",
    "UsageError",
    "cells",
    "trace",
    "transforms",
    "unroll",
]
