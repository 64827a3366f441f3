"""A decoder that goes on from the encoder's carry, fed with what it said."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.errors import UsageError
from lstm_jax.model.model import build_model
from lstm_jax.tasks.task import Decoding, Spec

QUICK = {"xla_backend_optimization_level": 0}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(p, c, h, x):
    """The six equations, in float64."""
    i, f, g, o = np.split(x @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"], 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def by_hand(params, inputs, steps, fed, truth=None):
    """Two layers read, two others decode, each step fed with output `fed` or with the truth."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = params["layer_0"]["forward"]["recurrent_kernel"].shape[0]
    zeros = np.zeros((inputs.shape[1], hidden))
    state = [(zeros, zeros), (zeros, zeros)]

    def through(name, x):
        for i in range(2):
            c, h = state[i]
            state[i] = lstm_step(params[f"{name}_{i}"]["forward"], c, h, x)
            x = state[i][1]
        return x

    past, later = inputs[:-steps], inputs[-steps:]
    for x in past:
        through("layer", x)
    said, outputs = past[-1][:, [2]], []
    for h, x in enumerate(later):
        said = said if truth is None else truth[h]
        y = through("decoder", np.concatenate([x, said], -1))
        outputs.append(y @ params["head"]["linear"]["kernel"] + params["head"]["linear"]["bias"])
        said = outputs[-1][:, [fed]]
    return np.stack(outputs)


@pytest.mark.slow
def test_a_decoder_is_its_equations():
    """Values against a loop in float64; in training it is fed the truth, asked it never is."""
    config = default_config("forecast")
    config.cell.hidden, config.model.layers, config.model.dropout = 4, 2, 0.0
    config.model.engine = "scan"
    spec = Spec(3, 2, decoding=Decoding(3, (1,), (2,), forced=1.0))
    config = resolve(config)
    model = build_model(config, spec)
    rng = np.random.default_rng(0)
    batch = {
        "inputs": jnp.asarray(rng.normal(size=(8, 5, 3)), jnp.float32),
        "targets": jnp.asarray(rng.normal(size=(3, 5, 1)), jnp.float32),
    }
    like = jax.eval_shape(model.init, jax.random.key(0), config.hyper)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2), like)

    def look(params):
        (asked, _), hyper = model.apply(params, config.hyper, batch), config.hyper
        taught, carry = model.apply(params, hyper, batch, None, jax.random.key(1))
        return asked[-1].sum(), (asked, taught, carry)

    graded = jax.jit(jax.grad(look, has_aux=True), compiler_options=QUICK)
    slopes, (asked, taught, carry) = graded(params)
    wanted = by_hand(params, np.asarray(batch["inputs"]), 3, 1)
    np.testing.assert_allclose(asked, wanted, atol=2e-6)
    wanted = by_hand(params, np.asarray(batch["inputs"]), 3, 1, np.asarray(batch["targets"]))
    np.testing.assert_allclose(taught, wanted, atol=2e-6)
    assert np.abs(asked - taught).max() > 1e-3 and len(carry) == 2
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))


def test_a_decoder_goes_on_in_one_direction():
    config = default_config("forecast")
    config.model.bidirectional = True
    with pytest.raises(UsageError, match=r"bidirectional=False or task.strategy=sequence"):
        build_model(resolve(config), Spec(3, 2, decoding=Decoding(3, (1,), (2,))))
