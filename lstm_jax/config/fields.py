"""Configs as the program sees them: what is static, what is a number, and what they build.

A config is a locked `ConfigDict` with the sections seed, task, cell, model, optimizer, train and
parallel. Numbers that may differ between the trials of one compiled program are options marked
`numeric`: `hyper` has them as arrays, `bind` puts arrays (or tracers) back, and every builder
takes either. `resolve` works out once what the rest of the program asks of a config.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from lstm_jax.config.options import marked, options

__all__ = [
    "Resolved",
    "bind",
    "changed",
    "flatten",
    "histogram_period",
    "replaced",
    "resolve",
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


class Resolved(FrozenConfigDict):
    """A config that nobody changes any more, and what follows from it, worked out once."""

    @cached_property
    def flat(self) -> dict[str, Any]:
        """{"optimizer.learning_rate": 1e-3, ...}"""
        return flatten(self)

    @cached_property
    def hyper(self) -> dict[str, np.ndarray]:
        """The numbers that flow through the program as arrays; what shapes it is not among them."""
        numbers = marked("numeric", self.flat["task.name"])
        active = {n: self.flat[n] for n in numbers if self.flat[n] or n == "seed"}
        kinds = {"seed": np.uint32}
        return {k: np.asarray(v, kinds.get(k, np.float32)) for k, v in active.items()}

    @cached_property
    def signature(self) -> str:
        """Equal for two configs exactly when one compiled program can serve both."""
        static = {n: v for n, v in self.flat.items() if n not in self.hyper}
        return _hash({"static": static, "numeric": sorted(self.hyper)})

    @cached_property
    def hash(self) -> str:
        """Equal for two configs exactly when all fields but those of placement are."""
        placement = marked("placement", self.flat["task.name"])
        return _hash({k: v for k, v in self.flat.items() if k not in placement})


def resolve(config: ConfigDict) -> Resolved:
    """The config as it stands from here on."""
    return config if isinstance(config, Resolved) else Resolved(config)


def replaced(config: ConfigDict, fields: Mapping[str, Any]) -> Resolved:
    """`config` with other values in these flat fields; nothing is checked."""
    tree = config.to_dict()
    for name, value in fields.items():
        section, _, field = name.rpartition(".")
        (tree[section] if section else tree)[field] = value
    return Resolved(tree)


def changed(config: ConfigDict) -> dict[str, Any]:
    """The fields that are not as `default_config` of the task has them, flat."""
    rows = options(config.task.name)
    flat = resolve(config).flat
    return {n: v for n, v in flat.items() if n not in rows or v != rows[n].default}


def histogram_period(train: Any) -> int:
    """Steps between histograms: `train.histogram_every`, or such that a run has ten to nineteen.

    With a log line, since Python sees the device only then: no more than there are log lines.
    """
    log_lines = train.num_steps // train.log_every
    return train.histogram_every or max(log_lines // 10, 1) * train.log_every


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


def to_json(config: ConfigDict) -> str:
    """The resolved config as written to config.json."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def _hash(tree: Any) -> str:
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------
# Objects out


def with_field(message: str, flat: dict[str, Any]) -> str:
    """A message about a name that nobody knows, with the field of a flat config that holds it."""
    given = re.search(r"unknown ([\w. ]+?) ('.*?'|\".*?\");", message)
    holders = [name for name, value in flat.items() if given and repr(value) == given[2]]
    meant = _of_kind(given[1], holders) if given else []
    named = any(name.rpartition(".")[2] in message for name in meant)
    return message if named or not meant else f"config.{' or config.'.join(meant)}: {message}"


def _of_kind(kind: str, fields: list[str]) -> list[str]:
    """Those of `fields` that an "output activation", say, may stand in: several fields may well
    hold the same word."""
    same = [name for name in fields if name.rpartition(".")[2] == kind.replace(" ", "_")]
    words = set(kind.split())
    return same or [name for name in fields if words <= set(re.split(r"[._]", name))] or fields
