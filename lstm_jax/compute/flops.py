"""Floating-point operations of a function, counted from its jaxpr: nothing is compiled or run.

A matrix product [M, K] x [K, N] counts 2 M K N, an elementwise operation or a reduction one per
element of its larger side, a time loop its body times its length, a `while` its body once, and what
no result needs nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from lstm_jax.ops import needed, platform, tracing_for

# Moves and looks at numbers, and computes none.
FREE = frozenset({
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "concatenate",
    "slice", "dynamic_slice", "dynamic_update_slice", "gather", "copy", "copy_p", "pad", "rev",
    "stack", "unstack", "tile",
    "iota", "convert_element_type", "bitcast_convert_type", "stop_gradient", "select_n",
    "reduce_precision", "split", "device_put", "sharding_constraint", "random_bits", "random_wrap",
    "random_unwrap", "random_fold_in", "random_seed", "random_split", "threefry2x32", "shift_left",
    "shift_right_logical", "or", "and", "xor", "not", "eq", "ne", "lt", "le", "gt", "ge",
})  # fmt: skip


def count(function: Callable, *arguments: Any) -> int:
    """FLOPs of `function(*arguments)`; arguments may be ShapeDtypeStructs."""
    return tally(function, *arguments).total()


def tally(function: Callable, *arguments: Any) -> Counter[str]:
    """The same by primitive. What JAX makes of all but products changes from version to version."""
    with tracing_for(platform()):
        return _jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _jaxpr(jaxpr: Any) -> Counter[str]:
    """What the results need; the rest no compiler keeps."""
    return sum(map(_equation, needed(jaxpr)), Counter())


def _equation(equation: Any) -> Counter[str]:
    name, params = equation.primitive.name, equation.params
    if counted := getattr(equation.primitive, "counted", None):  # a call of engine native
        given = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
        return tally(partial(counted, **params), *given)
    inner = [_jaxpr(getattr(p, "jaxpr", p)) for p in _jaxprs(params, name)]
    if name == "cond":
        return max(inner, key=Counter.total)
    if inner:
        times = params.get("length", 1)
        return Counter({k: times * n for k, n in sum(inner, Counter()).items()})
    return Counter({name: _operations(equation, name)})


def _operations(equation: Any, name: str) -> int:
    if name in FREE:
        return 0
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars) if hasattr(v, "aval")]
    return max((math.prod(shape) for shape in shapes), default=0)


def _jaxprs(params: dict, name: str) -> list[Any]:
    """The programs inside an equation: bodies of loops, branches, calls."""
    if name == "custom_vjp_call":
        return [params["call_jaxpr"]]
    values = [v for p in params.values() for v in (p if isinstance(p, (tuple, list)) else (p,))]
    return [v for v in values if hasattr(v, "eqns") or hasattr(getattr(v, "jaxpr", None), "eqns")]


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_axis = equation.params["dimension_numbers"].rhs_spec[0]
    depth = math.prod(kernel) // kernel[out_axis]
    return 2 * depth * math.prod(equation.outvars[0].aval.shape)
