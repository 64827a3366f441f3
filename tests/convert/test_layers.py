"""Other libraries' arrays, there and back; and what is said of arrays that are not theirs."""

import re
from typing import Any

import jax
import numpy as np
import parity
import pytest
import reference

from lstm_jax import UsageError, convert
from lstm_jax.cells import gru, lstm, rnn, slstm, transforms
from lstm_jax.cells.gates import GATES
from lstm_jax.convert.conventions import CONVENTIONS, LIBRARIES
from lstm_jax.convert.layers import chosen

T, B, D, H = 4, 2, 3, 4
CELLS = {"lstm": lstm(H), "gru": gru(H), "rnn": rnn(H)}


def layer(cell, seed=0, ways=1, features=D):
    shapes = jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))
    rng = np.random.default_rng(seed)
    drawn = [{k: rng.standard_normal(v.shape) for k, v in shapes.items()} for _ in range(ways)]
    return convert.Layer(cell, *drawn)


def computed(gates, params):
    """ys of the row of that name, in NumPy."""
    cell, xs = reference.lstm(H, gates=gates), np.random.default_rng(9).standard_normal((T, B, D))
    carry = {k: np.stack([v] * B) for k, v in cell.initial(params).items()}
    valid = np.ones((T, B), bool)
    return reference.unroll(cell, params, xs, carry, valid, ~valid)[1]


def cell_of(row):
    if row.kind == "gru":
        return gru(H, reset="before" if row.reset == "before" else "after")
    return lstm(H) if row.kind == "lstm" else rnn(H, activation=row.activation)


def options_of(row):
    return {"reset": "after"} if row.reset == "either" and row.rows else {}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_out_and_in_again_is_the_same_stack(name):
    """Two layers in both directions, where the library stacks them at all."""
    library, _, kind = name.partition(" ")
    row, cell = CONVENTIONS[name], cell_of(CONVENTIONS[name])
    layers = [layer(cell, 0, 2), layer(cell, 1, 2, 2 * H)]
    if library == "onnx":  # a node is one layer
        layers = layers[:1]
    if name == "nnx GRUCell":  # which has no second bias
        layers = [
            convert.Layer(
                cell, *({**w, "recurrent_bias": 0 * w["recurrent_bias"]} for w in each.ways)
            )
            for each in layers
        ]
    state = convert.write(library, layers, layer=kind)
    again = convert.read(library, state, layer=kind, **options_of(row))
    assert [len(each.ways) for each in again] == [2] * len(layers)
    for ours, theirs in zip(layers, again, strict=True):
        assert theirs.cell.info == ours.cell.info
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-12), theirs.ways, ours.ways)
    found = convert.write(library, again, layer=kind)
    assert found.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_allclose(found[key], array, 1e-6, 1e-6, err_msg=key)


@pytest.mark.parametrize("fixture", ["torch_lstm_bidirectional_stacked", "torch_gru", "haiku_gru"])
def test_a_library_gets_its_own_arrays_back(fixture):
    library, inputs = fixture.split("_")[0], parity.part(parity.load(fixture), "in")
    state = {k: v for k, v in inputs.items() if k not in parity.STATES}
    found = convert.write(library, convert.read(library, state))
    assert found.keys() == state.keys()
    for name, array in state.items():
        if "bias" in name:  # of two biases one holds the sum
            continue
        np.testing.assert_allclose(found[name], array, 1e-12, err_msg=name)


def test_the_library_is_told_apart_by_names_and_shapes():
    for name, row in CONVENTIONS.items():
        library, _, kind = name.partition(" ")
        state = (
            convert.write(library, layer(cell_of(row)), layer=kind)
            if name != "nnx GRUCell"
            else None
        )
        if state is not None:
            (found,) = convert.read(library, state, **options_of(row))
            assert found.cell.info.name == row.kind, name


def test_every_library_writes_every_kind_that_it_has():
    for library in LIBRARIES:
        for kind, cell in CELLS.items():
            if library == "equinox" and kind == "rnn":
                with pytest.raises(convert.Inexpressible, match="equinox has no rnn layer"):
                    chosen(library, kind)
            else:
                assert chosen(library, kind)[1].kind == kind, cell


EXACT = ("lstm", "nig", "nfg", "nog", "cifg", "no_memory", "no_gate_recurrence")


@pytest.mark.parametrize("gates", GATES)
def test_rows_of_the_gate_table_as_the_layer_of_torch(gates):
    """Zero weights and large biases, or refused."""
    one = layer(lstm(H, gates=gates))
    if gates in EXACT:
        (again,) = convert.read("torch", convert.write("torch", one))
        expected = computed(gates, one.forward)
        np.testing.assert_allclose(computed("lstm", again.forward), expected, 1e-12, 1e-12)
    else:
        with pytest.raises(convert.Inexpressible, match="nearest|in no other library"):
            convert.write("torch", one)


SILU: Any = jax.nn.silu
REFUSED = {
    "layer_norm='branch'": lstm(H, layer_norm="branch"),
    "peepholes='full'": lstm(H, peepholes="full"),
    "peepholes='diagonal'": lstm(H, peepholes="diagonal"),
    "cell_clip=1.0": lstm(H, cell_clip=1.0),
    "gate activations relu, sigmoid": lstm(H, gate_activation={"i": "relu"}),
    "activations sigmoid, silu, tanh": lstm(H, candidate_activation=SILU),
    "gate activations sigmoid, silu": lstm(H, gate_activation={"i": SILU}),
    "the forget gate is 1 - silu": lstm(H, gates="cifg", gate_activation=SILU),
    "reset='before'": gru(H, reset="before"),
    "zoneout on 'lstm'": transforms.zoneout(lstm(H), 0.1),
    "cell 'slstm'": slstm(H),
    "no constructor": lstm(H)._replace(merge=lambda params, z, r: z + r),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_torch_has_not_is_refused_by_the_name_of_the_option(option):
    with pytest.raises(convert.Inexpressible, match=re.escape(option)):
        convert.write("torch", layer(REFUSED[option]))


def test_dropout_is_no_part_of_the_weights():
    cell = transforms.variational_dropout(lstm(H), 0.5, 0.5)
    state = convert.write("torch", layer(cell))
    assert state.keys() == convert.write("torch", layer(lstm(H))).keys()


def test_everything_wrong_with_the_arrays_is_said_at_once():
    state = convert.write("torch", [layer(lstm(H)), layer(lstm(H), 1, 1, H)])
    state["weight_hh_l1"] = state["weight_hh_l1"][:, 1:]
    state["bias_hh0_l0"] = state.pop("bias_hh_l0")
    with pytest.raises(UsageError) as error:
        convert.read("torch", state, layer="LSTM")
    text = str(error.value)
    assert "missing: bias_hh_l0; is it bias_hh0_l0?" in text
    assert "unknown: bias_hh0_l0" in text
    assert "weight_hh_l1 has shape [16, 3]; expected [12, 3] or" not in text
    assert "weight_hh_l1 has shape [16, 3]; expected [16, 4]" in text


def test_a_prefix_chooses_a_part_and_says_what_there_is():
    state = convert.write("torch", layer(lstm(H)), prefix="encoder.rnn.")
    (found,) = convert.read("torch", state, prefix="encoder.rnn.")
    assert found.cell.info.hidden == H
    with pytest.raises(UsageError, match=r"no array begins with 'decoder.'.*encoder\.rnn\."):
        convert.read("torch", state, prefix="decoder.")


def test_a_layer_without_biases_has_zeros():
    state = convert.write("keras", layer(lstm(H)))
    (found,) = convert.read("keras", {k: v for k, v in state.items() if not k.endswith("bias")})
    assert not np.any(found.forward["bias"])


def test_nested_is_what_flax_and_haiku_keep():
    state = convert.write("haiku", layer(lstm(H)))
    assert convert.nested(state, "haiku").keys() == {"linear"}
    tree = convert.nested(convert.write("linen", layer(lstm(H))))
    assert tree["hf"]["bias"].shape == (H,)
    (found,) = convert.read("linen", tree)
    assert found.forward["kernel"].shape == (D, 4 * H)
