"""What is timed: one LSTM layer by us and by the others, all computing the same function.

A row builds its layer from the same W [D, 4H], R [H, 4H], b [4H] (gates i f g o) and answers for
its own conventions; a library that is not installed leaves its rows out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax
from lstm_jax.cells import lstm
from lstm_jax.engines import deferred
from lstm_jax.engines.masking import Step, stepping


class Shape(NamedTuple):
    """T steps, batch B, D features, H units."""

    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Weights(NamedTuple):
    """W, R and b, or their gradients."""

    kernel: Any
    recurrent: Any
    bias: Any

    def gates(self, order: str) -> Weights:
        """The same with the gates in another order."""
        blocks = [np.split(part, 4, axis=-1) for part in self]
        return Weights(*(np.concatenate([b["ifgo".index(k)] for k in order], -1) for b in blocks))


class Layer(NamedTuple):
    """`apply(params, xs) -> ys`, and how W, R, b (or gradients: shift=0) become `params`."""

    apply: Callable[[Any, Any], Any]
    params: Callable[..., Any]  # (Weights, shift=1.0) -> params
    time_major: bool = True


def engine(name: str, shape: Shape, dtype: Any = None) -> Layer:
    cell = lstm(shape.H, dtype=dtype)

    def params(weights, shift=1.0):
        names = ("kernel", "recurrent_kernel", "bias")
        return dict(zip(names, weights, strict=True))

    return Layer(lambda p, xs: lstm_jax.unroll(cell, p, xs, engine=name)[1], params)


def steps_a_turn(count: int, shape: Shape) -> Layer:
    """`deferred`, its loops doing so many steps a turn."""
    cell = lstm(shape.H)
    scan = partial(jax.lax.scan, unroll=count)

    def apply(params, xs):
        start = cell.initial_carry(params, (shape.B,))
        return deferred.run(stepping(cell), params, start, Step(xs), scan=scan)[1]

    return Layer(apply, engine("deferred", shape).params)


def linen(shape: Shape) -> Layer:
    from flax import linen as nn

    layer = nn.RNN(nn.OptimizedLSTMCell(shape.H), time_major=True)

    def params(weights, shift=1.0):
        W, R, b = (np.split(part, 4, -1) for part in weights)
        cell = {f"i{k}": {"kernel": w} for k, w in zip("ifgo", W, strict=True)}
        cell |= {f"h{k}": {"kernel": R[n], "bias": b[n]} for n, k in enumerate("ifgo")}
        return {"params": {"cell": cell}}

    return Layer(layer.apply, params)


def nnx(shape: Shape) -> Layer:
    from flax import nnx

    cell = nnx.OptimizedLSTMCell(shape.D, shape.H, rngs=nnx.Rngs(0))
    graph, state, rest = nnx.split(nnx.RNN(cell, time_major=True), nnx.Param, ...)

    def params(weights, shift=1.0):
        W, R, b = weights
        given = {"cell": {"dense_i": {"kernel": W}, "dense_h": {"kernel": R, "bias": b}}}
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, given)
        return filled

    def apply(p, xs):
        # Its own start would draw from the module's random state, which no trace may touch.
        zero = jnp.zeros((xs.shape[1], shape.H), xs.dtype)
        return nnx.merge(graph, p, rest)(xs, initial_carry=(zero, zero))

    return Layer(apply, params)


def haiku(shape: Shape) -> Layer:
    import haiku as hk  # pyright: ignore[reportMissingImports]

    def unrolled(xs):
        core = hk.LSTM(shape.H)
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    net = hk.without_apply_rng(hk.transform(unrolled))

    def params(weights, shift=1.0):
        bias = weights.bias - shift * np.repeat([0.0, 1.0, 0.0, 0.0], shape.H)  # its own + 1
        W, R, b = weights._replace(bias=bias).gates("igfo")
        return {"lstm/linear": {"w": np.concatenate([W, R]), "b": b}}

    return Layer(net.apply, params)


def equinox(shape: Shape) -> Layer:
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    cell = eqx.nn.LSTMCell(shape.D, shape.H, key=jax.random.key(0))
    names = ("weight_ih", "weight_hh", "bias")

    def params(weights, shift=1.0):
        return dict(zip(names, (weights[0].T, weights[1].T, weights[2]), strict=True))

    def apply(p, xs):
        filled = eqx.tree_at(lambda c: [getattr(c, k) for k in names], cell, [p[k] for k in names])

        def step(state, x):
            state = jax.vmap(filled)(x, state)
            return state, state[0]

        zero = jnp.zeros((xs.shape[1], shape.H), xs.dtype)
        return jax.lax.scan(step, (zero, zero), xs)[1]

    return Layer(apply, params)


def keras(shape: Shape) -> Layer:
    import keras  # pyright: ignore[reportMissingImports]

    layer: Any = keras.layers.LSTM(shape.H, return_sequences=True)
    layer.build((shape.B, shape.T, shape.D))
    fixed = [jnp.asarray(v.value) for v in layer.non_trainable_variables]

    def apply(p, xs):
        return layer.stateless_call(p, fixed, xs)[0]

    return Layer(apply, lambda weights, shift=1.0: list(weights), time_major=False)


UNROLLED = {f"lstm_jax deferred unroll={count}": count for count in (2, 4, 8)}
# name -> Layer of a shape. Engines and peers run on one device, and sharded where listed below.
LAYERS: dict[str, Callable[[Shape], Layer]] = {
    "lstm_jax": partial(engine, "auto"),
    "lstm_jax deferred": partial(engine, "deferred"),
    "lstm_jax scan": partial(engine, "scan"),
    "lstm_jax chunked": partial(engine, "chunked"),
    "lstm_jax cudnn": partial(engine, "cudnn"),
    "lstm_jax pallas": partial(engine, "pallas"),
    "lstm_jax bf16": partial(engine, "auto", dtype=jnp.bfloat16),
    **{name: partial(steps_a_turn, count) for name, count in UNROLLED.items()},
    "flax linen": linen,
    "flax nnx": nnx,
    "haiku": haiku,
    "equinox": equinox,
    "keras": keras,
}
NEEDS = {"haiku": "haiku", "equinox": "equinox", "keras": "keras", "torch": "torch"}
PEERS = ("flax linen", "flax nnx", "haiku", "equinox", "keras")
SHARDED = ("lstm_jax", *PEERS)
FLOOR = "three matmuls"
NAMED = ("lstm_jax bf16", "torch bf16")  # which a CPU runs where --rows names them
TORCH = {  # name: (dtype, whether TF32 may be used, needs a GPU)
    "torch": ("float32", False, False),
    "torch tf32": ("float32", True, True),
    "torch bf16": ("bfloat16", False, False),
    "torch fp16": ("float16", False, True),
}


def problem(shape: Shape) -> tuple[Weights, np.ndarray, np.ndarray]:
    """(weights, xs [T, B, D], the cotangent of ys [T, B, H]) in float64, the same in every row."""
    rng = np.random.default_rng(0)
    T, B, D, H = shape
    bound = 1 / np.sqrt(H)
    sizes = ((D, 4 * H), (H, 4 * H), (4 * H,))
    weights = Weights(*(rng.uniform(-bound, bound, size) for size in sizes))
    return weights, rng.standard_normal((T, B, D)), rng.standard_normal((T, B, H))
