"""A run's whole model as arrays under another library's names, and back.

rnn.weight_ih_l0 ...     the recurrent layers, as `layers.write` names them
head.linear.weight       what stands around them, by our path and the library's last name
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.config.fields import bind
from lstm_jax.convert.conventions import OUTER
from lstm_jax.convert.layers import Layer, apply, flat, nested, read, write
from lstm_jax.convert.plain import Inexpressible, plain
from lstm_jax.core import Cell
from lstm_jax.errors import UsageError, lookup
from lstm_jax.model.cell import build_cell

OWN = "lstm_jax"
NAMES = (OWN, *OUTER)


def cell_of(config: Any, hyper: Mapping[str, Any]) -> Cell:
    """The cell of every layer of a run."""
    return build_cell(bind(config, dict(hyper)).cell)


def layers_of(cell: Cell, params: Mapping[str, Any]) -> tuple[Layer, ...]:
    """A run's recurrent layers, from the input up."""
    count = sum(name.startswith("layer_") for name in params)
    return tuple(Layer(cell, **params[f"layer_{n}"]) for n in range(count))


def to_names(library: str, cell: Cell, params: Mapping[str, Any]) -> dict[str, Any]:
    """{name: array} of a run's parameters by the library's names.

    Raises: Inexpressible for an option that the library's layer has not.
    """
    if library == OWN:
        return flat(params)
    outer = lookup("library", library, OUTER)
    around = flat({k: v for k, v in params.items() if not k.startswith("layer_")})
    prefix = f"rnn{outer.separator}" if library != "keras" else ""
    named = {
        _outer_name(library, name): _turned(library, name, array) for name, array in around.items()
    }
    return write(library, layers_of(cell, params), prefix=prefix) | named


def _outer_name(library: str, name: str) -> str:
    outer = OUTER[library]
    *path, leaf = name.split("/")
    return outer.separator.join([*path, getattr(outer, leaf, leaf)])


def _turned(library: str, name: str, array: Any) -> Any:
    """A kernel with its features first, where the library has them so."""
    return array.T if OUTER[library].turned and name.endswith("/kernel") else array


def from_names(
    library: str, cell: Cell, like: Any, state: Mapping[str, Any], partial_state: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """(parameters shaped `like` ours, the names that `state` lacked and that kept `like`'s values).

    Raises: UsageError that lists every array that is missing, unknown or of another shape.
    """
    wanted = jax.eval_shape(partial(to_names, library, cell), like)
    lines, lacking = differences(wanted, state, partial_state)
    if lines:
        raise UsageError(
            f"{len(lines)} arrays do not fit this config's model under the names of {library}:\n"
            + "\n".join(lines)
            + "\n--rename=OLD=NEW,... renames by their beginnings, --partial lets some be missing"
        )
    if lacking:
        state = {**to_names(library, cell, like), **state}
    state = {name: np.asarray(state[name], wanted[name].dtype) for name in wanted}
    found = nested(state) if library == OWN else _read(library, cell, like, state)
    shapes = jax.tree.map(jnp.shape, like)
    if jax.tree.map(jnp.shape, found) != shapes:
        raise Inexpressible(
            f"{library}'s layers have every gate learned, which the cell of this config has not; "
            "import with cell.gates=lstm, or a file that lstm_jax wrote under its own names"
        )
    return found, lacking


def _read(library: str, cell: Cell, like: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    around = flat({k: v for k, v in like.items() if not k.startswith("layer_")})
    names = {_outer_name(library, name): name for name in around}
    recurrent = {name: array for name, array in state.items() if name not in names}
    p = plain(cell, jax.tree.map(jnp.zeros_like, like["layer_0"]["forward"]))
    options = {"reset": p.reset} if p.kind == "gru" else {}
    layers = read(library, recurrent, **options)
    tree = {
        f"layer_{n}": {k: v for k, v in layer._asdict().items() if k != "cell" and v is not None}
        for n, layer in enumerate(layers)
    }
    outer = {ours: _turned(library, ours, state[theirs]) for theirs, ours in names.items()}
    return tree | nested(outer)


def differences(
    wanted: Mapping[str, Any], given: Mapping[str, Any], partial_state: bool
) -> tuple[list[str], list[str]]:
    """(one line for every mistake, the names that are lacking where they may be)."""
    lacking = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    lines = [
        f"  {name} has shape {list(given[name].shape)}; expected {list(like.shape)}"
        for name, like in wanted.items()
        if name in given and given[name].shape != like.shape
    ]
    lines += [f"  unknown: {name}{_near(name, lacking)}" for name in unknown]
    if not partial_state:
        shapes = {name: list(wanted[name].shape) for name in lacking}
        lines += [f"  missing: {n} {shape}{_near(n, unknown)}" for n, shape in shapes.items()]
    return lines, lacking


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return f"; is it {near[0]}?" if near else ""


def guess(cell: Cell, like: Any, state: Mapping[str, Any]) -> str:
    """The library whose names fit best, by their last parts."""

    def lasts(names: Iterable[str]) -> set[str]:
        return {re.split("[./]", name)[-1] for name in names}

    def fitting(library: str) -> int:
        try:
            wanted = jax.eval_shape(partial(to_names, library, cell), like)
        except Inexpressible:
            return -1
        return len(wanted.keys() & state.keys()) + len(lasts(wanted) & lasts(state))

    return max(NAMES, key=fitting)


def largest_difference(library: str, cell: Cell, params: Any, state: Mapping[str, Any]) -> float:
    """Between the recurrent layers and what `state` says of them, on inputs drawn anew."""
    layers = layers_of(cell, params)
    features = layers[0].forward["kernel"].shape[0]
    xs = jax.random.normal(jax.random.key(0), (12, 3, features))
    outer = {_outer_name(library, n) for n in flat(params) if not n.startswith("layer_")}
    p = plain(cell, layers[0].forward)
    options = {"reset": p.reset} if p.kind == "gru" else {}
    if p.kind == "rnn":
        options |= {"activation": p.activations[0]}
    if p.kind == "lstm":
        names = ("gate_activation", "candidate_activation", "output_activation")
        options |= dict(zip(names, p.activations, strict=True))
    if p.kind == "gru":
        names = ("gate_activation", "candidate_activation")
        options |= dict(zip(names, p.activations, strict=True))
    again = read(library, {n: a for n, a in state.items() if n not in outer}, **options)
    ours, theirs = (
        jax.jit(lambda x, stack=stack: apply(stack, x)[1])(xs) for stack in (layers, again)
    )
    return float(jnp.max(jnp.abs(ours - theirs)))
