"""What runs at every step: the cells, their gates, and what can go around them."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

from lstm_jax.cells.custom import from_step
from lstm_jax.cells.gru import gru, mgu
from lstm_jax.cells.linear import mingru, minlstm
from lstm_jax.cells.lstm import lstm, lstm_fgr
from lstm_jax.cells.rnn import indrnn, rnn
from lstm_jax.cells.slstm import slstm
from lstm_jax.core import Cell


def _constructors() -> Iterator[tuple[str, Callable[..., Cell]]]:
    """Every function of this folder's files that `constructor` marks and that takes `hidden`."""
    for found in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{found.name}")
        for name, make in inspect.getmembers(module, inspect.isfunction):
            own = make.__module__ == module.__name__ and hasattr(make, "__wrapped__")
            if own and next(iter(inspect.signature(make).parameters), "") == "hidden":
                yield name, make


FIRST = {f.__name__: f for f in (lstm, lstm_fgr, gru, mgu, rnn, indrnn, slstm, minlstm, mingru)}
CELLS: dict[str, Callable[..., Cell]] = FIRST | dict(_constructors())
globals().update(CELLS)  # a cell's name is the cell, also where its file has the same name

__all__ = ["CELLS", "from_step", *CELLS]
