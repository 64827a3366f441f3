"""Engines: what `auto` picks, what is refused, blocks and chunks of every size, memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax.cells import from_step, gru, lstm, mgu, minlstm, slstm
from lstm_jax.cells.transforms import projection, recurrent_dropout, zoneout
from lstm_jax.config.options import default_config
from lstm_jax.core import Carry
from lstm_jax.engines import ENGINES, choose, deferred, parsed, pick
from lstm_jax.engines.masking import even_size
from lstm_jax.errors import UsageError
from lstm_jax.training.check import validate

pytestmark = pytest.mark.usefixtures("strict_types")

T, B, D, H = 12, 3, 4, 5


def problem(cell, steps=T):
    params = cell.init(jax.random.key(0), D)
    return params, jax.random.normal(jax.random.key(1), (steps, B, D))


def value_and_gradients(cell, engine, steps=T, **options):
    params, xs = problem(cell, steps)

    def loss(params, xs):
        carry, ys = lstm_jax.unroll(cell, params, xs, engine=engine, **options)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in carry)

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, xs)


def assert_same(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_auto_says_why(monkeypatch):
    monkeypatch.setenv("LSTM_JAX_NATIVE", "0")
    assert choose(lstm(H))[0] == "deferred"
    assert "gate by gate" in choose(lstm(H))[1]
    assert "gate by gate" in choose(gru(H))[1]
    piece = from_step(by_hand, lstm(H).init, lstm(H).initial_carry)
    assert "in one piece" in choose(piece)[1]
    assert choose(minlstm(H))[0] == "associative"


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 2, 5, 7, 100])
def test_deferred_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(deferred, "room", lambda: block * B * 4 * H)
    monkeypatch.setattr(deferred, "WHOLE", 1)
    lengths = jnp.array([T, 0, 5])
    assert_same(value_and_gradients(lstm(H), "deferred"), value_and_gradients(lstm(H), "scan"))
    assert_same(
        value_and_gradients(lstm(H), "deferred", lengths=lengths, reverse=True),
        value_and_gradients(lstm(H), "scan", lengths=lengths, reverse=True),
    )


CELLS = {
    "lstm": lstm(H),
    "full peepholes": lstm(H, peepholes="full"),
    "layer norm": lstm(H, layer_norm="branch"),
    "gru": gru(H),
    "gru before": gru(H, reset="before"),
    "mgu": mgu(H),
    "slstm": slstm(H),
    "projected": projection(lstm(H), 3),
    "dropout": recurrent_dropout(lstm(H), 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["LARGE", "NARROW"])
@pytest.mark.parametrize("name", CELLS)
def test_products_another_way_round_are_the_same(monkeypatch, name, setting):
    """Large matrices features first; many features projected before the loop."""
    monkeypatch.setattr(deferred, setting, 1)
    cell = CELLS[name]
    options: dict[str, Any] = {"lengths": jnp.array([T, 0, 5])}
    if name == "dropout":
        options["key"] = jax.random.key(2)
    assert_same(
        value_and_gradients(cell, "deferred", **options),
        value_and_gradients(cell, "scan", **options),
    )


@pytest.mark.parametrize("spare", [True, False])
def test_a_forward_pass_with_and_without_cores_to_spare(monkeypatch, spare):
    monkeypatch.setattr(deferred, "NARROW", 0)
    monkeypatch.setattr(deferred, "spare", lambda: spare)
    params, xs = problem(lstm(H))
    assert_same(
        lstm_jax.unroll(lstm(H), params, xs, engine="deferred"),
        lstm_jax.unroll(lstm(H), params, xs, engine="scan"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("gates", ["lstm", "cifg", "multiplicative", "noaf"])
def test_a_forward_pass_with_the_batch_last(monkeypatch, gates):
    monkeypatch.setattr(deferred, "_last", lambda batch, units: True)
    cell = lstm(H, gates=gates, gate_activation="hard_sigmoid")
    params, xs = problem(cell)
    ways: list[dict[str, Any]] = [{}, {"reverse": True}, {"key": jax.random.key(2)}]
    for options in [*ways, {"lengths": jnp.array([T, 0, 5])}]:
        assert_same(
            lstm_jax.unroll(cell, params, xs, engine="deferred", **options),
            lstm_jax.unroll(cell, params, xs, engine="scan", **options),
        )
    assert_same(value_and_gradients(cell, "deferred"), value_and_gradients(cell, "scan"))


@pytest.mark.parametrize("spare", [True, False])
def test_who_takes_the_batch_last(monkeypatch, spare):
    monkeypatch.setattr(deferred, "spare", lambda: spare)
    assert deferred._last(32, 256)
    assert not deferred._last(33, 256)
    assert not deferred._last(16, 128)
    assert deferred._last(128, 512) == spare


@pytest.mark.slow
def test_an_update_of_ones_own_is_what_runs():
    cell = lstm(H)

    def louder(params, carry, gate):
        new, y = cell.update(params, carry, gate)
        return new, 2.0 * y

    changed = cell._replace(update=louder)
    changed = changed._replace(info=cell.info._replace(plain=False))
    assert_same(value_and_gradients(changed, "deferred"), value_and_gradients(changed, "scan"))
    loud, plain = (lstm_jax.unroll(c, *problem(cell))[1] for c in (changed, cell))
    np.testing.assert_allclose(loud, 2.0 * plain, rtol=1e-6)


def test_a_gate_that_opened_early_has_no_raw_value():
    cell = lstm(H)
    bad = cell._replace(update=lambda params, carry, gate: (carry, gate.raw("f")))
    with pytest.raises(UsageError, match="gate 'f' is open already.*info.late"):
        lstm_jax.unroll(bad, *problem(cell), engine="scan")


def by_hand(params, carry, x):
    """The LSTM as one function of one step."""
    u = x @ params["kernel"] + carry.h @ params["recurrent_kernel"] + params["bias"]
    i, f, g, o = jnp.split(u, 4, axis=-1)
    sigmoid = jax.nn.sigmoid
    c = sigmoid(f) * carry.c + sigmoid(i) * jnp.tanh(g)
    h = sigmoid(o) * jnp.tanh(c)
    return Carry(c, h), h


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["scan", "deferred", "chunked"])
@pytest.mark.parametrize("marked", [False, True])
def test_a_cell_given_as_one_step_runs_in_every_engine(engine, marked):
    """Against the same equations as gates and matmuls; transforms go around it too."""
    lengths: dict[str, Any] = {"lengths": jnp.array([T, 0, 5])} if marked else {}
    plain = lstm(H)
    cell = from_step(by_hand, plain.init, plain.initial_carry)
    assert cell.info.carry == ("c", "h")
    for mine, theirs in ((cell, plain), (zoneout(cell, 0.2, 0.1), zoneout(plain, 0.2, 0.1))):
        assert_same(
            value_and_gradients(mine, engine, **lengths),
            value_and_gradients(theirs, "scan", **lengths),
        )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["chunked", "chunked:1", "chunked:5", "chunked:12"])
def test_chunks_of_any_size(engine):
    assert_same(value_and_gradients(gru(H), engine), value_and_gradients(gru(H), "scan"))


def test_even_size_divides_where_it_can():
    assert even_size(8192, 180) == 128
    assert even_size(127, 32) == 32
    assert even_size(0, 10) == 1


@pytest.mark.slow
def test_chunked_needs_a_tenth_of_the_memory():
    cell = lstm(16)

    def temporary(engine):
        def loss(params, xs):
            return jnp.sum(lstm_jax.unroll(cell, params, xs, engine=engine)[1] ** 2)

        params = jax.eval_shape(lambda key: cell.init(key, 8), jax.random.key(0))
        xs = jax.ShapeDtypeStruct((8192, 2, 8), jnp.float32)
        compiled = jax.jit(jax.grad(loss)).lower(params, xs).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert temporary("chunked") <= 0.1 * temporary("scan")


@pytest.mark.slow
def test_second_derivatives_reverse_over_reverse():
    params, xs = problem(lstm(H))

    def curvature(engine):
        def loss(xs):
            return jnp.sum(lstm_jax.unroll(lstm(H), params, xs, engine=engine)[1] ** 3)

        return jax.jit(jax.grad(lambda xs: jnp.sum(jax.grad(loss)(xs) ** 2)))(xs)

    assert_same(curvature("deferred"), curvature("scan"))


@pytest.mark.parametrize(
    ("engine", "cell", "message"),
    [
        ("associative", lstm(H), "its step t needs h of step t-1"),
        ("cudnn", lstm(H, gate_activation="relu"), "use 'deferred'"),
        ("scam", lstm(H), "did you mean 'scan'"),
        ("scan:3", lstm(H), "only 'chunked' takes a size"),
        ("chunked:many", lstm(H), "only 'chunked' takes a size"),
        ("deferred:int8", lstm(H), "a type to keep gates in: bfloat16, float16"),
        ("scan:bfloat16", lstm(H), "only deferred and pallas a type"),
        ("chunked:99", lstm(H), "chunk_size=99 with T=12"),
    ],
)
def test_refusals(engine, cell, message):
    params, xs = problem(cell)
    with pytest.raises(UsageError, match=message):
        lstm_jax.unroll(cell, params, xs, engine=engine)


def test_a_config_may_name_an_option():
    for engine, option in (
        ("chunked:4", {"chunk_size": 4}),
        ("deferred:float16", {"kept": "float16"}),
    ):
        config = default_config("adding")
        config.model.engine = engine
        assert validate(config).model.engine == engine
        assert parsed(engine)[1] == option


@pytest.mark.slow
def test_gates_in_fewer_bits_change_gradients_alone():
    exact, rounded = (value_and_gradients(lstm(H), e) for e in ("deferred", "deferred:bfloat16"))
    assert exact[0] == rounded[0]
    pairs = zip(*map(jax.tree.leaves, (exact[1], rounded[1])), strict=True)
    off = [float(jnp.abs(a - b).max()) for a, b in pairs]
    assert 1e-4 < max(off) < 0.1


def test_every_engine_is_picked_by_name():
    for name, run in ENGINES.items():
        assert pick(name, lstm(H)) is run
