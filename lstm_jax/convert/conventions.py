"""How other libraries lay out what we call kernel, recurrent_kernel and bias: one table.

`layers` reads it, docs/convert.md shows it (`python -m lstm_jax.convert.conventions`).
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Convention(NamedTuple):
    """One layer of one library. Gates by our names: i f g o, r z n, h.

    `biases`: `one` [N*H]; `two`, one beside each kernel; `stacked`, two as rows [2, N*H] or side by
    side [2*N*H]; `candidate`, one beside the input kernel and one [H] on h R_n. An array whose name
    holds `{gate}` comes once a gate; where both kernels have the same name they are one, x above h.
    """

    kind: str  # lstm | gru | rnn
    gates: str  # their order in the kernels
    kernel: str
    recurrent: str
    bias: str
    recurrent_bias: str = ""
    projection: str = ""
    peepholes: str = ""
    biases: str = "one"
    rows: bool = False  # kernels are [N*H, D], not [D, N*H]
    forget: float = 0.0  # what the forward pass adds to the forget gate's pre-activation
    reset: str = ""  # of a gru: after | before | either
    carry: str = "h"  # what it calls or returns, in its order
    flipped: str = ""  # gates that it opens the other way round: its z is our 1 - z
    renamed: tuple[str, str] = ("", "")  # a name that Python forbids, and what it is instead
    activation: str = "tanh"  # of an rnn
    activations: str = "fixed"  # those it may have; `shared`: g and c's way out have the same


_TORCH: dict[str, Any] = dict(
    kernel="weight_ih",
    recurrent="weight_hh",
    bias="bias_ih",
    recurrent_bias="bias_hh",
    biases="two",
    rows=True,
)
_KERAS: dict[str, Any] = dict(
    kernel="kernel", recurrent="recurrent_kernel", bias="bias", activations="shared"
)
_GATEWISE: dict[str, Any] = dict(
    kernel="i{gate}/kernel", recurrent="h{gate}/kernel", activations="shared"
)
_DENSE: dict[str, Any] = dict(
    kernel="dense_i/kernel", recurrent="dense_h/kernel", activations="shared"
)
_EQUINOX: dict[str, Any] = dict(kernel="weight_ih", recurrent="weight_hh", bias="bias", rows=True)
_ONNX: dict[str, Any] = dict(
    kernel="W", recurrent="R", bias="B", biases="stacked", rows=True, activations="any"
)

CONVENTIONS: dict[str, Convention] = {
    "torch LSTM": Convention("lstm", "ifgo", **_TORCH, projection="weight_hr", carry="h c"),
    "torch GRU": Convention("gru", "rzn", **_TORCH, reset="after"),
    "torch RNN": Convention("rnn", "h", **_TORCH, activations="tanh relu"),
    "keras LSTM": Convention("lstm", "ifgo", **_KERAS, carry="h c"),
    "keras GRU": Convention("gru", "zrn", **_KERAS, biases="stacked", reset="either"),
    "keras SimpleRNN": Convention("rnn", "h", **_KERAS),
    "linen LSTMCell": Convention("lstm", "ifgo", **_GATEWISE, bias="h{gate}/bias", carry="c h"),
    "linen GRUCell": Convention(
        "gru",
        "rzn",
        **_GATEWISE,
        bias="i{gate}/bias",
        recurrent_bias="hn/bias",
        biases="candidate",
        reset="after",
    ),
    "linen SimpleCell": Convention(
        "rnn", "h", "i/kernel", "h/kernel", "i/bias", activations="shared"
    ),
    "nnx OptimizedLSTMCell": Convention("lstm", "ifgo", **_DENSE, bias="dense_h/bias", carry="c h"),
    "nnx LSTMCell": Convention(
        "lstm", "ifgo", **_GATEWISE, bias="h{gate}/bias", carry="c h", renamed=("if/", "if_/")
    ),
    "nnx GRUCell": Convention("gru", "rzn", **_DENSE, bias="dense_i/bias", reset="after"),
    "nnx SimpleCell": Convention("rnn", "h", **_DENSE, bias="dense_i/bias"),
    "haiku LSTM": Convention(
        "lstm", "igfo", "linear/w", "linear/w", "linear/b", forget=1.0, carry="hidden cell"
    ),
    "haiku GRU": Convention("gru", "zrn", "w_i", "w_h", "b", reset="before", flipped="z"),
    "haiku VanillaRNN": Convention(
        "rnn",
        "h",
        "linear/w",
        "linear_1/w",
        "linear/b",
        "linear_1/b",
        biases="two",
        activation="relu",
    ),
    "equinox LSTMCell": Convention("lstm", "ifgo", **_EQUINOX, carry="h c"),
    "equinox GRUCell": Convention(
        "gru", "rzn", **_EQUINOX, recurrent_bias="bias_n", biases="candidate", reset="after"
    ),
    "onnx LSTM": Convention("lstm", "iofg", **_ONNX, peepholes="P", carry="h c"),
    "onnx GRU": Convention("gru", "zrn", **_ONNX, reset="either"),
    "onnx RNN": Convention("rnn", "h", **_ONNX),
}
OURS = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}  # the order of the gates here
LIBRARIES = tuple(dict.fromkeys(name.split()[0] for name in CONVENTIONS))


class Outer(NamedTuple):
    """How a library names what stands around the recurrence: dense, convolution, embedding."""

    kernel: str  # [D, F], or of a convolution [width, D, F]
    bias: str
    table: str  # [V, E]
    separator: str = "/"
    turned: bool = False  # a kernel is [F, D], or [F, D, width]


OUTER = {
    "torch": Outer("weight", "bias", "weight", ".", True),
    "keras": Outer("kernel", "bias", "embeddings"),
    "linen": Outer("kernel", "bias", "embedding"),
    "nnx": Outer("kernel", "bias", "embedding"),
    "haiku": Outer("w", "b", "embeddings"),
    "equinox": Outer("weight", "bias", "weight", ".", True),
}

HEAD = """\
| layer | arrays | gates | kernels | biases | forget bias | reset | carry | activations |
|---|---|---|---|---|---|---|---|---|
"""


def rows(library: str) -> dict[str, Convention]:
    """{"LSTM": its convention, ...} of one library, the one to write a kind in first."""
    return {n.split()[1]: c for n, c in CONVENTIONS.items() if n.split()[0] == library}


def table() -> str:
    """The table as Markdown."""
    return HEAD + "".join(_line(name, row) for name, row in CONVENTIONS.items())


def _line(name: str, row: Convention) -> str:
    fields = (row.kernel, row.recurrent, row.bias, row.recurrent_bias, row.projection)
    arrays = dict.fromkeys(filter(None, fields))
    note = [f"(`{row.renamed[1]}` of f)"] * bool(row.renamed[0])
    shapes = "[N·H, D]" if row.rows else "[D, N·H]"
    shapes = "[D + H, N·H], x above h" if row.kernel == row.recurrent else shapes
    reset = f"{row.reset}, its z is 1 - z" if row.flipped else row.reset
    forget = "" if row.kind != "lstm" else "+1 in the forward pass" if row.forget else "as stored"
    words = [f"`{a}`" for a in [*arrays, *([row.peepholes] * bool(row.peepholes))]] + note
    gates = " ".join(row.gates) + ("; peepholes i o f" if row.peepholes else "")
    cells = (name, " ".join(words), gates, shapes, row.biases, forget, reset, row.carry, _may(row))
    return "| " + " | ".join(cells) + " |\n"


def _may(row: Convention) -> str:
    return row.activation if row.kind == "rnn" and row.activations == "fixed" else row.activations


if __name__ == "__main__":
    print(table(), end="")
