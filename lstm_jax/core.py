"""The vocabulary: axis legend, carries, and the `Cell`.

Axis legend, used in every docstring:

    T time    B batch    D input features    H hidden units    P projected units
    N learned gates    L layers    K trials

Order everywhere: sequences are time-major `[T, B, ...]`; an LSTM carry is `Carry(c, h)`, the cell
first, as in the equations; kernels hold their gates in the order `i f g o`, and a gate that is not
learned owns no columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pickle import PicklingError
from typing import Any, NamedTuple, ParamSpec

import jax

Array = jax.Array
Params = dict[str, Any]
P = ParamSpec("P")


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


class Noted(NamedTuple):
    """A projected step with what rides along to `update`: masks, rates, weights, by name."""

    z: Any
    notes: dict[str, Any]


def note(z: Any, **notes: Any) -> Noted:
    """The projected step with more notes."""
    inner, known = noted(z)
    return Noted(inner, known | notes)


def noted(z: Any) -> tuple[Any, dict[str, Any]]:
    """(pre-activations, notes) of a projected step."""
    return (z.z, z.notes) if isinstance(z, Noted) else (z, {})


class Info(NamedTuple):
    """What is known of a cell before any array exists; engines and transforms read it.

    `gates`: (name, `gates.Gate`) of every gate that `update` may ask for.
    `blocks`: for each array that `merge` returns, the names of the H columns side by side in it.
    `late`: the gates that `update` wants as pre-activations, or with something added to them.
    """

    name: str
    hidden: int
    carry: tuple[str, ...] = ("h",)
    gates: tuple[tuple[str, Any], ...] = ()
    blocks: tuple[tuple[str, ...], ...] = ()
    late: tuple[str, ...] = ()
    table: Any = None  # the gate table, where the cell is the gate-table LSTM
    plain: bool = False  # the table's equations and nothing else: no norm, peephole, clip, ...
    linear: Callable | None = None  # gate -> (a, b) where h_t = a_t h_{t-1} + b_t
    pointwise: bool = True  # update holds no matmul
    dtype: Any = None  # what matmuls compute in; None: the parameters' own type
    transforms: tuple[str, ...] = ()

    @property
    def learned(self) -> tuple[str, ...]:
        """The gates that own columns of the kernel, in its order."""
        known = dict(self.gates)
        return tuple(k for names in self.blocks for k in names if k in known)


def _prepare(params: Params, keys: Keys | None) -> Params:
    return params


class Cell(NamedTuple):
    """A recurrent cell: pure functions, nothing else.

    `init(key, in_features) -> params`, a dict of arrays.
    `initial_carry(params, batch_shape) -> carry`, what a fresh sequence starts from.
    `project(params, xs, keys=None) -> z`: x W + b, for as many steps at once as an engine likes;
        `xs` [T, B, D], `keys` [T, B] typed PRNG keys or None (deterministic).
    `recur(params, carry) -> r`: h R, the step's one matmul.
    `merge(params, z, r) -> u`: pre-activations [B, N*H], or a tuple of such arrays.
    `update(params, carry, gate) -> (carry, y)`: the equations, pointwise. `gate(name, c)` is the
        opened gate, `gate.open(name, v)` the gate with v added to its pre-activation, `gate.raw(
        name)` the pre-activation itself; the last two for gates that `info.late` names.
    `prepare(params, keys) -> params`: what is drawn once a sequence (dropout masks, dropped
        weights); the identity for most cells.
    `info`: what is known before any array exists.

    Laws, tested for every cell, alone and under each transform: the unroll equals a Python loop
    in float64; two halves with the carry handed over equal the whole; a batch equals its rows; a
    reset equals a fresh start, padding changes nothing outside itself; gradients equal finite
    differences; one trace per shape, carry types a fixed point; every engine agrees with `scan`.

    `project`, `recur` and `merge` take any leading axes. What differs per step or example rides in
    z; `recur`, `merge` and `update` close over no traced value, or a custom VJP could not
    differentiate them and a pack of trials could not vary them.
    """

    init: Callable[..., Params]
    initial_carry: Callable[..., Any]
    project: Callable[..., Any]
    recur: Callable[..., Any]
    merge: Callable[..., Any]
    update: Callable[..., Any]
    prepare: Callable[..., Params] = _prepare
    info: Info = Info("custom", 0)
    made: Callable[[], Cell] | None = None  # the call that makes this cell again: how it pickles

    def __reduce__(self) -> tuple:
        if self.made is None or _code(self.made()) != _code(self):
            raise PicklingError(
                f"cell {self.info.name!r} holds functions that no constructor of lstm_jax made; "
                "pickle what you build it from and build it again"
            )
        return _again, (self.made,)


def _again(made: Callable[[], Cell]) -> Cell:
    return made()


def _code(cell: Cell) -> list[Any]:
    """The code of the cell's functions: equal for two cells of the same constructors."""
    return [getattr(f, "__code__", f) for f in cell[:7]]


def constructor(make: Callable[P, Cell]) -> Callable[P, Cell]:
    """`make`, whose cells remember the call that made them and hence pickle."""

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Cell:
        return make(*args, **kwargs)._replace(made=functools.partial(made, *args, **kwargs))

    return made
