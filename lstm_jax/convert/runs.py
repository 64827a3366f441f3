"""A run's whole model as arrays under another library's names, and back.

rnn.weight_ih_l0 ...     the recurrent layers, as `layers.write` names them
head.linear.weight       what stands around them, by our path and the library's last name
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.gates import word
from lstm_jax.config.fields import bind
from lstm_jax.convert.conventions import OUTER
from lstm_jax.convert.layers import DIRECTIONS, Layer, apply, flat, nested, node_arrays, read, write
from lstm_jax.convert.plain import Inexpressible, options_of, plain, unplain
from lstm_jax.core import Cell
from lstm_jax.errors import UsageError, lookup
from lstm_jax.model.cell import build_cell

OWN = "lstm_jax"
ONNX = "onnx"  # the arrays of its nodes, see `_of_nodes`
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
    if library == ONNX:
        return _of_nodes(cell, params)
    outer = lookup("library", library, OUTER)
    prefix = f"rnn{outer.separator}" if library != "keras" else ""
    named = {
        _outer_name(library, name): _turned(library, name, array)
        for name, array in around(params).items()
    }
    return write(library, layers_of(cell, params), prefix=prefix) | named


def _of_nodes(cell: Cell, params: Mapping[str, Any]) -> dict[str, Any]:
    """As the file has them: `layer_0/W`, a learned carry and what is around them by our names."""
    found = around(params)
    for n, layer in enumerate(layers_of(cell, params)):
        plains = [plain(cell, way, ignore=("learned_carry",)) for way in layer.ways]
        found |= {f"layer_{n}/{k}": array for k, array in node_arrays(plains).items()}
    return found | {name: array for name, array in flat(params).items() if _starts(name)}


def _starts(name: str) -> bool:
    """Whether it is an entry of a learned carry."""
    return "/initial_" in name


def around(params: Mapping[str, Any]) -> dict[str, Any]:
    """What stands around the recurrent layers."""
    return flat({k: v for k, v in params.items() if not k.startswith("layer_")})


def _outer_name(library: str, name: str) -> str:
    if library == ONNX:
        return name
    outer = OUTER[library]
    *path, leaf = name.split("/")
    return outer.separator.join([*path, getattr(outer, leaf, leaf)])


def _turned(library: str, name: str, array: Any) -> Any:
    """A kernel with its features first, where the library has them so."""
    turned = library != ONNX and OUTER[library].turned
    return array.T if turned and name.endswith("/kernel") else array


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
    return found, lacking


def _read(library: str, cell: Cell, like: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    names = {_outer_name(library, name): name for name in around(like)}
    starts = {name: array for name, array in state.items() if _starts(name)}
    recurrent = {k: v for k, v in state.items() if k not in names and k not in starts}
    p = plain(cell, jax.tree.map(jnp.zeros_like, like["layer_0"]["forward"]), ("learned_carry",))
    options = {"reset": p.reset} if p.kind == "gru" else {}
    found = {ours: _turned(library, ours, state[theirs]) for theirs, ours in names.items()} | starts
    for n, layer in enumerate(read(library, recurrent, **options)):
        for way, params in zip(DIRECTIONS, layer.ways, strict=False):
            own = unplain(cell, plain(layer.cell, params))
            found |= {f"layer_{n}/{way}/{name}": array for name, array in own.items()}
    return nested(found)


def check_options(cell: Cell, like: Any, layers: Sequence[Mapping[str, str]]) -> None:
    """Raises UsageError where a file says another activation or reset gate than the config."""
    if not layers:
        return
    p = plain(cell, like["layer_0"]["forward"], ("learned_carry",))
    ours = {"cell": p.kind, **options_of(p)}
    for n, theirs in enumerate(layers):
        other = {k: v for k, v in ours.items() if theirs.get(k, v) != v}
        lines = [f"{k}={theirs[k]}, not {word(v)}" for k, v in other.items()]
        if other:
            raise UsageError(
                f"layer {n} of the file is another one than the config's: {'; '.join(lines)}. "
                "Give a --config, or --config.cell.FIELD=VALUE, that says the same"
            )


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
    outer = {_outer_name(library, n) for n in around(params)}
    options = options_of(plain(cell, layers[0].forward))
    again = read(library, {n: a for n, a in state.items() if n not in outer}, **options)
    ours, theirs = (
        jax.jit(lambda x, stack=stack: apply(stack, x)[1])(xs) for stack in (layers, again)
    )
    return float(jnp.max(jnp.abs(ours - theirs)))
