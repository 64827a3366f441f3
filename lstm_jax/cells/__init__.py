"""What runs at every step: the cells, their gates, and what can go around them.

Every file of cells ends in a table of its own, `CELLS`; this is all of them.
"""

from collections.abc import Callable

from lstm_jax.cells.custom import from_step
from lstm_jax.cells.gru import CELLS as GRUS
from lstm_jax.cells.gru import gru, mgu
from lstm_jax.cells.linear import CELLS as LINEAR
from lstm_jax.cells.linear import mingru, minlstm
from lstm_jax.cells.lstm import CELLS as LSTMS
from lstm_jax.cells.lstm import lstm, lstm_fgr
from lstm_jax.cells.rnn import CELLS as RNNS
from lstm_jax.cells.rnn import indrnn, rnn
from lstm_jax.cells.slstm import CELLS as SLSTMS
from lstm_jax.cells.slstm import slstm
from lstm_jax.core import Cell

CELLS: dict[str, Callable[..., Cell]] = LSTMS | GRUS | RNNS | SLSTMS | LINEAR

__all__ = [
    "CELLS",
    "from_step",
    "gru",
    "indrnn",
    "lstm",
    "lstm_fgr",
    "mgu",
    "mingru",
    "minlstm",
    "rnn",
    "slstm",
]
