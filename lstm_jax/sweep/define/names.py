"""What people call a trial, by what varies: `cifg_lr0.01_s0`. TensorBoard's runs have these names.

Folders of trials stay trials/0000: commands, reports and scripts name a trial by its number, and a
number says where a trial is whatever the study varies. Events lie beside them, a folder a run:

    tensorboard/cifg_lr0.01_s0/     a trial
    tensorboard/mean/cifg_lr0.01/   its variant's mean and spread over seeds
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax.plugins import is_reference
from lstm_jax.sweep.define.plan import Plan
from lstm_jax.workdir.files import replace_json
from lstm_jax.workdir.metrics import PLACE

TUNED, SEED = ("optimizer.learning_rate",), "seed"
FOLDER, LONGEST = "tensorboard", 100

Values = dict[str, set[str]]  # of every field that varies


def tuned(plan: Plan) -> tuple[str, ...]:
    """Fields that a variant chooses for itself; one that the baseline names is the variant's."""
    drawn = (name for name in plan.drawn if name != SEED)
    names = plan.report.get("tuned", dict.fromkeys((*TUNED, *drawn)))
    return tuple(n for n in names if n in plan.varied and n not in plan.baseline)


def sections(plan: Plan) -> tuple[str, ...]:
    """Fields that split the study, such as the length of the task."""
    return tuple(n for n in plan.report.get("by", ()) if n in plan.varied)


def variant_fields(plan: Plan) -> tuple[str, ...]:
    """Fields that name a variant: what varies and is neither tuned, nor a section, nor the seed."""
    return tuple(n for n in plan.varied if n not in (*tuned(plan), *sections(plan), SEED))


def run_names(plan: Plan) -> list[str]:
    """A name for every trial, no two equal: its variant, section, setting and seed."""
    seed, values = (SEED,) if SEED in plan.varied else (), _values(plan)
    words = ["_".join(_words(values, seed, plan.base | trial)) for trial in plan.trials]
    pairs = zip(group_names(plan), words, strict=True)
    return _apart(["_".join(filter(None, pair)) for pair in pairs])


def group_names(plan: Plan) -> list[str]:
    """The same without the seed, equal for trials that differ in nothing else."""
    rest, values = (*sections(plan), *tuned(plan)), _values(plan)
    words = [
        [*_variant(plan, values, trial), *_words(values, rest, plan.base | trial)]
        for trial in plan.trials
    ]
    return ["_".join(found)[:LONGEST] for found in words]


def variant_names(plan: Plan) -> list[str]:
    """Of every trial, without its section, setting and seed; "all" where nothing else varies."""
    values = _values(plan)
    return ["_".join(_variant(plan, values, trial))[:LONGEST] or "all" for trial in plan.trials]


def places(plan: Plan) -> list[dict[str, Any]]:
    """For every trial where its events go, its group, and the fields that tell groups apart.

    Not the seed: TensorBoard's HParams shows a group as one row, and any seed of it as the row's.
    """
    named = zip(run_names(plan), group_names(plan), strict=True)
    fields = [name for name in plan.varied if name != SEED] or list(plan.varied)
    return [
        {"events": f"../../{FOLDER}/{run}", "group": group, "fields": fields}
        for run, group in named
    ]


def place(folder: Path, found: dict[str, Any]) -> None:
    """Leave it with the trial, for whoever writes there: a pack, `train`, `diagnose`."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / PLACE, found)


def _values(plan: Plan) -> Values:
    """The values of every field that varies."""
    flats = [plan.base | trial for trial in plan.trials]
    return {name: {str(flat.get(name)) for flat in flats} for name in plan.varied}


def _variant(plan: Plan, values: Values, trial: dict[str, Any]) -> list[str]:
    """Where it differs from the baseline; where nowhere, the value of a field that varies alone."""
    fields = variant_fields(plan)
    flat, base = plan.base | trial, plan.base | plan.baseline
    apart = [name for name in fields if flat.get(name) != base.get(name)]
    if not apart and len(fields) > 1:
        return ["baseline"]
    return _words(values, apart or fields, flat)


def _words(values: Values, fields: Sequence[str], flat: dict[str, Any]) -> list[str]:
    found = (_word(values, name, flat.get(name)) for name in fields)
    return [re.sub(r"[^\w.=+-]+", "-", word).strip("-") for word in found]


def _word(values: Values, name: str, value: Any) -> str:
    """`cifg`, `lr0.01`, `s0`, `tied`, `no_tied`, `gate_activation=relu`."""
    short = name.rpartition(".")[2]
    if isinstance(value, bool):
        return short if value else f"no_{short}"
    if isinstance(value, int | float):
        return _letters(values, name) + (f"{value:.4g}" if isinstance(value, float) else str(value))
    if isinstance(value, list | tuple):
        return f"{short}={'x'.join(map(str, value)) or 'none'}"
    if is_reference(value):
        value = value.rpartition(":")[2]  # of somebody's FILE.py:NAME; where it lies is no news
    shared = any(str(value) in known for other, known in values.items() if other != name)
    return f"{short}={value or 'default'}" if shared or not value else str(value)


def _letters(values: Values, name: str) -> str:
    """lr of learning_rate and s of seed, unless another field that varies has the same."""
    same = [other for other in values if _initials(other) == _initials(name)]
    return _initials(name) if len(same) < 2 else f"{name.rpartition('.')[2]}="


def _initials(name: str) -> str:
    words = name.rpartition(".")[2].split("_")
    one_word = len(words) == 1 and name != SEED
    return words[0] if one_word else "".join(word[:1] for word in words)


def _apart(names: list[str]) -> list[str]:
    """The number of the trial behind those that would be equal."""
    counts = Counter(name.lower() for name in names)  # some file systems know no capitals
    return [f"{n}_{i:04d}" if counts[n.lower()] > 1 else n for i, n in enumerate(names)]
