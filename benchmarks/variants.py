"""Every row of the ablation table as a layer to be timed, and what it costs over the standard cell.

A row is KIND/NAME of the catalogue (`transform/zoneout +key` draws its noise), or one switch of the
standard cell, as in `lstm gate_activation=relu`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import lstm_jax
from benchmarks.layers import Result
from benchmarks.peers import Layer, Shape
from lstm_jax.cells import lstm
from lstm_jax.cells.activations import ACTIVATIONS
from lstm_jax.core import Cell
from lstm_jax.model import catalogue

STANDARD = "cell/lstm"
DRAWN = ("zoneout", "variational_dropout", "recurrent_dropout", "weight_drop")
MASKED, TWO = (
    "cell/lstm +lengths",
    "cell/lstm +layer",
)  # sequences of all lengths; one after the other
# the places of activations, and what the standard cell has there
PLACES = {"gate_activation": "sigmoid", "candidate_activation": "tanh", "output_activation": "tanh"}
LIMIT = 1.15  # what a row may cost over the standard cell, its FLOPs counted


def names() -> list[str]:
    """All rows, the standard cell first."""
    found = [f"{entry.kind}/{entry.name}" for entry in catalogue.entries()]
    found += [f"transform/{name} +key" for name in DRAWN]
    found += [MASKED, TWO, "lstm peepholes=learned"]
    for place, own in PLACES.items():
        found += [f"lstm {place}={name}" for name in ACTIVATIONS if name not in (own, "one")]
    return found


def cell_of(name: str) -> Cell:
    """The cell of a row, with `catalogue.HIDDEN` units."""
    name = name.partition(" +")[0]
    if "=" in name:
        option, _, value = name.removeprefix("lstm ").partition("=")
        switch: Any = {option: value}
        return lstm(catalogue.HIDDEN, **switch)
    kind, _, name = name.rpartition("/")
    return next(e for e in catalogue.find(name) if e.kind == kind).cell()


def layer(name: str, size: Shape, engine: str = "auto") -> Layer:
    """A row with the size's units; outputs that are narrower are filled up with zeros."""
    catalogue.HIDDEN = size.H
    cell, key = cell_of(name), jax.random.key(1) if name.endswith("+key") else None
    lengths = 1 + jnp.arange(size.B) * size.T // size.B if name == MASKED else None
    blank = jnp.zeros((1, 1, size.D))
    width = jax.eval_shape(
        lambda key: lstm_jax.unroll(cell, cell.init(key, size.D), blank)[1], jax.random.key(0)
    ).shape[-1]

    def apply(params: Any, xs: Any) -> Any:
        ys = lstm_jax.unroll(cell, params, xs, key=key, lengths=lengths, engine=engine)[1]
        if name == TWO:
            ys = lstm_jax.unroll(cell, params, ys, engine=engine)[1]
        return jnp.pad(ys, ((0, 0), (0, 0), (0, size.H - width)))

    return Layer(apply, lambda weights, shift=1.0: cell.init(jax.random.key(0), size.D))


def relative_flops(name: str) -> float:
    """Forward FLOPs of a step over the standard cell's, D = H."""
    layers = 2 if name == TWO else 1
    return layers * catalogue.step_flops(cell_of(name)) / catalogue.step_flops(cell_of(STANDARD))


def table(found: list[Result]) -> tuple[list[str], str]:
    """(the table, the rows above `LIMIT`); the first result is the standard cell's."""
    lines = ["| row | ms, median | min | over the standard | by minima | FLOPs over the standard |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    base, above = found[0], []
    for r in found:
        median, least = r.median / base.median, r.least / base.least
        flops = relative_flops(r.entry.row)
        times = f"{1e3 * r.median:.3g} | {1e3 * r.least:.3g}"
        lines.append(f"| {r.entry.row} | {times} | {median:.2f} | {least:.2f} | {flops:.2f} |")
        above += [f"{r.entry.row} {least:.2f}"] * (least > LIMIT * max(flops, 1.0))
    return lines, ", ".join(above) or "none"
