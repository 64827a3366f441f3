"""A config that is known to make sense, or what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from lstm_jax.cells.activations import activation_name
from lstm_jax.compute import sharding
from lstm_jax.config.fields import flatten, with_field
from lstm_jax.config.overrides import apply_overrides, read_config
from lstm_jax.engines import ENGINES
from lstm_jax.errors import UsageError, lookup
from lstm_jax.model.cell import build_cell
from lstm_jax.model.layers import ENCODERS, MERGES
from lstm_jax.training.nonfinite import POLICIES
from lstm_jax.training.optim import build_optimizer
from lstm_jax.training.program import COMPILE


def load_config(spec: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """The validated, locked config of `path.py[:arg]` with flat dotted `overrides`.

    Raises:
      UsageError: no such file, preset, field or value; nothing has been created then.
    """
    return with_overrides(read_config(spec), overrides or {})


RATE = ("a rate from 0 up to, not including, 1", lambda v: 0 <= v < 1)
SHARE = ("a rate from 0 to 1", lambda v: 0 <= v <= 1)
SIZE = ("a positive whole number", lambda v: v >= 1)
NOT_NEGATIVE = ("at least 0", lambda v: v >= 0)
POSITIVE = ("above 0", lambda v: v > 0)

RANGES = {
    "seed": ("from 0 to 4294967295", lambda v: 0 <= v < 2**32),
    "cell.hidden": SIZE,
    "cell.cell_clip": NOT_NEGATIVE,
    "cell.t_max": NOT_NEGATIVE,
    "cell.projection": NOT_NEGATIVE,
    "cell.variational_input": RATE,
    "cell.variational_hidden": RATE,
    "cell.recurrent_dropout": RATE,
    "cell.weight_drop": RATE,
    "cell.gradient_weight": NOT_NEGATIVE,
    "cell.recurrent_gradient_clip": NOT_NEGATIVE,
    "cell.zoneout_c": SHARE,
    "cell.zoneout_h": SHARE,
    "model.embedding": SIZE,
    "model.conv_features": (
        "channel counts, each a positive whole number",
        lambda v: len(v) > 0 and min(v) >= 1,
    ),
    "model.conv_width": SIZE,
    "model.layers": ("from 1 to 128; each is compiled by itself", lambda v: 1 <= v <= 128),
    "model.dropout": RATE,
    "model.input_dropout": RATE,
    "model.input_noise": NOT_NEGATIVE,
    "model.head_hidden": NOT_NEGATIVE,
    "model.head_dropout": RATE,
    "optimizer.learning_rate": POSITIVE,
    "optimizer.decay_every": SIZE,
    "optimizer.decay_factor": ("from 0 to 1", SHARE[1]),
    "optimizer.decay_start": NOT_NEGATIVE,
    "optimizer.warmup_steps": NOT_NEGATIVE,
    "optimizer.clip_norm": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.momentum": RATE,
    "optimizer.beta1": RATE,
    "optimizer.beta2": RATE,
    "optimizer.epsilon": POSITIVE,
    "train.num_steps": SIZE,
    "train.batch_size": SIZE,
    "train.log_every": SIZE,
    "train.eval_every": SIZE,
    "train.checkpoint_every": SIZE,
    "train.histogram_every": NOT_NEGATIVE,
    "train.diagnose_every": NOT_NEGATIVE,
    "train.patience": NOT_NEGATIVE,
    "train.keep_last": SIZE,
    "train.keep_best": NOT_NEGATIVE,
    "train.keep_every": NOT_NEGATIVE,
    "train.nan_limit": SIZE,
    "train.rollback_factor": ("above 0, up to 1", lambda v: 0 < v <= 1),
    "train.grace_seconds": NOT_NEGATIVE,
    "train.accumulate": SIZE,
    "parallel.data": ("0 to choose, -1 for all devices, or how many", lambda v: v >= -1),
    "parallel.trials": ("-1 for all devices, or how many", lambda v: v == -1 or v >= 1),
    "parallel.remat": ("-1 for sqrt(T), 0 for none, or steps a chunk", lambda v: v >= -1),
    "parallel.timeout": SIZE,
}
LARGEST = 2**31 - 1  # steps and sizes are int32 on the device


def with_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """The validated, locked `config` with flat dotted `overrides`."""
    config = apply_overrides(config, overrides)
    validate(config)
    return config


def validate(config: ConfigDict) -> None:
    """Raises UsageError naming every field that cannot be, before anything is created."""
    flat = flatten(config)
    mistakes = [m for name in flat if (m := _mistake(name, flat[name]))]
    if mistakes:
        raise UsageError("\n".join(mistakes))
    try:
        _check_names(config)
    except UsageError as error:
        raise UsageError(with_field(str(error), flat)) from None


def _mistake(name: str, value: Any) -> str:
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            return f"config.{name}={value!r} is not a finite number"
        if isinstance(item, int) and name != "seed" and abs(item) > LARGEST:
            return f"config.{name}={value!r} is larger than {LARGEST}"
    expected, fits = RANGES.get(name, ("", lambda v: True))
    return "" if fits(value) else f"config.{name}={value!r}: expected {expected}"


def _check_names(config: ConfigDict) -> None:
    """Builds what is cheap to build, so that every registry gets to refuse its own names."""
    lookup("train.compile", config.train.compile, COMPILE)
    lookup("train.on_nan", config.train.on_nan, dict.fromkeys(POLICIES))
    lookup("parallel.mode", config.parallel.mode, sharding.MODES)
    lookup("engine", config.model.engine, dict.fromkeys(["auto", *ENGINES]))
    build_cell(config.cell)
    build_optimizer(config.optimizer, config.train.num_steps)
    lookup("encoder", config.model.encoder, ENCODERS)
    lookup("merge", config.model.merge, MERGES)
    activation_name("head activation", config.model.head_activation)
