"""The gate table: rows, activations, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lstm_jax import UsageError
from lstm_jax.cells import activations, gates, lstm
from lstm_jax.cells.activations import ACTIVATIONS, GATE_ACTIVATIONS
from lstm_jax.cells.gates import (
    GATES,
    Constant,
    Coupled,
    GateTable,
    Learned,
    gate_table,
)
from lstm_jax.core import Info

# Golden: learned gates in kernel order, and those that see h.
ROWS = {
    "lstm": ("ifgo", "ifgo"),
    "nig": ("fgo", "fgo"),
    "nfg": ("igo", "igo"),
    "nog": ("ifg", "ifg"),
    "niaf": ("ifgo", "ifgo"),
    "noaf": ("ifgo", "ifgo"),
    "cifg": ("igo", "igo"),
    "sigmoid_candidate": ("ifgo", "ifgo"),
    "gate_only_output": ("ifgo", "ifgo"),
    "sigmoid_output": ("ifgo", "ifgo"),
    "no_memory": ("igo", "igo"),
    "multiplicative": ("ifgo", "ifgo"),
    "no_gate_recurrence": ("ifgo", "g"),
    "janet": ("fg", "fg"),
}


def test_rows():
    found = {k: ("".join(t.learned()), "".join(t.recurrent())) for k, t in GATES.items()}
    assert found == ROWS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    z = np.linspace(-8, 8, 101)
    with jax.enable_x64(True):
        ours = ACTIVATIONS[name](jnp.asarray(z))
    np.testing.assert_allclose(ours, reference.ACTIVATIONS[name](z), 1e-12, 1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_finite_slopes_everywhere(name):
    z = jnp.array([-1e30, -1e4, -90.0, -3.0, 0.0, 1.0, 3.0, 90.0, 1e4, 1e30])
    slopes = jax.vmap(jax.grad(lambda z: ACTIVATIONS[name](z[None])[0]))(z)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("first", GATE_ACTIVATIONS)
def test_one_pass_over_all_gates(first):
    """Every pair beside a tanh, as blocks of one array."""
    z = np.linspace(-4, 4, 15, dtype=np.float32).reshape(1, 15)
    for second in GATE_ACTIVATIONS:
        names = (first, second, "tanh")
        blocks = zip(names, np.split(z, 3, axis=-1), strict=True)
        wanted = np.hstack([reference.ACTIVATIONS[name](block) for name, block in blocks])
        np.testing.assert_allclose(activations.activate(names, jnp.asarray(z)), wanted, 0, 3e-7)


def test_gate_activation_reaches_the_learned_gates_only():
    table = gate_table("cifg", "relu", "softsign", "identity")
    wanted = Learned("relu"), Coupled("i"), Learned("softsign"), Learned("relu"), "identity"
    assert table.design() == GateTable(*wanted).design()
    assert gate_table("lstm", {"f": "relu", "i": ""}).f == Learned("relu")
    assert gate_table("no_gate_recurrence", "relu").i == Learned("relu", recurrent=False)


UNKNOWN = [
    ({"gates": "cigf"}, "unknown gates 'cigf'; did you mean 'cifg'"),
    ({"gates": 3}, "unknown gates 3; known"),
    ({"gate_activation": "sigmod"}, "unknown gate activation 'sigmod'; did you mean 'sigmoid'"),
    ({"gate_activation": "one"}, "unknown gate activation 'one'"),
    ({"gate_activation": {"x": "relu"}}, "unknown gate 'x'"),
    ({"candidate_activation": "tahn"}, "did you mean 'tanh'"),
    ({"output_activation": "tahn"}, "unknown output activation 'tahn'; did you mean 'tanh'"),
    ({"gates": GateTable(i=Learned("sigmod"))}, "did you mean 'sigmoid'"),
    ({"gates": GateTable(update="mul")}, "unknown update 'mul'"),
]
NO_GATES = GateTable(Constant(1.0), Constant(1.0), Constant(1.0), Constant(1.0))
REMAINING: dict[str, Any] = {"peepholes": "diagonal_remaining"}
CONTRADICTIONS = [
    ({"gates": "cifg", "gate_activation": {"f": "relu"}}, "forget gate.*'cifg'.*choose"),
    ({"gates": "nog", "gate_activation": {"o": "relu"}}, "output gate.*'nog'.*choose"),
    ({"gates": GateTable(f=Coupled("i"), i=Constant(1.0))}, "coupled to 'i'.*choose one of g, o"),
    ({"gates": GateTable(f=Coupled("i"), i=Coupled("f"))}, "coupled to 'f'.*choose"),
    ({"gates": GateTable(f=Coupled("q"))}, "coupled to 'q'.*choose one of i, g, o"),
    ({"gates": NO_GATES}, "no learned gate.*learn at least one"),
    (
        {"gates": GateTable(o=Coupled("i")), "peepholes": "diagonal_remaining"},
        "peepholes.*'i'.*couple",
    ),
    (
        {"gates": GateTable(f=Coupled("o")), "peepholes": "diagonal_remaining"},
        "peepholes.*'o'.*couple",
    ),
    (
        {"gates": GateTable(o=Coupled("i")), "gate_activation": {"i": "exp"}},
        "exp gating.*coupled to 'i'.*couple",
    ),
]


@pytest.mark.parametrize(("options", "message"), UNKNOWN + CONTRADICTIONS)
def test_refusals(options, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        lstm(4, **options)


def test_open_gates_of_a_custom_table():
    """A coupling with a shift to a gate that has another activation, beside a constant."""
    table = GateTable(i=Coupled("f", -0.5), f=Learned("hard_sigmoid"), o=Constant(0.25))
    z = np.linspace(-2, 2, 6, dtype=np.float32).reshape(1, 6)
    info = Info("lstm", 3, gates=table.gates(), blocks=(table.learned(),))
    blocks = activations.open_blocks(gates.opening(info), (jnp.asarray(z),))
    gate = gates.gates_of(info, blocks, {})
    opened = {name: gate(name) for name in "ifgo"}
    f = reference.ACTIVATIONS["hard_sigmoid"]
    np.testing.assert_allclose(opened["f"], f(z[:, :3]), 1e-6)
    np.testing.assert_allclose(opened["i"], 1 - f(z[:, :3] - 0.5), 1e-6)
    np.testing.assert_allclose(opened["g"], np.tanh(z[:, 3:]), 1e-6)
    assert opened["o"] == 0.25
