"""Which hyper-parameter decides: functional analysis of variance over a sweep's trials."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

from lstm_jax.report.analysis import Section
from lstm_jax.report.collect import Sweep
from lstm_jax.sweep.define.names import SEED

LEAST = 8  # trials
VARIANT = "variant"


def importance(sweep: Sweep, section: Section) -> dict[str, float]:
    """{field: share of the explained variance}, largest first; {} where it cannot be said.

    Main effects of a random forest's fANOVA, on the ranks of the validation scores, so that a
    diverged trial weighs no more than the worst of the others. Needs optuna and scikit-learn:
    pip install 'lstm-jax[report]'.

    Hutter, Hoos & Leyton-Brown (2014), An efficient approach for assessing hyperparameter
    importance.
    """
    from scipy.stats import rankdata  # start-up

    trials = [(v, t) for v, found in section.trials.items() for t in found if not t.lacks]
    ranks = rankdata([t.valid for _, t in trials]) if trials else []
    columns = {VARIANT: [v for v, _ in trials]}
    columns |= {n: [t.setting[i] for _, t in trials] for i, n in enumerate(sweep.reading.tuned)}
    columns |= {SEED: [t.seed for _, t in trials]}
    columns = {name: values for name, values in columns.items() if len(set(values)) > 1}
    if len(trials) < LEAST or not columns or len(set(ranks)) < 2:
        return {}
    return _evaluate(columns, list(ranks))


def available() -> bool:
    """Whether optuna and scikit-learn are installed."""
    return all(map(find_spec, ("optuna", "sklearn")))


def _evaluate(columns: dict[str, list[Any]], ranks: list[float]) -> dict[str, float]:
    if not available():
        return {}
    import optuna  # optional
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    numbers = {name: _numbers(values, ranks) for name, values in columns.items()}
    kinds = {name: _distribution(optuna.distributions, v) for name, v in numbers.items()}
    study = optuna.create_study()
    for row, rank in enumerate(ranks):
        values = {name: column[row] for name, column in numbers.items()}
        study.add_trial(optuna.create_trial(params=values, distributions=kinds, value=rank))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = FanovaImportanceEvaluator(seed=0)
        found = get_param_importances(study, evaluator=evaluator)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _numbers(values: list[Any], ranks: list[float]) -> list[Any]:
    """Numbers as they are; names as whole numbers in the order of their mean rank.

    A tree's best splits of names are among those of that order (Breiman et al. 1984, section 9.4),
    and one column a name would take time exponential in their number.
    """
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return [float(v) for v in values]
    names = [str(v) for v in values]
    of: dict[str, list[float]] = {name: [] for name in names}
    for name, rank in zip(names, ranks, strict=True):
        of[name].append(rank)
    order = sorted(of, key=lambda name: (sum(of[name]) / len(of[name]), name))
    place = {name: number for number, name in enumerate(order)}
    return [place[name] for name in names]


def _distribution(kinds: Any, values: list[Any]) -> Any:
    """A range, on a logarithmic scale where it spans a factor of ten; whole numbers weigh alike."""
    low, high = min(values), max(values)
    if isinstance(low, int):
        return kinds.IntDistribution(low, high)
    return kinds.FloatDistribution(low, high, log=low > 0 and high / low >= 10)
