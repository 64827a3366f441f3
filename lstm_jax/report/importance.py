"""Which hyper-parameter decides: how much of a sweep's variance each field foretells alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lstm_jax.report.analysis import Section
from lstm_jax.report.collect import SEED, Sweep

LEAST, FOLDS, REPEATS = 16, 5, 8  # trials, parts, times that they are drawn
VARIANT = "variant"


class Importance(NamedTuple):
    """Of one field."""

    share: float  # of the variance of ranks; about 0, or below, for a field that decides nothing
    error: float  # standard deviation over ways to part the trials


def importance(sweep: Sweep, section: Section) -> dict[str, Importance]:
    """{field: its main effect}, largest first; {} where it cannot be said.

    R^2 out of sample: a random forest that sees this field alone foretells the rank of the
    validation score of trials that it has not seen, so noise explains nothing. Shares are not
    scaled: what is missing to 1 are interactions and luck. Trials of one draw (equal setting and
    seed) stay together, lest the forest recognise a draw by its learning rate. Ranks: a diverged
    trial weighs no more than the worst of the others. Needs scikit-learn:
    pip install 'lstm-jax[report]'.
    """
    from scipy.stats import rankdata

    trials = [(v, t) for v, found in section.trials.items() for t in found if not t.lacks]
    columns: dict[str, list[Any]] = {VARIANT: [v for v, _ in trials]}
    columns |= {n: [t.setting[i] for _, t in trials] for i, n in enumerate(sweep.reading.tuned)}
    columns |= {SEED: [t.seed for _, t in trials]}
    draws = [str((t.setting, t.seed)) for _, t in trials]
    columns = {name: values for name, values in columns.items() if len(set(values)) > 1}
    if SEED in columns and len(set(columns[SEED])) == len(set(draws)) > LEAST:
        del columns[SEED]  # a draw's name, and nothing else
    ranks = rankdata([t.valid for _, t in trials]) if trials else np.array([])
    if len(trials) < LEAST or len(set(ranks)) < 2 or len(set(draws)) < FOLDS or not available():
        return {}
    found = {name: foretold(values, ranks, draws) for name, values in columns.items()}
    return dict(sorted(found.items(), key=lambda pair: -pair[1].share))


def available() -> bool:
    """Whether scikit-learn is installed."""
    from importlib.util import find_spec

    return find_spec("sklearn") is not None


def foretold(values: list[Any], ranks: np.ndarray, draws: list[str]) -> Importance:
    """R^2 of the ranks by one column; each trial is foretold by what has not seen its draw."""
    from sklearn.model_selection import GroupKFold

    scores = []
    for repeat in range(REPEATS):
        parts = GroupKFold(FOLDS, shuffle=True, random_state=repeat)
        guess = np.empty(len(ranks))
        for seen, unseen in parts.split(ranks, groups=draws):
            guess[unseen] = _fit(values, ranks, seen, unseen, repeat)
        scores.append(1 - np.mean((ranks - guess) ** 2) / np.var(ranks))
    return Importance(float(np.mean(scores)), float(np.std(scores, ddof=1)))


def _fit(values: list[Any], ranks: np.ndarray, seen: Any, unseen: Any, seed: int) -> np.ndarray:
    """Means of names; a small forest over numbers."""
    from sklearn.ensemble import RandomForestRegressor

    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numeric or len(set(values)) <= 8:
        names = np.array([str(v) for v in values])
        means = {n: ranks[seen][names[seen] == n].mean() for n in set(names[seen])}
        return np.array([means.get(n, ranks[seen].mean()) for n in names[unseen]])
    column = np.array(values, float)[:, None]
    forest = RandomForestRegressor(30, min_samples_leaf=max(5, len(seen) // 20), random_state=seed)
    return forest.fit(column[seen], ranks[seen]).predict(column[unseen])
