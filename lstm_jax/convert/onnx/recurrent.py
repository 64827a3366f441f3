"""One recurrent layer in ONNX: an LSTM, GRU or RNN node where one says it exactly, else a Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lstm_jax.cells.gates import step, word
from lstm_jax.convert.layers import DIRECTIONS, Layer, flat, node_arrays
from lstm_jax.convert.onnx.graph import Graph, value
from lstm_jax.convert.onnx.jaxprs import inline
from lstm_jax.convert.plain import Inexpressible, Plain, plain
from lstm_jax.core import Cell, Params, noted


class Marks(NamedTuple):
    """Names of what says which steps count: lengths [B] int32, valid and resets [T, B] bool."""

    lengths: str = ""
    valid: str = ""
    resets: str = ""


class Said(NamedTuple):
    """Names of what a layer says: ys of each direction [T, B, H], the last forward carry."""

    ys: list[str]
    carry: list[str]


# What ONNX calls our activations, with alpha and beta where it wants them.
ACTIVATIONS: dict[str, tuple] = {
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "relu": ("Relu",),
    "softsign": ("Softsign",),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "identity": ("Affine", 1.0, 0.0),
    "one": ("Affine", 0.0, 1.0),
}
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


def operator(layer: Layer, marks: Marks) -> list[Plain] | None:
    """Each direction as ONNX's operator has it; None where it has not."""
    if marks.resets or (marks.valid and not marks.lengths):
        return None
    try:
        plains = [plain(layer.cell, p, ignore=("learned_carry",)) for p in layer.ways]
    except Inexpressible:
        return None
    inexact = any(p.projection is not None for p in plains)
    unknown = any(name not in ACTIVATIONS for p in plains for name in p.activations)
    return None if inexact or unknown else plains


def add(
    graph: Graph,
    layer: Layer,
    given: tuple[str, int],
    starts: Sequence[Sequence[str]],
    marks: Marks,
    name: str = "layer",
) -> Said:
    """The layer over (xs [T, B, D], D) from `starts`, each direction's carry entries [1 or B, H].

    Its arrays are named as in `runs`: `name/W` of a node, `name/forward/kernel` of a Scan.
    """
    plains = operator(layer, marks)
    if plains is not None:
        return _node(graph, plains, given[0], starts, marks, name)
    ways = []
    for way, params in zip(DIRECTIONS, layer.ways, strict=False):
        for leaf, array in flat(params).items():
            if not leaf.startswith("initial_"):  # the start has it
                graph.parameter(f"{name}/{way}/{leaf}", array)
        start = starts[len(ways)]
        ways.append(_scan(graph, layer.cell, params, given, start, marks, way == "backward"))
    return Said([ys for ys, _ in ways], ways[0][1])


def fresh(cell: Cell, params: Params) -> list[np.ndarray]:
    """The entries of the initial carry, [1, H] each."""
    carry = cell.initial_carry(jax.tree.map(jnp.asarray, params), (1,))
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(carry)]


def _spread(graph: Graph, start: str, xs: str, width: int) -> str:
    """A carry's entry [1 or B, H] as [B, H]."""
    shape = graph.add("Concat", graph.size(xs, 1), graph.ints(width), axis=0)
    return graph.add("Expand", start, shape)


def _node(
    graph: Graph,
    plains: list[Plain],
    xs: str,
    starts: Sequence[Sequence[str]],
    marks: Marks,
    name: str,
) -> Said:
    kind, ways, zero = plains[0].kind, len(plains), graph.ints(0)
    arrays = {k: np.asarray(a, np.float32) for k, a in node_arrays(plains).items()}
    own = {k: graph.parameter(f"{name}/{k}", array) for k, array in arrays.items()}
    carries = [[_spread(graph, n, xs, plains[0].hidden) for n in way] for way in starts]
    stacked = [
        graph.add("Concat", *(graph.add("Unsqueeze", n, zero) for n in entry), axis=0)
        for entry in zip(*carries, strict=True)
    ]
    # Our carry is (c, h), ONNX takes h first.
    inputs = [xs, *(own[k] for k in "WRB"), marks.lengths, *reversed(stacked)]
    if "P" in own:
        inputs.append(own["P"])
    count = 3 if kind == "lstm" else 2
    outputs = graph.several(OPERATORS[kind], inputs, count, **_attributes(plains))
    ys = graph.several("Split", [outputs[0], graph.ints(*[1] * ways)], ways, axis=1)
    ys = [graph.add("Squeeze", y, graph.ints(1)) for y in ys]
    last = [graph.add("Gather", o, graph.constant(np.int64(0)), axis=0) for o in outputs[1:]]
    return Said(ys, list(reversed(last)))


def _attributes(plains: list[Plain]) -> dict[str, Any]:
    p, ways = plains[0], len(plains)
    names = [ACTIVATIONS[name] for name in p.activations] * ways
    attributes: dict[str, Any] = {
        "hidden_size": p.hidden,
        "direction": "bidirectional" if ways > 1 else "forward",
        "activations": [name[0] for name in names],
    }
    if wanting := [name for name in names if len(name) > 1]:
        attributes["activation_alpha"] = [name[1] for name in wanting]
        attributes["activation_beta"] = [name[2] for name in wanting]
    if p.kind == "gru":
        attributes["linear_before_reset"] = int(p.reset == "after")
    return attributes


def _scan(
    graph: Graph,
    cell: Cell,
    params: Params,
    given_xs: tuple[str, int],
    starts: Sequence[str],
    marks: Marks,
    reverse: bool,
) -> tuple[str, list[str]]:
    """(ys, last carry): a Scan whose body is the cell's step, from its jaxpr."""
    (xs, features), initial = given_xs, fresh(cell, params)
    widths = [a.shape[-1] for a in initial]
    given = [_spread(graph, n, xs, w) for n, w in zip(starts, widths, strict=True)]
    scanned = [
        xs,
        *([marks.valid] if marks.valid else []),
        *([marks.resets] if marks.resets else []),
    ]
    body = _body(graph.sub(), cell, params, (widths, features), marks, reverse)
    ways = {"scan_input_directions": [int(reverse)] * len(scanned)}
    ways["scan_output_directions"] = [int(reverse)]
    *last, ys = graph.several(
        "Scan",
        [*given, *scanned],
        len(given) + 1,
        body=body,
        num_scan_inputs=len(scanned),
        **ways,
    )
    return ys, last


def _body(
    graph: Graph, cell: Cell, params: Params, sizes_of: tuple, marks: Marks, reverse: bool
) -> Any:
    """One step: carry and x in, carry and y out; held where it does not count."""
    (batch,), (widths, features) = export.symbolic_shape("b"), sizes_of
    entries = [graph.name("carry") for _ in widths]
    x, valid, resets = graph.name("x"), graph.name("valid"), graph.name("reset")
    kinds = [jax.ShapeDtypeStruct((batch, w), np.float32) for w in [*widths, features]]
    start = [graph.constant(a) for a in fresh(cell, params)]
    counts = graph.add("Unsqueeze", valid, graph.ints(-1)) if marks.valid else ""
    again = graph.add("Unsqueeze", resets, graph.ints(-1)) if marks.resets else ""
    seen = entries if reverse else _chosen(graph, again, start, entries)
    now, sizes = _flat_step(cell, params), {"b": graph.size(x, 0)}
    *new, y = inline(graph, now, [*seen, x], kinds, sizes)
    new = _chosen(graph, again, start, new) if reverse else new
    if marks.valid:
        new = _chosen(graph, counts, new, entries)
        y = graph.add("Where", counts, y, graph.constant(np.float32(0)))
    outputs = [graph.add("Identity", n) for n in [*new, y]]
    pairs = zip([*entries, x], [*widths, features], strict=True)
    inputs = [value(n, np.float32, ("b", w)) for n, w in pairs]
    bools = [valid] * bool(marks.valid) + [resets] * bool(marks.resets)
    inputs += [value(n, np.bool_, ("b",)) for n in bools]
    ends = zip(outputs, [*widths, None], strict=True)
    return graph.graph("step", inputs, [value(n, np.float32, ("b", w)) for n, w in ends])


def _flat_step(cell: Cell, params: Params) -> Callable:
    """(the carry's entries, x) -> (the new ones, y), as a function of arrays [B, .]."""
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (1,)), params)
    tree, params = jax.tree.structure(carry), jax.tree.map(np.asarray, params)

    def now(*inputs):
        *leaves, x = inputs
        z, notes = noted(cell.project(params, x[None], None))
        first = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), (z, dict(notes)))
        new, y = step(cell, params, jax.tree.unflatten(tree, leaves), *first)
        return (*jax.tree.leaves(new), y)

    return now


def _chosen(graph: Graph, where: str, yes: Sequence[str], no: Sequence[str]) -> list[str]:
    if not where:
        return list(no)
    return [graph.add("Where", where, a, b) for a, b in zip(yes, no, strict=True)]


def words(layer: Layer, marks: Marks) -> str:
    """What the layer becomes, and why no single node."""
    plains = operator(layer, marks)
    if plains is not None:
        return f"one {OPERATORS[plains[0].kind]} node"
    if marks.resets or (marks.valid and not marks.lengths):
        return "a Scan of the step: no recurrent operator knows resets or masks with holes"
    try:
        p = plain(layer.cell, layer.forward, ignore=("learned_carry",))
    except Inexpressible as error:
        return f"a Scan of the step: {str(error).split(';')[0]}"
    if p.projection is not None:
        return "a Scan of the step: no recurrent operator has a projection"
    odd = ", ".join(word(name) for name in p.activations if name not in ACTIVATIONS)
    return f"a Scan of the step: no recurrent operator has the activation {odd}"
