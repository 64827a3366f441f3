"""The activations, each with its slope, and how the gates of a step are opened in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.core import Array
from lstm_jax.errors import UsageError
from lstm_jax.plugins import find


class Activation(NamedTuple):
    """a = function(u), and its slope da/du written in a; at a corner, the slope JAX takes there.

    Without a slope, engines keep u and differentiate `function`. `half`: what makes it one tanh,
    a = tanh(half u) half + (1 - half).
    """

    function: Callable[[Array], Array]
    slope: Callable[[Array], Array] | None = None
    half: float | None = None

    def __call__(self, u: Array) -> Array:
        return self.function(u)


def _exp(u: Array) -> Array:
    """exp(u - max(u, 0)); on i and f of an LSTM the cell brings sLSTM's running stabiliser."""
    return jnp.exp(jnp.minimum(u, 0.0))


def _relu1(u: Array) -> Array:
    return jnp.where(u < 1.0, jax.nn.relu(u), 1.0)


def _within(slope: float) -> Callable[[Array], Array]:
    return lambda a: jnp.where((a > 0.0) & (a < 1.0), slope, 0.0)


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation(jax.nn.sigmoid, lambda a: a * (1.0 - a), half=0.5),
    "hard_sigmoid": Activation(jax.nn.hard_sigmoid, _within(1.0 / 6.0)),  # relu6(u + 3) / 6
    "tanh": Activation(jnp.tanh, lambda a: 1.0 - a * a, half=1.0),
    "relu": Activation(jax.nn.relu, lambda a: jnp.where(a > 0.0, 1.0, 0.0)),
    "relu1": Activation(_relu1, _within(1.0)),
    "softsign": Activation(jax.nn.soft_sign, lambda a: (1.0 - jnp.abs(a)) ** 2),
    "identity": Activation(lambda u: u, jnp.ones_like),
    "exp": Activation(_exp),
    "one": Activation(jnp.ones_like),  # output only: h = o
}
GATE_ACTIVATIONS = tuple(name for name in ACTIVATIONS if name != "one")


def activation_name(kind: str, name: Any, known: Collection[str] = ACTIVATIONS) -> Any:
    """`name`, if it is known or a function; "none" is what people call identity."""
    name = "identity" if name == "none" else name
    check_activation(kind, name, known)
    return name


def check_activation(kind: str, name: Any, known: Collection[str] = ACTIVATIONS) -> None:
    """Raises UsageError unless `name` is one of `known`, a reference to a function, or one.

    A function of the user's has to keep the shape of u.
    """
    own = name if callable(name) else find(kind, name, dict.fromkeys(known), A_FUNCTION)
    if own is None:
        return
    made = jax.eval_shape(own, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    if getattr(made, "shape", None) != (2, 3):
        found = list(made.shape) if hasattr(made, "shape") else f"a {type(made).__name__}"
        raise UsageError(f"{kind} {name!r} makes {found} of u [2, 3]; expected the shape of u")


A_FUNCTION = "a function u -> a of arrays, or an Activation(function, slope)"


def activation(name: Any) -> Activation:
    """The activation of that name; a function is one whose slope nobody has written down."""
    found: Any = name if callable(name) else find("activation", name, ACTIVATIONS, A_FUNCTION)
    return found if isinstance(found, Activation) else Activation(found)


def activate(names: tuple[str, ...], u: Array) -> Array:
    """Each gate's block of u [..., N*H] through its own activation, in one pass over all of it.

    sigmoid and tanh blocks share a single tanh with a scale and a shift a column, and the rest is
    selected by column: no slicing keeps the compiler from fusing the step's pointwise part.
    """
    if len(set(names)) < 2:
        return activation(names[0])(u) if names else u
    halves = [activation(name).half for name in names]
    opened = _by_tanh(u, columns([half or 1.0 for half in halves], u))
    for other in dict.fromkeys(n for n, half in zip(names, halves, strict=True) if half is None):
        chosen = columns([name == other for name in names], u)
        opened = jnp.where(chosen, activation(other)(u), opened)
    return opened


def _by_tanh(u: Array, half: Any) -> Array:
    return jnp.tanh(u * half) * half + (1.0 - half)


def columns(values: list, u: Array) -> Array:
    """One value a block of u [..., N*H], repeated over the block's columns."""
    dtype = bool if isinstance(values[0], bool) else u.dtype
    return jnp.asarray(np.repeat(np.array(values, dtype), u.shape[-1] // len(values)))


def open_blocks(opens: tuple, wides: tuple) -> tuple[Array, ...]:
    """One array a block [B, H] from wide pre-activations [B, n*H], each opened in one pass."""
    split = [jnp.split(activate(n, w), len(n), -1) for n, w in zip(opens, wides, strict=True)]
    return tuple(block for blocks in split for block in blocks)


def open_each(opens: tuple, wides: tuple) -> tuple[Array, ...]:
    """`open_blocks` with a pass a gate: as soon, where the features are not the last axis."""
    return tuple(
        _open(name, block)
        for names, wide in zip(opens, wides, strict=True)
        for name, block in zip(names, jnp.split(wide, len(names), -1), strict=True)
    )


def _open(name: str, u: Array) -> Array:
    half = activation(name).half
    return _by_tanh(u, half) if half else activation(name)(u)


def shut_blocks(opens: tuple, blocks: tuple, cotangents: tuple) -> tuple[Array, ...]:
    """Cotangents of the wide pre-activations from those of the blocks: du = da * act'."""
    names = [name for group in opens for name in group]
    slopes: list[Any] = [activation(name).slope for name in names]
    du = iter([d * s(a) for s, a, d in zip(slopes, blocks, cotangents, strict=True)])
    return tuple(jnp.concatenate([next(du) for _ in group], axis=-1) for group in opens)
