"""What torch, keras, haiku, equinox and onnxruntime compute, as fixtures for tests/parity.py."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

T, B, D, H, P = 5, 3, 3, 4, 2
LENGTHS = np.array([5, 2, 4], np.int64)
# Holes, an end, a gap in front.
MASK = np.array([[1, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 0]], bool).T
RESETS = np.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [0, 1, 1, 0, 0]], bool).T

Fixture = dict[str, np.ndarray]


def drawn(shapes: dict, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: 0.6 * rng.standard_normal(shape) for name, shape in shapes.items()}


def fixture(inputs: dict, outputs: dict, losses: dict, grads: dict, marks: dict) -> Fixture:
    groups = {"in": inputs, "out": outputs, "loss": losses, "grad": grads, "mark": marks}
    return {f"{g}/{k}": np.asarray(v) for g, part in groups.items() for k, v in part.items()}


def differentiated(run: Callable[[dict], dict], inputs: dict, marks: dict) -> Fixture:
    """The fixture of a JAX function of `inputs`."""
    shapes = {k: v.shape for k, v in jax.eval_shape(run, inputs).items()}
    losses = drawn(shapes, 99)

    def loss(inputs):
        out = run(inputs)
        return sum((losses[k] * v).sum() for k, v in out.items()), out

    grads, out = jax.jit(jax.grad(loss, has_aux=True))(inputs)
    return fixture(inputs, out, losses, grads, marks)


# torch ------------------------------------------------------------------------------------------


def torch_layer(kind: str, packed: bool = False, **options) -> Fixture:
    import torch

    layer = getattr(torch.nn, kind)(D, H, **options).double()
    ways = layer.num_layers * (2 if layer.bidirectional else 1)
    shapes = {name: tuple(w.shape) for name, w in layer.named_parameters()}
    shapes |= {"xs": (T, B, D), "h0": (ways, B, options.get("proj_size") or H)}
    shapes |= {"c0": (ways, B, H)} if kind == "LSTM" else {}
    inputs = drawn(shapes, 1)
    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in inputs.items()}
    xs = tensors["xs"]
    if packed:
        xs = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.tensor(LENGTHS), enforce_sorted=False
        )
    start = (tensors["h0"], tensors["c0"]) if kind == "LSTM" else tensors["h0"]
    weights = {k: v for k, v in tensors.items() if k not in ("xs", "h0", "c0")}
    ys, last = torch.func.functional_call(layer, weights, (xs, start))
    if packed:
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=T)
    names = ("ys", "h", "c") if kind == "LSTM" else ("ys", "h")
    outputs = dict(zip(names, (ys, *last) if kind == "LSTM" else (ys, last), strict=True))
    losses = drawn({k: tuple(v.shape) for k, v in outputs.items()}, 99)
    sum((torch.tensor(losses[k]) * v).sum() for k, v in outputs.items()).backward()
    grads = {k: v.grad for k, v in tensors.items()}
    outputs = {k: v.detach() for k, v in outputs.items()}
    marks = {"lengths": LENGTHS.astype(np.int32)} if packed else {}
    return fixture(inputs, outputs, losses, grads, marks)


# keras ------------------------------------------------------------------------------------------


def keras_layer(kind: str, masked: bool = False, **options) -> Fixture:
    import keras

    # The SimpleRNN squashes in float32 and then refuses its own carry.
    floatx = "float32" if kind == "SimpleRNN" else "float64"
    keras.backend.set_floatx(floatx)
    options = {"return_sequences": True, "return_state": True, **options}
    # Named: the policy of all layers is that of the first floatx.
    layer = getattr(keras.layers, kind)(H, dtype=floatx, zero_output_for_mask=True, **options)
    layer.build((B, T, D))
    weights = [v.path.split("/")[-1] for v in layer.trainable_variables]
    shapes = {name: v.shape for name, v in zip(weights, layer.trainable_variables, strict=True)}
    shapes |= {"xs": (T, B, D), "h0": (B, H)} | ({"c0": (B, H)} if kind == "LSTM" else {})
    mask = {"mask": MASK.T} if masked else {}
    backwards = options.get("go_backwards", False)

    def run(w):
        w = {k: v.astype(floatx) for k, v in w.items()}
        start = [w["h0"], w["c0"]] if kind == "LSTM" else [w["h0"]]
        fixed = [jnp.asarray(v.value) for v in layer.non_trainable_variables]
        (ys, *last), _ = layer.stateless_call(
            [w[name] for name in weights],
            fixed,
            w["xs"].swapaxes(0, 1),
            initial_state=start,
            **mask,
        )
        # keras leaves a reversed layer's outputs in the order in which it made them.
        ys = (ys[:, ::-1] if backwards else ys).swapaxes(0, 1)
        return dict(zip(("ys", "h", "c"), (ys, *last), strict=False))

    return differentiated(run, drawn(shapes, 2), {"mask": MASK} if masked else {})


def keras_stack(kind: str, layers: int, **options) -> Fixture:
    """Bidirectional layers on top of each other, by keras' own paths; zero initial states."""
    import keras

    keras.backend.set_floatx("float64")
    keras.backend.clear_session()  # else the names count on
    make = getattr(keras.layers, kind)
    model = keras.Sequential(
        [
            keras.layers.Bidirectional(make(H, return_sequences=True, **options))
            for _ in range(layers)
        ]
    )
    model.build((B, T, D))
    weights = {v.path.removeprefix("sequential/"): v.shape for v in model.trainable_variables}

    def run(w):
        fixed = [jnp.asarray(v.value) for v in model.non_trainable_variables]
        given = [w[name] for name in weights]
        ys, _ = model.stateless_call(given, fixed, w["xs"].swapaxes(0, 1))
        return {"ys": ys.swapaxes(0, 1)}

    return differentiated(run, drawn(weights | {"xs": (T, B, D)}, 6), {})


# haiku and equinox --------------------------------------------------------------------------------


def haiku_core(kind: str, resets: bool = False) -> Fixture:
    import haiku as hk

    def unrolled(xs, state):
        core = getattr(hk, kind)(H)
        if not resets:
            return hk.dynamic_unroll(core, xs, state)
        return hk.dynamic_unroll(hk.ResetCore(core), (xs, RESETS), state)

    net = hk.without_apply_rng(hk.transform(unrolled))
    state = (lambda w: hk.LSTMState(w["h0"], w["c0"])) if kind == "LSTM" else lambda w: w["h0"]
    states = {"h0": (B, H)} | ({"c0": (B, H)} if kind == "LSTM" else {})
    blank = {k: jnp.zeros(s) for k, s in states.items()}
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((T, B, D)), state(blank))
    # One module's arrays by their own names; of several by module and name.
    alone = len(params) == 1
    names = {(m, k): k if alone else f"{m.split('/')[-1]}/{k}" for m in params for k in params[m]}
    shapes = {name: params[m][k].shape for (m, k), name in names.items()}
    shapes |= {"xs": (T, B, D)} | states

    def run(w):
        given = {m: {k: w[names[m, k]] for k in params[m]} for m in params}
        ys, last = net.apply(given, w["xs"], state(w))
        final = {"h": last.hidden, "c": last.cell} if kind == "LSTM" else {"h": last}
        return {"ys": ys, **final}

    return differentiated(run, drawn(shapes, 3), {"resets": RESETS} if resets else {})


def equinox_cell(kind: str) -> Fixture:
    import equinox as eqx

    cell = getattr(eqx.nn, f"{kind}Cell")(D, H, key=jax.random.key(0))
    names = ["weight_ih", "weight_hh", "bias"] + ["bias_n"] * (kind == "GRU")
    shapes = {k: getattr(cell, k).shape for k in names} | {"xs": (T, B, D), "h0": (B, H)}
    shapes |= {"c0": (B, H)} if kind == "LSTM" else {}

    def run(w):
        filled = eqx.tree_at(lambda c: [getattr(c, k) for k in names], cell, [w[k] for k in names])

        def step(state, x):
            state = jax.vmap(filled)(x, state)
            return state, (state[0] if kind == "LSTM" else state)

        start = (w["h0"], w["c0"]) if kind == "LSTM" else w["h0"]
        last, ys = jax.lax.scan(step, start, w["xs"])
        final = {"h": last[0], "c": last[1]} if kind == "LSTM" else {"h": last}
        return {"ys": ys, **final}

    return differentiated(run, drawn(shapes, 4), {})


# onnxruntime: values only, float32, but every attribute --------------------------------------


def onnx_node(kind: str, lengths: bool = True, peepholes: bool = False, **attributes) -> Fixture:
    import onnxruntime
    from onnx import TensorProto, helper

    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    shapes = {"W": (ways, gates * H, D), "R": (ways, gates * H, H), "B": (ways, 2 * gates * H)}
    shapes |= {"P": (ways, 3 * H)} if peepholes else {}
    shapes |= {"xs": (T, B, D), "h0": (ways, B, H)}
    shapes |= {"c0": (ways, B, H)} if kind == "LSTM" else {}
    arrays = {k: v.astype(np.float32) for k, v in drawn(shapes, 5).items()}
    given = arrays | ({"lengths": LENGTHS.astype(np.int32)} if lengths else {})
    order = ["xs", "W", "R", "B", "lengths", "h0", "c0", "P"]
    order = order if peepholes else order[: 7 if kind == "LSTM" else 6]
    outputs = ["ys", "h", "c"] if kind == "LSTM" else ["ys", "h"]
    node = helper.make_node(
        kind, [k if k in given else "" for k in order], outputs, hidden_size=H, **attributes
    )
    kinds = {k: TensorProto.INT32 if k == "lengths" else TensorProto.FLOAT for k in given}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(k, kinds[k], v.shape) for k, v in given.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    out = dict(zip(outputs, session.run(outputs, given), strict=True))
    marks = {"lengths": given["lengths"]} if lengths else {}
    return fixture(arrays, out, {}, {}, marks)


SOFT = {"activation_alpha": [1 / 6], "activation_beta": [0.5]}
BOTH = {"direction": "bidirectional"}

ORACLES: dict[str, Callable[[], Fixture]] = {
    "torch_lstm": partial(torch_layer, "LSTM"),
    "torch_lstm_bidirectional_stacked": partial(
        torch_layer, "LSTM", num_layers=2, bidirectional=True
    ),
    "torch_lstm_packed": partial(torch_layer, "LSTM", packed=True, bidirectional=True),
    "torch_lstm_proj": partial(torch_layer, "LSTM", proj_size=P),
    "torch_lstm_proj_bidirectional_stacked_packed": partial(
        torch_layer, "LSTM", packed=True, proj_size=P, num_layers=2, bidirectional=True
    ),
    "torch_gru": partial(torch_layer, "GRU", num_layers=2),
    "torch_gru_packed": partial(torch_layer, "GRU", packed=True, bidirectional=True),
    "torch_rnn_tanh": partial(torch_layer, "RNN", bidirectional=True),
    "torch_rnn_relu": partial(torch_layer, "RNN", nonlinearity="relu", num_layers=2),
    "keras_lstm": partial(keras_layer, "LSTM"),
    "keras_lstm_masked": partial(keras_layer, "LSTM", masked=True),
    "keras_lstm_relu_backwards": partial(
        keras_layer,
        "LSTM",
        activation="relu",
        recurrent_activation="hard_sigmoid",
        go_backwards=True,
    ),
    "keras_gru_after_masked": partial(keras_layer, "GRU", masked=True, reset_after=True),
    "keras_gru_before_masked": partial(keras_layer, "GRU", masked=True, reset_after=False),
    "keras_rnn": partial(keras_layer, "SimpleRNN"),
    "keras_lstm_bidirectional_stacked": partial(keras_stack, "LSTM", 2),
    "keras_gru_bidirectional": partial(keras_stack, "GRU", 1),
    "haiku_lstm": partial(haiku_core, "LSTM"),
    "haiku_lstm_resets": partial(haiku_core, "LSTM", resets=True),
    "haiku_gru": partial(haiku_core, "GRU"),
    "haiku_rnn": partial(haiku_core, "VanillaRNN"),
    "equinox_lstm": partial(equinox_cell, "LSTM"),
    "equinox_gru": partial(equinox_cell, "GRU"),
    "onnx_lstm_peepholes": partial(onnx_node, "LSTM", peepholes=True, **BOTH),
    "onnx_lstm_input_forget": partial(onnx_node, "LSTM", peepholes=True, input_forget=1, **BOTH),
    "onnx_lstm_hard_sigmoid_softsign_affine": partial(
        onnx_node,
        "LSTM",
        activations=["HardSigmoid", "Softsign", "Affine"],
        activation_alpha=[1 / 6, 1.0],
        activation_beta=[0.5, 0.0],
    ),
    "onnx_lstm_relu": partial(
        onnx_node, "LSTM", activations=["Sigmoid", "Relu", "Relu"], direction="reverse"
    ),
    "onnx_lstm_clip": partial(onnx_node, "LSTM", clip=0.5, **BOTH),
    "onnx_gru_linear_before_reset": partial(onnx_node, "GRU", linear_before_reset=1, **BOTH),
    "onnx_gru_reset_first": partial(
        onnx_node,
        "GRU",
        activations=["HardSigmoid", "Softsign"] * 2,
        activation_alpha=[1 / 6] * 2,
        activation_beta=[0.5] * 2,
        **BOTH,
    ),
    "onnx_rnn_relu": partial(onnx_node, "RNN", activations=["Relu", "Relu"], **BOTH),
    "onnx_rnn_affine": partial(
        onnx_node,
        "RNN",
        activations=["Affine"],
        activation_alpha=[1.0],
        activation_beta=[0.0],
        direction="reverse",
    ),
}


def compute(name: str) -> Fixture:
    """The fixture, live."""
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore")  # theirs
        return ORACLES[name]()
