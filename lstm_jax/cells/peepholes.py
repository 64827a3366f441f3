"""How the gates see the cell c: Cell -> Cell, once all else of the cell is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from lstm_jax.cells.gates import NAMES, GateTable, Learned, check_apart, spread
from lstm_jax.cells.initializers import KERNELS
from lstm_jax.core import Cell
from lstm_jax.errors import UsageError, lookup
from lstm_jax.ops import dot


def _seeing(cell: Cell) -> tuple[str, ...]:
    return tuple(k for k in cell.info.learned if k != "g")


def diagonal(cell: Cell) -> Cell:
    """Every gate sees its own unit's cell, i and f the old one, o the new one.

        u_i += p_i * c      u_f += p_f * c      u_o += p_o * c'

    `peephole_kernel` [n, H] has a row for each of the n gates that are left of i, f, o.

    Source: Gers & Schmidhuber (2000), eq. 2-5.
    """
    see, inner = _seeing(cell), cell.update

    def init(key, in_features):
        row = 0.1 * jax.random.normal(jax.random.split(key, 3)[2], (len(see), cell.info.hidden))
        return cell.init(key, in_features) | {"peephole_kernel": row}

    def update(params, carry, gate):
        rows = dict(zip(see, params["peephole_kernel"], strict=True))
        return inner(params, carry, gate._replace(peepholes=rows))

    info = cell.info._replace(late=see, plain=False)
    return cell._replace(init=init, update=update, info=info)


def full(cell: Cell) -> Cell:
    """Every gate sees all of the old cell, through a matrix.

        u_i += c P_i      u_f += c P_f      u_o += c P_o

    `peephole_kernel` [H, n*H] has a block for each of the n gates that are left of i, f, o.

    Source: a textbook variant of Gers & Schmidhuber (2000).
    """
    see, learned, hidden = _seeing(cell), cell.info.learned, cell.info.hidden
    of_h, join, dtype = cell.recur, cell.merge, cell.info.dtype

    def init(key, in_features):
        shape = (hidden, len(see) * hidden)
        drawn = KERNELS["glorot"](jax.random.split(key, 3)[2], shape, len(see))
        return cell.init(key, in_features) | {"peephole_kernel": drawn}

    def recur(params, carry):
        return of_h(params, carry), dot(carry.c, params["peephole_kernel"], dtype)

    def merge(params, z, r):
        from_h, seen = r
        return join(params, z, from_h) + spread(seen, see, learned)

    info = cell.info._replace(plain=False)
    return cell._replace(init=init, recur=recur, merge=merge, info=info)


PEEPHOLES: dict[str, Callable[[Cell], Cell]] = {
    "none": lambda cell: cell,
    "diagonal": diagonal,
    "diagonal_remaining": diagonal,  # on the gates that the row still has
    "full": full,
    "learned": diagonal,  # what `diagonal_remaining` was called at first
}
REMAINING = ("diagonal_remaining", "learned")


def check_peepholes(peepholes: str, gates: Any, table: GateTable) -> None:
    """Raises UsageError for peepholes on a gate that is not there."""
    lookup("peepholes", peepholes, PEEPHOLES)
    gone = [k for k in "ifo" if not isinstance(getattr(table, k), Learned)]
    if peepholes in ("diagonal", "full") and gone:
        raise UsageError(
            f"peepholes={peepholes!r} with gates={gates!r}: the {NAMES[gone[0]]} is "
            f"{getattr(table, gone[0])} and has no pre-activation to see the cell with; choose "
            "peepholes='diagonal_remaining' (on the gates that are left) or 'none'"
        )
    if peepholes in REMAINING and len(gone) == 3:
        raise UsageError(f"peepholes={peepholes!r} with gates={gates!r}: no gate is left to see c")
    if peepholes in REMAINING:
        check_apart(table, f"peepholes={peepholes!r}")
