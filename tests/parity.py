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

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import convert, unroll
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

STATES = ("xs", "h0", "c0")


def read(library, w, **options):
    return convert.read(library, {k: v for k, v in w.items() if k not in STATES}, **options)


def stack(w, *, library, lengths=None, **options):
    """All layers and directions; states stacked [layers * ways, B, .], as torch and ONNX do."""
    layers = read(library, w, **options)
    if "h0" not in w:
        return {"ys": convert.apply(layers, w["xs"], lengths=lengths)[1]}
    kind = Carry if "c0" in w else Hidden
    starts = iter(zip(*(w[f"{k}0"] for k in kind._fields), strict=True))
    carries = [tuple(kind(*next(starts)) for _ in layer.ways) for layer in layers]
    lasts, ys = convert.apply(layers, w["xs"], carries, lengths)
    ends = [carry for both in lasts for carry in both]
    return {"ys": ys} | {k: jnp.stack([getattr(e, k) for e in ends]) for k in kind._fields}


def onnx(w, *, around=lambda cell: cell, reverse=False, lengths=None, **options):
    """ONNX's layout: Y [T, ways, B, H], states [ways, B, H]."""
    if reverse:
        found = one(
            {k: v if k == "xs" else v[0] for k, v in w.items() if k in STATES},
            cell=around(read("onnx", w, **options)[0].cell),
            params=read("onnx", w, **options)[0].forward,
            reverse=True,
            lengths=lengths,
        )
        return {k: v[:, None] if k == "ys" else v[None] for k, v in found.items()}
    (layer,) = read("onnx", w, **options)
    kind = Carry if "c0" in w else Hidden
    starts = [kind(*each) for each in zip(*(w[f"{k}0"] for k in kind._fields), strict=True)]
    layer = layer._replace(cell=around(layer.cell))
    (ends,), ys = convert.apply([layer], w["xs"], [tuple(starts)], lengths)
    ys = ys.reshape(*ys.shape[:2], len(ends), -1).swapaxes(1, 2)
    return {"ys": ys} | {k: jnp.stack([getattr(e, k) for e in ends]) for k in kind._fields}


def single(
    w, *, library, renamed="", reverse=False, lengths=None, mask=None, resets=None, **options
):
    """One layer, one direction; `xs`, `h0` and `c0` beside the weights."""
    weights = {renamed + k: v for k, v in w.items() if k not in STATES}
    (layer,) = convert.read(library, weights, **options)
    marks = {"lengths": lengths, "mask": mask, "resets": resets, "reverse": reverse}
    return one(w, cell=layer.cell, params=layer.forward, **marks)


def one(w, *, cell, params, **marks):
    kind = Carry if "c0" in w else Hidden
    start = kind(**{k: w[f"{k}0"] for k in kind._fields})
    last, ys = unroll(cell, params, w["xs"], start, **marks)
    return {"ys": ys, **last._asdict()}


def bounded(cell, limit):
    """The cell with pre-activations held within [-limit, limit]: ONNX's `clip`."""

    def merge(params, z, r):
        return jnp.clip(cell.merge(params, z, r), -limit, limit)

    return cell._replace(merge=merge, info=cell.info._replace(plain=False))


SQUASHED: dict[str, Any] = {"gate_activation": "hard_sigmoid", "candidate_activation": "softsign"}

torch, keras, haiku, equinox = (
    partial(stack, library="torch"),
    partial(single, library="keras"),
    partial(single, library="haiku"),
    partial(single, library="equinox"),
)

REPLAY: dict[str, Callable[..., dict]] = {
    "torch_lstm": torch,
    "torch_lstm_bidirectional_stacked": torch,
    "torch_lstm_packed": torch,
    "torch_lstm_proj": torch,
    "torch_lstm_proj_bidirectional_stacked_packed": torch,
    "torch_gru": torch,
    "torch_gru_packed": torch,
    "torch_rnn_tanh": torch,
    "torch_rnn_relu": partial(torch, activation="relu"),
    "keras_lstm": keras,
    "keras_lstm_masked": keras,
    "keras_lstm_relu_backwards": partial(
        keras,
        gate_activation="hard_sigmoid",
        candidate_activation="relu",
        output_activation="relu",
        reverse=True,
    ),
    "keras_gru_after_masked": keras,
    "keras_gru_before_masked": keras,
    "keras_rnn": keras,
    "keras_lstm_bidirectional_stacked": partial(stack, library="keras"),
    "keras_gru_bidirectional": partial(stack, library="keras"),
    "haiku_lstm": partial(haiku, renamed="linear/"),
    "haiku_lstm_resets": partial(haiku, renamed="linear/"),
    "haiku_gru": haiku,
    "haiku_rnn": haiku,
    "equinox_lstm": equinox,
    "equinox_gru": equinox,
    "onnx_lstm_peepholes": onnx,
    "onnx_lstm_input_forget": partial(onnx, input_forget=True),
    "onnx_lstm_hard_sigmoid_softsign_affine": partial(
        onnx, output_activation="identity", **SQUASHED
    ),
    "onnx_lstm_relu": partial(
        onnx, candidate_activation="relu", output_activation="relu", reverse=True
    ),
    "onnx_lstm_clip": partial(onnx, around=partial(bounded, limit=0.5)),
    "onnx_gru_linear_before_reset": onnx,
    "onnx_gru_reset_first": partial(onnx, reset="before", **SQUASHED),
    "onnx_rnn_relu": partial(onnx, activation="relu"),
    "onnx_rnn_affine": partial(onnx, activation="identity", reverse=True),
}
