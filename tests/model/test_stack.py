"""`LSTM` and `GRU` beside what they stand in for: Flax here, torch by its golden values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from flax import nnx

import lstm_jax
from lstm_jax import convert, transforms
from lstm_jax.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
B, T, D, H = 3, 5, 2, 4
XS = np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)
LENGTHS = np.array([5, 2, 0])
KEY = jax.random.key(0)


def layer(kind: Any = lstm_jax.LSTM, seed: int = 0, **options: Any) -> Any:
    return kind(D, H, rngs=nnx.Rngs(seed), **options)


@pytest.mark.slow
def test_the_kernels_of_flax_are_ours():
    theirs: Any = nnx.RNN(nnx.OptimizedLSTMCell(D, H, rngs=nnx.Rngs(0)))
    ours = layer()
    params = ours.layers()[0].forward
    params["kernel"].set_value(theirs.cell.dense_i.kernel[...])
    params["recurrent_kernel"].set_value(theirs.cell.dense_h.kernel[...])
    params["bias"].set_value(theirs.cell.dense_h.bias[...])
    np.testing.assert_allclose(ours(XS)[1], theirs(XS), rtol=1e-5, atol=1e-6)


def torch_layers(name: str, kind: Any) -> tuple[Any, Any]:
    """(the golden values, the stack with torch's weights)."""
    stored = parity.load(name)
    named = {k.removeprefix("in/"): v for k, v in stored.items()}
    weights = {k: v for k, v in named.items() if k.startswith(("weight", "bias"))}
    layers = convert.read("torch", weights)
    made = kind(3, 4, rngs=KEY, layers=len(layers), bidirectional=True, time_major=True)
    made.load(layers)
    return stored, made


def stacked(carry, leaf):
    """A carry as torch has it: [layers * 2, B, H]."""
    return jnp.stack([getattr(way, leaf) for one in carry for way in one])


def carried(kind, **leaves):
    """Torch's [layers * 2, B, H] as a carry."""
    pairs = [
        kind(**dict(zip(leaves, row, strict=True))) for row in zip(*leaves.values(), strict=True)
    ]
    return tuple(zip(pairs[::2], pairs[1::2], strict=True))


@pytest.mark.slow
def test_two_layers_in_both_directions_are_torch_s():
    name = "torch_lstm_bidirectional_stacked"
    stored, made = torch_layers(name, lstm_jax.LSTM)
    carry, ys = made(stored["in/xs"], carried(lstm_jax.Carry, c=stored["in/c0"], h=stored["in/h0"]))
    np.testing.assert_allclose(ys, stored["out/ys"], rtol=1e-5, atol=1e-6)
    for leaf in ("c", "h"):
        np.testing.assert_allclose(stacked(carry, leaf), stored[f"out/{leaf}"], 1e-5, 1e-6)


@pytest.mark.slow
def test_lengths_in_both_directions_are_torch_s_packed_ones():
    stored, made = torch_layers("torch_gru_packed", lstm_jax.GRU)
    start = carried(lstm_jax.Hidden, h=stored["in/h0"])
    carry, ys = made(stored["in/xs"], start, lengths=stored["mark/lengths"])
    np.testing.assert_allclose(ys, stored["out/ys"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stacked(carry, "h"), stored["out/h"], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_batch_first_and_time_major_are_one_layer():
    mask = np.arange(T) < LENGTHS[:, None]
    mask[0, 2] = False
    options = {"layers": 2, "bidirectional": True, "merge": "sum", "peepholes": "diagonal"}
    carry, ys = layer(**options)(XS, mask=mask)
    swapped = layer(**options, time_major=True)
    other, zs = swapped(XS.swapaxes(0, 1), mask=mask.T)
    assert ys.shape == (B, T, H) and swapped.features == H
    np.testing.assert_array_equal(ys, zs.swapaxes(0, 1))
    jax.tree.map(np.testing.assert_array_equal, carry, other)


@pytest.mark.slow
def test_dropout_and_zoneout_need_a_key():
    made = layer(layers=2, dropout=0.5, transform=lambda cell: transforms.zoneout(cell, 0.5))
    run = nnx.jit(lambda made, key: made(XS, key=key)[1])
    first, again = run(made, jax.random.key(0)), run(made, jax.random.key(0))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, run(made, jax.random.key(1)))
    np.testing.assert_array_equal(made(XS)[1], made(XS)[1])
    plain = layer(layers=2, transform=lambda cell: transforms.zoneout(cell, 0.5))
    np.testing.assert_array_equal(made(XS)[1], plain(XS)[1])


@pytest.mark.slow
def test_in_linen():
    linen = nnx.bridge.to_linen(lstm_jax.GRU, D, H, layers=2, reset="before")
    variables = linen.init(jax.random.key(0), XS)
    ours = layer(lstm_jax.GRU, layers=2, reset="before")
    for i, one in enumerate(ours.layers()):
        for leaf, value in variables["params"][f"layer_{i}"]["forward"].items():
            one.forward[leaf].set_value(value)
    found = linen.apply(variables, XS, lengths=LENGTHS)
    jax.tree.map(np.testing.assert_array_equal, found, ours(XS, lengths=LENGTHS))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: layer(layers=0), "expected at least one layer"),
        (lambda: layer(dropout=1.0), "a rate from 0 up to"),
        (lambda: layer(gates="ligru"), "unknown gates 'ligru'"),
        (lambda: layer()(XS[0]), r"xs has shape \(5, 2\), expected \[B, T, D\]"),
    ],
)
def test_what_does_not_fit_is_said(build, words):
    with pytest.raises(UsageError, match=words):
        build()


def test_layers_that_do_not_fit_are_refused():
    made = layer(layers=2)
    with pytest.raises(UsageError, match=r"the layers do not fit: expected .*\(2, 16\)"):
        made.load(layer(bidirectional=True).layers())


def test_an_option_of_no_cell_is_named():
    with pytest.raises(TypeError, match="peephole"):
        layer(peephole="diagonal")


def blocks(*words: str) -> list[str]:
    """The code on the page that has one of the words, or, without words, nobody else's library."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    others = ("keras.", "torch.", "equinox")
    return [c for c in code if any(word in c for word in words or others) == bool(words)]


@pytest.mark.slow
def test_the_page_runs():
    namespace: dict = {}
    for code in blocks():
        exec(code, namespace)
    assert namespace["h"].shape == namespace["c"].shape == (4, 4, 64)
    assert namespace["last"].shape == (4, 64)
