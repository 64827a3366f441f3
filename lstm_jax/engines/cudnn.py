"""cuDNN's LSTM through `jax.experimental.rnn`, where the cell is exactly the one it knows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells.gates import GATES
from lstm_jax.core import Carry, Cell, Params
from lstm_jax.errors import UsageError
from lstm_jax.ops import platform


def refusal(cell: Cell, steps: Any, reverse: bool = False) -> str:
    """Why cuDNN cannot run this; empty where it can."""
    if platform() != "gpu":
        return f"it needs an NVIDIA GPU and this is {platform()}"
    standard = cell.info.plain and cell.info.table.design() == GATES["lstm"].design()
    if not standard or cell.info.transforms:
        return f"cell {cell.info.name!r} is not the standard LSTM, the only one cuDNN knows"
    if steps is not None and (steps.valid is not None or reverse):
        return "masks, resets and reversed time do not reach it"
    return ""


def run(cell: Cell, params: Params, carry: Carry, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) by one cuDNN call over the whole sequence.

    Raises: UsageError where cuDNN cannot serve, with the engines that can.
    """
    from jax.experimental import rnn  # imported here: it is a GPU matter

    why = refusal(cell, steps, reverse)
    if why:
        raise UsageError(f"engine 'cudnn' cannot serve: {why}; use 'deferred', 'scan' or 'auto'")
    xs = steps.x
    length, batch, features = xs.shape
    weights = flatten(params)
    lengths = jnp.full((batch,), length, jnp.int32)
    lstm: Any = rnn.lstm
    ys, h, c = lstm(
        jnp.swapaxes(xs, 0, 1),
        carry.h[None],
        carry.c[None],
        weights,
        lengths,
        input_size=features,
        hidden_size=cell.info.hidden,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
    )
    return Carry(c[0], h[0]), jnp.swapaxes(ys, 0, 1)


def flatten(params: Params) -> jax.Array:
    """Our kernels as cuDNN's flat weights: W^T, R^T, b and a second bias of zeros."""
    parts = (params["kernel"].T, params["recurrent_kernel"].T, params["bias"])
    flat = [part.ravel() for part in parts]
    return jnp.concatenate([*flat, jnp.zeros_like(params["bias"])])
