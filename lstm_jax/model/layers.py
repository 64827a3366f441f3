"""Encoders, recurrent layers and heads as NNX modules."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from lstm_jax.cells.activations import activation, activation_name
from lstm_jax.core import Array, Cell, Keys
from lstm_jax.engines.unroll import unroll
from lstm_jax.errors import lookup
from lstm_jax.ops import off
from lstm_jax.plugins import find

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # tests check what the annotations say
    from jaxtyping import Float, Num

MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda a, b: jnp.concatenate([a, b], axis=-1),
    "sum": jnp.add,
    "mean": lambda a, b: (a + b) / 2,
    "mul": jnp.multiply,
}


class Valid(NamedTuple):
    """Which steps of a batch count: the arguments of `unroll` that say so."""

    lengths: Array | None = None
    mask: Array | None = None
    resets: Array | None = None

    def steps(self, num_steps: int, batch_size: int) -> Array:
        """[T, B] bool: inside the length and not in a hole."""
        time = jnp.arange(num_steps)[:, None]
        lengths = num_steps if self.lengths is None else self.lengths
        inside = jnp.broadcast_to(time < lengths, (num_steps, batch_size))
        return inside if self.mask is None else inside & self.mask

    def swapped(self) -> Valid:
        """The same of a batch with its first two axes the other way round."""
        marks = (None if m is None else jnp.swapaxes(m, 0, 1) for m in (self.mask, self.resets))
        return Valid(self.lengths, *marks)

    def clear(self, xs: Array) -> Array:
        """xs [T, B, ...] with zeros at the steps that do not count: 0 * NaN would be NaN."""
        if self.lengths is None and self.mask is None:
            return xs
        steps = self.steps(*xs.shape[:2])
        return jnp.where(steps.reshape(*steps.shape, *[1] * (xs.ndim - 2)), xs, 0)


EVERY_STEP = Valid()


class Recurrent(nnx.Module):
    """One layer around a cell, in one direction or both.

    `layer(xs, carry) -> (carry, ys, last)`: xs [T, B, D], ys [T, B, F], and `last` [B, F], what
    each direction says after its last valid step (zeros for a row that has none). With
    `bidirectional` the carry is the pair (forward, backward), and `merge` joins the directions:
    concat | sum | mean | mul. With `time_major=False` xs, ys, masks and resets are [B, T, ..].

    Schuster & Paliwal (1997) for the two directions.
    """

    def __init__(
        self,
        cell: Cell,
        in_features: int,
        key: Array,
        *,
        bidirectional: bool = False,
        merge: str = "concat",
        engine: str = "auto",
        time_major: bool = True,
    ):
        self.time_major = time_major
        self.cell, self.merge = nnx.static(cell), lookup("merge", merge, MERGES)
        self.bidirectional, self.engine = bidirectional, engine
        keys = jax.random.split(key)
        self.forward = nnx.data(_params(cell.init(keys[0], in_features)))
        if bidirectional:
            self.backward = nnx.data(_params(cell.init(keys[1], in_features)))

    def __call__(
        self,
        xs: Num[ArrayLike, "T B D"],
        carry: Any = None,
        valid: Valid = EVERY_STEP,
        keys: Keys | None = None,
    ) -> tuple[Any, Float[Array, "T B F"], Float[Array, "_ F"]]:
        if self.time_major:
            return self._both_ways(xs, carry, valid, keys)
        xs = jnp.swapaxes(xs, 0, 1)
        carry, ys, last = self._both_ways(xs, carry, valid.swapped(), keys)
        return carry, jnp.swapaxes(ys, 0, 1), last

    def _both_ways(self, xs, carry, valid, keys) -> tuple[Any, Array, Array]:
        steps = valid.steps(*xs.shape[:2])
        if not self.bidirectional:
            carry, ys = self._run(self.forward, xs, carry, valid, keys)
            return carry, ys, _at(ys, _last_index(steps), steps)
        ahead, back = (None, None) if carry is None else carry
        ahead, ys = self._run(self.forward, xs, ahead, valid, keys)
        back, zs = self._run(self.backward, xs, back, valid, _fold(keys, 1), reverse=True)
        last = self.merge(_at(ys, _last_index(steps), steps), _at(zs, jnp.argmax(steps, 0), steps))
        return (ahead, back), self.merge(ys, zs), last

    def _run(self, params, xs, carry, valid, keys, reverse=False):
        return unroll(
            self.cell,
            _arrays(params),
            xs,
            carry,
            **valid._asdict(),
            reverse=reverse,
            key=keys,
            engine=_fitting(self.engine, xs.shape[0]),
        )

    def initial_carry(self, batch_size: int) -> Any:
        """What fresh sequences start from."""
        ahead = self.cell.initial_carry(_arrays(self.forward), (batch_size,))
        if not self.bidirectional:
            return ahead
        return ahead, self.cell.initial_carry(_arrays(self.backward), (batch_size,))

    @property
    def features(self) -> int:
        """F."""
        size = jax.eval_shape(lambda: self.initial_carry(1))
        ways = size if self.bidirectional else (size,)
        sizes = [way.h.shape[-1] for way in ways]
        return sum(sizes) if self.merge is MERGES["concat"] else sizes[0]


class OneHot(nnx.Module):
    """Ids [T, B] as rows of the identity [T, B, V]; reals pass through."""

    def __init__(self, config: Any, spec: Any, key: Array):
        self.features, self.ids = spec.in_features, spec.ids

    def __call__(self, xs: Array, valid: Valid) -> Array:
        return jax.nn.one_hot(xs, self.features) if self.ids else xs


class Embedding(nnx.Module):
    """Ids [T, B] to learned vectors [T, B, E]; `attend` is the tied output layer, ys E^T."""

    def __init__(self, config: Any, spec: Any, key: Array):
        self.features = config.embedding
        scale = 1 / math.sqrt(config.embedding)
        self.table = nnx.Param(scale * jax.random.normal(key, (spec.in_features, self.features)))

    def __call__(self, ids: Array, valid: Valid) -> Array:
        return jnp.take(self.table[...], ids, axis=0)

    def attend(self, ys: Array) -> Array:
        return ys @ self.table[...].T


class Convolution(nnx.Module):
    """A stack of 1-d convolutions over time, [T, B, D] -> [T, B, F], relu after each.

    Causal: step t sees t - width + 1 .. t, as a recurrent layer would. What is not valid is zeroed
    before each convolution, so padding changes nothing outside itself.
    """

    def __init__(self, config: Any, spec: Any, key: Array):
        self.ids, self.features = spec.ids and spec.in_features, config.conv_features[-1]
        sizes = (spec.in_features, *config.conv_features)
        self.depth = len(config.conv_features)
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            rngs = nnx.Rngs(jax.random.fold_in(key, i))
            conv = nnx.Conv(
                fan_in,
                fan_out,
                config.conv_width,
                padding="CAUSAL",
                param_dtype=jnp.result_type(float),
                rngs=rngs,
            )
            setattr(self, f"conv_{i}", conv)

    def __call__(self, xs: Array, valid: Valid) -> Array:
        xs = jax.nn.one_hot(xs, self.ids) if self.ids else xs
        steps = valid.steps(*xs.shape[:2])[..., None]
        for i in range(self.depth):
            rows = jnp.swapaxes(jnp.where(steps, xs, 0), 0, 1)
            xs = jax.nn.relu(jnp.swapaxes(getattr(self, f"conv_{i}")(rows), 0, 1))
        return xs


ENCODERS = {"none": OneHot, "embedding": Embedding, "conv": Convolution}


def encoder_of(name: str) -> Callable[..., Any]:
    """What `model.encoder` names."""
    expected = "a class of encoders, an nnx.Module made by (config.model, spec, key)"
    return find("encoder", name, ENCODERS, expected)


def linear(fan_in: int, fan_out: int, key: Array) -> nnx.Linear:
    """A dense layer of JAX's default float type, as cells are: float64 with JAX_ENABLE_X64."""
    return nnx.Linear(fan_in, fan_out, param_dtype=jnp.result_type(float), rngs=nnx.Rngs(key))


def widened(ys: Array) -> Array:
    """ys in float32, or in the wider type that they have."""
    return ys.astype(jnp.promote_types(ys.dtype, jnp.float32))


class Head(nnx.Module):
    """What is read out -> [hidden dense -> dropout] -> linear [.., O], in float32 or wider."""

    def __init__(self, config: Any, in_features: int, out_features: int, key: Array):
        self.config = nnx.static(config)
        keys = jax.random.split(key)
        if config.head_hidden:
            self.hidden = linear(in_features, config.head_hidden, keys[0])
        fan_in = config.head_hidden or in_features
        self.linear = linear(fan_in, out_features, keys[1])

    def __call__(self, ys: Array, keys: Keys | None) -> Array:
        ys = widened(ys)
        if hasattr(self, "hidden"):
            squash = activation_name("head activation", self.config.head_activation)
            ys = activation(squash)(self.hidden(ys))
        return self.linear(dropout(ys, self.config.head_dropout, keys))


class TiedHead(nnx.Module):
    """Logits against the embedding table (Press & Wolf 2017), plus a bias [O]."""

    def __init__(self, config: Any, in_features: int, out_features: int, key: Array):
        self.config = nnx.static(config)
        if in_features != config.embedding:
            self.hidden = linear(in_features, config.embedding, key)
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, ys: Array, keys: Keys | None, embedding: Embedding) -> Array:
        ys = dropout(widened(ys), self.config.head_dropout, keys)
        ys = self.hidden(ys) if hasattr(self, "hidden") else ys
        return embedding.attend(ys) + self.bias[...]


def dropout(xs: Array, rate: Any, keys: Keys | None) -> Array:
    """`xs * keep / (1 - rate)` with keep ~ Bernoulli(1 - rate); xs [T, B, F] or [B, F].

    Srivastava et al. (2014), section 4, scaled while training. Off without keys.
    """
    if keys is None or off(rate):
        return xs
    drop = _per_example(jax.random.uniform, keys, xs) < rate
    return jnp.where(drop, 0, xs / (1 - rate)).astype(xs.dtype)


def noise(xs: Array, scale: Any, keys: Keys | None) -> Array:
    """`xs + scale * n`, n standard normal. Off without keys."""
    if keys is None or off(scale):
        return xs
    return (xs + scale * _per_example(jax.random.normal, keys, xs)).astype(xs.dtype)


def _per_example(draw: Callable, keys: Keys, xs: Array) -> Array:
    """Random numbers shaped like xs, those of example b from keys[b]."""
    axis = xs.ndim - 2
    shape = (*xs.shape[:axis], xs.shape[-1])
    return jax.vmap(lambda key: draw(key, shape), out_axes=axis)(keys.example)


def _fold(keys: Keys | None, data: int) -> Keys | None:
    """Keys for one more use."""
    if keys is None:
        return None
    example = jax.vmap(jax.random.fold_in, (0, None))(keys.example, data)
    return Keys(jax.random.fold_in(keys.shared, data), example)


def _params(tree: Any) -> Any:
    return jax.tree.map(nnx.Param, tree)


def _arrays(tree: Any) -> Any:
    return jax.tree.map(lambda p: p[...], tree, is_leaf=lambda p: isinstance(p, nnx.Variable))


def _last_index(steps: Array) -> Array:
    """[B]: the last True of steps [T, B] along time."""
    return steps.shape[0] - 1 - jnp.argmax(steps[::-1], axis=0)


def _at(ys: Array, index: Array, steps: Array) -> Array:
    """ys[index[b], b], zeros for a row without a valid step."""
    picked = jnp.take_along_axis(ys, index[None, :, None], axis=0)[0]
    return jnp.where(jnp.any(steps, axis=0)[:, None], picked, 0)


def _last(xs: Array, valid: Valid) -> Array:
    steps = valid.steps(*xs.shape[:2])
    return _at(xs, _last_index(steps), steps)


def _fitting(engine: str, num_steps: int) -> str:
    """`engine` for so many steps: an evaluation may have fewer than one chunk of training."""
    name, _, size = engine.partition(":")
    return f"{name}:{min(int(size), num_steps)}" if size.isdigit() else engine
