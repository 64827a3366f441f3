"""The cell that a config asks for: a constructor, then the transforms that are on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from lstm_jax.cells import CELLS, lstm, transforms
from lstm_jax.cells.gates import ORDER, gate_table, gate_words
from lstm_jax.cells.initializers import A_BIAS, BIASES
from lstm_jax.cells.slstm import slstm_table
from lstm_jax.config.options import OPTIONS
from lstm_jax.core import Cell
from lstm_jax.errors import UsageError, lookup
from lstm_jax.option import Option
from lstm_jax.plugins import find, is_reference


def build_cell(cell: Any) -> Any:
    """The `Cell` of the `cell` section: a constructor of `CELLS`, then the transforms that are on.

    A field reaches the constructor if the constructor has an option of its name.

    Raises:
      UsageError: a field that is set but means nothing to this cell, or what the cell refuses.
    """
    constructor = constructor_of(cell.name)
    options = cell_options(constructor)
    _check_meaning(cell, options)
    made = a_cell(constructor(cell.hidden, **_constructor_arguments(cell, options)), cell.name)
    for name, arguments in TRANSFORMS.items():
        made = _transformed(made, name, arguments, cell)
    for name in cell.transforms:
        made = a_cell(find("transform", name, _OWN_ONLY, "a function Cell -> Cell")(made), name)
    return made


def constructor_of(name: str) -> Callable[..., Any]:
    """The constructor that `cell.name` names."""
    return find("cell", name, CELLS, "a function (hidden, *, options) -> Cell")


_OWN_ONLY: dict[str, Any] = {}  # the library's own transforms are fields by themselves


def a_cell(built: Any, name: str) -> Any:
    """What a part of that name returned, if it is a cell."""
    if not isinstance(built, Cell):
        raise UsageError(
            f"{name} returned a {type(built).__name__}, expected a lstm_jax.Cell; see "
            "docs/guides/cell.md, or write one to start from: lstm-jax new cell NAME"
        )
    return built


# {"zoneout": {"zoneout_c": "rate_c", ...}}: Cell -> Cell, from the inside out, and the argument
# that each field becomes. A transform is on when one of its fields is; a field without an argument
# is only a switch.
TRANSFORMS = {
    name: {
        row.name: row.transform.partition(".")[2]
        for row in OPTIONS["cell"]
        if row.transform.partition(".")[0] == name
    }
    for name in transforms.TRANSFORMS
}


def _transformed(built: Any, name: str, arguments: dict[str, str], cell: Any) -> Any:
    values = {field: getattr(cell, field) for field in arguments}
    if all(_is_off(value) for value in values.values()):
        return built
    given = {arguments[field]: value for field, value in values.items() if arguments[field]}
    if name == "gradient_weighting" and cell.gradient_weight_gates:
        given["weights"] = dict.fromkeys(cell.gradient_weight_gates, cell.gradient_weight)
    return transforms.TRANSFORMS[name](built, **given)


def _is_off(value: Any) -> bool:
    """A Python 0 or ""; an array never is, whatever it holds."""
    return isinstance(value, (bool, int, float, str)) and not value


def cell_options(constructor: Callable) -> dict[str, inspect.Parameter]:
    """The keyword options of a constructor; `**options` stands for those of `lstm`."""
    parameters = inspect.signature(constructor).parameters.values()
    named = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {**cell_options(lstm), **named} if passes_on else named


EVERY_CELL = ("name", "hidden")  # the constructor and its one positional argument
PER_GATE = {
    row.gate: row.name for row in OPTIONS["cell"] if row.gate
}  # {"i": the field of i alone}


def _takes(options: dict[str, inspect.Parameter], row: Option) -> bool:
    option = options.get(row.option_of or row.name)
    return option is not None and (not row.gate or "Mapping" in str(option.annotation))


def _check_meaning(cell: Any, options: dict[str, inspect.Parameter]) -> None:
    """Raises UsageError for a field that is set but belongs to other cells."""
    if cell.gradient_weight_gates and _is_off(cell.gradient_weight):
        raise UsageError(
            f"cell.gradient_weight_gates={','.join(cell.gradient_weight_gates)} needs a weight: "
            "set cell.gradient_weight above 0"
        )
    for row in OPTIONS["cell"]:
        value = getattr(cell, row.name)
        is_set = isinstance(value, (str, int, float)) and value != row.default
        general = row.transform or row.name in EVERY_CELL
        if is_set and not general and not _takes(options, row):
            takes = ", ".join(r.name for r in OPTIONS["cell"] if _takes(options, r))
            raise UsageError(
                f"cell.{row.name}={value!r} means nothing to cell {cell.name!r}, "
                f"which takes: {takes}; leave it at {row.default!r} or choose another cell.name"
            )


def _constructor_arguments(cell: Any, options: dict[str, inspect.Parameter]) -> dict[str, Any]:
    special = {
        "gate_activation": _gate_activation,
        "forget_bias": _forget_bias,
        "dtype": _dtype,
    }
    taken = {
        name: special[name](cell) if name in special else getattr(cell, name)
        for name in options
        if hasattr(cell, name)
    }
    return {k: v for k, v in taken.items() if not (isinstance(v, str) and v == "")}


def _gate_activation(cell: Any) -> str | dict[str, str]:
    """One name for all gates, or a name a gate where one has its own."""
    own = {gate: getattr(cell, field) for gate, field in PER_GATE.items()}
    if not any(own.values()):
        return cell.gate_activation

    learned = gate_table(cell.gates).learned()
    shared = {gate: cell.gate_activation for gate in own if gate in learned}
    chosen = {gate: name or shared.get(gate, "") for gate, name in own.items()}
    return {gate: name for gate, name in chosen.items() if name}


def _forget_bias(cell: Any) -> Any:
    """A number, or one of the initialisers of `initializers.BIASES`."""
    initializer = find("forget_init", cell.forget_init, BIASES, A_BIAS)
    if cell.forget_init != "chrono" and cell.t_max:
        raise UsageError(
            f"cell.t_max={cell.t_max} belongs to chrono, but cell.forget_init is "
            f"{cell.forget_init!r}; set cell.forget_init=chrono or leave cell.t_max at 0"
        )
    if cell.forget_init == "constant":
        return cell.forget_bias
    if isinstance(cell.forget_bias, (int, float)) and cell.forget_bias != 1.0:
        raise UsageError(
            f"cell.forget_bias={cell.forget_bias} and cell.forget_init={cell.forget_init!r} both "
            "set the forget bias; leave cell.forget_bias at 1.0 or set cell.forget_init=constant"
        )
    if is_reference(cell.forget_init):
        return initializer
    return initializer(cell.t_max) if cell.forget_init == "chrono" else initializer()


def _dtype(cell: Any) -> Any:
    return lookup("dtype", cell.dtype, {"float32": None, "bfloat16": jnp.bfloat16})


def chosen(cell: Any) -> dict[str, str]:
    """{field: what the cell takes where the field is ""}; no entry where it has no such option."""
    options = cell_options(constructor_of(cell.name))
    empty = [r for r in OPTIONS["cell"] if cell[r.name] == "" and _takes(options, r)]
    defaults: dict[str, Any] = {r.name: options[r.option_of or r.name].default for r in empty}
    opened = _opened(cell, options)
    return defaults | {name: text for name, text in opened.items() if name in defaults}


def _opened(cell: Any, options: dict[str, inspect.Parameter]) -> dict[str, str]:
    """What each gate opens with, by the field that says so; {} for cells without a gate table."""
    make = {"lstm": gate_table, "lstm_fgr": gate_table, "slstm": slstm_table}.get(cell.name)
    if make is None:
        return {}
    given = _constructor_arguments(cell, options)
    table = make(**{k: v for k, v in given.items() if k in inspect.signature(make).parameters})
    gates = {k: gate_words(getattr(table, k)) for k in ORDER}
    own = {field: gates[gate] for gate, field in PER_GATE.items()}
    same = len(set(own.values())) == 1
    shared = gates["i"] if same else ", ".join(f"{k}: {gates[k]}" for k in PER_GATE)
    return own | {
        "gate_activation": shared,
        "candidate_activation": gates["g"],
        "output_activation": table.output,
    }
