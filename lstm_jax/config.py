"""Configs as the program sees them: what is static, what is a number, and what they build.

A config is a locked `ConfigDict` with the sections seed, task, cell, model, optimizer, train and
parallel. Numbers that may differ between the trials of one compiled program are `NUMERIC`: `split`
takes them out as arrays, `bind` puts arrays (or tracers) back, and every builder takes either.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lstm_jax.core import UsageError, lookup
from lstm_jax.options import (
    NUMERIC,
    PLACEMENT,
    cell_fields,
    default_config,
    task_fields,
)

__all__ = [
    "NUMERIC",
    "PLACEMENT",
    "bind",
    "build_cell",
    "build_model",
    "build_task",
    "cell_fields",
    "changed",
    "config_hash",
    "default_config",
    "flatten",
    "histogram_period",
    "signature",
    "split",
    "task_fields",
    "to_json",
    "with_field",
]

# ---------------------------------------------------------------------------------------------
# Numbers in, numbers out


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optimizer.learning_rate": 1e-3, ...} from nested sections."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, (ConfigDict, dict))
        flat.update(flatten(value, name + ".") if nested else {name: value})
    return flat


def changed(config: Any) -> dict[str, Any]:
    """The fields that are not as `default_config` of the task has them, flat."""
    defaults = flatten(default_config(config.task.name))
    return {n: v for n, v in flatten(config).items() if n not in defaults or v != defaults[n]}


def histogram_period(train: Any) -> int:
    """Steps between histograms: `train.histogram_every`, or such that a run has ten to nineteen.

    With a log line, since Python sees the device only then: no more than there are log lines.
    """
    log_lines = train.num_steps // train.log_every
    return train.histogram_every or max(log_lines // 10, 1) * train.log_every


def split(config: ConfigDict) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(static, hyper): what shapes the program, and the numbers that flow through it as arrays."""
    static = flatten(config)
    active = [name for name in NUMERIC if name in static and (static[name] or name == "seed")]
    hyper = {name: static.pop(name) for name in active}
    kinds = {"seed": np.uint32}
    return static, {k: np.asarray(v, kinds.get(k, np.float32)) for k, v in hyper.items()}


def bind(config: ConfigDict, hyper: dict[str, Any]) -> SimpleNamespace:
    """`config` as attributes, with the fields named in `hyper` replaced by its arrays."""

    def tree(section: Any, prefix: str) -> SimpleNamespace:
        fields = {}
        for key, value in section.items():
            name = f"{prefix}{key}"
            nested = isinstance(value, (ConfigDict, dict))
            fields[key] = tree(value, name + ".") if nested else hyper.get(name, value)
        return SimpleNamespace(**fields)

    return tree(config, "")


def signature(config: ConfigDict) -> str:
    """Equal for two configs exactly when one compiled program can serve both."""
    static, hyper = split(config)
    return _hash({"static": static, "numeric": sorted(hyper)})


def config_hash(config: ConfigDict) -> str:
    """Equal for two configs exactly when all fields but those of `PLACEMENT` are."""
    return _hash({k: v for k, v in flatten(config).items() if k not in PLACEMENT})


def to_json(config: ConfigDict) -> str:
    """The resolved config as written to config.json."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def _hash(tree: Any) -> str:
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------
# Objects out


def build_task(config: Any) -> Any:
    """The `Task` that `config.task.name` names."""
    from lstm_jax.tasks import TASKS

    try:
        return lookup("task", config.task.name, TASKS).build(config)
    except UsageError as error:
        raise UsageError(with_field(str(error), flatten(config))) from error


def with_field(message: str, flat: dict[str, Any]) -> str:
    """A message about a name that nobody knows, with the field of a flat config that holds it."""
    given = re.search(r"unknown [\w. ]+? ('.*?'|\".*?\");", message)
    holders = [name for name, value in flat.items() if given and repr(value) == given[1]]
    named = any(name.rpartition(".")[2] in message for name in holders)
    return message if named or not holders else f"config.{holders[0]}: {message}"


def build_model(config: Any, spec: Any) -> Any:
    """The `Model` of the `model` and `cell` sections for a task of these sizes."""
    from lstm_jax import modules

    return modules.build_model(config, spec)


def build_cell(cell: Any) -> Any:
    """The `Cell` of the `cell` section: a constructor of `CELLS`, then the transforms that are on.

    A field reaches the constructor if the constructor has an option of its name.

    Raises:
      UsageError: a field that is set but means nothing to this cell, or what the cell refuses.
    """
    from lstm_jax.cells import CELLS

    constructor = lookup("cell", cell.name, CELLS)
    options = cell_options(constructor)
    _check_meaning(cell, options)
    built = constructor(cell.hidden, **_constructor_arguments(cell, options))
    for name, arguments in TRANSFORMS:
        built = _transformed(built, name, arguments, cell)
    return built


# Cell -> Cell, from the inside out: a function of transforms.py, and the field of each argument.
# A transform is on when one of its fields is; a field without an argument is only a switch.
TRANSFORMS = (
    ("projection", {"projection": "size"}),
    ("recurrent_dropout", {"recurrent_dropout": "rate"}),
    (
        "variational_dropout",
        {"variational_input": "input_rate", "variational_hidden": "hidden_rate"},
    ),
    ("weight_drop", {"weight_drop": "rate"}),
    ("gradient_weighting", {"gradient_weight": "weights"}),
    ("activity_weighting", {"activity_weighting": ""}),
    ("zoneout", {"zoneout_c": "rate_c", "zoneout_h": "rate_h"}),
    ("recurrent_gradient_clipping", {"recurrent_gradient_clip": "limit"}),
    ("learned_carry", {"learned_carry": ""}),
)


def _transformed(built: Any, name: str, arguments: dict[str, str], cell: Any) -> Any:
    from lstm_jax import transforms

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
    from lstm_jax.cells import lstm

    parameters = inspect.signature(constructor).parameters.values()
    named = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {**cell_options(lstm), **named} if passes_on else named


# Which constructor option a field belongs to, where it is not the one of its own name.
OPTION_OF = {
    "input_gate_activation": "gate_activation",
    "forget_gate_activation": "gate_activation",
    "output_gate_activation": "gate_activation",
    "forget_init": "forget_bias",
    "t_max": "forget_bias",
}
PER_GATE = {
    "i": "input_gate_activation",
    "f": "forget_gate_activation",
    "o": "output_gate_activation",
}
EVERY_CELL = ("name", "hidden", "dtype")


def _takes(options: dict[str, inspect.Parameter], field: str) -> bool:
    option = options.get(OPTION_OF.get(field, field))
    if option is None:
        return False
    return field not in PER_GATE.values() or "Mapping" in str(option.annotation)


def _check_meaning(cell: Any, options: dict[str, inspect.Parameter]) -> None:
    """Raises UsageError for a field that is set but belongs to other cells."""
    if cell.gradient_weight_gates and _is_off(cell.gradient_weight):
        raise UsageError(
            f"cell.gradient_weight_gates={','.join(cell.gradient_weight_gates)} needs a weight: "
            "set cell.gradient_weight above 0"
        )
    general = {*EVERY_CELL, *(field for _, fields in TRANSFORMS for field in fields)}
    for field, default in cell_fields().items():
        value = getattr(cell, field)
        is_set = isinstance(value, (str, int, float)) and value != default
        if is_set and field not in general and not _takes(options, field):
            takes = ", ".join(f for f in cell_fields() if _takes(options, f))
            raise UsageError(
                f"cell.{field}={value!r} means nothing to cell {cell.name!r}, "
                f"which takes: {takes}; leave it at {default!r} or choose another cell.name"
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
    from lstm_jax.gates import gate_table

    learned = gate_table(cell.gates).learned()
    shared = {gate: cell.gate_activation for gate in own if gate in learned}
    chosen = {gate: name or shared.get(gate, "") for gate, name in own.items()}
    return {gate: name for gate, name in chosen.items() if name}


def _forget_bias(cell: Any) -> Any:
    """A number, or one of the initialisers of `initializers.BIASES`."""
    from lstm_jax.initializers import BIASES

    initializer = lookup("forget_init", cell.forget_init, BIASES)
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
    return initializer(cell.t_max) if cell.forget_init == "chrono" else initializer()


def _dtype(cell: Any) -> Any:
    import jax.numpy as jnp

    return lookup("dtype", cell.dtype, {"float32": None, "bfloat16": jnp.bfloat16})
