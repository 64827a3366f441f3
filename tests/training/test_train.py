"""The training program: resumes to the bit, traces once, packs, spreads over devices, stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.compute import memory
from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.errors import UsageError
from lstm_jax.training import train
from lstm_jax.training.journal import Journal
from lstm_jax.training.program import next_chunk
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.curves import learning_curves
from lstm_jax.workdir.metrics import read_metrics


def small(**changes: Any):
    """A config that trains in a blink; `changes` are dotted fields with __ for the dot."""
    config = default_config("adding")
    config.task.update({"length": 6, "eval_size": 10})
    config.cell.update({"hidden": 4, "kernel_init": "uniform", "recurrent_init": "uniform"})
    config.model.head_dropout = 0.1
    config.optimizer.update({"learning_rate": 0.01, "clip_norm": 1.0})
    config.train.update({"num_steps": 40, "batch_size": 4, "log_every": 5})
    config.train.update({"eval_every": 10, "checkpoint_every": 20})
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    return config


def ready(config):
    program = train.build_program(config)
    hyper = resolve(config).hyper
    return program, hyper, jax.jit(partial(train.init_state, program))(hyper)


def chunk_of(program, num_steps):
    return jax.jit(partial(train.run_chunk, program, num_steps=num_steps))


def equal(a, b):
    """Every leaf the same to the bit."""
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def curves(workdir):
    lines = read_metrics(workdir)
    return [{k: v for k, v in line.items() if k != "steps_per_second"} for line in lines]


def digests(workdir):
    return {info.step: info.digest for info in Checkpoints(workdir).steps()}


# ---------------------------------------------------------------- pure functions


@pytest.mark.slow
def test_a_chunk_is_its_steps():
    program, hyper, state = ready(small())
    whole, metrics = chunk_of(program, 6)(state, hyper, {})
    losses, step = [], chunk_of(program, 1)
    for _ in range(6):
        state, one = step(state, hyper, {})
        losses.append(one["loss"])
    assert int(whole.step) == int(state.step) == 6
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        whole.params,
        state.params,
    )
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


def test_one_trace_for_every_value(monkeypatch):
    program, hyper, state = ready(small(optimizer__weight_decay=0.1))
    traces = []
    loss = program.task.loss
    counted = program.task._replace(loss=lambda *args: (traces.append(1), loss(*args))[1])
    chunk: Any = chunk_of(program._replace(task=counted), 3)
    for scale in (1.0, 0.5, 0.25):
        state, _ = chunk(state, {k: (v * scale).astype(v.dtype) for k, v in hyper.items()}, {})
    first = len(traces)
    assert chunk._cache_size() == 1
    assert first <= 2  # scan looks twice at its body: for shapes, then for code


def packed(config, changes):
    """(program, stacked hyper, stacked states) of trials that differ in numbers."""
    program, hyper, _ = ready(config)
    hypers = {k: jnp.stack([jnp.asarray(v)] * len(changes)) for k, v in hyper.items()}
    for i, change in enumerate(changes):
        for name, value in change.items():
            hypers[name] = hypers[name].at[i].set(value)
    return program, hypers, jax.jit(jax.vmap(partial(train.init_state, program)))(hypers)


TRIALS = [
    {"seed": 1, "optimizer.learning_rate": 0.01},
    {"seed": 2, "optimizer.learning_rate": 0.02, "model.head_dropout": 0.3},
    {"seed": 3, "optimizer.clip_norm": 0.1},
]


@pytest.mark.slow
def test_trials_of_a_pack_equal_single_runs():
    program, hypers, states = packed(small(), TRIALS)
    step = partial(train.run_chunk, program, num_steps=200)
    states, metrics = jax.jit(jax.vmap(step, (0, 0, None)))(states, hypers, {})
    check = jax.jit(jax.vmap(partial(train.validate, program), (0, 0, None)))
    states, valid = check(states, hypers, {})

    @jax.jit
    def single(hyper):
        state, metrics = step(train.init_state(program, hyper), hyper, {})
        return metrics, train.validate(program, state, hyper, {})[1]

    for k in range(len(TRIALS)):
        alone, alone_valid = single(jax.tree.map(lambda leaf, k=k: leaf[k], hypers))
        np.testing.assert_allclose(metrics["loss"][k], alone["loss"], rtol=1e-4)
        np.testing.assert_allclose(valid["loss"][k], alone_valid["loss"], rtol=1e-4)
    assert len(np.unique(valid["loss"])) == 3


@pytest.mark.slow
def test_a_diverged_trial_freezes_alone():
    program, hypers, states = packed(small(optimizer__name="sgd"), TRIALS)
    run = jax.jit(jax.vmap(partial(train.run_chunk, program, num_steps=20), (0, 0, None)))
    calm, _ = run(states, hypers, {})
    rates = hypers["optimizer.learning_rate"]
    wild = hypers | {"optimizer.learning_rate": rates.at[1].set(jnp.inf)}
    mixed, metrics = run(states, wild, {})
    assert mixed.bad.tolist() == [False, True, False]
    assert mixed.step.tolist() == [20, 0, 20]
    equal(jax.tree.map(lambda x: x[1], mixed.params), jax.tree.map(lambda x: x[1], states.params))
    for k in (0, 2):
        equal(jax.tree.map(lambda x, k=k: x[k], mixed), jax.tree.map(lambda x, k=k: x[k], calm))
    assert np.isnan(metrics["loss"][1]) and np.isfinite(metrics["loss"][0])


@pytest.mark.slow
def test_divergence_keeps_the_last_good_state():
    program, hyper, state = ready(small(optimizer__clip_norm=0.0))
    loss, fresh = program.task.loss, program.task.batch

    def explodes(outputs, batch):
        scalar, means = loss(outputs, batch)
        bad = jnp.where(batch["when"] == 7, jnp.nan, 1.0)
        mean = means["loss"]._replace(total=means["loss"].total * bad)
        return scalar * bad, {"loss": mean}

    def batch(data, key, step):
        return {**fresh(data, key, step), "when": step}

    program = program._replace(task=program.task._replace(loss=explodes, batch=batch))
    good, _ = chunk_of(program, 7)(state, hyper, {})
    frozen, metrics = chunk_of(program, 20)(state, hyper, {})
    assert (int(frozen.step), bool(frozen.bad)) == (7, True)
    equal(frozen.params, good.params)
    equal(frozen.opt_state, good.opt_state)
    assert np.isfinite(metrics["loss"])


@pytest.mark.slow
def test_best_parameters_and_patience():
    program, hyper, state = ready(small(train__patience=2))
    seen = []
    for value in (3.0, 1.0, 2.0, 1.5, 0.5):
        state = state._replace(step=state.step + 1)
        state = train.update_best(program, state, {"loss": jnp.float32(value)})
        seen.append((float(state.best.value), int(state.best.step), bool(state.stopped)))
    assert seen == [(3, 1, False), (1, 2, False), (1, 2, False), (1, 2, True), (1, 2, True)]
    after, _ = chunk_of(program, 3)(state, hyper, {})
    equal(after.params, state.params)
    assert int(after.step) == 5


def test_a_metric_that_is_to_be_large():
    program, _, state = ready(small(train__best_metric="accuracy"))
    for step, value in enumerate((0.2, 0.9, float("nan"), 0.5), start=1):
        state = state._replace(step=jnp.int32(step))
        state = train.update_best(program, state, {"accuracy": jnp.float32(value)})
    assert (int(state.best.step), float(state.best.value)) == (2, np.float32(0.9))


def test_evaluation_counts_every_example_once():
    program, hyper, state = ready(small())
    other = train.build_program(small(train__batch_size=10))
    a, b = (
        jax.jit(partial(train.evaluate, p, split="valid"))(state.params, hyper, {})
        for p in (program, other)
    )
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "field, value",
    [
        ("optimizer__name", "sgd"),
        ("optimizer__schedule", "exponential"),
        ("optimizer__warmup_steps", 20),
        ("optimizer__weight_decay", 0.5),
        ("optimizer__clip_norm", 0.01),
        ("optimizer__learning_rate", 0.02),
        ("train__batch_size", 5),
    ],
)
def test_every_number_changes_the_result(field, value):
    results, usual = [], {"optimizer__decay_every": 5}
    for config in (small(**usual), small(**usual, **{field: value})):
        program, hyper, state = ready(config)
        state, _ = chunk_of(program, 20)(state, hyper, {})
        results.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)]))
    assert not np.allclose(*results, atol=1e-5)


# ---------------------------------------------------------------- runs on disk


def test_chunks_end_where_something_is_due():
    periods = {"train__eval_every": 7, "train__checkpoint_every": 12, "train__keep_every": 20}
    options = small(train__diagnose_every=33, **periods).train
    ends = [0]
    while ends[-1] < options.num_steps:
        ends.append(ends[-1] + next_chunk(options, ends[-1]))
    wanted = {n for every in (5, 7, 12, 20, 33) for n in range(every, 41, every)} | {0, 40}
    assert ends == sorted(wanted)


def odd(**changes: Any):
    """Periods without a common measure."""
    periods = {"train__eval_every": 7, "train__checkpoint_every": 12, "train__num_steps": 32}
    return small(**periods, train__keep_last=9, **changes)


@pytest.mark.slow
def test_periods_may_be_anything(tmp_path, monkeypatch):
    """The same training as with even ones; two programs are compiled."""
    compiled = []
    check = memory.check_run
    monkeypatch.setattr(memory, "check_run", lambda *args: (compiled.append(1), check(*args)))
    train.train(odd(), tmp_path / "odd")
    assert len(compiled) == 2
    assert set(digests(tmp_path / "odd")) == {12, 24, 32}
    lines = read_metrics(tmp_path / "odd")
    steps = {s: [ln["step"] for ln in lines if ln["split"] == s] for s in ("train", "valid")}
    assert steps["valid"] == [7, 14, 21, 28, 32]
    assert steps["train"] == [5, 7, 10, 12, 14, 15, 20, 21, 24, 25, 28, 30, 32]
    program, hyper, state = ready(odd())
    whole, metrics = chunk_of(program, 32)(state, hyper, {})
    target = jax.eval_shape(lambda: state)
    found = Checkpoints(tmp_path / "odd").restore(target)[1]
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    losses = [ln["loss"] for ln in lines if ln["split"] == "train"]
    np.testing.assert_allclose(
        np.dot(losses, np.diff([0, *steps["train"]])) / 32, metrics["loss"], rtol=1e-5
    )


@pytest.mark.slow
def test_odd_periods_resume_to_the_bit(tmp_path, monkeypatch):
    train.train(odd(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 21, kill)
        with pytest.raises(Killed):
            train.train(odd(), tmp_path / "killed")
    train.train(odd(), tmp_path / "killed")
    assert digests(tmp_path / "killed")[32] == digests(tmp_path / "whole")[32]
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_leaves_what_it_should(tmp_path, capsys):
    summary = train.train(small(), tmp_path)
    assert summary["status"] == "completed" and summary["step"] == 40
    on_disk = json.loads((tmp_path / "summary.json").read_text())
    assert set(on_disk["metrics"]) == {"train", "valid", "test"}
    assert on_disk["steps_per_second"] > 0 and on_disk["parameters"] == 4 * 4 * 7 + 5
    height, width = drawn.picture(tmp_path / "figures" / "learning_curves.png").shape[:2]
    assert height > 500 and width > 1.5 * height
    (curves,) = drawn.panels(learning_curves(tmp_path))
    assert curves["lines"]["training"][0].tolist() == list(range(5, 41, 5))
    assert curves["lines"]["validation"][0].tolist() == list(range(10, 41, 10))
    pairs = [(line["step"], line["split"]) for line in read_metrics(tmp_path)]
    wanted = [(s, "train") for s in range(5, 41, 5)] + [(s, "valid") for s in range(10, 41, 10)]
    assert sorted(pairs) == sorted([*wanted, (summary["best_step"], "test")])
    train_keys = {"gradient_norm", "update_norm", "parameter_norm", "learning_rate"}
    assert train_keys | {"loss", "steps_per_second"} <= set(read_metrics(tmp_path)[0])
    before = digests(tmp_path)
    assert set(before) == {20, 40}
    capsys.readouterr()
    assert train.train(small(), tmp_path)["step"] == 40
    assert "nothing to do" in capsys.readouterr().out
    assert digests(tmp_path) == before


def stop_at(monkeypatch, step, how):
    """Something happens right after the chunk that ends at `step`."""
    trained = Journal.trained

    def stopping(self, state, metrics):
        trained(self, state, metrics)
        if self.step == step:
            how()

    monkeypatch.setattr(Journal, "trained", stopping)


class Killed(BaseException):
    """What nobody catches, as kill -9 would be."""


def kill():
    raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small run, undisturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    train.train(small(), workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 15, 35])
def test_resume_equals_uninterrupted_to_the_bit(whole, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch:
        stop_at(patch, step, kill)
        with pytest.raises(Killed):
            train.train(small(), tmp_path / "killed")
    train.train(small(), tmp_path / "killed")
    assert digests(tmp_path / "killed")[40] == digests(whole)[40]
    assert curves(tmp_path / "killed") == curves(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_signals_save_and_leave(whole, tmp_path, monkeypatch, name):
    previous = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_at(patch, 15, lambda: os.kill(os.getpid(), getattr(signal, name)))
        summary = train.train(small(), tmp_path / "asked")
    assert (summary["status"], summary["step"]) == ("interrupted", 15)
    assert 15 in digests(tmp_path / "asked")
    assert signal.getsignal(signal.SIGTERM) is previous
    assert train.train(small(), tmp_path / "asked")["status"] == "completed"
    assert digests(tmp_path / "asked")[40] == digests(whole)[40]


@pytest.mark.slow
def test_divergence_says_what_to_try(tmp_path, capsys):
    config = small(optimizer__name="sgd", optimizer__learning_rate=1e30, optimizer__clip_norm=0.0)
    summary = train.train(config, tmp_path)
    assert summary["status"] == "diverged"
    said = capsys.readouterr().out
    assert f"step {summary['step'] + 1} was not finite: learning broke what had worked" in said
    assert summary["reason"].startswith("learning broke")
    assert "--config.optimizer.learning_rate=3.33e+29" in said
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "diverged"


@pytest.mark.slow
def test_early_stopping_ends_the_run(tmp_path):
    config = small(train__patience=1, train__num_steps=400, optimizer__learning_rate=0.3)
    summary = train.train(config, tmp_path)
    assert summary["status"] == "completed"
    assert summary["best_step"] < summary["step"] < 400


def test_a_defect_leaves_the_status_failed(tmp_path, monkeypatch):
    def burst():
        raise RuntimeError("no")

    stop_at(monkeypatch, 10, burst)
    with pytest.raises(RuntimeError):
        train.train(small(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", "RuntimeError: no")


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 24])
def test_a_batch_larger_than_the_data(size):
    """It holds examples more than once, each as often as the others over the epochs."""
    from lstm_jax.tasks.task import shuffled

    config = default_config("random_data")
    config.task.update({"length": 5, "examples": 7})
    config.cell.hidden = 4
    config.train.update({"batch_size": size, "num_steps": 2})
    program, hyper, state = ready(config)
    seen = [shuffled(jax.random.key(0), step, 7, size) for step in range(7)]
    assert np.bincount(np.concatenate(seen), minlength=7).tolist() == [size] * 7
    state, metrics = chunk_of(program, 2)(state, hyper, program.task.data)
    assert int(state.step) == 2 and np.isfinite(metrics["loss"])


@pytest.mark.slow
def test_no_evaluation_that_is_finite(tmp_path, monkeypatch, capsys):
    """Early stopping with nothing to keep but step 0: the run says so."""
    evaluate = train.evaluate

    def broken(*args, **words):
        return {"loss": evaluate(*args, **words)["loss"] * jnp.nan}

    monkeypatch.setattr(train, "evaluate", broken)
    summary = train.train(small(train__patience=1), tmp_path)
    assert (summary["status"], summary["step"], summary["best_step"]) == ("completed", 10, 0)
    assert "no evaluation had a finite loss" in capsys.readouterr().out
    assert set(digests(tmp_path)) == {10}


# ---------------------------------------------------------------- devices

SPREAD = """
import json, sys
sys.path[:0] = sys.argv[1:]
import test_train as here
from functools import partial
import jax
from lstm_jax.training import train
found = {}
for mode, devices in (("jit", 1), ("jit", 2), ("shard_map", 2)):
    config = here.small(parallel__mode=mode, parallel__data=devices, model__input_noise=0.1,
                        task__length=200)  # long enough for loops over time to stay loops
    program, hyper, state = here.ready(config)
    place = lambda tree: jax.device_put(tree, program.whole)
    chunk = here.chunk_of(program, 20).lower(place(state), place(hyper), {}).compile()
    state, metrics = chunk(place(state), place(hyper), {})
    valid = jax.jit(partial(train.validate, program))(state, hyper, {})[1]
    sums = [line for line in chunk.as_text().splitlines() if " all-reduce(" in line]
    loops = [line.split("op_name=")[-1].count("while/body") for line in sums]
    found[f"{mode} {devices}"] = [float(metrics["loss"]), float(metrics["gradient_norm"]),
                                  float(valid["loss"]), loops]
print(json.dumps(found))
"""


@pytest.mark.parallel
def test_one_and_two_devices_and_both_modes_agree():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SPREAD, *map(str, Path(__file__).parents[:2])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("jit 2", "shard_map 2"):
        np.testing.assert_allclose(found[name][:3], found["jit 1"][:3], rtol=1e-5)
        assert set(found[name][3]) == {1}, "sums over devices: once a step, not once a time step"
        assert len(found[name][3]) <= 2
    assert found["jit 1"][3] == []


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"parallel__mode": "pmapp"}, "did you mean 'pmap'"),
        ({"parallel__data": 99}, "parallel.data=99, but there are"),
        ({"parallel__data": 6}, "batch_size=4 cannot be shared by 6 devices; nearest .*: 6"),
    ],
)
def test_devices_that_cannot_share_a_batch_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        train.build_program(small(**changes))
