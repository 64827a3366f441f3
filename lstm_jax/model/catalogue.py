"""What there is to choose from: every cell, gate-table row, option and transform, with its price.

Equations and sources of cells and transforms are read from their docstrings, counts from abstract
shapes: nothing here can drift from the code.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax import plugins
from lstm_jax.cells import CELLS, gru, lstm, rnn, transforms
from lstm_jax.cells.activations import ACTIVATIONS
from lstm_jax.cells.gates import GATES, GateTable
from lstm_jax.cells.gates import step as cell_step
from lstm_jax.cells.initializers import BIASES, KERNELS
from lstm_jax.cells.peepholes import PEEPHOLES
from lstm_jax.compute import flops
from lstm_jax.core import Array, Cell, Params, noted
from lstm_jax.engines import ENGINES
from lstm_jax.errors import lookup
from lstm_jax.model.cell import a_cell
from lstm_jax.ops import count

HIDDEN, FEATURES = 128, 128


class Entry(NamedTuple):
    """One choice: how to switch it on, its cell at `HIDDEN` units, its equations and source."""

    name: str
    kind: str  # cell | gates | option | transform
    switch: str
    cell: Callable[[], Cell]
    equations: str
    source: str


# (name, switch, cell, what it changes, source)
OPTIONS: tuple[tuple[str, str, Callable[[], Cell], str, str], ...] = (
    (
        "peepholes_diagonal",
        "cell.peepholes=diagonal",
        lambda: lstm(HIDDEN, peepholes="diagonal"),
        "z_i += p_i * c, z_f += p_f * c, z_o += p_o * c'",
        "Gers & Schmidhuber (2000)",
    ),
    (
        "peepholes_full",
        "cell.peepholes=full",
        lambda: lstm(HIDDEN, peepholes="full"),
        "z_i += c P_i, z_f += c P_f, z_o += c P_o, all on the old c",
        "textbook variant of Gers & Schmidhuber (2000)",
    ),
    (
        "layer_norm_branch",
        "cell.layer_norm=branch",
        lambda: lstm(HIDDEN, layer_norm="branch"),
        "z = LN(x W) + LN(h R) + b, h' = o * tanh(LN(c')), c' carried as it is",
        "Ba, Kiros & Hinton (2016), eq. 20-22",
    ),
    (
        "layer_norm_recirculated",
        "cell.layer_norm=recirculated",
        lambda: lstm(HIDDEN, layer_norm="recirculated"),
        "z = LN(x W) + LN(h R) + b, c' = LN(f * c + i * g), h' = o * tanh(c')",
        "the convention of tensorflow-addons",
    ),
    (
        "cell_clip",
        "cell.cell_clip=3",
        lambda: lstm(HIDDEN, cell_clip=3.0),
        "c' = clip(f * c + i * g, -k, k)",
        "Sak, Senior & Beaufays (2014)",
    ),
    (
        "gru_reset_before",
        "cell.name=gru cell.reset=before",
        lambda: gru(HIDDEN, reset="before"),
        "n = tanh(x W_n + (r * h) R_n + b_n)",
        "Cho et al. (2014)",
    ),
    (
        "irnn",
        "cell.name=rnn cell.activation=relu cell.recurrent_init=identity",
        lambda: rnn(HIDDEN, activation="relu", recurrent_init="identity"),
        "h' = relu(x W + h R + b), R = I at the start",
        "Le, Jaitly & Hinton (2015)",
    ),
)

# (transform, switch, applied to the standard LSTM)
TRANSFORMED = (
    ("projection", "cell.projection=64", lambda cell: transforms.projection(cell, 64)),
    ("zoneout", "cell.zoneout_c=0.1 cell.zoneout_h=0.1",
     lambda cell: transforms.zoneout(cell, 0.1, 0.1)),
    ("variational_dropout", "cell.variational_input=0.2 cell.variational_hidden=0.2",
     lambda cell: transforms.variational_dropout(cell, 0.2, 0.2)),
    ("recurrent_dropout", "cell.recurrent_dropout=0.2",
     lambda cell: transforms.recurrent_dropout(cell, 0.2)),
    ("weight_drop", "cell.weight_drop=0.5", lambda cell: transforms.weight_drop(cell, 0.5)),
    ("gradient_weighting", "cell.gradient_weight=2",
     lambda cell: transforms.gradient_weighting(cell, 2.0)),
    ("activity_weighting", "cell.activity_weighting=True", transforms.activity_weighting),
    ("recurrent_gradient_clipping", "cell.recurrent_gradient_clip=1",
     lambda cell: transforms.recurrent_gradient_clipping(cell, 1.0)),
    ("learned_carry", "cell.learned_carry=True", transforms.learned_carry),
)  # fmt: skip


def entries() -> list[Entry]:
    """Everything, cells first."""
    cells = [
        Entry(name, "cell", f"cell.name={name}", lambda make=make: make(HIDDEN), *story(make))
        for name, make in CELLS.items()
    ]
    rows = [
        Entry(
            name,
            "gates",
            f"cell.gates={name}",
            lambda name=name: lstm(HIDDEN, gates=name),
            row.equation,
            row.source,
        )
        for name, row in GATES.items()
    ]
    options = [
        Entry(name, "option", switch, cell, equations, source)
        for name, switch, cell, equations, source in OPTIONS
    ]
    changed = [
        Entry(name, "transform", switch, lambda wrap=wrap: wrap(lstm(HIDDEN)),
              *story(transforms.TRANSFORMS[name]))
        for name, switch, wrap in TRANSFORMED
    ]  # fmt: skip
    return cells + rows + options + changed


def story(function: Callable) -> tuple[str, str]:
    """(equations, source) of a docstring: its indented block, and what follows `Source:`."""
    text = inspect.getdoc(function) or ""
    block = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    source = text.partition("Source: ")[2].split("\n\n")[0]
    return "\n".join(block), " ".join(source.split()).rstrip(".")


def parameters(cell: Cell) -> Params:
    """The shapes of the cell's parameters at D = `FEATURES`."""
    return jax.eval_shape(lambda key: cell.init(key, FEATURES), jax.random.key(0))


def step_flops(cell: Cell) -> int:
    """Floating-point operations of one step of one example, its input projection included."""
    return step_tally(cell).total()


def step_tally(cell: Cell) -> Counter[str]:
    """The same by JAX's primitive."""

    def step(params: Params, x: Array):
        carry = cell.initial_carry(params, (1,))
        now = jax.tree.map(lambda leaf: leaf[0], noted(cell.project(params, x[None])))
        return cell_step(cell, params, carry, *now)

    return flops.tally(step, parameters(cell), jax.ShapeDtypeStruct((1, FEATURES), jnp.float32))


def find(name: str) -> list[Entry]:
    """The entries of that name; a cell and a row of the gate table may share one."""
    if plugins.is_reference(name):
        return [own_entry(name)]
    known = {entry.name: None for entry in entries()}
    lookup("cell, gates row, option or transform", name, known)
    return [entry for entry in entries() if entry.name == name]


def own_entry(name: str) -> Entry:
    """What somebody's FILE.py:NAME is: a gate table, a constructor of cells, or a cell."""
    expected = "a constructor of cells, a Cell or a GateTable"
    part: Any = plugins.find("cell or gates", name, {}, expected, _is_part)
    if isinstance(part, GateTable):
        switch = f"cell.gates={name}"
        return Entry(name, "gates", switch, lambda: lstm(HIDDEN, gates=part), *part[-2:])
    if isinstance(part, Cell):
        return Entry(name, "cell", "lstm_jax.Recurrent(...)", lambda: part, "", "")
    cell, told = a_cell(part(HIDDEN), name), getattr(part, "func", part)
    equations, source = story(told)
    about = equations or inspect.getdoc(told) or ""
    return Entry(name, "cell", f"cell.name={name}", lambda: cell, about, source)


def _is_part(part: Any) -> bool:
    return isinstance(part, GateTable | Cell) or callable(part)


def learned(cell: Cell) -> str:
    """The learned gates in kernel order."""
    return " ".join(cell.info.learned) or "-"


def words() -> dict[str, str]:
    """Names that options take, by what they choose."""
    return {
        "activations (cell.*_activation)": ", ".join(ACTIVATIONS),
        "peepholes (cell.peepholes)": ", ".join(PEEPHOLES),
        "kernel initialisers (cell.kernel_init, cell.recurrent_init)": ", ".join(KERNELS),
        "forget-bias initialisers (cell.forget_init)": ", ".join(BIASES),
        "engines (model.engine)": ", ".join(["auto", *ENGINES]),
    }


def markdown() -> str:
    """The site's page of cells: the table and the words."""
    lines = [
        "# Cells, gate-table rows, options and transforms",
        "",
        "Generated by `lstm-jax cells --markdown`. `lstm-jax cells NAME` says everything about",
        "one. W, R and b are the kernel, the recurrent kernel and the bias; s is the logistic",
        "sigmoid; ' marks the new value. Transforms are shown on the standard LSTM. FLOPs are",
        "those of one step's matrix products; `lstm-jax cells` counts all.",
        "",
        f"| entry | switch | equations | learned | parameters (H=D={HIDDEN}) | matmul FLOPs a "
        "step | source |",
        "|---|---|---|---|---:|---:|---|",
    ]
    for entry in entries():
        cell = entry.cell()
        equations = "<br>".join(f"`{line}`" for line in entry.equations.splitlines())
        switch = "<br>".join(f"`--config.{part}`" for part in entry.switch.split())
        lines.append(
            f"| {entry.name} | {switch} | {equations} | {learned(cell)} | "
            f"{count(parameters(cell)):,} | {step_tally(cell)['dot_general']:,} | {entry.source} |"
        )
    lines += [""] + [f"- {what}: {names}" for what, names in words().items()]
    return "\n".join(lines) + "\n"
