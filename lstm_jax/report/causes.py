"""What was measured inside the chosen trials, at initialisation and on, beside how they ended.

A cause comes before its effect: a reach that is short before the first step cannot be the result of
having failed to learn. Every seed that was diagnosed counts, none is picked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.diagnostics.observe import vanishes
from lstm_jax.report.analysis import Row, Section
from lstm_jax.report.collect import Sweep, Trial
from lstm_jax.report.names import number
from lstm_jax.report.samples import values

FLOOR = 1e-3
FLOW = "layer_0/flow/carry"
ENOUGH = 8  # trials for a rank correlation


class Measure(NamedTuple):
    """One number of a diagnosis."""

    name: str
    of: Callable[[dict[str, Any]], float]  # NaN where it was not measured
    show: Callable[[float], str]


def reach(arrays: dict[str, Any]) -> float:
    """Steps back until the first layer's gradient stays below FLOOR; all if it never does."""
    if FLOW not in arrays:
        return math.nan
    curve = np.asarray(arrays[FLOW], float)
    end = vanishes(curve, FLOOR)
    return float(len(curve)) if math.isnan(end) else end


def saturated(arrays: dict[str, Any]) -> float:
    """Share of gates, units and steps below 0.1 or above 0.9, over all layers."""
    names = [name.partition("/shut/") for name in arrays if "/shut/" in name]
    shares = [
        float(
            np.nanmean(arrays[f"{layer}/shut/{gate}"]) + np.nanmean(arrays[f"{layer}/open/{gate}"])
        )
        for layer, _, gate in names
        if f"{layer}/open/{gate}" in arrays
    ]
    return float(np.mean(shares)) if shares else math.nan


MEASURES = (
    Measure("reach", reach, lambda value: f"{value:.0f}"),
    Measure("saturated", saturated, lambda value: f"{value:.0%}"),
)


def at_start(trial: Trial) -> dict[str, Any]:
    """The diagnosis at initialisation, {} where there is none."""
    return trial.looks.get(0, {})


def at_end(trial: Trial) -> dict[str, Any]:
    """The newest diagnosis of a trained model."""
    later = [step for step in trial.looks if step > 0]
    return trial.looks[max(later)] if later else {}


def spread(measure: Measure, trials: list[Trial], when: Callable[[Trial], dict]) -> str:
    """Median over seeds, and the range where they differ."""
    found = [measure.of(when(trial)) for trial in trials]
    found = sorted(value for value in found if not math.isnan(value))
    if not found:
        return ""
    low, middle, high = (measure.show(v) for v in (found[0], float(np.median(found)), found[-1]))
    return middle if low == high else f"{middle} [{low}, {high}]"


def rows(section: Section) -> list[list[str]]:
    """Variant, seeds diagnosed, every measure at initialisation and after, how many failed."""
    return [
        [row.variant, f"{len(seen)} of {row.seeds}", *measured(seen), str(row.failed)]
        for row in section.rows
        if (seen := diagnosed(section, row))
    ]


def diagnosed(section: Section, row: Row) -> list[Trial]:
    return [trial for trial in section.chosen[row.variant] if trial.looks]


def measured(trials: list[Trial]) -> list[str]:
    return [spread(m, trials, when) for m in MEASURES for when in (at_start, at_end)]


def heads() -> list[str]:
    whens = ("at initialisation", "after training")
    return ["variant", "seeds", *(f"{m.name}, {w}" for m in MEASURES for w in whens), "failed"]


def sentences(sweep: Sweep, section: Section) -> list[str]:
    """Whether what is measured before training goes with how it ends, over all seeds."""
    found = []
    for measure in MEASURES:
        trials = [t for ts in section.chosen.values() for t in ts if not t.lacks and at_start(t)]
        measured = np.array([measure.of(at_start(t)) for t in trials])
        found += correlation(measure.name, measured, values(sweep.reading, trials))
    rule = (
        f"Reach: steps back from the loss until the gradient stays below {FLOOR:g} of its value "
        "one step back. Saturated: share of gates below 0.1 or above 0.9. Median over seeds, range "
        "in brackets. What goes together before training may cause, what goes together after may "
        "be the result."
    )
    return [*found, rule]


def correlation(name: str, measured: np.ndarray, scores: np.ndarray) -> list[str]:
    from scipy.stats import spearmanr  # start-up

    known = np.isfinite(measured) & np.isfinite(scores)
    if known.sum() < ENOUGH or not np.ptp(measured[known]) or not np.ptp(scores[known]):
        return []
    found: Any = spearmanr(measured[known], scores[known])
    return [
        f"{name} at initialisation and the score: rank correlation {found.statistic:+.2f} over "
        f"{known.sum()} seeds (p {number(float(found.pvalue), 2)}, not adjusted)"
    ]
