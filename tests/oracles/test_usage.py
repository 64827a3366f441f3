"""The lines of the model card and of docs/convert.md, run with the libraries themselves."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import convert
from lstm_jax.cells import gru, lstm, rnn, transforms
from lstm_jax.convert import files
from lstm_jax.convert.conventions import OUTER
from lstm_jax.convert.usage import READ, usage

T, B, D, H = 5, 3, 2, 4
CELLS = {
    "lstm": lstm(H),
    "gru": gru(H),
    "rnn": rnn(H),
    "squashed": lstm(
        H, gate_activation="hard_sigmoid", candidate_activation="relu", output_activation="relu"
    ),
    "projected": transforms.projection(lstm(H), 2),
    "reset before": gru(H, reset="before"),
    "cifg": lstm(H, gates="cifg"),
}
HAS_NOT = {
    "torch": ("squashed", "reset before"),
    "keras": ("projected",),
    "linen": ("projected", "reset before"),
    "nnx": ("projected", "reset before"),
    "haiku": ("gru", "rnn", "squashed", "projected"),
    "equinox": ("rnn", "squashed", "projected", "reset before"),
}
ONE = [(lib, name) for lib in OUTER for name in CELLS if name not in HAS_NOT[lib]]


def drawn(cell, features, seed):
    params = cell.init(jax.random.key(seed), features)
    rng = np.random.default_rng(seed)
    return {k: (0.5 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in params.items()}


def run(library, layers, tmp_path):
    """ys of the library's lines, [T, B, ..]."""
    prefix = "" if library == "keras" else f"rnn{OUTER[library].separator}"
    path = tmp_path / "m.safetensors"
    files.save(path, convert.write(library, layers, prefix=prefix), {})
    xs = np.random.default_rng(3).standard_normal((T, B, D)).astype(np.float32)
    expected = convert.apply(layers, xs)[1]
    batch_first = library in ("keras", "linen", "nnx")
    scope = {"jax": jax, "jnp": jnp, "xs": xs.swapaxes(0, 1) if batch_first else xs}
    if library == "torch":
        import torch

        scope["xs"] = torch.tensor(xs)
    exec(usage(library, layers, str(path)), scope)
    if layers[0].cell is CELLS["lstm"]:
        exec(READ[library], scope | {"convert": convert}, scope)
        np.testing.assert_allclose(convert.apply(scope["layers"], xs)[1], expected, atol=1e-6)
    if library == "equinox":
        return scanned(scope["cell"], xs), expected
    ys = scope["ys"].detach().numpy() if library == "torch" else np.asarray(scope["ys"])
    return (ys.swapaxes(0, 1) if batch_first else ys), expected


def scanned(cell, xs):
    zeros = jnp.zeros((B, H))
    pair = hasattr(cell, "use_bias") and "LSTM" in type(cell).__name__
    start = (zeros, zeros) if pair else zeros

    def step(state, x):
        state = jax.vmap(cell)(x, state)
        return state, state[0] if pair else state

    return jax.lax.scan(step, start, xs)[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("library", "name"), ONE)
def test_one_layer(library, name, tmp_path):
    cell = CELLS[name]
    params = drawn(cell, D, 0)
    if (library, name) == ("nnx", "gru"):
        params["recurrent_bias"] *= 0
    found, expected = run(library, [convert.Layer(cell, params)], tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["torch", "keras"])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_two_layers_in_both_directions(library, name, tmp_path):
    cell = CELLS[name]
    layers = [
        convert.Layer(cell, drawn(cell, size, n), drawn(cell, size, n + 5))
        for n, size in enumerate((D, 2 * H))
    ]
    found, expected = run(library, layers, tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-6)
