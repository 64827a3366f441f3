"""Sequences in a TPU's memory as their axes stand, time first.

Left alone the TPU's compiler lays some out with the batch first, and every step picks their rows
one by one. JAX's own constraint cannot be exported; this one is no part of an export.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_in_order = Primitive("in_order")


def in_order(tree: Any) -> Any:
    """The tree, each array laid out on a TPU with its first axis slowest."""
    return jax.tree.map(_in_order.bind, tree)


def _same(x: Any) -> Any:
    return x


def _constrained(x: Any) -> Any:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _batched(axis: Any, arrays: Any, places: Any) -> tuple[Any, Any]:
    """Devices that share the axis are left alone: the compiler would gather it for a layout."""
    (x,), (place,) = arrays, places
    return (x if axis.spmd_name else _in_order.bind(x)), place


def _on_a_tpu(ctx: Any, x: Any) -> Any:
    if ctx.module_context.lowering_parameters.for_export:
        return [x]
    return mlir.lower_fun(_constrained, multiple_results=False)(ctx, x)


_in_order.def_impl(_same)
_in_order.def_abstract_eval(_same)
ad.deflinear2(_in_order, lambda cotangent, _: [_in_order.bind(cotangent)])
batching.fancy_primitive_batchers[_in_order] = _batched
mlir.register_lowering(_in_order, lambda ctx, x: [x])
mlir.register_lowering(_in_order, _on_a_tpu, platform="tpu")
