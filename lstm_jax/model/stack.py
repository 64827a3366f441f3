"""`LSTM` and `GRU`: whole layers for other people's code, stacked, in one direction or both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.cells import gru, lstm
from lstm_jax.core import Array, Cell, Keys
from lstm_jax.engines.unroll import make_keys
from lstm_jax.errors import UsageError
from lstm_jax.model.layers import Recurrent, Valid, _fold, dropout


def same(cell: Cell) -> Cell:
    return cell


class Stack(nnx.Module):
    """Layers of one kind of cell, one on the other.

    `carry, ys = layer(xs)`: xs [B, T, D], ys [B, T, F], and a carry for each layer, from the input
    up: an LSTM's is `Carry(c, h)`; with `bidirectional` it is a pair, (forward, backward). A
    sequence's last output is `carry[-1].h`. With `time_major` xs, ys, mask and resets are [T, B].

    Args:
      in_features: D. hidden: H. rngs: an `nnx.Rngs`, or a PRNG key.
      layers: how many. bidirectional: each runs both ways, joined by `merge`: concat | sum | mean |
        mul. dropout: rate between layers, on where a call has a `key`.
      transform: Cell -> Cell around each layer's cell, such as `transforms.zoneout` with its rates.
      options: those of the cell: see `cells.lstm` and `cells.gru`.
    """

    make: ClassVar[Callable[..., Cell]]

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        rngs: nnx.Rngs | Array,
        layers: int = 1,
        bidirectional: bool = False,
        merge: str = "concat",
        dropout: float = 0.0,
        time_major: bool = False,
        engine: str = "auto",
        transform: Callable[[Cell], Cell] = same,
        **options: Any,
    ):
        if not layers >= 1 or not 0 <= dropout < 1:
            raise UsageError(
                f"layers={layers}, dropout={dropout}: expected at least one layer, and a rate from "
                "0 up to, not including, 1"
            )
        key = rngs.params() if isinstance(rngs, nnx.Rngs) else rngs
        cell, self.depth = transform(type(self).make(hidden, **options)), layers
        self.rate, self.time_major = dropout, time_major
        ways: dict[str, Any] = {"bidirectional": bidirectional, "merge": merge, "engine": engine}
        for i, layer_key in enumerate(jax.random.split(key, layers)):
            layer = Recurrent(cell, in_features, layer_key, **ways)
            setattr(self, f"layer_{i}", layer)
            in_features = layer.features
        self.features = in_features

    def layers(self) -> list[Recurrent]:
        """From the input up."""
        return [getattr(self, f"layer_{i}") for i in range(self.depth)]

    def __call__(
        self,
        xs: Any,
        carry: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | Keys | None = None,
    ) -> tuple[tuple, Array]:
        valid, xs = Valid(lengths, mask, resets), jnp.asarray(xs)
        if xs.ndim != 3:
            order = "[T, B, D]" if self.time_major else "[B, T, D]"
            raise UsageError(f"xs has shape {xs.shape}, expected {order}")
        if not self.time_major:
            xs, valid = jnp.swapaxes(xs, 0, 1), valid.swapped()
        keys, carries = make_keys(key, xs.shape[1]), []
        for i, layer in enumerate(self.layers()):
            own = _fold(keys, i)
            xs = dropout(xs, self.rate, _fold(own, 2)) if i else xs
            new, xs, _ = layer(xs, carry[i] if carry is not None else None, valid, own)
            carries.append(new)
        return tuple(carries), xs if self.time_major else jnp.swapaxes(xs, 0, 1)

    def load(self, layers: Sequence[Any]) -> None:
        """Take the parameters of such `layers` as `lstm_jax.convert.read` returns, in place.

        Raises:
          UsageError: another number of layers or directions, or parameters of other shapes.
        """
        ours = [[way for way in (one.forward, _backward(one)) if way] for one in self.layers()]
        theirs = [[way for way in (one.forward, one.backward) if way] for one in layers]
        if _shapes(ours) != _shapes(theirs):
            raise UsageError(
                f"the layers do not fit: expected {_shapes(ours)}, given {_shapes(theirs)}"
            )
        pairs = zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True)
        for own, given in pairs:
            for name in own:
                own[name].set_value(jnp.asarray(given[name]))

    def initial_carry(self, batch_size: int) -> tuple:
        """What fresh sequences start from."""
        return tuple(layer.initial_carry(batch_size) for layer in self.layers())


def _backward(layer: Recurrent) -> Any:
    return layer.backward if layer.bidirectional else None


def _shapes(layers: list[list[Any]]) -> list[list[dict[str, tuple[int, ...]]]]:
    """{parameter: shape} of every direction of every layer."""
    return [[{k: way[k].shape for k in sorted(way)} for way in ways] for ways in layers]


class LSTM(Stack):
    """The long short-term memory; arguments as in `Stack`, options as in `cells.lstm`."""

    make = staticmethod(lstm)


class GRU(Stack):
    """The gated recurrent unit; arguments as in `Stack`, options as in `cells.gru`."""

    make = staticmethod(gru)
