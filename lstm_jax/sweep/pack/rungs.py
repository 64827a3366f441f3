"""What happens to the trials of a pack on its way: the worst stop, or go on as the best do.

HALVING: at a rung the best `keep` of the trials go on (Jamieson & Talwalkar 2016). With `brackets`
the pack's trials compete in groups, of which each spares its trials one rung more than the one
before: what starts slowly has a chance (Hyperband, Li et al. 2018). With `across`
they are measured against the earlier batches of a search too, as ASHA does (Li et al. 2020): a
batch may lose more than its share, or less. Only batches that have ended count, so that what is
kept does not depend on who runs when.

PBT: every so many steps the worst `share` of a pack take over the state of a trial from the best
`share` and its numbers, each multiplied by one of `factors` (Jaderberg et al. 2017). Numbers are
arguments of the program, so nothing is compiled and nothing starts again. Best parameters that a
trial has found stay its own until others are better.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.sweep.define.plan import Plan
from lstm_jax.tasks.task import LARGER_IS_BETTER
from lstm_jax.workdir.files import append, write_text
from lstm_jax.workdir.metrics import read_metrics

EVOLUTION = "evolution.jsonl"  # of a trial: what it took over, and when


def sign_of(metric: str) -> float:
    """Times it, smaller values of a metric are better."""
    return -1.0 if metric in LARGER_IS_BETTER else 1.0


# ---------------------------------------------------------------- halving


def kept(values: Sequence[float], others: Sequence[float], keep: float) -> list[int]:
    """Which of `values`, smaller is better, are among the best `keep` of all; at least one is."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    if not others:
        return sorted(order[: math.ceil(keep * len(values))])
    count = math.ceil(keep * (len(values) + len(others)))
    bar = sorted([*values, *others])[count - 1]
    good = sum(value <= bar for value in values)
    # A pack of another size is another program: halves of halves, so that batches share a few.
    sizes = [-(-len(values) // 2**n) for n in range(len(values).bit_length() + 1)]
    return sorted(order[: min(size for size in sizes if size >= good)])


def brackets(count: int, rungs: Sequence[int], keep: float) -> list[tuple[range, tuple[int, ...]]]:
    """Hyperband's brackets of `count` trials: (which of them, the rungs at which they compete).

    Bracket s of R + 1 leaves out the first s of R rungs, and has in proportion keep^s / (R + 1 - s)
    trials, so that all brackets train about as many steps where rungs are 1 / keep apart.
    """
    shares = [keep**s / (len(rungs) + 1 - s) for s in range(len(rungs) + 1)]
    ends = [round(count * sum(shares[: s + 1]) / sum(shares)) for s in range(len(shares))]
    parts = enumerate(itertools.pairwise([0, *ends]))
    found = [(range(*part), tuple(rungs[s:])) for s, part in parts]
    return [bracket for bracket in found if bracket[0]]


def earlier(plan: Plan, pack: int, folder: Callable[[int], Path], step: int) -> list[float]:
    """The best values, smaller is better, that trials of earlier batches had at a rung."""
    first, metric = plan.packs[pack][0], plan.base["train.best_metric"]
    start = max((more.first for more in plan.grown if more.first <= first), default=0)
    found = (at_rung(folder(n), metric, step) for n in plan.searched if n < start)
    return [value for value in found if value is not None]


def at_rung(folder: Path, metric: str, step: int) -> float | None:
    """A trial's best value up to a rung; None where it did not come so far."""
    lines = [line for line in read_metrics(folder) if line["split"] == "valid"]
    values = [line.get(metric) for line in lines if line["step"] <= step]
    scored = [sign_of(metric) * v for v in values if v is not None and math.isfinite(v)]
    return min(scored) if scored and any(line["step"] >= step for line in lines) else None


# ---------------------------------------------------------------- population based training


class Change(NamedTuple):
    """What a trial takes over."""

    source: int  # the trial of the pack that it copies, by place
    numbers: dict[str, float]  # its new values


def evolved(
    values: Sequence[float], numbers: Sequence[dict[str, float]], pbt: dict, seed: Sequence[int]
) -> dict[int, Change]:
    """{place: change} of the worst, smaller values are better; [N] numbers of all before it.

    Who copies whom, and by which factors, follows from the seed alone.
    """
    random = np.random.default_rng(list(seed))
    order = sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), values[i], i))
    count = int(pbt["share"] * len(order))
    found = {}
    for place in order[len(order) - count :]:
        source = order[int(random.integers(count))]
        new = {}
        for name, (low, high) in pbt["fields"].items():
            factor = pbt["factors"][int(random.integers(len(pbt["factors"])))]
            new[name] = float(np.clip(numbers[source][name] * factor, low, high))
        found[place] = Change(source, new)
    return found


def remember(folder: Path, step: int, source: int, numbers: dict[str, float]) -> None:
    """A line of evolution.jsonl; `source` is the number of the trial that was copied."""
    line = json.dumps({"step": step, "from": source, **numbers})
    append(folder / EVOLUTION, f"{line}\n".encode())


def numbers_at(folder: Path, step: int) -> dict[str, float]:
    """The newest numbers up to a step, {} where they are the config's; later lines are dropped."""
    path = folder / EVOLUTION
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    known = [line for line in lines if line["step"] <= step]
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in known))
    newest = known[-1] if known else {}
    return {name: value for name, value in newest.items() if name not in ("step", "from")}
