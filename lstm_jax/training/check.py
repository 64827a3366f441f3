"""A config that is known to make sense, or what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from lstm_jax.cells.activations import activation_name
from lstm_jax.compute.sharding import MODES
from lstm_jax.config.fields import Resolved, resolve, with_field
from lstm_jax.config.options import default_config, options
from lstm_jax.config.overrides import apply_overrides, read_config, unknown_field
from lstm_jax.engines import parsed
from lstm_jax.errors import UsageError, lookup
from lstm_jax.model.cell import build_cell
from lstm_jax.model.layers import MERGES, encoder_of
from lstm_jax.option import Option
from lstm_jax.training.nonfinite import POLICIES
from lstm_jax.training.optim import build_optimizer
from lstm_jax.training.program import COMPILE


def load_config(spec: str, overrides: Mapping[str, Any] | None = None) -> Resolved:
    """The validated config of `path.py[:arg]` with flat dotted `overrides`.

    Raises:
      UsageError: no such file, preset, field or value; nothing has been created then.
    """
    return with_overrides(read_config(spec), overrides or {})


LARGEST = 2**31 - 1  # steps and sizes are int32 on the device


def with_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> Resolved:
    """The validated `config` with flat dotted `overrides`."""
    return validate(apply_overrides(config, overrides))


def validate(config: ConfigDict) -> Resolved:
    """`config`, resolved.

    Raises:
      UsageError: every field that cannot be; nothing has been created then.
    """
    config = resolve(config)
    try:
        _check_fields(config.flat)
        _check_names(config)
    except UsageError as error:
        raise UsageError(with_field(str(error), config.flat)) from None
    return config


def _check_fields(flat: dict[str, Any]) -> None:
    """Every option is there and holds what its row says, and nothing else is."""
    task = flat.get("task.name", "")
    rows = options(task)
    unknown = [str(unknown_field(n, default_config(task), rows)) for n in flat if n not in rows]
    found = [_mistake(name, row, flat, task) for name, row in rows.items()]
    if mistakes := [*unknown, *filter(None, found)]:
        raise UsageError("\n".join(mistakes))


def _mistake(name: str, row: Option, flat: dict[str, Any], task: str) -> str:
    if name not in flat:
        return f"config.{name} is missing; start from default_config({task!r})"
    value = flat[name]
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            return f"config.{name}={value!r} is not a finite number"
        if isinstance(item, int) and name != "seed" and abs(item) > LARGEST:
            return f"config.{name}={value!r} is larger than {LARGEST}"
    expected, fits = row.range
    return "" if fits(value) else f"config.{name}={value!r}: expected {expected}"


def _check_names(config: ConfigDict) -> None:
    """Builds what is cheap to build, so that every registry gets to refuse its own names."""
    lookup("train.compile", config.train.compile, COMPILE)
    lookup("train.on_nan", config.train.on_nan, dict.fromkeys(POLICIES))
    lookup("parallel.mode", config.parallel.mode, MODES)
    parsed(config.model.engine)
    build_cell(config.cell)
    build_optimizer(config.optimizer, config.train.num_steps)
    encoder_of(config.model.encoder)
    lookup("merge", config.model.merge, MERGES)
    activation_name("head activation", config.model.head_activation)
