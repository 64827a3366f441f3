"""The model around the cells: every option changes something, padding changes nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.core import Keys
from lstm_jax.errors import UsageError
from lstm_jax.model import model as modules
from lstm_jax.model.layers import dropout
from lstm_jax.tasks.task import Spec

pytestmark = pytest.mark.usefixtures("strict_types")

T, B, D, OUT = 7, 4, 3, 2
KEY = jax.random.key(0)


def make(spec: Spec | None = None, **changes: Any):
    """(model, params, hyper) of a small config; `changes` are fields of the model section."""
    config = default_config("adding")
    config.cell.update({"hidden": 5, "kernel_init": "uniform", "recurrent_init": "uniform"})
    config.model.update(changes)
    model = modules.build_model(config, spec or Spec(D, OUT))
    hyper = resolve(config).hyper
    model = model._replace(apply=jax.jit(model.apply))
    return model, model.init(KEY, hyper), hyper


def reals(**more):
    return {"inputs": jax.random.normal(jax.random.key(1), (T, B, D)), **more}


def ids():
    return {"inputs": jax.random.randint(jax.random.key(1), (T, B), 0, D)}


def outputs(changes, batch=None, key: Any = None, spec=None):
    model, params, hyper = make(spec, **changes)
    return model.apply(params, hyper, batch or reals(), None, key)[0]


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


CHANGES: dict[str, tuple[dict, dict]] = {
    "layers": ({}, {"layers": 2}),
    "bidirectional": ({}, {"bidirectional": True}),
    "merge sum": ({"bidirectional": True}, {"merge": "sum"}),
    "merge mean": ({"bidirectional": True, "merge": "sum"}, {"merge": "mean"}),
    "merge mul": ({"bidirectional": True, "merge": "sum"}, {"merge": "mul"}),
    "residual": ({"layers": 2}, {"residual": True}),
    "skip": ({"layers": 2}, {"skip": True}),
    "dropout": ({"layers": 2}, {"dropout": 0.5}),
    "input_dropout": ({}, {"input_dropout": 0.5}),
    "input_noise": ({}, {"input_noise": 0.5}),
    "head_hidden": ({}, {"head_hidden": 6}),
    "head_activation": ({"head_hidden": 6}, {"head_activation": "relu"}),
    "head_dropout": ({"head_hidden": 6}, {"head_dropout": 0.5}),
    "encoder": ({}, {"encoder": "conv"}),
    "conv_features": ({"encoder": "conv"}, {"conv_features": (8, 8)}),
    "conv_width": ({"encoder": "conv"}, {"conv_width": 2}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_changes_something(name):
    before, change = CHANGES[name]
    a, b = outputs(before, key=KEY), outputs({**before, **change}, key=KEY)
    assert a.shape == b.shape == (T, B, OUT)
    assert not np.allclose(a, b, atol=1e-4)


TEXT: dict[str, tuple[dict, dict]] = {
    "encoder": ({}, {"encoder": "embedding", "embedding": 6}),
    "embedding": ({"encoder": "embedding"}, {"embedding": 6}),
    "tied": ({"encoder": "embedding", "embedding": 5}, {"tied": True}),
    "tied, sizes apart": ({"encoder": "embedding", "embedding": 6}, {"tied": True}),
    "conv": ({}, {"encoder": "conv"}),
}


@pytest.mark.parametrize("name", TEXT)
def test_every_option_for_ids_changes_something(name):
    before, change = TEXT[name]
    spec = Spec(D, D, ids=True)
    a, b = outputs(before, ids(), spec=spec), outputs({**before, **change}, ids(), spec=spec)
    assert a.shape == b.shape == (T, B, D)
    assert not np.allclose(a, b, atol=1e-4)


def test_a_tied_head_owns_a_bias_only():
    options = {"encoder": "embedding", "embedding": 5, "tied": True}
    _, params, _ = make(Spec(D, D, ids=True), **options)
    assert jax.tree.map(jnp.shape, params["head"]) == {"bias": (D,)}


def test_parameters_are_plain_dicts_of_arrays():
    _, params, _ = make(layers=2, bidirectional=True)
    assert set(params) == {"layer_0", "layer_1", "head"}
    assert set(params["layer_0"]) == {"forward", "backward"}
    assert params["layer_1"]["forward"]["kernel"].shape == (10, 20)
    assert type(params["layer_0"]["forward"]) is dict


def test_one_layer_is_the_unrolled_cell():
    model, params, hyper = make()
    cell = lstm_jax.cells.lstm(5)
    carry, ys = lstm_jax.unroll(cell, params["layer_0"]["forward"], reals()["inputs"])
    head = params["head"]["linear"]
    got, carries = model.apply(params, hyper, reals())
    close(got, ys @ head["kernel"] + head["bias"])
    close(carries[0].c, carry.c)


LENGTHS = jnp.array([7, 3, 1, 0])


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["every", "last", "mean"])
@pytest.mark.parametrize(
    "options",
    [{"layers": 2, "bidirectional": True, "residual": True}, {"encoder": "conv"}, {"skip": True}],
)
def test_padding_changes_nothing(readout, options):
    model, params, hyper = make(Spec(D, OUT, readout=readout), **options)
    batch = reals(lengths=LENGTHS)
    whole, _ = model.apply(params, hyper, batch)
    for row, length in enumerate(LENGTHS[:3]):
        alone, _ = model.apply(params, hyper, {"inputs": batch["inputs"][:length, row : row + 1]})
        wanted = whole[:length, row] if readout == "every" else whole[row]
        close(wanted, alone[:, 0] if readout == "every" else alone[0])
    outside = jnp.arange(T)[:, None] >= LENGTHS
    spoiled = batch | {"inputs": jnp.where(outside[..., None], 99.0, batch["inputs"])}
    again, _ = model.apply(params, hyper, spoiled)
    inside = ~outside[..., None] if readout == "every" else True
    close(jnp.where(inside, whole, 0), jnp.where(inside, again, 0))


def test_a_mask_with_holes_reads_the_last_valid_step():
    mask = jnp.ones((T, B), bool).at[3:, 0].set(False).at[2, 1].set(False)
    model, params, hyper = make(Spec(D, OUT, readout="last"))
    batch = reals(mask=mask)
    got, _ = model.apply(params, hyper, batch)
    short, _ = model.apply(params, hyper, {"inputs": batch["inputs"][:3, :1]})
    dense = jnp.delete(batch["inputs"][:, 1:2], 2, axis=0)
    close(got[0], short[0])
    close(got[1], model.apply(params, hyper, {"inputs": dense})[0][0])


def test_two_halves_equal_the_whole():
    model, params, hyper = make(layers=2)
    xs = reals()["inputs"]
    whole, last = model.apply(params, hyper, {"inputs": xs})
    carry = model.initial_carry(params, hyper, B)
    first, carry = model.apply(params, hyper, {"inputs": xs[:3]}, carry)
    second, carry = model.apply(params, hyper, {"inputs": xs[3:]}, carry)
    close(whole, jnp.concatenate([first, second]))
    jax.tree.map(close, carry, last)


NOISY = {"layers": 2, "dropout": 0.4, "input_noise": 0.1, "head_dropout": 0.3}


@pytest.mark.slow
def test_masks_follow_the_example_and_not_its_place():
    model, params, hyper = make(**NOISY)
    batch = reals(example=jnp.arange(B))
    whole, _ = model.apply(params, hyper, batch, None, KEY)
    half = {"inputs": batch["inputs"][:, 2:], "example": jnp.arange(2, B)}
    close(whole[:, 2:], model.apply(params, hyper, half, None, KEY)[0])
    other, _ = model.apply(params, hyper, batch, None, jax.random.key(9))
    assert not np.allclose(whole, other)


def test_without_a_key_nothing_is_random():
    quiet = {name: 0.0 for name in ("dropout", "input_noise", "head_dropout")}
    close(outputs(NOISY), outputs({**NOISY, **quiet}))


def test_dropout_keeps_the_mean_and_drops_the_rate():
    ones = jnp.ones((50, B, 40))
    keys = Keys(KEY, jax.random.split(KEY, B))
    dropped = dropout(ones, jnp.float32(0.25), keys)
    assert abs(float(jnp.mean(dropped == 0)) - 0.25) < 0.02
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)


@pytest.mark.slow
def test_trials_of_a_pack_equal_single_models():
    model, _, hyper = make(**NOISY)
    hypers = {n: jnp.stack([v, (v / 2).astype(v.dtype)]) for n, v in hyper.items()}
    params = jax.vmap(lambda hyper: model.init(KEY, hyper))(hypers)

    def run(params, hyper):
        return model.apply(params, hyper, reals(), None, KEY)[0]

    packed = jax.jit(jax.vmap(run))(params, hypers)
    for k in range(2):
        one = jax.tree.map(lambda leaf, k=k: leaf[k], (params, hypers))
        np.testing.assert_allclose(packed[k], run(*one), rtol=1e-5, atol=1e-6)
    assert not np.allclose(packed[0], packed[1])


def test_the_forget_bias_arrives_as_an_array():
    model, _, hyper = make()
    params = jax.jit(model.init)(KEY, hyper | {"cell.forget_bias": jnp.float32(3.0)})
    bias = params["layer_0"]["forward"]["bias"].reshape(4, 5)
    np.testing.assert_array_equal(bias[1], 3.0)
    np.testing.assert_array_equal(bias[0], 0.0)


REFUSED: dict[str, tuple[dict, Spec, str]] = {
    "encoder": ({"encoder": "embeding"}, Spec(D, OUT, ids=True), "did you mean 'embedding'"),
    "merge": ({"merge": "add"}, Spec(D, OUT), "known: concat, mean, mul, sum"),
    "head": ({"head_activation": "rellu"}, Spec(D, OUT), "did you mean 'relu'"),
    "reals": ({"encoder": "embedding"}, Spec(D, OUT), "needs integer ids"),
    "tied": ({"tied": True}, Spec(D, OUT, ids=True), "model.encoder=embedding"),
    "stateful": ({"bidirectional": True}, Spec(D, OUT, stateful=True), "bidirectional=False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_are_refused_by_name(name):
    changes, spec, words = REFUSED[name]
    with pytest.raises(UsageError, match=words):
        make(spec, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_batch_major_layer_is_the_time_major_one_turned(bidirectional):
    cell = lstm_jax.cells.lstm(5)
    options = {"bidirectional": bidirectional, "merge": "concat"}
    first = lstm_jax.Recurrent(cell, D, KEY, **options)
    turned = lstm_jax.Recurrent(cell, D, KEY, **options, time_major=False)
    xs = reals()["inputs"]
    marks = [jax.random.bernoulli(jax.random.key(k), 0.7, (T, B)) for k in (2, 3)]
    lengths = jnp.array([T, 2, 0, 5])
    carry, ys, last = first(xs, valid=lstm_jax.Valid(lengths, *marks))
    valid = lstm_jax.Valid(lengths, *(mark.T for mark in marks))
    again, zs, end = turned(jnp.swapaxes(xs, 0, 1), valid=valid)
    assert zs.shape == (B, T, 10 if bidirectional else 5)
    np.testing.assert_array_equal(jnp.swapaxes(zs, 0, 1), ys)
    jax.tree.map(np.testing.assert_array_equal, (again, end), (carry, last))


def test_everything_that_the_package_names_is_there():
    for name in lstm_jax.__all__:
        assert getattr(lstm_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Recurent'"):
        _ = lstm_jax.Recurent  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        ("import lstm_jax; lstm_jax.unroll, lstm_jax.cells.lstm", "flax"),
        ("from lstm_jax.cli import main; main(['--help'])", "jax"),
    ],
)
def test_what_is_not_asked_for_is_not_imported(code, waits):
    code += f"; import sys; sys.exit({waits!r} in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
