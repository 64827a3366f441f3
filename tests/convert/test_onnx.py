"""Models in ONNX against the textbook in NumPy, by onnxruntime."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import registry
from onnx import helper

from lstm_jax.cells import lstm
from lstm_jax.cells.activations import GATE_ACTIVATIONS
from lstm_jax.cells.gates import GATES
from lstm_jax.convert import Layer
from lstm_jax.convert.onnx import recurrent
from lstm_jax.convert.onnx.graph import IR, OPSET, Graph, value
from lstm_jax.convert.onnx.recurrent import Marks
from lstm_jax.convert.plain import FIELDS

T, B, D, H = 6, 4, 3, 4
LENGTHS = np.array([6, 2, 1, 5])
CASES = [case for case in registry.CASES if not case.keyed]


def drawn(cell, seed=0):
    shapes = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return {k: (0.7 * rng.standard_normal(v.shape)).astype(np.float32) for k, v in shapes.items()}


def session_of(graph, inputs, outputs) -> Any:
    whole = helper.make_graph(graph.nodes, "layer", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(whole, opset_imports=opsets, ir_version=IR)
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString())


def session(layer, marks) -> Any:
    """One layer: xs and its marks -> ys of each direction, then the last carry."""
    graph = Graph()
    each = [recurrent.fresh(layer.cell, way) for way in layer.ways]
    starts = [[graph.constant(a) for a in start] for start in each]
    said = recurrent.add(graph, layer, ("xs", D), starts, marks)
    inputs = [value("xs", np.float32, ("t", "b", D))]
    inputs += [value("lengths", np.int32, ("b",))] * bool(marks.lengths)
    inputs += [value(n, np.bool_, ("t", "b")) for n in (marks.valid, marks.resets) if n]
    outputs = [value(n, np.float32, ("t", "b", "h")) for n in said.ys]
    outputs += [value(n, np.float32, ("b", f"h_{n}")) for n in said.carry]
    return session_of(graph, inputs, outputs), graph


def expected(case, params, xs, valid, resets, reverse=False):
    cell = case.reference()
    params = {k: v.astype(float) for k, v in params.items()}
    carry = {k: np.stack([v] * xs.shape[1]) for k, v in cell.initial(params).items()}
    return registry.reference.unroll(cell, params, xs.astype(float), carry, valid, resets, reverse)


def inputs():
    xs = np.random.default_rng(5).standard_normal((T, B, D)).astype(np.float32)
    valid = np.arange(T)[:, None] < LENGTHS
    return xs, valid


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_layer_in_onnx_is_the_textbook(case):
    """A node where there is one, else a Scan of the step; with lengths, which stop the carry."""
    cell, (xs, valid) = case.build(), inputs()
    layer = Layer(cell, drawn(cell))
    run, _ = session(layer, Marks("lengths", "valid"))
    feed = {"xs": xs, "lengths": LENGTHS.astype(np.int32), "valid": valid}
    known = {i.name for i in run.get_inputs()}
    ys, *carry = run.run(None, {k: v for k, v in feed.items() if k in known})
    last, wanted, _ = expected(case, layer.forward, xs, valid, ~valid)
    scale = max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(ys, wanted, atol=1e-5 * scale)
    for name, array in zip(cell.info.carry, carry, strict=True):
        if name in last:
            np.testing.assert_allclose(array, last[name], atol=1e-5 * max(1, abs(last[name]).max()))


SQUASHES = [name for name in recurrent.ACTIVATIONS if name in GATE_ACTIVATIONS]
ROWS = [row for row in GATES if row != "multiplicative"]
ONE_NODE = {
    "LSTM": [{"gates": row} for row in ROWS]
    + [{"gates": row, "gate_activation": "hard_sigmoid"} for row in ROWS]
    + [{"gates": row, "peepholes": "diagonal_remaining"} for row in ROWS]
    + [{k: name} for k in FIELDS["lstm"] for name in SQUASHES],
    "GRU": [{"reset": name} for name in ("before", "after")]
    + [{k: name} for k in FIELDS["gru"] for name in SQUASHES],
    "RNN": [{"activation": name} for name in SQUASHES],
}
SAID = [registry.Case(kind.lower(), options) for kind, each in ONE_NODE.items() for options in each]


@pytest.mark.parametrize("case", SAID, ids=str)
def test_one_node_in_both_directions_with_lengths(case):
    """What the operator can say, at weights drawn at random."""
    cell, (xs, valid) = case.build(), inputs()
    layer = Layer(cell, drawn(cell), drawn(cell, 1))
    run, graph = session(layer, Marks("lengths"))
    found = [n.op_type for n in graph.nodes if n.op_type in ("LSTM", "GRU", "RNN", "Scan")]
    assert found == [case.cell.upper()]
    ways = run.run(None, {"xs": xs, "lengths": LENGTHS.astype(np.int32)})[:2]
    for reverse, (ys, params) in enumerate(zip(ways, layer.ways, strict=True)):
        _, wanted, _ = expected(case, params, xs, valid, ~valid & False, bool(reverse))
        np.testing.assert_allclose(ys, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))


SILU: Any = jax.nn.silu


def test_what_it_cannot_say_is_a_scan_and_says_why():
    for option, cell in {
        "peepholes='full'": lstm(H, peepholes="full"),
        "relu, sigmoid": lstm(H, gate_activation={"i": "relu"}),
        "layer_norm": lstm(H, layer_norm="branch"),
        "cell_clip": lstm(H, cell_clip=1.0),
        "activation silu": lstm(H, candidate_activation=SILU),
        "activation relu1": lstm(H, candidate_activation="relu1"),
        "gates='multiplicative'": lstm(H, gates="multiplicative"),
    }.items():
        words = recurrent.words(Layer(cell, drawn(cell)), Marks())
        assert words.startswith("a Scan of the step") and option in words, words


@pytest.mark.parametrize("name", ["lstm", "slstm"])
def test_both_directions_with_holes_and_resets(name):
    case, (xs, _) = registry.Case(name), inputs()
    rng = np.random.default_rng(2)
    valid, resets = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    cell = case.build()
    layer = Layer(cell, drawn(cell), drawn(cell, 1))
    run, _ = session(layer, Marks("", "valid", "resets"))
    marks = {"valid": valid, "resets": resets & valid}
    ahead, back, *_ = run.run(None, {"xs": xs, **marks})
    np.testing.assert_allclose(
        ahead, expected(case, layer.forward, xs, valid, resets)[1], atol=1e-5
    )
    np.testing.assert_allclose(
        back, expected(case, layer.backward, xs, valid, resets, True)[1], atol=1e-5
    )
