"""One batch over several devices: the same numbers, the sums where they belong, and refusals."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax import plugins
from lstm_jax.cells import CELLS
from lstm_jax.compute import sharding
from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.engines.native import build
from lstm_jax.errors import UsageError
from lstm_jax.sweep.pack.program import trial_mesh
from lstm_jax.tasks.synthetic import adding
from lstm_jax.training import begin, saved, train
from lstm_jax.training.program import build_program
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.manifest import write_config
from lstm_jax.workdir.metrics import read_metrics


def small(task: str = "adding", **changes: Any):
    """A config that trains in a blink; `changes` are dotted fields with __ for the dot."""
    config = default_config(task)
    if task == "adding":
        config.task.update({"length": 12, "eval_size": 20})
    config.cell.update({"hidden": 4, "kernel_init": "uniform", "recurrent_init": "uniform"})
    config.model.update({"input_noise": 0.1, "head_dropout": 0.1})
    config.optimizer.update({"learning_rate": 0.01, "clip_norm": 1.0})
    config.train.update({"num_steps": 20, "batch_size": 8, "log_every": 5})
    config.train.update({"eval_every": 10, "checkpoint_every": 10})
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    return config


def ready(config: Any) -> tuple:
    """(program, state, hyper, data), placed as `train` places them."""
    program, hyper = build_program(config), resolve(config).hyper
    state = jax.jit(partial(train.init_state, program))(hyper)
    return program, *sharding.place((state, hyper, program.task.data), program.whole)


def gradient_of(config: Any) -> tuple:
    """(gradient, means of a batch, carry) of the first step."""
    program, *rest = ready(config)
    return jax.jit(partial(train.gradients, program))(*rest)


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    compare = partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, jax.device_get(a), jax.device_get(b))


WAYS = [
    {"parallel__data": 8},
    {"train__accumulate": 4},
    {"parallel__data": 2, "train__accumulate": 2, "parallel__mode": "shard_map"},
    {"parallel__data": 3},  # of a ninth example, nothing counts
    {"parallel__data": 3, "train__accumulate": 2, "parallel__mode": "shard_map"},  # of four
]


@pytest.fixture(scope="module")
def alone():
    """The gradient by one device, of sequences of all lengths, with noise and zoneout."""
    return gradient_of(small("counting", cell__zoneout_h=0.2))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_a_batch_gives_the_same_gradient_however_it_is_shared(alone, way):
    """Tokens are weighed over the whole batch; noise is that of the example."""
    close(alone, gradient_of(small("counting", cell__zoneout_h=0.2, **way)))


@pytest.mark.slow
def test_an_evaluation_batch_that_is_uneven_is_shared_all_the_same(alone):
    """Filled up with weight 0: the metrics of one device, and each of three does its share."""

    def evaluated(**changes):
        program, state, hyper, data = ready(small("counting", cell__zoneout_h=0.2, **changes))
        run = jax.jit(partial(train.evaluate, program, split="valid"))
        return run(state.params, hyper, data), run.lower(state.params, hyper, data).as_text()

    one, _ = evaluated()
    three, text = evaluated(parallel__data=3, parallel__mode="shard_map", train__batch_size=9)
    close(one, three)
    assert "shard_map" in text or "manual_computation" in text


def ready_made(batch: dict) -> Any:
    """A sum over examples, and a carry of their own."""

    def sums(params, hyper, batch, carry, key):
        return (batch["weights"] * batch["inputs"][0]).sum(), carry + 1

    return sums, (1.0, (), batch, np.arange(5.0, dtype=np.float32), ())


def test_a_loss_without_weights_leaves_the_batch_whole_and_says_so(capsys):
    """What would count must not be added."""
    plugins.forget()
    mesh, weights = sharding.make_mesh(jax.devices()[:2], 4), np.ones(5, np.float32)
    inputs = np.arange(10, dtype=np.float32).reshape(2, 5)
    sums, given = ready_made({"inputs": inputs, "weights": weights})
    for weighs in (True, False):
        run = sharding.data_parallel(sums, sharding.Sharing(mesh, "jit", "last", weighs))
        close(jax.jit(run)(*given), (10.0, np.arange(1, 6)))
        said = capsys.readouterr().err
        assert ("a batch of 5: 2 parts cannot share it evenly" in said) != weighs
        assert ("sizes that can be shared: 4, 6" in said) != weighs


@pytest.mark.slow
@pytest.mark.parametrize("every", [-1, 5])
def test_remat_changes_memory_alone(every):
    close(gradient_of(small()), gradient_of(small(parallel__remat=every)))


@pytest.mark.slow
def test_remat_keeps_less():
    """Of 4096 steps, what the backward pass needs."""

    def needed(**changes):
        program, *rest = ready(small(task__length=4096, cell__hidden=16, **changes))
        step: Any = jax.jit(partial(train.gradients, program)).lower(*rest).compile()
        return step.memory_analysis().temp_size_in_bytes

    assert needed(parallel__remat=-1) < 0.5 * needed()


def all_reduces(text: str) -> list[int]:
    """Of a compiled program's sums over devices, how many loops each of them is in."""
    found = [line for line in text.splitlines() if " all-reduce(" in line]
    return [line.split("op_name=")[-1].count("while/body") for line in found]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_sums_over_devices_are_taken_once_a_step(mode):
    """Long enough for the loop over time to stay a loop, with turns inside of each share."""
    config = small(parallel__data=4, parallel__mode=mode, train__accumulate=2, task__length=200)
    program, state, hyper, data = ready(config)
    chunk = jax.jit(partial(train.run_chunk, program, num_steps=5))
    text = str(chunk.lower(state, hyper, data).compile().as_text())
    loops = all_reduces(text)
    assert set(loops) == {1} and len(loops) <= 2
    others = ("all-gather(", "all-to-all(", "collective-permute(", "reduce-scatter(")
    assert not [line for line in text.splitlines() if any(f" {name}" in line for name in others)]


def test_pmap_is_shard_map_and_the_table_says_so():
    def of(mode: str) -> tuple:
        config = small(parallel__data=2, parallel__mode=mode)
        program, *rest = ready(config)
        traced = str(jax.make_jaxpr(partial(train.gradients, program))(*rest))
        return re.sub("0x[0-9a-f]+", "", traced), sharding.table(config)

    (pmap, alias), (shard_map, table) = of("pmap"), of("shard_map")
    assert pmap == shard_map and "shard_map" in shard_map
    assert "data=2, shard_map (pmap)" in alias and "pmap" not in table


def test_another_placement_is_the_same_run(tmp_path):
    write_config(tmp_path, small())
    moved = resolve(small(parallel__data=2, parallel__remat=-1, train__accumulate=2))
    begin.check_same(moved, tmp_path)
    assert moved.hash == resolve(small()).hash
    with pytest.raises(UsageError, match="train.batch_size: 8 there, 16 here"):
        begin.check_same(resolve(small(train__batch_size=16)), tmp_path)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"parallel__data": 2, "train__accumulate": 8}, "2 devices 8 times .* that can: 16 "),
        ({"train__accumulate": 3}, "nearest sizes that can: 6, 9 .*accumulate=1"),
        ({"parallel__data": 99}, "parallel.data=99, but there are 8 devices"),
        ({"parallel__remat": 5, "model__engine": "scan"}, "model.engine is 'scan'"),
    ],
)
def test_placements_that_cannot_be_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        build_program(small(**changes))


def test_a_batch_that_cannot_be_shared_evenly(monkeypatch):
    """It is filled up, and the table says so; not where a loss would count what is added."""
    program = build_program(small(parallel__data=3))
    said = "8 + 1 of weight 0 = 3 devices x 3; none are added to 6, 9"
    assert program.weighs and said in sharding.table(program.config)
    careless = adding.loss

    def loss(outputs, batch):
        return careless(outputs, {"targets": batch["targets"], "inputs": batch["inputs"]})

    monkeypatch.setattr(adding, "loss", loss)
    with pytest.raises(UsageError, match="cannot be shared by 3 devices; nearest .* can: 6, 9"):
        build_program(small(parallel__data=3))


@pytest.mark.parametrize(
    "changes, count, why",
    [
        ({}, 8, "all there are"),
        ({"train__batch_size": 12}, 6, "the most that share a batch of 12 evenly"),
        ({"train__batch_size": 24, "train__accumulate": 2}, 6, "a batch of 24 evenly"),
        ({"train__batch_size": 4}, 2, "a share below 2 examples would not pay"),
        ({"cell__hidden": 4}, 1, "examples would not pay"),
        ({"parallel__data": 2, "cell__hidden": 4}, 2, "parallel.data=2"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_left_open_the_devices_that_gain_are_chosen(changes, count, why, monkeypatch):
    """The program's config and the table say how many, and why; the given config stays open."""
    monkeypatch.setenv("LSTM_JAX_NATIVE", "0")
    monkeypatch.setattr(sharding, "cores", lambda: 8)
    sizes = {"task__length": 400, "cell__hidden": 64, "train__batch_size": 32}
    config = small(**sizes | changes)
    program = build_program(config)
    assert (program.mesh.size if program.mesh else 1) == program.config.parallel.data == count
    assert config.parallel.data == changes.get("parallel__data", 0)
    table = sharding.table(program.config, program.why)
    assert f"{count} of 8: " in table and why in table
    rows = [line.split()[0] for line in table.splitlines()]
    assert ("mesh" in rows, "sharded" in rows) == (count > 1, count > 1)
    assert "none" not in table and "nothing" not in table


@pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "it compiles")
def test_one_call_has_one_device():
    """Compiled code uses every core by itself; where devices are asked for, they are there."""
    assert build_program(small()).why == "engine native, which uses every core by itself"
    assert build_program(small(parallel__data=2)).mesh.size == 2


def test_simulated_devices_are_for_who_asks(monkeypatch):
    monkeypatch.setenv("LSTM_JAX_NATIVE", "0")
    monkeypatch.setattr(sharding, "cores", lambda: 2)
    config = small(task__length=100, cell__hidden=64, train__batch_size=32)
    program = build_program(config)
    assert (program.config.parallel.data, program.why) == (2, "one a core")


def test_devices_that_share_the_trials_of_a_pack():
    assert [trial_mesh(6, wanted).size for wanted in (-1, 2, 8)] == [6, 2, 6]
    with pytest.raises(UsageError, match="parallel.trials=9, but there are 8 devices"):
        trial_mesh(6, 9)


# ---------------------------------------------------------------- minutes long


@pytest.mark.parallel
@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_curves_over_200_steps(mode):
    """1, 2 and 8 devices, and two turns each: the loss curve to 1e-5 relative."""

    def curve(**changes):
        config = small("counting", train__batch_size=16, **changes)
        program, state, hyper, data = ready(config)
        chunk = jax.jit(partial(train.run_chunk, program, num_steps=20))
        found = []
        for _ in range(10):
            state, metrics = chunk(state, hyper, data)
            found.append(metrics["loss"])
        valid = jax.jit(partial(train.evaluate, program, split="valid"))
        return [*map(float, found), float(valid(state.params, hyper, data)["loss"])]

    alone = curve()
    ways = ({"parallel__data": 2}, {"parallel__data": 8})
    for way in (*ways, {"parallel__data": 2, "train__accumulate": 2}):
        np.testing.assert_allclose(curve(parallel__mode=mode, **way), alone, rtol=1e-5)


@pytest.mark.parallel
@pytest.mark.parametrize("mode", ["jit", "shard_map"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_takes_a_step_on_eight_devices(cell, mode):
    """Variable lengths and dropout; the LSTM's between two layers."""
    changes = {"cell__name": cell, "cell__recurrent_init": "per_gate"}
    changes |= {"model__layers": 1 + (cell == "lstm"), "model__dropout": 0.1}
    alone = gradient_of(small("counting", **changes))
    shared = gradient_of(small("counting", **changes, parallel__data=8, parallel__mode=mode))
    close(alone, shared, rtol=1e-4, atol=1e-6)


@pytest.mark.parallel
def test_goes_on_with_other_devices(tmp_path, capsys):
    """1 -> 4 -> 2 devices, shard_map in between, and the curve of a run that was left alone."""
    turns = [(1, "jit"), (4, "shard_map"), (2, "jit")]
    for steps, (devices, mode) in zip((10, 20, 30), turns, strict=True):
        config = small(parallel__data=devices, parallel__mode=mode)
        begin.check_same(resolve(config), tmp_path / "moved")
        config.train.num_steps = steps
        train.train(config, tmp_path / "moved")
        (tmp_path / "moved" / "config.json").unlink()
    whole = small()
    whole.train.num_steps = 30
    train.train(whole, tmp_path / "alone")
    said = capsys.readouterr().out
    assert "going on from step 10" in said and "going on from step 20" in said
    assert "data=4, shard_map" in said and "8 = 4 devices x 2" in said
    curves = [
        [line["loss"] for line in read_metrics(tmp_path / name) if line["split"] == "train"]
        for name in ("moved", "alone")
    ]
    np.testing.assert_allclose(*curves, rtol=1e-5)


@pytest.mark.parallel
def test_a_resumed_run_on_as_many_devices_is_the_same_to_the_bit(tmp_path, monkeypatch):
    """And the number that was chosen is kept where the run can be reproduced from."""
    monkeypatch.setenv("LSTM_JAX_NATIVE", "0")  # which would take one
    monkeypatch.setattr(sharding, "cores", lambda: 2)
    sizes: Any = {"task__length": 50, "cell__hidden": 64, "train__batch_size": 24}

    def digests(name: str, *ends: int) -> dict:
        for end in ends:
            (tmp_path / name / "config.json").unlink(missing_ok=True)
            train.train(small(**sizes, train__num_steps=end), tmp_path / name)
        return {info.step: info.digest for info in Checkpoints(tmp_path / name).steps()}

    assert digests("whole", 20) == digests("halves", 10, 20)
    assert saved.saved_config(tmp_path / "whole").parallel.data == 2
