"""Parity with flax (linen and nnx) and with the ONNX reference evaluator, on copied weights.

The evaluator (onnx 1.23) implements peepholes, initial states, direction, layout and
`linear_before_reset`, and RNN's Tanh and Affine; it ignores the attributes `activations` of LSTM
and GRU, `clip`, `input_forget` and the input `sequence_lens`. Its gate functions are methods that
a subclass may replace, which is how other activations are held to it here; `input_forget` and
`sequence_lens` come from onnxruntime by way of tests/golden.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_gru import GRU
from onnx.reference.ops.op_lstm import LSTM

from lstm_jax import convert, unroll
from lstm_jax.core import Carry, Hidden

T, B, D, H = 5, 3, 3, 4
QUICK = {"xla_backend_optimization_level": 0}
PRECISIONS = {"float32": 1e-6, "float64": 1e-12}


def drawn(rng, shapes, dtype):
    return jax.tree.map(lambda leaf: (0.6 * rng.standard_normal(leaf.shape)).astype(dtype), shapes)


def linen_case(cell):
    """(weights, step): step(weights, carry, x) -> (carry, y)."""
    start = (jnp.zeros((B, H)),) * 2 if "LSTM" in type(cell).__name__ else jnp.zeros((B, H))
    shapes = jax.eval_shape(cell.init, jax.random.key(0), start, jnp.zeros((B, D)))
    return shapes["params"], lambda w, carry, x: cell.apply({"params": w}, carry, x)


def nnx_case(make):
    abstract = nnx.eval_shape(lambda: make(D, H, rngs=nnx.Rngs(0)))
    graph, state, rest = nnx.split(abstract, nnx.Param, ...)
    weights = nnx.to_pure_dict(state)

    def step(w, carry, x):
        filled = nnx.merge(graph, _filled(state, w), rest)
        return filled(carry, x)

    return weights, step


def _filled(state, values):
    state = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(state, values)
    return state


FLAX = {
    "linen LSTMCell": partial(linen_case, linen.LSTMCell(H)),
    "linen OptimizedLSTMCell": partial(linen_case, linen.OptimizedLSTMCell(H)),
    "linen GRUCell": partial(linen_case, linen.GRUCell(H)),
    "linen SimpleCell": partial(linen_case, linen.SimpleCell(H)),
    "nnx LSTMCell": partial(nnx_case, nnx.LSTMCell),
    "nnx OptimizedLSTMCell": partial(nnx_case, nnx.OptimizedLSTMCell),
    "nnx GRUCell": partial(nnx_case, nnx.GRUCell),
    "nnx SimpleCell": partial(nnx_case, partial(nnx.SimpleCell, dtype=None)),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FLAX)
def test_a_layer_equals_that_of_flax(name, precision):
    wide = precision == "float64"
    with jax.enable_x64(wide):
        shapes, step = FLAX[name]()
        rng = np.random.default_rng(0)
        weights = drawn(rng, shapes, precision)
        xs, h, c = (
            (0.6 * rng.standard_normal(s)).astype(precision) for s in ((T, B, D), (B, H), (B, H))
        )
        two = "LSTM" in name

        def theirs(w, xs, c, h):
            last, ys = jax.lax.scan(partial(step, w), (c, h) if two else h, xs)
            return ys, last if two else (last,)

        def ours(w, xs, c, h):
            (layer,) = convert.read(name.split()[0], w)
            start = Carry(c, h) if two else Hidden(h)
            last, ys = unroll(layer.cell, layer.forward, xs, start)
            return ys, tuple(last)

        compare(theirs, ours, (weights, xs, c, h), PRECISIONS[precision])


def compare(theirs, ours, args, tol):
    """Values, and gradients with respect to everything."""
    rng = np.random.default_rng(1)
    weights = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype),
        jax.eval_shape(theirs, *args),
    )

    @partial(jax.jit, compiler_options=QUICK)
    def both(*args):
        def graded(run):
            def loss(*args):
                out = run(*args)
                parts = jax.tree.map(lambda w, v: (w * v).sum(), weights, out)
                return sum(jax.tree.leaves(parts)), out

            grads, out = jax.grad(loss, range(4), has_aux=True)(*args)
            return out, grads

        return graded(theirs), graded(ours)

    (wanted, slopes), (values, gradients) = both(*args)
    # A gradient adds up T * B products: its rounding is relative to its largest entry.
    check = partial(np.testing.assert_allclose, rtol=tol)
    jax.tree.map(lambda a, b: check(a, b, atol=tol), values, wanted)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slopes))
    jax.tree.map(lambda a, b: check(a, b, atol=tol * largest), gradients, slopes)


# ONNX --------------------------------------------------------------------------------------------


def evaluate(kind, arrays, operators=(), domain="", **attributes: Any):
    """What the reference evaluator makes of one node: {"ys", "h", "c"}."""
    order = ["xs", "W", "R", "B", "", "h0", "c0", "P"]
    names = [k if k in arrays else "" for k in order[: 8 if "c0" in arrays else 6]]
    outputs = ["ys", "h", "c"] if "c0" in arrays else ["ys", "h"]
    node = onnx.helper.make_node(kind, names, outputs, domain=domain, hidden_size=H, **attributes)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [info(k, onnx.TensorProto.DOUBLE, v.shape) for k, v in arrays.items()],
        [info(k, onnx.TensorProto.DOUBLE, None) for k in outputs],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("here", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    run = ReferenceEvaluator(model, new_ops=list(operators))
    return dict(zip(outputs, run.run(None, arrays), strict=True))


def onnx_arrays(gates, ways, cell_state, peepholes=False):
    shapes = {"W": (ways, gates * H, D), "R": (ways, gates * H, H), "B": (ways, 2 * gates * H)}
    shapes |= {"P": (ways, 3 * H)} if peepholes else {}
    shapes |= {"xs": (T, B, D), "h0": (ways, B, H)} | ({"c0": (ways, B, H)} if cell_state else {})
    rng = np.random.default_rng(2)
    return {k: 0.6 * rng.standard_normal(s) for k, s in shapes.items()}


def replay(arrays, directions, **options):
    """The same of lstm_jax, one direction after the other."""
    kind = Carry if "c0" in arrays else Hidden
    weights = {k: v for k, v in arrays.items() if k in "WRBP"}
    (layer,) = convert.read("onnx", weights, **options)
    lasts, outputs = [], []
    for n, (direction, params) in enumerate(zip(directions, layer.ways, strict=True)):
        start = kind(**{k: arrays[f"{k}0"][n] for k in kind._fields})
        way = partial(unroll, layer.cell, reverse=direction == "reverse")
        last, ys = jax.jit(way, compiler_options=QUICK)(params, arrays["xs"], start)
        lasts.append(last)
        outputs.append(ys)
    states = {k: np.stack([getattr(last, k) for last in lasts]) for k in kind._fields}
    return {"ys": np.stack(outputs, 1), **states}


DIRECTIONS = {
    "forward": ("forward",),
    "reverse": ("reverse",),
    "bidirectional": ("forward", "reverse"),
}


def agree(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, 1e-12, 1e-12, err_msg=name)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm_equals_that_of_onnx(direction, peepholes, float64):
    ways = DIRECTIONS[direction]
    arrays = onnx_arrays(4, len(ways), True, peepholes)
    expected = evaluate("LSTM", arrays, direction=direction)
    agree(replay(arrays, ways), expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru_equals_that_of_onnx(direction, reset, float64):
    ways = DIRECTIONS[direction]
    arrays = onnx_arrays(3, len(ways), False)
    linear = reset == "after"
    expected = evaluate("GRU", arrays, direction=direction, linear_before_reset=int(linear))
    agree(replay(arrays, ways, reset=reset), expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_rnn_equals_that_of_onnx(direction, activation, float64):
    arrays = onnx_arrays(1, 1, False)
    affine = {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}
    given: dict[str, Any] = {"activations": ["Tanh"]} if activation == "tanh" else affine
    expected = evaluate("RNN", arrays, direction=direction, **given)
    agree(replay(arrays, [direction], activation=activation), expected)


class SquashedLSTM(LSTM):
    """ONNX's LSTM with activations HardSigmoid(1/6, 1/2), Relu, Softsign."""

    op_domain = "here"

    def f(self, x):
        return np.clip(x / 6 + 0.5, 0, 1)

    def g(self, x):
        return np.maximum(x, 0)

    def h(self, x):
        return x / (1 + abs(x))


class SquashedGRU(GRU):
    """ONNX's GRU with activations HardSigmoid(1/6, 1/2), Relu."""

    op_domain = "here"

    def f(self, x):
        return np.clip(x / 6 + 0.5, 0, 1)

    def g(self, x):
        return np.maximum(x, 0)


def test_onnx_activations(float64):
    arrays = onnx_arrays(4, 1, True, peepholes=True)
    options = {"direction": "forward", "layout": 0}
    expected = evaluate("SquashedLSTM", arrays, [SquashedLSTM], "here", **options)
    squashed = {"gate_activation": "hard_sigmoid", "candidate_activation": "relu"}
    agree(replay(arrays, ["forward"], **squashed, output_activation="softsign"), expected)

    arrays = onnx_arrays(3, 1, False)
    expected = evaluate(
        "SquashedGRU", arrays, [SquashedGRU], "here", linear_before_reset=1, **options
    )
    agree(replay(arrays, ["forward"], **squashed), expected)
