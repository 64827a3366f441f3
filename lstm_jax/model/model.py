"""Layers and the sequence model: the only file that imports Flax.

The modules (NNX) hold parameters and wiring, no cell maths and no randomness of their own: keys
are arguments. `build_model` splits them once into pure functions of a plain dict of arrays; from
there on nothing knows of Flax.

    encoder -> recurrent layer 1 .. L -> readout -> head

Shapes by the legend of `core`: sequences [T, B, F], what is read out [B, F], `keys` one per
example, derived from the example's index, so that masks do not depend on how many devices share
a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.cells.activations import activation_name
from lstm_jax.config.fields import bind
from lstm_jax.core import Array, Cell, Keys
from lstm_jax.errors import UsageError, lookup
from lstm_jax.model.cell import build_cell
from lstm_jax.model.layers import (
    MERGES,
    Head,
    Recurrent,
    TiedHead,
    Valid,
    _fold,
    _last,
    dropout,
    encoder_of,
    noise,
)


class Model(NamedTuple):
    """A sequence model as pure functions.

    `init(key, hyper) -> params`, a nested dict of arrays.
    `apply(params, hyper, batch, carry=None, key=None) -> (outputs, carry)`: outputs [T, B, O], or
        [B, O] when one vector is read out per sequence; `key=None` is deterministic (evaluation).
    `initial_carry(params, hyper, batch_size) -> carry`: one carry per layer.

    `hyper` holds the numeric hyper-parameters as arrays: see `config.fields.Resolved`.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    initial_carry: Callable[..., Any]


class SequenceModel(nnx.Module):
    """encoder -> L recurrent layers -> readout -> head, as the `model` section describes it.

    `residual` adds a layer's input to its output where the sizes allow; `skip` feeds the encoded
    input to every layer and every layer to the readout (Graves 2013, fig. 1). Dropout stands
    between layers (Zaremba et al. 2014, fig. 2), never inside the recurrence: that is a cell's.
    """

    def __init__(self, config: Any, cell: Cell, spec: Any, key: Array):
        self.config, self.readout = nnx.static(config), spec.readout
        encoder_key, head_key, key = jax.random.split(key, 3)
        self.encoder = encoder_of(config.encoder)(config, spec, encoder_key)
        encoded = features = self.encoder.features
        total = 0
        for i in range(config.layers):
            layer = Recurrent(
                cell,
                features,
                jax.random.fold_in(key, i),
                bidirectional=config.bidirectional,
                merge=config.merge,
                engine=config.engine,
            )
            setattr(self, f"layer_{i}", layer)
            out = layer.features
            total += out
            features = out + encoded if config.skip else out
        head = TiedHead if config.tied else Head
        self.head = head(config, total if config.skip else out, spec.out_features, head_key)

    def layers(self) -> list[Recurrent]:
        """From the input up."""
        return [getattr(self, f"layer_{i}") for i in range(self.config.layers)]

    def __call__(
        self, inputs: Array, carry: Any, valid: Valid, keys: Keys | None
    ) -> tuple[Array, tuple]:
        config = self.config
        encoded = self.encoder(valid.clear(inputs), valid)
        encoded = noise(encoded, config.input_noise, _fold(keys, 1))
        xs = encoded = dropout(encoded, config.input_dropout, _fold(keys, 2))
        carries, outs, lasts = [], [], []
        for i, layer in enumerate(self.layers()):
            layer_keys = _fold(keys, 3 + i)
            new, ys, last = layer(xs, carry[i] if carry else None, valid, layer_keys)
            if config.residual and ys.shape == xs.shape:
                ys, last = ys + xs, last + _last(xs, valid)
            carries, outs, lasts = [*carries, new], [*outs, ys], [*lasts, last]
            if i + 1 < config.layers:
                ys = dropout(ys, config.dropout, _fold(layer_keys, 2))
                xs = jnp.concatenate([encoded, ys], axis=-1) if config.skip else ys
        if not config.skip:
            outs, lasts = outs[-1:], lasts[-1:]
        read = self._read(jnp.concatenate(outs, -1), jnp.concatenate(lasts, -1), valid)
        tied = (self.encoder,) if config.tied else ()
        return self.head(read, _fold(keys, 0), *tied), tuple(carries)

    def _read(self, ys: Array, last: Array, valid: Valid) -> Array:
        if self.readout == "every":
            return ys
        if self.readout == "last":
            return last
        steps = valid.steps(*ys.shape[:2])[..., None]
        counted = jnp.maximum(jnp.sum(steps, axis=0), 1).astype(ys.dtype)
        return jnp.sum(jnp.where(steps, ys, 0), axis=0) / counted


def build_model(config: Any, spec: Any, around: Callable[[Cell], Cell] = lambda c: c) -> Model:
    """The `model` and `cell` sections as a `Model` for a task of these sizes.

    `around` goes around every layer's cell: diagnoses look at it from there.

    Raises:
      UsageError: the encoder does not fit the inputs, or a carry is asked of two directions.
    """
    _check(config.model, spec)
    engine = _remat(config)

    def parts(hyper: dict) -> Callable[[Array], SequenceModel]:
        bound = bind(config, hyper)
        bound.model.engine = engine
        return partial(SequenceModel, bound.model, around(build_cell(bound.cell)), spec)

    def init(key: Array, hyper: dict) -> dict:
        return nnx.to_pure_dict(nnx.state(parts(hyper)(key), nnx.Param))

    def restored(params: dict, hyper: dict) -> SequenceModel:
        return nnx.merge(_wiring(parts(hyper)), params)

    def apply(params, hyper, batch, carry=None, key=None):
        inputs = batch["inputs"]
        valid = Valid(*(batch.get(name) for name in Valid._fields))
        keys = None if key is None else example_keys(key, batch, inputs.shape[1])
        return restored(params, hyper)(inputs, carry, valid, keys)

    def initial_carry(params, hyper, batch_size):
        layers = restored(params, hyper).layers()
        return tuple(layer.initial_carry(batch_size) for layer in layers)

    return Model(init, apply, initial_carry)


def _wiring(module: Callable[[Array], nnx.Module]) -> Any:
    """The graph of a module without its arrays, none of which is computed."""
    graphs = []
    jax.eval_shape(lambda key: graphs.append(nnx.graphdef(module(key))), jax.random.key(0))
    return graphs[0]


def example_keys(key: Array, batch: dict, batch_size: int) -> Keys:
    """The batch's key, and one per example [B] by `batch["example"]`, its global index."""
    example = batch.get("example", jnp.arange(batch_size))
    return Keys(key, jax.vmap(jax.random.fold_in, (None, 0))(key, example))


def _remat(config: Any) -> str:
    """The engine that `parallel.remat` asks for, else `model.engine`."""
    engine, every = config.model.engine, config.parallel.remat
    if not every:
        return engine
    if engine not in ("auto", "chunked"):
        raise UsageError(
            f"parallel.remat={every} runs time in chunks, but model.engine is {engine!r}; "
            "leave it at 'auto' or set parallel.remat=0"
        )
    return "chunked" if every < 0 else f"chunked:{every}"


def _check(config: Any, spec: Any) -> None:
    encoder_of(config.encoder)
    lookup("merge", config.merge, MERGES)
    activation_name("head activation", config.head_activation)
    if config.encoder == "embedding" and not spec.ids:
        raise UsageError("model.encoder='embedding' needs integer ids; this task has reals")
    if config.tied and config.encoder != "embedding":
        raise UsageError(
            f"model.tied shares the embedding with the output, but model.encoder is "
            f"{config.encoder!r}; set model.encoder=embedding or model.tied=False"
        )
    if config.bidirectional and spec.stateful:
        raise UsageError(
            "model.bidirectional cannot carry state from batch to batch: the backward direction "
            "starts at the end; set model.bidirectional=False or choose a task without state"
        )
