"""Replay what another library computed: its weights and inputs in, its outputs and gradients out.

A fixture is a flat dict of arrays: `in/*` what the oracle differentiated (weights, inputs, initial
states), `mark/*` lengths, masks and resets, `out/*` its outputs, `loss/*` the weights of their sum
that was differentiated, `grad/*` its gradients. Time-major throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import converters
import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import unroll
from lstm_jax.cells import gru, lstm, rnn, transforms
from lstm_jax.core import Carry, Hidden

GOLDEN = Path(__file__).with_name("golden")


# A tiny program runs in no time and compiles for long: the compiler need not try hard.
QUICK = {"xla_backend_optimization_level": 0}


def check(name: str, fixture: dict) -> None:
    """Raises AssertionError unless lstm_jax computes what the fixture says."""
    inputs, marks = part(fixture, "in"), part(fixture, "mark")
    # keras squashes in float32 on the way, whatever floatx says.
    exact = inputs["xs"].dtype == np.float64 and not name.startswith("keras")
    tol = 1e-9 if exact else 2e-6

    def loss(inputs):
        out = REPLAY[name](inputs, **marks)
        weighted = [(w * out[k]).sum() for k, w in part(fixture, "loss").items()]
        return sum(weighted, jnp.zeros(())), out

    with jax.enable_x64(True):
        grads, out = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(inputs)
    wanted = part(fixture, "out")
    assert wanted and set(wanted) == set(out)
    for kind, ours, theirs in (("out", out, wanted), ("grad", grads, part(fixture, "grad"))):
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, tol, tol, err_msg=f"{kind} {key}")


def part(fixture: dict, kind: str) -> dict:
    return {k.removeprefix(f"{kind}/"): v for k, v in fixture.items() if k.startswith(f"{kind}/")}


def load(name: str) -> dict:
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return dict(stored)


# How each fixture is spelled in lstm_jax ---------------------------------------------------------


def torch_stack(w, *, make, params, layers=1, ways=1, carry_of: Any = Carry, lengths=None):
    """torch's layers and directions; states stacked [layers * ways, B, .]."""
    ys, lasts = w["xs"], []
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            at = layer * ways + way
            p = params(w, f"l{layer}" + "_reverse" * way)
            start = {k: w[f"{k}0"][at] for k in carry_of._fields}
            cell = make(p)
            carry, y = unroll(cell, p, ys, carry_of(**start), lengths=lengths, reverse=way == 1)
            outputs.append(y)
            lasts.append(carry._asdict())
        ys = jnp.concatenate(outputs, -1)
    return {"ys": ys} | {k: jnp.stack([last[k] for last in lasts]) for k in carry_of._fields}


def _lstm_like(p):
    cell = lstm(p["bias"].size // 4)
    if "projection_kernel" not in p:
        return cell
    return transforms.projection(cell, p["projection_kernel"].shape[1])


torch_lstm = partial(torch_stack, make=_lstm_like, params=converters.torch_lstm)
torch_gru = partial(
    torch_stack,
    make=lambda p: gru(p["bias"].size // 3),
    params=converters.torch_gru,
    carry_of=Hidden,
)
torch_rnn = partial(torch_stack, params=converters.torch_rnn, carry_of=Hidden)


def one(
    w, *, cell, params, carry: Any = Carry, reverse=False, lengths=None, mask=None, resets=None
):
    """One layer, one direction; `xs`, `h0` and `c0` beside the weights."""
    p = params({k: v for k, v in w.items() if k not in ("xs", "h0", "c0")})
    start = carry(**{k: w[f"{k}0"] for k in carry._fields})
    marks = {"lengths": lengths, "mask": mask, "resets": resets, "reverse": reverse}
    last, ys = unroll(cell, p, w["xs"], start, **marks)
    return {"ys": ys, **last._asdict()}


def onnx_ways(w, *, cells, params, carry: Any = Carry, directions=("forward",), lengths=None):
    """ONNX's layout: Y [T, ways, B, H], states [ways, B, H]."""
    outputs, lasts = [], []
    for n, direction in enumerate(directions):
        start = carry(**{k: w[f"{k}0"][n] for k in carry._fields})
        last, ys = unroll(
            cells, params(w, n), w["xs"], start, lengths=lengths, reverse=direction == "reverse"
        )
        outputs.append(ys)
        lasts.append(last._asdict())
    return {"ys": jnp.stack(outputs, 1)} | {
        k: jnp.stack([last[k] for last in lasts]) for k in carry._fields
    }


def bounded(cell, limit):
    """The cell with pre-activations held within [-limit, limit]: ONNX's `clip`."""

    def merge(params, z, r):
        return jnp.clip(cell.merge(params, z, r), -limit, limit)

    return cell._replace(merge=merge, info=cell.info._replace(plain=False))


BOTH_WAYS = ("forward", "reverse")
SQUASHED: dict[str, Any] = {"gate_activation": "hard_sigmoid", "candidate_activation": "softsign"}

REPLAY: dict[str, Callable[..., dict]] = {
    "torch_lstm": torch_lstm,
    "torch_lstm_bidirectional_stacked": partial(torch_lstm, layers=2, ways=2),
    "torch_lstm_packed": partial(torch_lstm, ways=2),
    "torch_lstm_proj": torch_lstm,
    "torch_lstm_proj_bidirectional_stacked_packed": partial(torch_lstm, layers=2, ways=2),
    "torch_gru": partial(torch_gru, layers=2),
    "torch_gru_packed": partial(torch_gru, ways=2),
    "torch_rnn_tanh": partial(torch_rnn, make=lambda p: rnn(p["bias"].size), ways=2),
    "torch_rnn_relu": partial(
        torch_rnn, make=lambda p: rnn(p["bias"].size, activation="relu"), layers=2
    ),
    "keras_lstm": partial(one, cell=lstm(4), params=converters.keras_lstm),
    "keras_lstm_masked": partial(one, cell=lstm(4), params=converters.keras_lstm),
    "keras_lstm_relu_backwards": partial(
        one,
        cell=lstm(
            4,
            gate_activation="hard_sigmoid",
            candidate_activation="relu",
            output_activation="relu",
        ),
        params=converters.keras_lstm,
        reverse=True,
    ),
    "keras_gru_after_masked": partial(one, cell=gru(4), params=converters.keras_gru, carry=Hidden),
    "keras_gru_before_masked": partial(
        one,
        cell=gru(4, reset="before"),
        params=partial(converters.keras_gru, reset_after=False),
        carry=Hidden,
    ),
    "haiku_lstm": partial(one, cell=lstm(4), params=partial(converters.haiku_lstm, features=3)),
    "haiku_lstm_resets": partial(
        one, cell=lstm(4), params=partial(converters.haiku_lstm, features=3)
    ),
    "haiku_gru": partial(
        one, cell=gru(4, reset="before"), params=converters.haiku_gru, carry=Hidden
    ),
    "equinox_lstm": partial(one, cell=lstm(4), params=converters.equinox_lstm),
    "equinox_gru": partial(one, cell=gru(4), params=converters.equinox_gru, carry=Hidden),
    "onnx_lstm_peepholes": partial(
        onnx_ways,
        cells=lstm(4, peepholes="diagonal"),
        params=converters.onnx_lstm,
        directions=BOTH_WAYS,
    ),
    "onnx_lstm_input_forget": partial(
        onnx_ways,
        cells=lstm(4, gates="cifg", peepholes="learned"),
        params=partial(converters.onnx_lstm, input_forget=True),
        directions=BOTH_WAYS,
    ),
    "onnx_lstm_hard_sigmoid_softsign_affine": partial(
        onnx_ways,
        cells=lstm(4, output_activation="identity", **SQUASHED),
        params=converters.onnx_lstm,
    ),
    "onnx_lstm_relu": partial(
        onnx_ways,
        cells=lstm(4, candidate_activation="relu", output_activation="relu"),
        params=converters.onnx_lstm,
        directions=("reverse",),
    ),
    "onnx_lstm_clip": partial(
        onnx_ways,
        cells=bounded(lstm(4), 0.5),
        params=converters.onnx_lstm,
        directions=BOTH_WAYS,
    ),
    "onnx_gru_linear_before_reset": partial(
        onnx_ways,
        cells=gru(4),
        params=converters.onnx_gru,
        carry=Hidden,
        directions=BOTH_WAYS,
    ),
    "onnx_gru_reset_first": partial(
        onnx_ways,
        cells=gru(4, reset="before", **SQUASHED),
        params=partial(converters.onnx_gru, linear_before_reset=False),
        carry=Hidden,
        directions=BOTH_WAYS,
    ),
    "onnx_rnn_relu": partial(
        onnx_ways,
        cells=rnn(4, activation="relu"),
        params=converters.onnx_rnn,
        carry=Hidden,
        directions=BOTH_WAYS,
    ),
    "onnx_rnn_affine": partial(
        onnx_ways,
        cells=rnn(4, activation="identity"),
        params=converters.onnx_rnn,
        carry=Hidden,
        directions=("reverse",),
    ),
}
