"""Every layer that `convert` knows, in its own library: our weights there, theirs here.

    GRID=all pytest tests/oracles/test_grid.py       every case; without GRID the largest of a layer
    cd tests && python -m oracles.grid > ../docs/parity.md

Weights are drawn here and written as the library's arrays w. Both sides then compute outputs and
gradients; the library's gradients of w are pulled back through `write`, ours forward through
`read`, so each is held to the other's. onnxruntime has no gradients.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import convert
from lstm_jax.cells import gru, lstm, rnn, transforms
from lstm_jax.convert.conventions import CONVENTIONS
from lstm_jax.convert.layers import DIRECTIONS, snake

T, B, D, H, P = 6, 3, 3, 4, 2
LENGTHS = np.array([6, 2, 4], np.int32)
VALID = np.arange(T)[:, None] < LENGTHS
QUICK = {"xla_backend_optimization_level": 0}
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


class Form(NamedTuple):
    """How a layer is used."""

    layers: int = 1
    both: bool = False
    lengths: bool = False
    projected: bool = False


FORMS = {
    "1 layer": Form(),
    "2 layers": Form(2),
    "both directions": Form(1, True),
    "lengths": Form(1, False, True),
    "projection": Form(projected=True),
    "all at once": Form(2, True, True, True),
}
SINGLE = ("keras", "onnx")  # compute in float32 whatever they are told
UNPADDED = ("haiku", "equinox")  # have nothing like lengths


class Case(NamedTuple):
    """A row of CONVENTIONS in a form."""

    row: str
    form: str

    @property
    def library(self) -> str:
        return self.row.split()[0]

    @property
    def kind(self) -> str:
        return self.row.split()[1]

    @property
    def uses(self) -> Form:
        """The form, as far as the layer has it."""
        form = FORMS[self.form]
        padded = self.library not in UNPADDED
        projects = bool(CONVENTIONS[self.row].projection)
        return form._replace(lengths=form.lengths and padded, projected=form.projected and projects)

    def exists(self) -> bool:
        return self.form == "all at once" or self.uses == FORMS[self.form]


CASES = [case for row in CONVENTIONS for form in FORMS if (case := Case(row, form)).exists()]


# Ours ---------------------------------------------------------------------------------------------


def cell_of(case: Case) -> Any:
    row = CONVENTIONS[case.row]
    options = {"gru": row.reset == "before", "rnn": row.activation}
    return _cell(row.kind, options.get(row.kind), case.uses.projected)


@cache  # libraries that compute the same share a compiled program
def _cell(kind: str, option: Any, projected: bool) -> Any:
    if kind == "gru":
        return gru(H, reset="before" if option else "after")
    cell = lstm(H) if kind == "lstm" else rnn(H, activation=option)
    return transforms.projection(cell, P) if projected else cell


def drawn(case: Case, dtype: Any) -> list[tuple[dict[str, Any], ...]]:
    """For each layer the parameters of each direction."""
    form, rng, cell = case.uses, np.random.default_rng(len(case.row)), cell_of(case)
    width, found = D, []
    for _ in range(form.layers):
        shapes = jax.eval_shape(partial(cell.init, in_features=width), jax.random.key(0))
        layer = tuple(
            {k: (0.5 * rng.standard_normal(v.shape)).astype(dtype) for k, v in shapes.items()}
            for _ in range(1 + form.both)
        )
        width = (P if form.projected else H) * len(layer)
        found.append(layer)
    return [tuple(learned(case, way) for way in layer) for layer in found]


def learned(case: Case, params: dict[str, Any]) -> dict[str, Any]:
    """Without what the library's layer has not: nnx's GRU has no second bias."""
    lacking = "recurrent_bias" if case.row == "nnx GRUCell" else ""
    return {k: v for k, v in params.items() if k != lacking}


def layers_of(cell: Any, params: Any) -> list[convert.Layer]:
    after = cell is _cell("gru", False, False)
    lacking = {"recurrent_bias": np.zeros(H, params[0][0]["bias"].dtype)} if after else {}
    return [convert.Layer(cell, *({**lacking, **way} for way in ways)) for ways in params]


@cache
def ours(cell: Any, lengths: bool) -> Callable:
    """(parameters, xs, weights) -> (ys, gradients of both)."""
    known = LENGTHS if lengths else None
    return graded(lambda params, xs: convert.apply(layers_of(cell, params), xs, lengths=known)[1])


def graded(run: Callable) -> Callable:
    """Outputs, and gradients of their weighted sum."""

    def loss(given, xs, weights):
        ys = run(given, xs)
        return (weights * ys).sum(), ys

    def both(given, xs, weights):
        grads, ys = jax.grad(loss, (0, 1), has_aux=True)(given, xs, weights)
        return ys, grads

    return jax.jit(both, compiler_options=QUICK)


# Theirs: (case, arrays by their names) -> a function (arrays, xs, weights) -> (ys, gradients) ---


def chained(one: Callable) -> Callable:
    """A library that has single layers: one on the other, both directions side by side."""

    def library(case: Case, state: dict[str, Any]) -> Callable:
        form = case.uses

        def run(state, xs):
            tree = convert.nested(state)
            for n in range(form.layers):
                layer = tree.get(f"layer_{n}", tree)
                ways = [layer[k] for k in DIRECTIONS] if form.both else [layer]
                xs = jnp.concatenate([one(case, w, xs, i == 1) for i, w in enumerate(ways)], -1)
            return xs

        return graded(lambda state, xs: run({k.replace(".", "/"): v for k, v in state.items()}, xs))

    return library


def linen(case: Case, params: Any, xs: Any, reverse: bool) -> Any:
    from flax import linen as nn

    layer = nn.RNN(
        getattr(nn, case.kind)(H, param_dtype=xs.dtype),
        time_major=True,
        reverse=reverse,
        keep_order=True,
    )
    lengths = LENGTHS if case.uses.lengths else None
    return layer.apply({"params": {"cell": params}}, xs, seq_lengths=lengths)


def nnx(case: Case, params: Any, xs: Any, reverse: bool) -> Any:
    from flax import nnx

    make = partial(getattr(nnx, case.kind), dtype=xs.dtype, param_dtype=xs.dtype)
    cell = make(xs.shape[-1], H, rngs=nnx.Rngs(0))
    state = nnx.state(cell, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(cell, state)
    layer = nnx.RNN(cell, time_major=True, reverse=reverse, keep_order=True)
    return layer(xs, seq_lengths=LENGTHS if case.uses.lengths else None)


def haiku(case: Case, params: Any, xs: Any, reverse: bool) -> Any:
    import haiku as hk

    def unrolled(xs):
        core = getattr(hk, case.kind)(H, name="rnn")
        start = jax.tree.map(lambda a: a.astype(xs.dtype), core.initial_state(xs.shape[1]))
        return hk.dynamic_unroll(core, xs, start, reverse=reverse)[0]

    nested = all(isinstance(v, dict) for v in params.values())
    own = {f"rnn/{k}": v for k, v in params.items()} if nested else {"rnn": params}
    return hk.without_apply_rng(hk.transform(unrolled)).apply(own, xs)


def equinox(case: Case, params: Any, xs: Any, reverse: bool) -> Any:
    import equinox as eqx

    cell = getattr(eqx.nn, case.kind)(xs.shape[-1], H, key=jax.random.key(0))
    names = list(params)
    cell = eqx.tree_at(lambda c: [getattr(c, k) for k in names], cell, [params[k] for k in names])
    zeros = jnp.zeros((xs.shape[1], H), xs.dtype)
    two = case.kind == "LSTMCell"

    def step(state, x):
        state = jax.vmap(cell)(x, state)
        return state, state[0] if two else state

    return jax.lax.scan(step, (zeros, zeros) if two else zeros, xs, reverse=reverse)[1]


def keras(case: Case, state: dict[str, Any]) -> Callable:
    import keras

    form, name = case.uses, snake(case.kind)
    make = partial(getattr(keras.layers, case.kind), H, return_sequences=True, dtype="float32")
    make = partial(make, zero_output_for_mask=True)
    layers = []
    for n in range(form.layers):
        number = f"_{n}" * (n > 0)
        both = form.both and keras.layers.Bidirectional(
            make(name=name), name=f"bidirectional{number}", dtype="float32"
        )
        layer = both or make(name=f"{name}{number}")
        layer.build((B, T, D if n == 0 else H * (1 + form.both)))
        layers.append(layer)
    mask = {"mask": VALID.T} if form.lengths else {}

    def run(state, xs):
        xs = xs.swapaxes(0, 1)
        for layer in layers:
            given = [state[v.path] for v in layer.trainable_variables]
            fixed = [jnp.asarray(v.value) for v in layer.non_trainable_variables]
            xs, _ = layer.stateless_call(given, fixed, xs, **mask)
        return xs.swapaxes(0, 1)

    return graded(run)


def torch(case: Case, state: dict[str, Any]) -> Callable:
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    form, lengths = case.uses, torch.tensor(LENGTHS, dtype=torch.int64)
    options = {"proj_size": P} if form.projected else {}
    layer = getattr(torch.nn, case.kind)(
        D, H, num_layers=form.layers, bidirectional=form.both, **options
    )

    def run(state, xs, weights):
        tensors = {k: torch.tensor(np.asarray(v), requires_grad=True) for k, v in state.items()}
        xs = torch.tensor(xs, requires_grad=True)
        given = xs
        if form.lengths:
            given = pack_padded_sequence(xs, lengths, enforce_sorted=False)
        ys, _ = torch.func.functional_call(layer.to(xs.dtype), tensors, (given,))
        if form.lengths:
            ys, _ = pad_packed_sequence(ys, total_length=T)
        (torch.tensor(weights) * ys).sum().backward()
        grads = {k: v.grad.numpy() for k, v in tensors.items()}
        return ys.detach().numpy(), (grads, xs.grad.numpy())

    return run


def onnx(case: Case, state: dict[str, Any]) -> Callable:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    ways = 1 + case.uses.both
    direction = "bidirectional" if ways == 2 else "forward"
    lengths = "lengths" if case.uses.lengths else ""
    options = {"linear_before_reset": 1} if case.kind == "GRU" else {}
    constants = {k: np.asarray(v, np.float32) for k, v in state.items()}
    constants |= {"lengths": LENGTHS} if lengths else {}
    constants |= {"side": np.array([0, 0, ways * H], np.int64)}
    nodes, xs = [], "xs"
    for n in range(case.uses.layers):
        arrays = [k if k in state else f"layer_{n}/{k}" for k in "WRB"]
        node = [xs, *arrays, *([lengths] if lengths else [])]
        nodes.append(
            helper.make_node(
                case.kind, node, [f"y{n}"], hidden_size=H, direction=direction, **options
            )
        )
        nodes.append(helper.make_node("Transpose", [f"y{n}"], [f"t{n}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"t{n}", "side"], [f"r{n}"]))
        xs = f"r{n}"
    info = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    held = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(
        nodes, "stack", [info("xs", shape=(T, B, D))], [info(xs, shape=None)], held
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return lambda state, xs, weights: (session.run(None, {"xs": xs})[0], None)


THEIRS = {
    "torch": torch,
    "keras": keras,
    "linen": chained(linen),
    "nnx": chained(nnx),
    "haiku": chained(haiku),
    "equinox": chained(equinox),
    "onnx": onnx,
}


# Side by side -------------------------------------------------------------------------------------


def write(case: Case, params: Any) -> dict[str, Any]:
    return convert.write(case.library, layers_of(cell_of(case), params), layer=case.kind)


def read(case: Case, state: dict[str, Any]) -> list[tuple[dict[str, Any], ...]]:
    options = {"reset": "after"} if case.row == "onnx GRU" else {}
    layers = convert.read(case.library, state, layer=case.kind, **options)
    return [tuple(learned(case, way) for way in layer.ways) for layer in layers]


def differences(case: Case, precision: str) -> dict[str, float]:
    """The largest of the values, of the gradients of theirs and of ours."""
    with jax.enable_x64(precision == "float64"):
        params, rng = drawn(case, precision), np.random.default_rng(1)
        xs = (0.6 * rng.standard_normal((T, B, D))).astype(precision)
        state = jax.tree.map(np.asarray, write(case, params))
        weights = weights_of(case, rng, precision)
        run = ours(cell_of(case), case.uses.lengths)
        ys, (grads, slopes) = run(params, xs, weights)
        found, theirs = THEIRS[case.library](case, state)(state, xs, weights)
        valid = VALID[..., None] if case.uses.lengths else np.ones((T, 1, 1), bool)
        largest = {"values": apart(np.where(valid, found, 0), ys)}
        largest["values"] = max(largest["values"], apart(read(case, state), params))
        if theirs is None:
            return largest
        largest["gradients there"] = max(
            apart(pulled(partial(write, case), params, theirs[0]), grads), apart(theirs[1], slopes)
        )
        largest["gradients here"] = apart(theirs[0], pulled(partial(read, case), state, grads))
        return largest


def weights_of(case: Case, rng: Any, precision: str) -> Any:
    """Of the loss: nothing past a sequence's end."""
    width = (P if case.uses.projected else H) * (1 + case.uses.both)
    weights = rng.standard_normal((T, B, width)).astype(precision)
    return weights * VALID[..., None] if case.uses.lengths else weights


def pulled(function: Callable, at: Any, slopes: Any) -> Any:
    """Gradients of what `function` makes of `at`, as those of `at`."""

    def pull(at, slopes):
        return jax.vjp(function, at)[1](slopes)[0]

    return jax.jit(pull, compiler_options=QUICK)(at, slopes)


def apart(found: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest entry where that is above 1."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    scale = max(1.0, *(float(np.max(np.abs(b))) for _, b in pairs))
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs) / scale


# The page -----------------------------------------------------------------------------------------

HEAD = """\
# Parity

Written by `cd tests && python -m oracles.grid > ../docs/parity.md`, with {versions}.

Weights drawn at random are written as a library's arrays, and both compute: outputs over {T}
steps, and gradients of a weighted sum of them with respect to the inputs and every array. The
library's gradients are pulled back through `convert.write` and ours through `convert.read`. Each
number is the largest difference of all of these, relative to the largest entry where that is
above 1; `all at once` is two layers in both directions with lengths and projections, as far as the
layer has them. `-`: the library has no such thing. Keras computes in float32 whatever it is told;
onnxruntime has no gradients, and no recurrence in float64.

More is held to them by stored values, `tests/golden`: initial and final carries, masks with holes,
resets, activations, peepholes, `input_forget`, `clip`.
"""
TABLE = """
## {precision}, to {tolerance:.0e}

| layer | {forms} |
|---|{rules}
{lines}
"""


def page() -> str:
    """Every case, in both precisions."""
    from importlib.metadata import version

    names = ("torch", "keras", "flax", "dm-haiku", "equinox", "onnxruntime", "jax")
    known = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in names)
    text = HEAD.format(versions=known, T=T)
    for precision, tolerance in TOLERANCE.items():
        forms, rules = " | ".join(FORMS), "---|" * len(FORMS)
        lines = "\n".join(_line(row, precision) for row in CONVENTIONS if _has(row, precision))
        text += TABLE.format(
            precision=precision, tolerance=tolerance, forms=forms, rules=rules, lines=lines
        )
    return text.replace("\n\n\n", "\n\n")


def _has(row: str, precision: str) -> bool:
    return precision == "float32" or row.split()[0] not in SINGLE


def _line(row: str, precision: str) -> str:
    cells = [row]
    for form in FORMS:
        case = Case(row, form)
        found = differences(case, precision) if case.exists() else {}
        cells.append(f"{max(found.values()):.1e}" if found else "-")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # theirs
    print(page(), end="")
