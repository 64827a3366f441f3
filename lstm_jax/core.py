"""The vocabulary: axis legend, carries, the `Cell`, and how wrong names are answered.

Axis legend, used in every docstring:

    T time    B batch    D input features    H hidden units    P projected units
    N learned gates    L layers    K trials

Order everywhere: sequences are time-major `[T, B, ...]`; an LSTM carry is `Carry(c, h)`, the cell
first, as in the equations; kernels hold their gates in the order `i f g o`, and a gate that is not
learned owns no columns.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = dict[str, Any]

# Exit codes: done, a defect of ours, the user can fix it, diverged, the same command goes on.
OK, DEFECT, USAGE_ERROR, DIVERGED, INTERRUPTED = 0, 1, 2, 3, 4


class UsageError(ValueError):
    """Something the user can fix: says what was given, what was expected and how to fix it."""


class Carry(NamedTuple):
    """What an LSTM hands from step to step: the cell `c` [B, H] and the output `h` [B, H or P]."""

    c: Array
    h: Array


class Hidden(NamedTuple):
    """What a cell without a separate memory hands on: the output `h` [B, H]."""

    h: Array


class Keys(NamedTuple):
    """Randomness of one sequence batch: one key for all of it, and one for every example [B]."""

    shared: Array
    example: Array


class Spec(NamedTuple):
    """What is known of a cell before any array exists; engines and transforms read it."""

    name: str
    hidden: int
    carry: tuple[str, ...] = ("h",)
    learned: tuple[str, ...] = ()
    table: Any = None  # the gate table, where the cell is the gate-table LSTM
    plain: bool = False  # advance is exactly the table's equations: no norm, peephole, clip, ...
    linear: Callable | None = None  # (params, zs) -> (a, b) where h_t = a_t h_{t-1} + b_t
    pointwise: bool = True  # advance holds no matmul
    dtype: Any = None  # what matmuls compute in; None: the parameters' own type
    transforms: tuple[str, ...] = ()


def _prepare(params: Params, keys: Keys | None) -> Params:
    return params


class Apart(NamedTuple):
    """`advance` taken apart, so that an engine can open all gates at once and keep one array each.

        wides = merge(params, step, r)         pre-activations [B, n*H]
        blocks = split(activate(opens, wides))     one array a gate [B, H]
        carry, y = close(params, carry, step, blocks)      and `gates`, as the cell's, from blocks

    `opens` names the activation of every block, wide by wide: "identity" for what `close` squashes
    itself, and nothing at all where the wides are the blocks. `own` are the parameters that `merge`
    reads. `advance` is the function this stands for: a cell whose advance was replaced is whole.
    The `recur` of such a cell takes carries with any leading axes, and so does its `project`
    inputs, untransformed; both multiply with `dot`, and neither closes over a traced value.
    """

    merge: Callable[..., tuple[Array, ...]]
    opens: tuple[tuple[str, ...], ...]
    close: Callable[..., Any]
    gates: Callable[..., dict[str, Array]]
    advance: Callable[..., Any]
    own: tuple[str, ...] = ()


class Cell(NamedTuple):
    """A recurrent cell: pure functions, nothing else.

        step(params, carry, z) = advance(params, carry, z, recur(params, carry))

    `init(key, in_features) -> params`, a dict of arrays.
    `initial_carry(params, batch_shape) -> carry`, what a fresh sequence starts from.
    `project(params, xs, keys=None) -> zs`: the input's part of the step, for as many steps at once
        as an engine likes; `xs` [T, B, D], `keys` [T, B] typed PRNG keys or None (deterministic).
    `recur(params, carry) -> r`: the carry's part, the step's one matmul.
    `advance(params, carry, z, r) -> (carry, y)`: gates and update.
    `gates(params, carry, z, r) -> {name: [B, H]}`: the opened gates, for traces.
    `apart`: `advance` in its parts, where the cell tells them; engines are faster for it.
    `prepare(params, keys) -> params`: what is drawn once a sequence (dropout masks, dropped
        weights); the identity for most cells.

    Laws, tested for every cell, alone and under each transform: the unroll equals a Python loop
    in float64; two halves with the carry handed over equal the whole; a batch equals its rows; a
    reset equals a fresh start, padding changes nothing outside itself; gradients equal finite
    differences; one trace per shape, carry types a fixed point; every engine agrees with `scan`.

    What differs per step or example rides in `zs`; `recur` and `advance` close over no traced
    value, or a custom VJP could not differentiate them and a pack of trials could not vary them.
    """

    init: Callable[..., Params]
    initial_carry: Callable[..., Any]
    project: Callable[..., Any]
    recur: Callable[..., Any]
    advance: Callable[..., Any]
    gates: Callable[..., dict[str, Array]]
    prepare: Callable[..., Params] = _prepare
    spec: Spec = Spec("custom", 0)
    apart: Apart | None = None


def parts_of(cell: Cell) -> Apart | None:
    """The parts of the cell's advance, if it tells them and they are still its own."""
    return cell.apart if cell.apart and cell.apart.advance is cell.advance else None


def around(cell: Cell, wrap: Callable[[Callable], Callable]) -> Cell:
    """The cell with `wrap` about its advance, in one piece or taken apart.

    What is wrapped is (params, carry, step, x) -> (carry, y), where x is r or the blocks.
    """
    advance = wrap(cell.advance)
    apart = parts_of(cell)
    return cell._replace(
        advance=advance,
        apart=apart and apart._replace(close=wrap(apart.close), advance=advance),
    )


def unknown(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The answer to a name nobody knows, with the nearest that somebody does."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UsageError(f"unknown {kind} {name!r}{hint} known: {', '.join(names)}")


def lookup(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or `unknown` raised."""
    if not isinstance(name, Hashable) or name not in table:
        raise unknown(kind, name, table)
    return table[name]


def off(value: Any) -> bool:
    """Whether a number is absent from the program: a Python 0, never an array."""
    return isinstance(value, (int, float)) and value == 0


def cores() -> int:
    """The CPU's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turned:
    """A matrix w [K, N] that `dot` multiplies features first, `(w^T x^T)^T`, given as `t` = w^T.

    XLA:CPU lays the second operand of a product out anew every time; so that is x, not w.
    """

    t: Array

    def __getitem__(self, at: tuple) -> Turned:
        rows, columns = at
        return Turned(self.t[columns, rows])


def dot(x: Array, w: Array | Turned, dtype: Any = None) -> Array:
    """`x @ w`; with `dtype`, operands are cast to it and products summed in `w`'s own type."""
    if isinstance(w, Turned):
        # The barriers keep the compiler from turning the product back.
        turned = jax.lax.optimization_barrier(x.T)
        return jax.lax.optimization_barrier(dot(w.t, turned, dtype)).T
    if x.ndim > 2 and jax.default_backend() == "cpu" and _mergeable(x):
        # Of two axes to sum over, the gradient of w would make XLA:CPU transpose a copy.
        return dot(x.reshape(-1, x.shape[-1]), w, dtype).reshape(*x.shape[:-1], w.shape[-1])
    if dtype is None:
        return jnp.matmul(x, w)
    return jnp.matmul(x.astype(dtype), w.astype(dtype), preferred_element_type=w.dtype)


def _mergeable(x: Array) -> bool:
    """Whether the leading axes may become one: none lies on an explicit axis of a mesh."""
    return all(axis is None for axis in jax.typeof(x).sharding.spec)


def count(params: Params) -> int:
    """Number of numbers in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
