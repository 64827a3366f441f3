"""What a run that diverged is told: where it overflows first, and only what helps."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.training import advice, train
from lstm_jax.training.program import build_program, stream

STEPS = 30


def ready(scale: float = 1.0, **changes: Any):
    """(program, state, hyper), recurrent kernels times `scale`; `changes` with __ for the dot."""
    config = default_config("adding")
    config.task.update({"length": STEPS, "eval_size": 8})
    config.cell.update({"hidden": 4, "kernel_init": "uniform", "recurrent_init": "uniform"})
    config.train.update({"batch_size": 4, "num_steps": 40})
    config.parallel.data = 1
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    program, hyper = build_program(config), resolve(config).hyper
    state = jax.jit(partial(train.init_state, program))(hyper)

    def larger(path, leaf):
        return leaf * scale if "recurrent" in jax.tree_util.keystr(path) else leaf

    params = jax.tree_util.tree_map_with_path(larger, state.params)
    return program, state._replace(params=params), hyper


def explained(program, state, hyper):
    return advice.explain(program, train.gradients, state, hyper, program.task.data)


RELU = {"cell__gate_activation": "relu", "cell__output_activation": "identity"}


def first_overflow(params, xs):
    """The first time step at which an LSTM with ReLU gates and no output squash overflows."""
    c = h = np.zeros((xs.shape[1], 4), np.float32)
    with np.errstate(all="ignore"):
        for t, x in enumerate(xs):
            u = x @ params["kernel"] + h @ params["recurrent_kernel"] + params["bias"]
            i, f, g, o = np.split(u, 4, axis=-1)
            i, f, o = (np.maximum(gate, 0) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * c
            if not (np.isfinite(c).all() and np.isfinite(h).all()):
                return t
    raise AssertionError("it stays finite")


@pytest.mark.slow
def test_an_overflow_at_the_start_is_told_from_learning():
    program, state, hyper = ready(30.0, **RELU)
    batch = program.task.batch({}, stream(hyper, "data"), jnp.int32(0))
    params = jax.device_get(state.params["layer_0"]["forward"])
    step = first_overflow(params, np.asarray(batch["inputs"]))
    reason, lines = explained(program, state, hyper)
    assert "nothing had been learned yet" in reason
    assert f"of layer_0 overflows at time step {step + 1} of {STEPS}" in reason
    assert any("cell.gate_activation=relu1" in line for line in lines)
    assert not any("learning_rate" in line or "clip_norm" in line for line in lines)


@pytest.mark.slow
def test_a_bound_that_does_not_help_is_not_suggested():
    """With c clipped, h = o c still grows without end."""
    program, state, hyper = ready(30.0, **RELU)
    assert "cell_clip" in [field for field, _, _ in advice.bounds(program.config)]
    assert not any("cell_clip" in line for line in explained(program, state, hyper).lines)


@pytest.mark.slow
def test_the_second_layer_and_the_way_back_are_named():
    program, state, hyper = ready(1.0, **RELU, model__layers=2, model__bidirectional=True)
    small = jax.tree.map(lambda leaf: 0.1 * leaf, state.params)
    layer = small["layer_1"]
    wild = {"recurrent_kernel": 1e3, "bias": 1.0}
    backward = {n: leaf.at[:].set(wild.get(n, 0.0)) for n, leaf in layer["backward"].items()}
    params = small | {"layer_1": layer | {"backward": backward}}
    batch = program.task.batch({}, stream(hyper, "data"), jnp.int32(0))
    where = advice.overflow(program, state._replace(params=params), hyper, batch)
    assert "of layer_1 backward overflows at time step" in where
    step = int(where.split("time step ")[1].split()[0])
    assert step > STEPS / 2, "it runs from the end"


def test_learning_that_broke_is_told_so():
    program, state, hyper = ready()
    learned = state._replace(step=jnp.int32(17))
    reason, lines = explained(program, learned, hyper)
    assert reason == "learning broke what had worked"
    assert lines[0].startswith("--config.optimizer.learning_rate=0.000333 ")


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("clip_norm", 1.0, "clip_norm"),
        ("warmup_steps", 5, "warmup_steps"),
        ("on_nan", "rollback", "on_nan"),
    ],
)
def test_what_is_set_is_not_suggested(field, value, word):
    config = default_config("adding")
    assert any(word in line for line in advice.of_learning(config))
    section = config.train if field == "on_nan" else config.optimizer
    section[field] = value
    assert not any(word in line for line in advice.of_learning(config))


@pytest.mark.parametrize(
    ("fields", "suggested"),
    [
        ({}, ["cell_clip"]),
        ({"cell_clip": 1.0}, []),
        ({"forget_gate_activation": "relu"}, ["forget_gate_activation", "cell_clip"]),
        ({"gate_activation": "relu1"}, ["cell_clip"]),
        ({"gates": "niaf"}, ["candidate_activation", "cell_clip"]),
        ({"gates": "noaf"}, ["output_activation", "cell_clip"]),
    ],
)
def test_bounds_are_those_that_are_missing(fields, suggested):
    config = default_config("adding")
    config.cell.update(fields)
    assert [field for field, _, _ in advice.bounds(config)] == suggested


def test_spoilt_data_are_named():
    program, state, hyper = ready()
    batch = program.task.batch

    def spoilt(data, key, step):
        found = batch(data, key, step)
        return found | {"targets": found["targets"].at[0].set(jnp.nan)}

    program = program._replace(task=program.task._replace(batch=spoilt))
    reason, lines = explained(program, state, hyper)
    assert "'targets'" in reason and "on_nan=skip" in lines[0]


@pytest.mark.slow
def test_the_run_says_it(tmp_path, capsys):
    """ReLU gates, and a forget gate that starts enormous."""
    program, _, _ = ready(1.0, **RELU, cell__forget_bias=1e30)
    summary = train.train(program.config, tmp_path)
    out = capsys.readouterr().out
    assert summary["status"] == "diverged" and "nothing had been learned" in summary["reason"]
    assert "step 1 was not finite: nothing had been learned yet" in out
    assert "learning_rate=" not in out
