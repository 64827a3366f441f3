"""Diagnoses against closed forms, and where they are written."""

import json

import drawn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from sweeps import planned

from lstm_jax import cli
from lstm_jax.cells import CELLS, lstm, rnn
from lstm_jax.cells.gates import Constant, GateTable, Learned
from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.diagnostics import figures, observe
from lstm_jax.diagnostics.observe import by_distance, explodes, flow, lyapunov, relative, vanishes
from lstm_jax.sweep.workers.worker import work
from lstm_jax.training.check import load_config
from lstm_jax.training.program import build_program
from lstm_jax.training.train import init_state
from lstm_jax.workdir.checkpoint import Checkpoints

T, B, H = 40, 3, 5


def linear_rnn(spectrum, key=0):
    """h_t = h_{t-1} R with these eigenvalues of the symmetric R, and no input."""
    cell = rnn(len(spectrum), activation="identity")
    params = cell.init(jax.random.key(key), 2)
    basis, _ = np.linalg.qr(np.random.default_rng(key).standard_normal([len(spectrum)] * 2))
    matrix = basis @ np.diag(spectrum) @ basis.T
    params["recurrent_kernel"] = jnp.asarray(matrix, jnp.float32)
    return cell, params, matrix


def constant_lstm(forget):
    """c' = f c + i g with every gate but the candidate constant, and no recurrence."""
    table = GateTable(
        i=Constant(0.5), f=Constant(forget), g=Learned("tanh", False), o=Constant(1.0),
        output="identity",
    )  # fmt: skip
    cell = lstm(H, gates=table)
    return cell, cell.init(jax.random.key(1), 2)


@pytest.fixture(scope="module")
def xs():
    return jnp.asarray(np.random.default_rng(0).standard_normal((T, B, 2)), jnp.float32)


def test_flow_of_a_linear_rnn(xs):
    """dL/dh_{T-k} = v (R^T)^k."""
    cell, params, matrix = linear_rnn([0.9, 0.5, 0.3, 0.1])
    v = np.random.default_rng(1).standard_normal((B, 4))
    found = np.asarray(flow(cell, params, xs, jnp.asarray(v, jnp.float32))["h"])
    for k in (0, 1, 7, 30):
        expected = np.linalg.norm(v @ np.linalg.matrix_power(matrix.T, k), axis=-1)
        np.testing.assert_allclose(found[T - 1 - k], expected, rtol=2e-3)


@pytest.mark.parametrize("forget", [0.0, 0.5, 0.9, 1.0])
def test_flow_through_constant_gates(xs, forget):
    """dL/dc_{T-k} = f^k v, felt for 1 / (1 - f) steps."""
    cell, params = constant_lstm(forget)
    v = jnp.ones((B, H))
    norms = flow(cell, params, xs, v)
    heat = by_distance(np.asarray(norms["carry"]), np.full(B, T - 1), np.ones((T, B), bool))
    curve = relative(heat)
    assert np.isnan(curve[0])
    if forget == 0.0:
        assert not curve[1:].any()
    else:
        np.testing.assert_allclose(curve[1:], forget ** np.arange(T - 1), rtol=1e-4)
    expected = min(1 / (1 - forget), T - 1) if forget not in (0.0, 1.0) else forget * (T - 1)
    assert np.nansum(curve) == pytest.approx(expected, rel=0.02)


def test_lyapunov_of_a_linear_rnn(xs):
    """log of the largest eigenvalue by size, whichever its sign."""
    many = jnp.tile(xs, (10, 1, 1))
    for spectrum in ([0.9, 0.5, 0.3], [-1.1, 0.6, 0.2]):
        cell, params, _ = linear_rnn(spectrum)
        found = lyapunov(cell, params, many, jnp.ones(many.shape[:2], bool), skip=100)
        np.testing.assert_allclose(found, np.log(np.max(np.abs(spectrum))), atol=1e-3)


def test_lyapunov_counts_only_steps_that_count(xs):
    cell, params, _ = linear_rnn([0.9, 0.5])
    valid = jnp.arange(T)[:, None] < jnp.array([T, T // 2, 0])
    found = np.asarray(lyapunov(cell, params, xs, valid))
    alone = lyapunov(cell, params, xs[: T // 2], jnp.ones((T // 2, B), bool))
    assert found[1] == pytest.approx(float(alone[1]), abs=1e-5)
    assert found[2] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_step_jacobians(xs, name):
    """Against finite differences of the step; the linear RNN's are its matrix."""
    cell = CELLS[name](3)
    params = cell.init(jax.random.key(2), 2)
    carry = jax.tree.map(
        lambda x: 0.1 * jnp.arange(x.size).reshape(x.shape).astype(x.dtype),
        cell.initial_carry(params, (2,)),
    )
    found = np.asarray(observe.step_jacobians(cell, params, carry, xs[3, :2]))
    step = observe.stepper(cell, params)
    z = cell.project(params, xs[3:4, 1:2])
    row = jax.tree.map(lambda c: c[1:], carry)
    flat, restore = jax.flatten_util.ravel_pytree(row)

    def advance(flat):
        return jax.flatten_util.ravel_pytree(step(restore(flat), z[0]))[0]

    for j in range(flat.size):
        nudge = jnp.zeros_like(flat).at[j].set(1e-2)
        slope = (advance(flat + nudge) - advance(flat - nudge)) / 2e-2
        np.testing.assert_allclose(found[1, :, j], slope, atol=2e-4)


def test_singular_values_of_a_known_spectrum(xs):
    cell, params, _ = linear_rnn([0.9, -0.5, 0.3])
    carry = cell.initial_carry(params, (2,))
    jacobians = observe.step_jacobians(cell, params, carry, xs[0, :2])
    found = observe.singular_values(np.asarray(jacobians))
    np.testing.assert_allclose(found, [[0.9, 0.5, 0.3]] * 2, rtol=1e-5)


def test_the_words_of_a_curve():
    curve = np.array([np.nan, 1.0, 1e-2, 1e-4, 2e-3, 1e-5, 1e-7])
    assert vanishes(curve, 1e-3) == 5
    assert vanishes(curve, 1e-6) == 6
    assert np.isnan(vanishes(curve, 1e-9))
    assert not explodes(curve)
    assert explodes(np.array([np.nan, 1.0, 1e4]))
    assert explodes(np.array([np.nan, 1.0, np.inf]))


# ---------------------------------------------------------------- whole models


def observed(task, **changes):
    config = default_config(task)
    config.update_from_flattened_dict({"cell.hidden": 4, "train.batch_size": 4} | changes)
    program = build_program(config)
    hyper = resolve(config).hyper
    params = init_state(program, hyper).params
    return observe.observer(program)(params, hyper, program.task.data)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.layers": 2},
        {"cell.name": "gru", "model.bidirectional": True},
        pytest.param({"cell.name": "slstm"}, marks=pytest.mark.slow),
        pytest.param(
            {"cell.zoneout_c": 0.2, "cell.zoneout_h": 0.1, "cell.learned_carry": True},
            marks=pytest.mark.slow,
        ),
        pytest.param({"cell.name": "mingru", "model.encoder": "conv"}, marks=pytest.mark.slow),
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_every_kind_of_model_is_observed(changes):
    """adding reads out the last step, so the whole length is felt."""
    found = observed("adding", **{"task.length": 12, "task.eval_size": 4, **changes})
    for layer in [f"layer_{i}" for i in range(changes.get("model.layers", 1))]:
        assert len(found[f"{layer}/flow/carry"]) == 12
        assert np.isfinite(found[f"{layer}/flow/carry"][1:]).all()
        assert found[f"{layer}/lyapunov"].shape == (4,)
    told = observe.summarise(found)
    assert told["layer_0/explodes"] == 0
    assert np.isfinite(told["layer_0/memory_length"])


def test_resets_end_the_reach():
    """Packed pieces: nothing is felt beyond the piece's own first step."""
    counts = jnp.ones((6, 1), bool)
    resets = jnp.zeros((6, 1), bool).at[jnp.array([0, 3])].set(True)
    valid = observe.Valid(resets=resets)
    reach = observe._reach(valid, counts, jnp.array([4]))
    assert reach[:, 0].tolist() == [False, False, False, True, True, False]


@pytest.mark.slow
def test_a_run_and_the_verb_leave_a_diagnosis(tmp_path, capsys):
    """Scalars, arrays and figures while training; the verb finds the same at the same step."""
    from lstm_jax.training.train import train

    changes = {"train.diagnose_every": 10, "train.num_steps": 20, "model.input_noise": 0.0}
    config = load_config("configs/airline.py:smoke", changes)
    train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "diagnostics"]
    assert steps == [10, 20]
    assert drawn.picture(tmp_path / "figures" / "diagnostics_layer_0.png").shape[0] > 500
    path = tmp_path / "diagnostics" / "step_00000020.npz"
    before = dict(np.load(path))
    path.unlink()
    assert cli.main(["diagnose", f"--workdir={tmp_path}"]) == 0
    assert "layer_0/memory_length" in capsys.readouterr().out
    best = json.loads((tmp_path / "summary.json").read_text())["best_step"]
    if best == 20:
        after = dict(np.load(path))
        np.testing.assert_allclose(after["layer_0/flow/c"], before["layer_0/flow/c"], rtol=1e-5)
    again = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in again][: len(lines)] == lines


def test_a_layer_is_drawn_in_six_panels():
    """With the numbers of the diagnosis, words for what they are, and both floors."""
    found = observed("adding", **{"task.length": 12, "task.eval_size": 4})
    own = {n.removeprefix("layer_0/"): v for n, v in found.items()}
    ((name, figure),) = figures.draw(found).items()
    assert name == "layer_0"
    flow, heat, gates, scales, growth, singular, bar = drawn.panels(figure)
    assert flow["legend"] == ["carry", "c", "h"] and flow["scales"][1] == "log"
    np.testing.assert_array_equal(flow["lines"]["c"][1], own["flow/c"])
    assert heat["images"][0].shape == (4, 12) and bar["labels"][1] == "log10 norm"
    assert gates["legend"] == ["f", "i", "o"]  # g, the candidate, is no gate
    np.testing.assert_array_equal(gates["lines"]["f"][1], own["mean/f"])
    assert sum(scales["bars"]) == np.isfinite(own["timescale"]).sum()
    np.testing.assert_array_equal(growth["lines"]["largest"][1], own["growth/max"])
    assert growth["legend"] == ["mean", "largest"]
    said = f"{np.mean(own['lyapunov']):.3g} nats/step"
    assert singular["title"].endswith(said)


def test_mistakes(capsys):
    assert cli.main(["diagnose"]) == 2
    assert cli.main(["diagnose", "--workdir=configs"]) == 2
    assert "no config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_is_diagnosed_for_its_report(tmp_path, capsys):
    """Trials say the same as alone; the verb looks at every seed, at the start and at the end."""
    from lstm_jax.report import build_report

    trials = '    yield from grid({"cell.gates": ("lstm",), "seed": range(2)})'
    config = "config.train.diagnose_every = 40"
    plan = planned(tmp_path / "s", tmp_path / "w", trials=trials, config=config)
    assert work(tmp_path / "w") == 0
    folder = tmp_path / "w" / "trials" / "0001"
    path = folder / "diagnostics" / "step_00000040.npz"
    found = dict(np.load(path))
    assert not (folder / "figures").exists()
    program = build_program(plan.config(1))
    state = Checkpoints(folder).restore(
        jax.eval_shape(lambda h: init_state(program, h), resolve(plan.config(1)).hyper)
    )
    assert state is not None
    look = observe.observer(program)
    alone = look(state[1].params, resolve(plan.config(1)).hyper, program.task.data)
    np.testing.assert_allclose(found["layer_0/flow/c"], alone["layer_0/flow/c"], rtol=1e-3)
    assert cli.main(["diagnose", f"--workdir={tmp_path / 'w'}"]) == 0
    said = capsys.readouterr().out
    assert "0000/diagnostics" in said and "0001/diagnostics" in said
    folder.joinpath("diagnostics", "step_00000000.npz").unlink()
    assert cli.main(["diagnose", f"--workdir={tmp_path / 'w'}"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line.endswith("(already there)") for line in again] == [True, False]
    params = init_state(program, plan.config(1).hyper).params
    start = look(params, plan.config(1).hyper, program.task.data)["layer_0/flow/c"]
    found = dict(np.load(folder / "diagnostics" / "step_00000000.npz"))
    np.testing.assert_allclose(found["layer_0/flow/c"], start, rtol=1e-3)
    page = build_report(tmp_path / "w").read_text()
    assert 'id="gradient_flow"' in page
    assert 'id="saturation"' in page
