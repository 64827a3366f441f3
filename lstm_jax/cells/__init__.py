"""What runs at every step: the cells, their gates, and what can go around them."""

from collections.abc import Callable

from lstm_jax.cells.custom import from_step
from lstm_jax.cells.gru import gru, mgu
from lstm_jax.cells.linear import mingru, minlstm
from lstm_jax.cells.lstm import lstm, lstm_fgr
from lstm_jax.cells.rnn import indrnn, rnn
from lstm_jax.cells.slstm import slstm
from lstm_jax.core import Cell

CELLS: dict[str, Callable[..., Cell]] = {
    "lstm": lstm,
    "lstm_fgr": lstm_fgr,
    "gru": gru,
    "mgu": mgu,
    "rnn": rnn,
    "indrnn": indrnn,
    "slstm": slstm,
    "minlstm": minlstm,
    "mingru": mingru,
}

__all__ = ["CELLS", "from_step", *CELLS]
