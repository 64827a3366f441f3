"""Which hyper-parameter decides: how much of a sweep's variance each field explains alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lstm_jax.report.analysis import Section
from lstm_jax.report.collect import Sweep
from lstm_jax.sweep.define.names import SEED

LEAST, LEVELS, BINS, SHUFFLES = 16, 8, 5, 200
VARIANT = "variant"


class Importance(NamedTuple):
    """Of one field."""

    share: float  # of the variance of ranks, beyond what a shuffled field explains
    error: float  # standard deviation of what shuffled ones explain


def importance(sweep: Sweep, section: Section) -> dict[str, Importance]:
    """{field: its main effect}, largest first; {} where it cannot be said.

    Of the ranks of the validation scores, so that a diverged trial weighs no more than the worst
    of the others. Shares are not scaled to sum to 1: the rest are interactions and luck.
    """
    from scipy.stats import rankdata  # start-up

    trials = [(v, t) for v, found in section.trials.items() for t in found if not t.lacks]
    columns: dict[str, list[Any]] = {VARIANT: [v for v, _ in trials]}
    columns |= {n: [t.setting[i] for _, t in trials] for i, n in enumerate(sweep.reading.tuned)}
    columns |= {SEED: [t.seed for _, t in trials]}
    draws = [str((t.setting, t.seed)) for _, t in trials]
    if len(set(columns[SEED])) == len(set(draws)) > LEVELS:
        del columns[SEED]  # only the name of a draw
    ranks = rankdata([t.valid for _, t in trials]) if trials else np.array([])
    if len(trials) < LEAST or len(set(ranks)) < 2:
        return {}
    found = {n: explained(v, ranks, draws) for n, v in columns.items() if len(set(v)) > 1}
    return dict(sorted(found.items(), key=lambda pair: -pair[1].share))


def explained(values: list[Any], ranks: np.ndarray, draws: list[str]) -> Importance:
    """Share of the variance between a field's values, corrected for chance.

        (eta^2 - E[eta^2 of a shuffled field]) / (1 - E[...]), at least 0

    A field that belongs to the draw is shuffled over draws, since variants share them.
    """
    codes, which = levels(values), levels(draws, most=len(draws))
    of_draw = np.zeros(which.max() + 1, int)
    of_draw[which] = codes
    random = np.random.default_rng(0)
    if np.array_equal(of_draw[which], codes):
        shuffled = [random.permutation(of_draw)[which] for _ in range(SHUFFLES)]
    else:
        shuffled = [random.permutation(codes) for _ in range(SHUFFLES)]
    chance = np.array([between(c, ranks) for c in shuffled])
    share = (between(codes, ranks) - chance.mean()) / max(1 - chance.mean(), 1e-9)
    return Importance(max(float(share), 0.0), float(chance.std()))


def levels(values: list[Any], most: int = LEVELS) -> np.ndarray:
    """[N] whole numbers, one a value; many numbers fall into five bins of equal size."""
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numeric and len(set(values)) > most:
        edges = np.quantile(values, np.arange(1, BINS) / BINS)
        return np.searchsorted(edges, values, side="right")
    return np.unique([str(v) for v in values], return_inverse=True)[1]


def between(codes: np.ndarray, ranks: np.ndarray) -> float:
    """eta^2: the variance of the groups' means by that of the ranks."""
    sizes = np.maximum(np.bincount(codes), 1)
    means = np.bincount(codes, weights=ranks) / sizes
    return float(np.var(means[codes]) / np.var(ranks))
