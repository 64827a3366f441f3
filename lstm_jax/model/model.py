"""Layers and the sequence model: the only file that imports Flax.

The modules (NNX) hold parameters and wiring, no cell maths and no randomness of their own: keys
are arguments. `build_model` splits them once into pure functions of a plain dict of arrays; from
there on nothing knows of Flax.

    encoder -> recurrent layer 1 .. L -> readout -> head

With `spec.decoding` L further layers go on from the carry, a step at a time, fed what they said.

Shapes by the legend of `core`: sequences [T, B, F], what is read out [B, F], `keys` one per
example, derived from the example's index, so that masks do not depend on how many devices share
a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.cells.activations import activation_name
from lstm_jax.config.fields import bind
from lstm_jax.core import Array, Cell, Keys
from lstm_jax.errors import UsageError, lookup
from lstm_jax.model.cell import build_cell
from lstm_jax.model.layers import (
    EVERY_STEP,
    MERGES,
    Head,
    Recurrent,
    TiedHead,
    Valid,
    _fold,
    _last,
    _per_example,
    dropout,
    encoder_of,
    noise,
    widened,
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

    def __init__(self, config: Any, cell: Cell, decoding_cell: Cell, spec: Any, key: Array):
        self.config, self.readout = nnx.static(config), spec.readout
        self.decoding = nnx.static(spec.decoding)
        encoder_key, head_key, key = jax.random.split(key, 3)
        self.encoder = encoder_of(config.encoder)(config, spec, encoder_key)
        read = self._add("layer", cell, self.encoder.features, key)
        if spec.decoding:
            features = spec.in_features + len(spec.decoding.fed)
            self._add("decoder", decoding_cell, features, jax.random.fold_in(key, config.layers))
        head = TiedHead if config.tied else Head
        self.head = head(config, read, spec.out_features, head_key)

    def _add(self, name: str, cell: Cell, features: int, key: Array) -> int:
        """The layers `name`_0, ...; the features of what is read out of them."""
        config, encoded, total = self.config, features, 0
        engine = "scan" if name == "decoder" else config.engine  # one step at a time
        for i in range(config.layers):
            layer = Recurrent(
                cell,
                features,
                jax.random.fold_in(key, i),
                bidirectional=config.bidirectional,
                merge=config.merge,
                engine=engine,
            )
            setattr(self, f"{name}_{i}", layer)
            out = layer.features
            total += out
            features = out + encoded if config.skip else out
        return total if config.skip else out

    def layers(self, name: str = "layer") -> list[Recurrent]:
        """From the input up; those of the decoder by their name."""
        return [getattr(self, f"{name}_{i}") for i in range(self.config.layers)]

    def __call__(
        self, inputs: Array, carry: Any, valid: Valid, keys: Keys | None, truth: Array | None = None
    ) -> tuple[Array, tuple]:
        config, steps = self.config, self.decoding.steps if self.decoding else 0
        read = inputs.shape[0] - steps
        past = jax.lax.slice_in_dim(inputs, 0, read) if steps else inputs
        encoded = self.encoder(valid.clear(past), valid)
        encoded = noise(encoded, config.input_noise, _fold(keys, 1))
        encoded = dropout(encoded, config.input_dropout, _fold(keys, 2))
        carries, ys, last = self._run("layer", encoded, carry, valid, keys)
        if steps:
            later = jax.lax.slice_in_dim(inputs, read, inputs.shape[0])
            return self._decode(past[-1], later, carries, keys, truth)
        tied = (self.encoder,) if config.tied else ()
        return self.head(self._read(ys, last, valid), _fold(keys, 0), *tied), carries

    def _run(
        self, name: str, encoded: Array, carry: Any, valid: Valid, keys: Keys | None
    ) -> tuple[tuple, Array, Array]:
        """(carries, what all layers say that are read out [T, B, F], that at the last step)."""
        config, xs = self.config, encoded
        carries, outs, lasts = [], [], []
        for i, layer in enumerate(self.layers(name)):
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
        return tuple(carries), jnp.concatenate(outs, -1), jnp.concatenate(lasts, -1)

    def _decode(
        self, last: Array, later: Array, carries: tuple, keys: Keys | None, truth: Array | None
    ) -> tuple[Array, tuple]:
        """y_h = head(decoder([x_h, y_{h-1}])), h = 1 .. H, from the carry of the encoder.

        last [B, D] inputs of the last step read, later [H, B, D], truth [H, B, K].
        """
        decoding, head = self.decoding, cast(Callable, self.head)
        assert decoding is not None

        def step(state: tuple, given: tuple) -> tuple:
            (carries, said), (x, true, h) = state, given
            own = _fold(_fold(keys, 3 + self.config.layers), h)
            forced = _fold(own, 1)
            if true is not None and forced is not None:
                drawn = _per_example(jax.random.uniform, forced, said[:, :1])
                said = jnp.where(drawn < decoding.forced, true, said)
            xs = jnp.concatenate([x, said.astype(x.dtype)], axis=-1)[None]
            carries, ys, _ = self._run("decoder", xs, carries, EVERY_STEP, own)
            out = head(ys[0], _fold(own, 0))
            return (carries, out[:, list(decoding.fed)]), out

        first = widened(last[:, list(decoding.start)])
        steps = jnp.arange(later.shape[0])
        (carries, _), outputs = jax.lax.scan(step, (carries, first), (later, truth, steps))
        return outputs, carries

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
        cell = build_cell(bound.cell)
        return partial(SequenceModel, bound.model, around(cell), cell, spec)

    def init(key: Array, hyper: dict) -> dict:
        return nnx.to_pure_dict(nnx.state(parts(hyper)(key), nnx.Param))

    def restored(params: dict, hyper: dict) -> SequenceModel:
        return nnx.merge(_wiring(parts(hyper)), params)

    def apply(params, hyper, batch, carry=None, key=None):
        inputs = batch["inputs"]
        valid = Valid(*(batch.get(name) for name in Valid._fields))
        keys = None if key is None else example_keys(key, batch, inputs.shape[1])
        forced = spec.decoding is not None and spec.decoding.forced > 0 and keys is not None
        truth = batch["targets"] if forced else None
        return restored(params, hyper)(inputs, carry, valid, keys, truth)

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
    if config.bidirectional and spec.decoding:
        raise UsageError(
            "model.bidirectional has no last carry that a decoder could go on from; set "
            "model.bidirectional=False or task.strategy=sequence"
        )
    if config.bidirectional and spec.stateful:
        raise UsageError(
            "model.bidirectional cannot carry state from batch to batch: the backward direction "
            "starts at the end; set model.bidirectional=False or choose a task without state"
        )
