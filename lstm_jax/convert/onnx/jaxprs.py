"""A JAX function as ONNX nodes, from its own jaxpr: what no single operator expresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal
from onnx import helper

from lstm_jax.convert.onnx.graph import END, Graph
from lstm_jax.convert.plain import Inexpressible
from lstm_jax.ops import tracing_for


def inline(
    graph: Graph, function: Callable, inputs: Sequence[str], shapes: Sequence[Any], sizes: Mapping
) -> list[str]:
    """The outputs of `function(*inputs)` as nodes of `graph`.

    `shapes` are ShapeDtypeStructs, whose symbolic dimensions are named in `sizes`: {"b": [1]}.

    Raises: Inexpressible for an operation without a counterpart.
    """
    with tracing_for("cpu"):
        closed = jax.make_jaxpr(function)(*shapes)
    return _jaxpr(graph, closed.jaxpr, closed.consts, list(inputs), sizes)


def _jaxpr(graph: Graph, jaxpr: Any, consts: Any, inputs: list[str], sizes: Mapping) -> list[str]:
    names: dict[Any, str] = dict(zip(jaxpr.invars, inputs, strict=True))
    names |= {v: graph.constant(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> str:
        return graph.constant(atom.val) if isinstance(atom, Literal) else names[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        outputs = _translated(graph, eqn, given, sizes)
        names |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _translated(graph: Graph, eqn: Any, given: list[str], sizes: Mapping) -> list[str]:
    name = eqn.primitive.name
    if name in CALLS:
        inner = eqn.params[CALLS[name]]
        jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
        return _jaxpr(graph, jaxpr, consts, given, sizes)
    if name not in PRIMITIVES:
        raise Inexpressible(
            f"the step's operation {name!r} has no counterpart in ONNX here; the nearest is "
            "--to=stablehlo, which takes any"
        )
    found = PRIMITIVES[name](graph, eqn, given, sizes)
    return [found] if isinstance(found, str) else found


def _shape(graph: Graph, shape: Sequence[Any], sizes: Mapping) -> str:
    """The shape as an int64 tensor."""
    if all(isinstance(n, int) for n in shape):
        return graph.ints(*shape)
    if any(not isinstance(n, int) and str(n) not in sizes for n in shape):
        raise Inexpressible(f"a shape {tuple(map(str, shape))} that is computed: ONNX has no name")
    parts = [graph.ints(n) if isinstance(n, int) else sizes[str(n)] for n in shape]
    return graph.add("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


# One function a primitive: (graph, equation, names of its inputs, sizes) -> name(s) of its outputs.


def _op(op: str, **attributes: Any) -> Callable:
    return lambda graph, eqn, given, sizes: graph.add(op, *given, **attributes)


def _like(eqn: Any, value: float) -> Any:
    return np.asarray(value, eqn.invars[0].aval.dtype)


def _not(op: str) -> Callable:
    return lambda graph, eqn, given, sizes: graph.add("Not", graph.add(op, *given))


def _same(graph, eqn, given, sizes):
    return list(given)


def _rsqrt(graph, eqn, given, sizes):
    return graph.add("Reciprocal", graph.add("Sqrt", *given))


def _square(graph, eqn, given, sizes):
    return graph.add("Mul", given[0], given[0])


def _log1p(graph, eqn, given, sizes):
    return graph.add("Log", graph.add("Add", given[0], graph.constant(_like(eqn, 1))))


def _expm1(graph, eqn, given, sizes):
    return graph.add("Sub", graph.add("Exp", given[0]), graph.constant(_like(eqn, 1)))


def _exp2(graph, eqn, given, sizes):
    return graph.add("Pow", graph.constant(_like(eqn, 2)), given[0])


def _integer_pow(graph, eqn, given, sizes):
    return graph.add("Pow", given[0], graph.constant(_like(eqn, eqn.params["y"])))


def _select(graph, eqn, given, sizes):
    if eqn.invars[0].aval.dtype != bool or len(given) != 3:
        raise Inexpressible("a choice among more than two: ONNX's Where knows two")
    which, no, yes = given
    return graph.add("Where", which, yes, no)


def _clamp(graph, eqn, given, sizes):
    low, x, high = given
    return graph.add("Min", graph.add("Max", x, low), high)


def _cast(graph, eqn, given, sizes):
    kind = np.dtype(eqn.params["new_dtype"])
    if kind.name == "bfloat16":
        raise Inexpressible(
            "bfloat16, which onnxruntime does not compute in; the nearest is cell.dtype=float32"
        )
    return graph.add("Cast", given[0], to=helper.np_dtype_to_tensor_dtype(kind))


def _reduce_precision(graph, eqn, given, sizes):
    kind = jax.numpy.finfo(eqn.invars[0].aval.dtype)
    if (eqn.params["exponent_bits"], eqn.params["mantissa_bits"]) != (kind.nexp, kind.nmant):
        raise Inexpressible("reduced precision, which ONNX has not")
    return list(given)


def _broadcast(graph, eqn, given, sizes):
    shape, kept = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    source = eqn.invars[0].aval.shape
    inside = [1] * len(shape)
    for axis, size in zip(kept, source, strict=True):
        inside[axis] = size
    x = graph.add("Reshape", given[0], _shape(graph, inside, sizes)) if inside else given[0]
    return graph.add("Expand", x, _shape(graph, shape, sizes)) if shape else x


def _reshape(graph, eqn, given, sizes):
    return graph.add("Reshape", given[0], _shape(graph, eqn.outvars[0].aval.shape, sizes))


def _transpose(graph, eqn, given, sizes):
    return graph.add("Transpose", given[0], perm=list(eqn.params["permutation"]))


def _concatenate(graph, eqn, given, sizes):
    return graph.add("Concat", *given, axis=eqn.params["dimension"])


def _slice(graph, eqn, given, sizes):
    """An end that is the axis's own may be a symbol: ONNX takes "as far as there is"."""
    params, shape = eqn.params, eqn.invars[0].aval.shape
    ends = [END if n is m else n for n, m in zip(params["limit_indices"], shape, strict=True)]
    ends = [n if isinstance(n, int) else END for n in ends]
    axes, steps = range(len(shape)), params["strides"] or [1] * len(shape)
    rows = (params["start_indices"], ends, axes, steps)
    return graph.add("Slice", given[0], *(graph.ints(*row) for row in rows))


def _split(graph, eqn, given, sizes):
    lengths, axis = eqn.params["sizes"], eqn.params["axis"]
    return graph.several("Split", [given[0], graph.ints(*lengths)], len(lengths), axis=axis)


def _reduce(op: str) -> Callable:
    def reduced(graph, eqn, given, sizes):
        return graph.add(op, given[0], graph.ints(*eqn.params["axes"]), keepdims=0)

    return reduced


def _iota(graph, eqn, given, sizes):
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    if not all(isinstance(n, int) for n in shape):
        raise Inexpressible("a count over a size known at run time only")
    row = np.arange(shape[axis], dtype=eqn.params["dtype"])
    row = row.reshape([-1 if n == axis else 1 for n in range(len(shape))])
    return graph.constant(np.broadcast_to(row, shape))


def _dot(graph, eqn, given, sizes):
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    first, second = (atom.aval.ndim for atom in eqn.invars)
    plain = not left_batch and len(left) == 1 and second == 2
    if plain and left[0] == first - 1:
        w = given[1] if right[0] == 0 else graph.add("Transpose", given[1], perm=[1, 0])
        return graph.add("MatMul", given[0], w)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    one, two = [next(letters) for _ in range(first)], [next(letters) for _ in range(second)]
    for a, b in [*zip(left, right, strict=True), *zip(left_batch, right_batch, strict=True)]:
        two[b] = one[a]
    out = [one[n] for n in left_batch]
    out += [x for n, x in enumerate(one) if n not in (*left, *left_batch)]
    out += [x for n, x in enumerate(two) if n not in (*right, *right_batch)]
    equation = f"{''.join(one)},{''.join(two)}->{''.join(out)}"
    return graph.add("Einsum", *given, equation=equation)


CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
SIMPLE = {
    "tanh": "Tanh", "logistic": "Sigmoid", "exp": "Exp", "log": "Log", "neg": "Neg", "abs": "Abs",
    "sign": "Sign", "sqrt": "Sqrt", "floor": "Floor", "ceil": "Ceil", "erf": "Erf", "sin": "Sin",
    "cos": "Cos", "not": "Not", "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul",
    "div": "Div", "max": "Max", "min": "Min", "pow": "Pow", "and": "And", "or": "Or", "lt": "Less",
    "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal",
}  # fmt: skip
PRIMITIVES: dict[str, Callable] = {name: _op(op) for name, op in SIMPLE.items()} | {
    "ne": _not("Equal"),
    "copy": _same,
    "copy_p": _same,
    "stop_gradient": _same,
    "optimization_barrier": _same,
    "rsqrt": _rsqrt,
    "square": _square,
    "log1p": _log1p,
    "expm1": _expm1,
    "exp2": _exp2,
    "integer_pow": _integer_pow,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": _cast,
    "reduce_precision": _reduce_precision,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "slice": _slice,
    "split": _split,
    "iota": _iota,
    "dot_general": _dot,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
}
