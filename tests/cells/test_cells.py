"""Parameter structures, fresh carries, traces and refusals of the cells."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import registry

import lstm_jax
from lstm_jax import UsageError
from lstm_jax.cells import CELLS, gru, lstm, lstm_fgr, minlstm, slstm
from lstm_jax.cells.gates import Constant, GateTable, Learned
from lstm_jax.ops import count

pytestmark = pytest.mark.usefixtures("strict_types")

D, H = 3, 4
QUICK = registry.QUICK

# Golden: every parameter's shape at D=3, H=4, and their count at D=H=128.
STRUCTURES = {
    "lstm": ({"kernel": (3, 16), "recurrent_kernel": (4, 16), "bias": (16,)}, 131_584),
    "lstm_fgr": (
        {
            "kernel": (3, 16),
            "recurrent_kernel": (4, 16),
            "bias": (16,),
            "gate_kernel": (12, 12),
        },
        279_040,
    ),
    "gru": (
        {
            "kernel": (3, 12),
            "recurrent_kernel": (4, 12),
            "bias": (12,),
            "recurrent_bias": (4,),
        },
        98_816,
    ),
    "mgu": ({"kernel": (3, 8), "recurrent_kernel": (4, 8), "bias": (8,)}, 65_792),
    "rnn": ({"kernel": (3, 4), "recurrent_kernel": (4, 4), "bias": (4,)}, 32_896),
    "indrnn": ({"kernel": (3, 4), "recurrent_kernel": (4,), "bias": (4,)}, 16_640),
    "slstm": ({"kernel": (3, 16), "recurrent_kernel": (4, 16), "bias": (16,)}, 131_584),
    "minlstm": ({"kernel": (3, 12), "bias": (12,)}, 49_536),
    "mingru": ({"kernel": (3, 8), "bias": (8,)}, 33_024),
}
NORMS = {
    "kernel_scale": (16,),
    "recurrent_scale": (16,),
    "cell_scale": (4,),
    "cell_shift": (4,),
}
OPTIONS = [
    ("lstm", {"gates": "cifg"}, {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (12,)}),
    ("lstm", {"gates": "janet"}, {"kernel": (3, 8), "recurrent_kernel": (4, 8), "bias": (8,)}),
    ("lstm", {"gates": "no_gate_recurrence"}, {"recurrent_kernel": (4, 4)}),
    ("lstm", {"peepholes": "diagonal"}, {"peephole_kernel": (3, 4)}),
    ("lstm", {"peepholes": "learned", "gates": "cifg"}, {"peephole_kernel": (2, 4)}),
    ("lstm", {"peepholes": "full"}, {"peephole_kernel": (4, 12)}),
    ("lstm", {"layer_norm": "branch"}, NORMS),
    ("lstm", {"layer_norm": "recirculated"}, NORMS),
    ("gru", {"reset": "before"}, {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (12,)}),
    ("slstm", {}, STRUCTURES["slstm"][0]),
    ("lstm", {"gate_activation": "exp"}, STRUCTURES["slstm"][0]),
]
CARRIES = {
    "lstm": "c h",
    "lstm_fgr": "c h i f o",
    "slstm": "c n m h",
} | dict.fromkeys(["gru", "mgu", "rnn", "indrnn", "minlstm", "mingru"], "h")


def shapes(cell, features=D):
    return {k: v.shape for k, v in registry.shapes_of(cell, features).items()}


def test_every_cell_has_a_golden_structure():
    assert STRUCTURES.keys() == CELLS.keys() == CARRIES.keys()


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_cell_has_the_parameters_of_its_golden(name):
    structure, total = STRUCTURES[name]
    assert shapes(CELLS[name](H)) == structure
    assert count(registry.shapes_of(CELLS[name](128), 128)) == total


@pytest.mark.parametrize(("name", "options", "expected"), OPTIONS)
def test_options_change_the_parameters_as_the_golden_says(name, options, expected):
    found = shapes(CELLS[name](H, **options))
    assert found == found | expected
    assert "recurrent_bias" not in found


@pytest.mark.parametrize("name", CARRIES)
def test_a_fresh_carry_has_the_entries_that_its_info_names(name):
    cell = CELLS[name](H)
    carry = cell.initial_carry({"kernel": jnp.ones((D, H))}, (2,))
    assert " ".join(carry._fields) == CARRIES[name] == " ".join(cell.info.carry)
    for entry, leaf in carry._asdict().items():
        assert leaf.shape == (2, H) and leaf.dtype == jnp.float32
        assert (leaf == (-1e30 if entry == "m" else 0)).all()


def test_a_multiplicative_memory_starts_at_one():
    carry = lstm(H, gates="multiplicative").initial_carry({"kernel": jnp.ones((D, H))}, (2,))
    assert (carry.c == 1).all() and not carry.h.any()


@pytest.mark.parametrize("name", CELLS)
def test_bfloat16_matmuls_keep_the_state_wide(name):
    """dtype=bfloat16 changes values a little, types not at all."""
    plain, half = CELLS[name](H), CELLS[name](H, dtype=jnp.bfloat16)
    data = registry.data_of(plain)
    params, xs = jax.tree.map(jnp.float32, (data.params, data.xs))
    carry = jax.tree.map(jnp.float32, data.carry)

    def run(params, carry, xs):
        return lstm_jax.unroll(plain, params, xs, carry), lstm_jax.unroll(half, params, xs, carry)

    wide, narrow = jax.jit(run, compiler_options=QUICK)(params, carry, xs)
    assert jax.tree.map(lambda a: a.dtype, wide) == jax.tree.map(lambda a: a.dtype, narrow)
    gap = float(jnp.abs(wide[1] - narrow[1]).max())
    assert 1e-5 < gap < 0.2


@pytest.mark.parametrize(
    "case",
    [*registry.PLAIN, *registry.STACKED, registry.by_name["lstm-gates=janet"]],
)
def test_trace_shows_every_gate_and_carry(case):
    """Against the reference; steps that do not count show the carry held and gates zero."""
    with jax.enable_x64(True):
        cell, keys = case.build(), registry.keys_of(case)
        data = registry.data_of(cell)
        run = jax.jit(
            lambda *args: lstm_jax.trace(
                cell, args[0], args[1], args[2], mask=args[3], resets=args[4], key=keys
            ),
            compiler_options=QUICK,
        )
        traced = run(data.params, data.xs, data.carry, data.valid, data.resets)
        params, noise = registry.drawing(cell, keys)(data.params, data.xs)
        start, marks = data.carry._asdict(), (data.valid, data.resets)
        _, ys, gates = reference.unroll(
            case.reference(), params, data.xs, start, *marks, noise=noise
        )
    opened = list(zip(*np.nonzero(data.valid.T), gates, strict=True))
    assert traced.keys() == {*data.carry._fields, *gates[0]}
    for b, t, expected in opened:
        for name in set(expected) - set(data.carry._fields):
            np.testing.assert_allclose(traced[name][t, b], expected[name], 1e-9, 1e-12)
    np.testing.assert_allclose(np.where(data.valid[..., None], traced["h"], 0), ys, 1e-9, 1e-12)


def test_slstm_is_the_unstabilised_equations():
    """c = exp(z_f) c + exp(z_i) g and so on, where nothing overflows."""
    cell = slstm(H, gate_activation={"i": "exp", "f": "exp"})
    with jax.enable_x64(True):
        data = registry.data_of(cell)
        _, ys = jax.jit(lambda p, xs: lstm_jax.unroll(cell, p, xs))(data.params, data.xs)
    p, sigmoid = data.params, reference.sigmoid
    for b in range(registry.B):
        c, n, h = np.zeros(H), np.zeros(H), np.zeros(H)
        for t in range(registry.T):
            z = data.xs[t, b] @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"]
            i, f, g, o = np.split(z, 4)
            c = np.exp(f) * c + np.exp(i) * np.tanh(g)
            n = np.exp(f) * n + np.exp(i)
            h = sigmoid(o) * c / n
            np.testing.assert_allclose(ys[t, b], h, 1e-10)


@pytest.mark.parametrize(
    "cell", [slstm(H), slstm(H, gate_activation="exp"), minlstm(H), lstm(H), gru(H)]
)
@pytest.mark.parametrize("scale", [-300.0, 300.0])
def test_no_overflow(cell, scale):
    """Values and gradients stay finite for pre-activations no float32 exponential holds."""
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, scale), registry.shapes_of(cell))
    xs = jnp.ones((4, 2, D))

    def loss(params, xs):
        return lstm_jax.unroll(cell, params, xs)[1].sum()

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=QUICK)(params, xs)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((value, grads)))


@pytest.mark.slow
def test_slstm_where_its_gates_are_equal():
    """Input gate and what is left of the forget gate are the same number, and both have a slope."""
    cell = slstm(H, gate_activation="exp")
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), D))
    params["bias"] = jnp.zeros(4 * H).at[2 * H :].set(0.7)
    xs: Any = jnp.zeros((3, 2, D)).at[0].set(1.0)
    params["kernel"] = params["kernel"].at[:, 2 * H : 3 * H].set(0.4)  # not always the same g

    def loss(bias):
        return jnp.sum(lstm_jax.unroll(cell, params | {"bias": bias}, xs)[1])

    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        xs, bias, step = np.asarray(xs, np.float64), params["bias"], 1e-6 * np.eye(4 * H)
        found = np.asarray(jax.grad(loss)(jnp.asarray(bias)))
        slopes = [float(loss(bias + d) - loss(bias - d)) / 2e-6 for d in step]
    assert abs(found[H]) > 1e-3
    np.testing.assert_allclose(found, slopes, atol=1e-6)


def test_a_gate_of_slstm_changes_alone():
    """Another output gate leaves the input gate exponential."""
    choices = {"o": "relu"}, {"i": "exp", "o": "relu"}
    both = [slstm(H, gate_activation=choice) for choice in choices]
    data = registry.data_of(both[0])
    args = jax.tree.map(jnp.float32, (data.params, data.xs))
    first, second = (lstm_jax.unroll(cell, *args)[1] for cell in both)
    np.testing.assert_array_equal(first, second)


def test_without_any_recurrence():
    """No gate sees h: the recurrent kernel has no columns, and everything still works."""
    gate, candidate = Learned("sigmoid", recurrent=False), Learned("tanh", recurrent=False)
    blind = GateTable(gate, gate, candidate, gate)
    choices: list[Any] = [{}, {"recurrent_init": "uniform"}, {"layer_norm": "branch"}]
    for options in choices:
        cell = lstm(H, gates=blind, **options)
        params = cell.init(jax.random.key(0), D)
        assert params["recurrent_kernel"].shape == (H, 0)
        assert jnp.isfinite(lstm_jax.unroll(cell, params, jnp.ones((2, 2, D)))[1]).all()


LOOSE: Any = CELLS  # for what the types already refuse
NO_GATES = GateTable(i=Constant(1.0), f=Constant(1.0), o=Constant(1.0))
REFUSALS = [
    (lambda: lstm(0), "hidden=0.*at least 1"),
    (lambda: lstm(0, peepholes="full"), "hidden=0.*at least 1"),
    (lambda: LOOSE["gru"](2.5), "hidden=2.5.*whole number"),
    (lambda: lstm(H, peepholes="diag"), "unknown peepholes 'diag'"),
    (lambda: lstm(H, peepholes="diagonal", gates="nog"), "diagonal.*'nog'.*output gate.*choose"),
    (lambda: lstm(H, peepholes="full", gates="cifg"), "full.*'cifg'.*forget gate.*choose"),
    (
        lambda: lstm(H, peepholes="diagonal_remaining", gates=NO_GATES),
        "no gate is left",
    ),
    (lambda: lstm(H, layer_norm="brnach"), "unknown layer_norm 'brnach'; did you mean 'branch'"),
    (lambda: lstm(H, cell_clip=-1.0), "cell_clip=-1.0.*above 0"),
    (lambda: lstm(H, gate_activation="exp", peepholes="diagonal"), "exp.*peepholes.*leave"),
    (lambda: lstm(H, gate_activation="exp", layer_norm="branch"), "exp.*layer_norm.*leave"),
    (lambda: lstm(H, gate_activation={"i": "exp"}, gates="cifg"), "exp gating.*choose"),
    (lambda: slstm(H, gate_activation="relu"), "exp gating.*choose exp or sigmoid"),
    (lambda: lstm_fgr(H, gates="nig"), "lstm_fgr.*'nig'.*choose"),
    (lambda: gru(H, reset="befor"), "unknown reset 'befor'; did you mean 'before'"),
    (lambda: gru(H, gate_activation="sigmod"), "did you mean 'sigmoid'"),
    (lambda: LOOSE["gru"](H, gate_activation={"r": "relu"}), "unknown gate activation {'r'"),
    (lambda: gru(H, gate_activation="one"), "unknown gate activation 'one'"),
    (lambda: CELLS["rnn"](H, activation="rleu"), "unknown activation 'rleu'.*'relu'"),
]


@pytest.mark.parametrize(("make", "message"), REFUSALS)
def test_refusals(make, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        make()
