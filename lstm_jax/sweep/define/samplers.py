"""What to try next, as a pure function of what has been tried.

Nothing is kept between two batches: Optuna's study is made anew in memory from what was told, with
a sampler seeded by the number of trials before. So a process that dies leaves no trial "running",
and whoever goes on asks the same.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.sweep.define.draws import Draw, sobol
from lstm_jax.sweep.define.search import SEED, Search

Setting = dict[str, Any]
Waiting = Sequence[Setting]
SIGMA = 0.25  # of CMA-ES in the unit cube, at first


class Told(NamedTuple):
    """A trial that has ended."""

    setting: Setting  # what was drawn
    values: tuple[float, ...]  # one an objective; NaN where it has none
    step: int  # the last one it trained
    is_whole: bool  # it was not pruned on the way


def batch(
    search: Search,
    told: Sequence[Sequence[Told]],
    seed: int,
    waiting: Sequence[Sequence[Setting]] = (),
) -> list[Setting]:
    """The next trials of every variant, [] once all are asked; each has a seed of its own.

    Those `waiting` were asked before and have not been trained.
    """
    trials = []
    for number, variant in enumerate(search.variants):
        seen, asked = told[number], waiting[number] if waiting else ()
        first = len(seen) + len(asked)
        count = min(search.batch, search.trials - first)
        for i, setting in enumerate(propose(search, seen, count, asked), first):
            trials.append({SEED: seed + i, **variant, **setting})
    return trials


def propose(
    search: Search, told: Sequence[Told], count: int, waiting: Sequence[Setting] = ()
) -> list[Setting]:
    """The next `count` settings. The first batch is of Sobol points, which leave no holes."""
    if count < 1:
        return []
    if search.sampler == "random":
        first = len(told) + len(waiting)
        return [_at_random(search, first + i) for i in range(count)]
    if not told:
        return [search.active(point) for point in sobol(count, search.space, search.seed)]
    return SAMPLERS[search.sampler](search, _finite(search, told), waiting, count)


def _at_random(search: Search, number: int) -> Setting:
    """Draw `number`, whatever the batches are."""
    points = np.random.default_rng((search.seed, number)).random(len(search.space))
    pairs = zip(search.space.items(), points, strict=True)
    return search.active({name: draw(float(u)) for (name, draw), u in pairs})


def _finite(search: Search, told: Sequence[Told]) -> list[Told]:
    """A trial without a value counts as the worst of those with one: it is not to be repeated."""
    columns = []
    for column, direction in zip(
        np.array([t.values for t in told], float).T, search.objectives.values(), strict=True
    ):
        known = column[np.isfinite(column)]
        worst = (known.max() if direction == "min" else known.min()) if len(known) else 0.0
        columns.append(np.where(np.isfinite(column), column, worst))
    rows = np.stack(columns, axis=1).tolist()
    return [t._replace(values=tuple(row)) for t, row in zip(told, rows, strict=True)]


# ---------------------------------------------------------------- Optuna


def _tpe(search: Search, told: list[Told], waiting: Waiting, count: int) -> list[Setting]:
    """Bergstra et al. (2011), multivariate, by group where there are conditions; constant liar."""

    def sampler(optuna: Any, seed: int) -> Any:
        start = min(10, search.batch)
        return optuna.samplers.TPESampler(
            n_startup_trials=start, seed=seed, group=bool(search.when), constant_liar=True
        )

    return _ask(search, told, waiting, count, sampler)


def _gp(search: Search, told: list[Told], waiting: Waiting, count: int) -> list[Setting]:
    """A Gaussian process with Optuna's Matern kernel, log expected improvement."""

    def sampler(optuna: Any, seed: int) -> Any:
        start = min(10, search.batch)
        return optuna.samplers.GPSampler(n_startup_trials=start, seed=seed)

    return _ask(search, told, waiting, count, sampler)


def _ask(
    search: Search, told: list[Told], waiting: Waiting, count: int, sampler: Callable
) -> list[Setting]:
    """`count` asks of a study that is told all there is; asks before them count as running."""
    optuna: Any = importlib.import_module("optuna")  # optional
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental arguments
        ways = ["maximize" if d == "max" else "minimize" for d in search.objectives.values()]
        asked = len(told) + len(waiting)
        seed = int(np.random.default_rng((search.seed, asked)).integers(2**31))
        study = optuna.create_study(directions=ways, sampler=sampler(optuna, seed))
        study.add_trials([_frozen(optuna, search, t) for t in told])
        study.add_trials([_running(optuna, search, setting) for setting in waiting])
        return [_walk(search, study.ask()) for _ in range(count)]


def _frozen(optuna: Any, search: Search, told: Told) -> Any:
    """A trial as Optuna keeps it: one that was pruned by its value at its last step."""
    pruned = not told.is_whole and len(told.values) == 1
    state = optuna.trial.TrialState
    return optuna.trial.create_trial(
        **_place(optuna, search, told.setting),
        values=None if pruned else list(told.values),
        intermediate_values={told.step: told.values[0]} if pruned else {},
        state=state.PRUNED if pruned else state.COMPLETE,
    )


def _running(optuna: Any, search: Search, setting: Setting) -> Any:
    """One that was asked and has not been trained."""
    state = optuna.trial.TrialState.RUNNING
    return optuna.trial.create_trial(**_place(optuna, search, setting), state=state)


def _place(optuna: Any, search: Search, setting: Setting) -> dict[str, Any]:
    draws = {name: search.space[name] for name in setting}
    return {
        "params": {name: _theirs(draw, setting[name]) for name, draw in draws.items()},
        "distributions": {name: _distribution(optuna, draw) for name, draw in draws.items()},
    }


def _distribution(optuna: Any, draw: Draw) -> Any:
    kinds = optuna.distributions
    if draw.kind == "choice":
        return kinds.CategoricalDistribution(range(len(draw.values)))
    if draw.kind == "integers":
        return kinds.IntDistribution(int(draw.low), int(draw.high) - 1)
    return kinds.FloatDistribution(draw.low, draw.high, log=draw.kind == "log_uniform")


def _theirs(draw: Draw, value: Any) -> Any:
    """A choice is a number to Optuna, which takes no tuples."""
    return draw.values.index(value) if draw.kind == "choice" else value


def _walk(search: Search, trial: Any) -> Setting:
    """Field by field, those alone that the ones before allow."""
    found: Setting = {}
    for name, draw in search.space.items():
        if search.is_active(name, found):
            found[name] = _suggest(trial, name, draw)
    return found


def _suggest(trial: Any, name: str, draw: Draw) -> Any:
    if draw.kind == "choice":
        return draw.values[trial.suggest_categorical(name, range(len(draw.values)))]
    if draw.kind == "integers":
        return trial.suggest_int(name, int(draw.low), int(draw.high) - 1)
    return trial.suggest_float(name, draw.low, draw.high, log=draw.kind == "log_uniform")


# ---------------------------------------------------------------- CMA-ES


def _cmaes(search: Search, told: list[Told], _: Waiting, count: int) -> list[Setting]:
    """Hansen's CMA-ES in the unit cube; a batch is a generation, all of them told again.

    It begins at the best of the first batch. Hansen (2016), The CMA evolution strategy: a tutorial.
    """
    cmaes: Any = importlib.import_module("cmaes")  # optional
    sign = -1.0 if "max" in search.objectives.values() else 1.0
    points = [[d.unit(t.setting[n]) for n, d in search.space.items()] for t in told]
    scored = [(np.clip(x, 0.0, 1.0), sign * t.values[0]) for x, t in zip(points, told, strict=True)]
    size, bounds = search.batch, np.tile([0.0, 1.0], (len(search.space), 1))
    first = min(scored[:size], key=lambda pair: pair[1])[0]
    seed = int(np.random.default_rng((search.seed, len(told))).integers(2**31))
    optimizer = cmaes.CMA(mean=first, sigma=SIGMA, bounds=bounds, seed=seed, population_size=size)
    for start in range(size, len(scored) - size + 1, size):
        optimizer.tell(scored[start : start + size])
    asked = [np.minimum(optimizer.ask(), np.nextafter(1.0, 0.0)) for _ in range(count)]
    names = list(search.space)
    return [
        {n: search.space[n](float(u)) for n, u in zip(names, point, strict=True)} for point in asked
    ]


SAMPLERS: dict[str, Callable[[Search, list[Told], Waiting, int], list[Setting]]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
}
