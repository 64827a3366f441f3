"""Recurrent nodes of ONNX files, read: the node tests of the onnx package, and attributes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.backend.test.case.node import lstm as onnx_cases

from lstm_jax import UsageError, convert
from lstm_jax.cells import gru, lstm
from lstm_jax.convert import files, imports
from lstm_jax.convert.layers import apply
from lstm_jax.convert.onnx.nodes import read_nodes
from lstm_jax.core import Carry

H, D = 3, 2
CASES = ("defaults", "initial_bias", "peepholes", "batchwise")


@pytest.mark.parametrize("name", CASES)
def test_the_node_tests_of_onnx_read_and_run(name, monkeypatch):
    cases = []
    monkeypatch.setattr(onnx_cases, "expect", lambda node, **case: cases.append((node, case)))
    getattr(onnx_cases.LSTM, f"export_{name}")()
    ((node, case),) = cases
    given = dict(zip(filter(None, node.input), case["inputs"], strict=True))
    model = helper.make_model(helper.make_graph([node], name, [], []))
    (layer,) = read_nodes(model, given).values()
    batch_first = any(a.name == "layout" and a.i for a in node.attribute)
    xs = np.swapaxes(given["X"], 0, 1) if batch_first else given["X"]
    start = None
    if "initial_h" in given:
        start = [(Carry(given["initial_c"][0], given["initial_h"][0]),)]
    ((last,),), ys = apply([layer], xs, start)
    wanted = dict(zip(filter(None, node.output), case["outputs"], strict=True))
    end = wanted["Y_h"][:, 0] if batch_first else wanted["Y_h"][0]
    np.testing.assert_allclose(last.h, end, rtol=1e-6, atol=1e-6)
    if "Y" in wanted:
        whole = np.swapaxes(wanted["Y"][:, :, 0], 0, 1) if batch_first else wanted["Y"][:, 0]
        np.testing.assert_allclose(ys, whole, rtol=1e-6, atol=1e-6)


def file(kind="LSTM", gates=4, **attributes):
    rng = np.random.default_rng(0)
    shapes = {"W": (1, gates * H, D), "R": (1, gates * H, H), "B": (1, 2 * gates * H)}
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    node = helper.make_node(
        kind, ["X", *arrays], ["", "last"], name="rnn", hidden_size=H, **attributes
    )
    constants = [onnx.numpy_helper.from_array(v, k) for k, v in arrays.items()]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [info("X", 1, ["t", "b", D])], [info("last", 1, [1, "b", H])], constants
    )
    return helper.make_model(graph)


def test_attributes_become_options_of_the_cell():
    found = read_nodes(file(input_forget=1))["rnn"]
    assert found.cell.info == lstm(H, gates="cifg").info
    assert found.forward["kernel"].shape == (D, 3 * H)
    squashed = {
        "activations": ["HardSigmoid", "Softsign", "Affine"],
        "activation_alpha": [1 / 6, 1.0],
        "activation_beta": [0.5, 0.0],
    }
    ours: Any = {"gate_activation": "hard_sigmoid", "candidate_activation": "softsign"}
    found = read_nodes(file(**squashed))["rnn"]
    assert found.cell.info == lstm(H, **ours, output_activation="identity").info
    assert read_nodes(file("GRU", 3))["rnn"].cell.info == gru(H, reset="before").info
    after = read_nodes(file("GRU", 3, linear_before_reset=1))["rnn"]
    assert after.cell.info == gru(H, reset="after").info


def test_a_file_of_ours_comes_back(tmp_path):
    model = file()
    onnx.save(model, tmp_path / "m.onnx")
    found = read_nodes(tmp_path / "m.onnx")["rnn"]
    arrays = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    again = convert.write("onnx", found)
    np.testing.assert_allclose(again["W"], arrays["W"])
    np.testing.assert_allclose(
        np.sum(np.split(again["B"], 2, -1), 0), np.sum(np.split(arrays["B"], 2, -1), 0), rtol=1e-6
    )


def foreign(**attributes):
    """What another library writes: biases apart, kernels of a Gemm [O, D]."""
    model, rng = file(**attributes), np.random.default_rng(1)
    dense = {"fc.weight": rng.standard_normal((1, H)), "fc.bias": np.zeros(1)}
    for name, array in dense.items():
        array = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(array)
    squeeze = helper.make_node("Squeeze", ["last"], ["h"])
    gemm = helper.make_node("Gemm", ["h", *dense], ["out"], transB=1)
    model.graph.node.extend([squeeze, gemm])
    return model


def test_a_whole_model_of_another_library(tmp_path):
    onnx.save(foreign(), tmp_path / "m.onnx")
    arrays, notes = files.load(tmp_path / "m.onnx")
    assert notes["library"] == "onnx" and notes["layers"][0]["cell"] == "lstm"
    arrays = imports.renamed(arrays, "fc.weight=head/linear/kernel,fc.bias=head/linear/bias")
    cell = lstm(H)
    like: dict[str, Any] = {"layer_0": {"forward": shaped(cell)}}
    like["head"] = {"linear": {"kernel": np.zeros((H, 1)), "bias": np.zeros(1)}}
    found, said = imports.parameters(cell, like, arrays, notes)
    assert said == ("onnx", False, [])
    np.testing.assert_array_equal(found["head"]["linear"]["kernel"], arrays["head/linear/kernel"])
    given = read_nodes(foreign())["rnn"].forward
    jax.tree.map(np.testing.assert_array_equal, found["layer_0"]["forward"], given)
    with pytest.raises(UsageError, match=r"gate_activation=sigmoid, not relu.*Give a --config"):
        imports.parameters(lstm(H, gate_activation="relu"), like, arrays, notes)
    del arrays["layer_0/R"]
    with pytest.raises(UsageError, match=r"missing: layer_0/R \[1, 12, 3\]"):
        imports.parameters(cell, like, arrays, notes)


def shaped(cell):
    shapes = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    return {k: np.zeros(v.shape, np.float32) for k, v in shapes.items()}


def test_a_whole_model_that_no_config_is_is_refused(tmp_path):
    onnx.save(foreign(input_forget=1), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"input_forget=1.*gates='cifg'"):
        files.load(tmp_path / "m.onnx")
    bare = foreign()
    bare.graph.initializer[1].name = "other"
    bare.graph.node.insert(0, helper.make_node("Identity", ["other"], ["R"]))
    onnx.save(bare, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"R of LSTM node 'rnn' is computed from 'R'"):
        files.load(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(UsageError, match=r"damaged, or no ONNX"):
        files.load(tmp_path / "m.onnx")


def test_what_no_cell_has_is_refused_by_the_node_and_the_attribute():
    for attributes, said in {
        "clip": ({"clip": 0.5}, "LSTM node 'rnn': clip=0.5 bounds pre-activations"),
        "reverse": ({"direction": "reverse"}, "direction='reverse'"),
        "elu": ({"activations": ["Elu", "Tanh", "Tanh"]}, "activation Elu; expected one of"),
        "hard": ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, r"HardSigmoid\(0.2, 0.5\)"),
    }.values():
        with pytest.raises(UsageError, match=said):
            read_nodes(file(**attributes))
    bare = file()
    del bare.graph.initializer[1]
    with pytest.raises(UsageError, match="R is 'R', which is no constant"):
        read_nodes(bare)
    bare.graph.node[0].op_type = "Relu"
    with pytest.raises(UsageError, match="no LSTM, GRU or RNN node; it has Relu"):
        read_nodes(bare)
