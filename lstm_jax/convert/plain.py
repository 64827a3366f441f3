"""A layer as other libraries write it: every gate learned, one activation for i, f and o.

Most rows of the gate table come to that exactly. A gate that is always 1 has zero weights and a
large bias, 1 - s(u) is s(-u), a gate that does not see h has zeros in its recurrent kernel.
"""

from __future__ import annotations

import inspect
import math
from pickle import PicklingError
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.gates import NAMES, Constant, Coupled, GateTable, word
from lstm_jax.core import Cell, Params
from lstm_jax.errors import UsageError


class Inexpressible(UsageError):
    """The other side has no such layer: which option, and what comes nearest."""


class Plain(NamedTuple):
    """One direction of one layer, gates in our order, all of them learned."""

    kind: str  # lstm | gru | rnn
    kernel: Any  # [D, N*H]
    recurrent: Any  # [H or P, N*H]
    bias: Any  # [N*H]
    activations: tuple[str, ...]  # of the gates, of the candidate, of c on its way out
    inner: Any = None  # [H]: the second bias of a candidate that is reset after its product
    peepholes: Any = None  # [3, H], rows i f o
    projection: Any = None  # [H, P]
    reset: str = ""  # of a gru

    @property
    def hidden(self) -> int:
        return self.bias.shape[-1] // {"lstm": 4, "gru": 3, "rnn": 1}[self.kind]


# The options of the cell that `activations` are.
FIELDS = {
    "lstm": ("gate_activation", "candidate_activation", "output_activation"),
    "gru": ("gate_activation", "candidate_activation"),
    "rnn": ("activation",),
}
# Without a key these change nothing, or nothing but gradients.
NEUTRAL = (
    "variational_dropout",
    "recurrent_dropout",
    "weight_drop",
    "gradient_weighting",
    "activity_weighting",
    "recurrent_gradient_clipping",
)


def numpy_of(*arrays: Any) -> Any:
    """The module whose functions serve these arrays: JAX's where one is JAX's, traced or not."""
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def calls(cell: Cell) -> list[tuple[str, dict[str, Any]]]:
    """The constructor that made the cell, then its transforms, each with its arguments.

    Raises: Inexpressible for a cell that no constructor of lstm_jax made.
    """
    try:
        cell.__reduce__()
    except PicklingError:
        raise Inexpressible(
            f"cell {cell.info.name!r} holds functions that no constructor of lstm_jax made, so "
            "only its step is known; ONNX's Scan and StableHLO take any step"
        ) from None
    made: Any = cell.made
    bound = inspect.signature(made.func).bind(*made.args, **made.keywords)
    bound.apply_defaults()
    arguments = bound.arguments
    inner = arguments.pop("cell", None)
    return [*(calls(inner) if inner else []), (made.func.__name__, arguments)]


def plain(cell: Cell, params: Params, ignore: tuple[str, ...] = ()) -> Plain:
    """The layer in that form; transforms named in `ignore` are left to the caller.

    Raises: Inexpressible, with the option and what comes nearest.
    """
    (name, options), *transforms = calls(cell)
    for transform, _ in transforms:
        if transform not in (*NEUTRAL, *ignore, "projection"):
            raise Inexpressible(f"{transform} on {name!r}: no other library has it; {_TRAIN}")
    if name not in _MAKE:
        raise Inexpressible(
            f"cell {cell.info.name!r} is none of lstm, gru and rnn, which other libraries have; "
            + _TRAIN
        )
    _refuse(name, options)
    return _MAKE[name](cell, params, options)


_TRAIN = "train without it, or export to ONNX (a Scan of the step) or StableHLO"
_NEAREST = {
    "layer_norm": ("none", "normalised pre-activations"),
    "cell_clip": (0.0, "a bound on c"),
    "dtype": (None, "matmuls in another type than the parameters'"),
}


def _refuse(name: str, options: dict[str, Any]) -> None:
    if options.get("peepholes") == "full":
        raise Inexpressible(
            "peepholes='full': matrices on c are in no other library; the nearest is "
            f"peepholes='diagonal', in ONNX's LSTM; {_TRAIN}"
        )
    for option, (nearest, words) in _NEAREST.items():
        if option in options and options[option] != nearest:
            raise Inexpressible(
                f"{option}={options[option]!r} of {name!r} ({words}): no other library's layer "
                f"has it; the nearest is {option}={nearest!r}; {_TRAIN}"
            )


def _lstm(cell: Cell, params: Params, options: dict[str, Any]) -> Plain:
    table: GateTable = cell.info.table
    if table is None or table.update != "add":
        what = f"update={table.update!r}" if table else "an exp gate"
        raise Inexpressible(f"gates={options['gates']!r} ({what}): in no other library; {_TRAIN}")
    squash = _shared(table)
    gates = _gates(table, params, squash)
    xp, order = numpy_of(params["kernel"]), "ifgo"
    kernel, recurrent, bias = (xp.concatenate([gates[k][n] for k in order], -1) for n in range(3))
    peepholes = xp.stack([gates[k][3] for k in "ifo"]) if "peephole_kernel" in params else None
    activations = (squash, getattr(table.g, "activation", "tanh"), table.output)
    arrays: dict[str, Any] = {
        "peepholes": peepholes,
        "projection": params.get("projection_kernel"),
    }
    return Plain("lstm", kernel, recurrent, bias, activations, **arrays)


def whole(p: Plain) -> Params:
    """The parameters of the cell that has every gate."""
    found = {
        "kernel": p.kernel,
        "recurrent_kernel": p.recurrent,
        "bias": p.bias,
        "recurrent_bias": p.inner,
        "peephole_kernel": p.peepholes,
        "projection_kernel": p.projection,
    }
    return {name: array for name, array in found.items() if array is not None}


def options_of(p: Plain) -> dict[str, str]:
    """The options of the cell that its arrays do not tell."""
    reset = {"reset": p.reset} if p.kind == "gru" else {}
    return reset | dict(zip(FIELDS[p.kind], p.activations, strict=True))


def unplain(cell: Cell, p: Plain) -> Params:
    """The parameters of `cell` that `plain` makes p of.

    Raises: Inexpressible where none do: a gate that the cell fixes is another one in p.
    """
    params = whole(p)
    table = cell.info.table
    if p.kind == "lstm" and table is not None:
        params |= _learned(table, params)
        ours = plain(cell, params, ignore=("learned_carry",))
        if not all(np.allclose(a, b, 1e-5, 1e-6) for a, b in _pairs(ours, p)):
            fixed = ", ".join(NAMES[k] for k in "ifgo" if k not in table.recurrent())
            raise Inexpressible(
                f"the arrays have a {fixed} of their own, which this config's cell has not; import "
                "with cell.gates=lstm, or arrays that lstm_jax wrote"
            )
    return params


def _learned(table: GateTable, params: Params) -> Params:
    """Of arrays that hold every gate, those of the gates that the table learns."""
    xp, learned = numpy_of(params["kernel"]), table.learned()
    seeing = {"kernel": learned, "bias": learned, "recurrent_kernel": table.recurrent()}
    found = {}
    for name, gates in seeing.items():
        blocks = _split(xp, params[name], tuple("ifgo"))
        found[name] = xp.concatenate([params[name][..., :0], *(blocks[k] for k in gates)], -1)
    if "peephole_kernel" in params:
        rows = dict(zip("ifo", params["peephole_kernel"], strict=True))
        found["peephole_kernel"] = xp.stack([rows[k] for k in learned if k != "g"])
    return found


def _pairs(ours: Plain, theirs: Plain) -> list[tuple[Any, Any]]:
    """Arrays that should be equal."""
    fields = ("kernel", "recurrent", "bias", "peepholes")
    pairs = [(getattr(ours, k), getattr(theirs, k)) for k in fields]
    return [pair for pair in pairs if pair[0] is not None]


def _shared(table: GateTable) -> str:
    """The one activation of i, f and o."""
    names = {
        getattr(table, k).activation for k in "ifo" if hasattr(getattr(table, k), "activation")
    }
    if len(names) > 1:
        raise Inexpressible(
            f"gate activations {', '.join(sorted(map(word, names)))} side by side: other libraries "
            f"have one for i, f and o; the nearest is the same on all three; {_TRAIN}"
        )
    return names.pop() if names else "sigmoid"


def _gates(table: GateTable, params: Params, squash: str) -> dict[str, tuple]:
    """{gate: (kernel, recurrent kernel, bias, peephole)} for i, f, g and o."""
    xp, learned, recurrent = numpy_of(params["kernel"]), table.learned(), table.recurrent()
    inputs = dict(zip(learned, xp.split(params["kernel"], len(learned), -1), strict=True))
    biases = dict(zip(learned, xp.split(params["bias"], len(learned), -1), strict=True))
    hiddens = _split(xp, params["recurrent_kernel"], recurrent)
    seen = _split_rows(params.get("peephole_kernel"), [k for k in learned if k != "g"])
    hidden = biases[learned[0]].shape[-1]
    dtype, rows = params["bias"].dtype, params["recurrent_kernel"].shape[0]
    of_h, of_c = xp.zeros((rows, hidden), dtype), xp.zeros((hidden,), dtype)
    found = {k: (inputs[k], hiddens.get(k, of_h), biases[k], seen.get(k, of_c)) for k in learned}
    still = (xp.zeros_like(inputs[learned[0]]), of_h)
    for name, gate in table.gates():
        if isinstance(gate, Constant):
            activation = "tanh" if name == "g" else squash
            found[name] = (
                *still,
                xp.full((hidden,), preimage(activation, gate.value), dtype),
                of_c,
            )
        elif isinstance(gate, Coupled):
            found[name] = _coupled(name, gate, found[gate.to], squash)
    return found


def _split(xp: Any, kernel: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(names, xp.split(kernel, len(names), -1), strict=True)) if names else {}


def _split_rows(rows: Any, names: list[str]) -> dict[str, Any]:
    return {} if rows is None else dict(zip(names, rows, strict=True))


def _coupled(name: str, gate: Coupled, to: tuple, squash: str) -> tuple:
    """1 - s(u + shift) as s(-u - shift), where the activation is such a one."""
    said = word(squash)
    if squash not in ("sigmoid", "hard_sigmoid"):
        raise Inexpressible(
            f"the {NAMES[name]} is 1 - {said}(u_{gate.to}), which is {said} of nothing; the "
            f"nearest is a coupled gate with gate_activation='sigmoid'; {_TRAIN}"
        )
    kernel, recurrent, bias, peephole = to
    return -kernel, -recurrent, -bias - gate.shift, -peephole


def preimage(activation: str, value: float) -> float:
    """u with activation(u) = value, as exactly as the type of u has it.

    Raises: Inexpressible where the activation never has that value.
    """
    inverse = {
        "sigmoid": lambda v: _edges(v, lambda v: math.log(v / (1 - v))),
        "hard_sigmoid": lambda v: 6 * v - 3 if 0 <= v <= 1 else math.nan,
        "tanh": lambda v: _edges((v + 1) / 2, lambda w: math.log(w / (1 - w)) / 2),
        "softsign": lambda v: v / (1 - abs(v)) if abs(v) < 1 else math.nan,
        "relu": lambda v: v if v >= 0 else math.nan,
        "relu1": lambda v: v if 0 <= v <= 1 else math.nan,
        "identity": lambda v: v,
    }
    u = inverse.get(activation, lambda v: math.nan)(value)
    if math.isnan(u):
        raise Inexpressible(
            f"a gate that is always {value:g}: {word(activation)} of nothing is; the nearest is "
            "gate_activation='sigmoid', which has it at a large bias"
        )
    return u


def _edges(value: float, inside: Any) -> float:
    """40 rounds a sigmoid to 1 in float64; -500 to 0 in float32 and to 1e-217 there."""
    if value in (0, 1):
        return 40.0 if value else -500.0
    return inside(value) if 0 < value < 1 else math.nan


def _gru(cell: Cell, params: Params, options: dict[str, Any]) -> Plain:
    kernels = (params["kernel"], params["recurrent_kernel"], params["bias"])
    activations = (dict(cell.info.gates)["r"].activation, dict(cell.info.gates)["n"].activation)
    inner = params.get("recurrent_bias")
    return Plain("gru", *kernels, activations, inner=inner, reset=options["reset"])


def _rnn(cell: Cell, params: Params, options: dict[str, Any]) -> Plain:
    kernels = (params["kernel"], params["recurrent_kernel"], params["bias"])
    return Plain("rnn", *kernels, (dict(cell.info.gates)["h"].activation,))


_MAKE = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}
