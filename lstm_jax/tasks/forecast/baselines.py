"""Forecasts that need no network, made from the same rows and fitted on the training part."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from lstm_jax.errors import UsageError, unknown
from lstm_jax.tasks.forecast.windows import forward_fill

RECENT = 24  # changes that the autoregression sees where a season is long
FITTED_ON = 50_000  # newest training rows that it is fitted on
SHORT = 48  # rows in a season whose every change it sees


def forecasts(
    values: np.ndarray, origins: np.ndarray, fitted_before: int, task: Any
) -> dict[str, np.ndarray]:
    """{name: [n, H]} of one series, values [N], from the rows `origins` [n].

    Persistence, the last season, the last season times the growth since, linear autoregression.
    """
    filled, horizon = forward_fill(values[:, None])[:, 0], task.horizon
    ahead = origins[:, None] + np.arange(1, horizon + 1)
    found = {"persistence": np.repeat(filled[origins][:, None], horizon, axis=1)}
    back = task.period * -(-np.arange(1, horizon + 1) // task.period)
    if task.period > 1 and origins[0] + 1 >= back.max():
        found["seasonal-naive"] = filled[ahead - back]
        if np.nanmin(filled) > 0 and origins[0] >= back.max():
            growth = filled[origins][:, None] / filled[origins[:, None] - back]
            found["seasonal-naive x growth"] = found["seasonal-naive"] * growth
    autoregression = linear_autoregression(filled, origins, fitted_before, task)
    if autoregression is not None:
        found["linear autoregression"] = autoregression
    return found | statistical(filled, origins, fitted_before, task)


def linear_autoregression(
    filled: np.ndarray, origins: np.ndarray, stop: int, task: Any
) -> np.ndarray | None:
    """Least squares for y[o+h] - y[o] on past changes of y, fitted on the rows before `stop`.

    y is the logarithm where every value is positive. Of a season up to SHORT rows all period + 1
    changes are seen; of a longer one the RECENT newest, and what followed the same row one season
    ago: memory of N x 50 at most. None where there is too little to fit on.
    """
    logarithm = np.nanmin(filled) > 0
    y = np.log(filled) if logarithm else filled
    short = task.period <= SHORT
    order = task.period + 1 if short else RECENT
    back = 0 if short else task.period * -(-task.horizon // task.period)
    first = max(order, back)
    ends = np.arange(max(first, stop - FITTED_ON), stop - task.horizon)
    if len(ends) < 2 * order or origins[0] < first:
        return None
    moves = np.diff(y, prepend=np.nan)
    lags = np.arange(order)
    fitted_on, asked = moves[ends[:, None] - lags], moves[origins[:, None] - lags]
    steps = np.arange(1, task.horizon + 1)
    answers = y[ends[:, None] + steps] - y[ends][:, None]
    if short:
        return _back(y[origins][:, None] + _solve(fitted_on, answers, asked), logarithm)
    columns = []
    for h in steps:
        season = [(y[o + h - back] - y[o - back])[:, None] for o in (ends, origins)]
        design, row = (np.hstack(p) for p in zip((fitted_on, asked), season, strict=True))
        columns.append(_solve(design, answers[:, [h - 1]], row))
    return _back(y[origins][:, None] + np.hstack(columns), logarithm)


def _solve(design: np.ndarray, answers: np.ndarray, asked: np.ndarray) -> np.ndarray:
    good = np.isfinite(design).all(axis=1) & np.isfinite(answers).all(axis=1)
    return asked @ np.linalg.lstsq(design[good], answers[good], rcond=None)[0]


def _back(y: np.ndarray, logarithm: bool) -> np.ndarray:
    return np.exp(y) if logarithm else y


# ---------------------------------------------------------------- statistical models

MODELS = ("AutoARIMA", "AutoETS", "AutoTheta")  # of statsforecast


def check_models(names: Any) -> None:
    """Raises UsageError for a name that is none of them, or where the library is not there."""
    for name in names:
        if name not in MODELS:
            raise unknown("task.models", name, MODELS)
    if names and importlib.util.find_spec("statsforecast") is None:
        raise UsageError(
            f"task.models={tuple(names)} needs statsforecast: pip install 'lstm-jax[forecast]'"
        )


def statistical(
    filled: np.ndarray, origins: np.ndarray, stop: int, task: Any
) -> dict[str, np.ndarray]:
    """{name: [n, H]} of task.models, fitted before `stop`, then told what came since."""
    if not task.models:
        return {}
    from statsforecast import models  # optional  # pyright: ignore[reportMissingImports]

    found = {}
    for name in task.models:
        model = getattr(models, name)(season_length=task.period)
        model.fit(filled[:stop])
        ends = [model.forward(filled[: o + 1], h=task.horizon)["mean"] for o in origins]
        found[name] = np.stack(ends)
    return found


# ---------------------------------------------------------------- linear maps of the window

LINEAR = {"nlinear": True, "dlinear": False}  # whether the window's last value is taken off
AT_ONCE = 4096  # windows that the normal equations take in at once
RIDGE = 1e-6  # of the mean squared input


def fit_linear(y: np.ndarray, origins: np.ndarray, task: Any) -> dict[str, np.ndarray]:
    """{name: [T + 1, H]}: one linear map from window to horizon for all series, by least squares.

    NLinear and DLinear of Zeng et al. (2023), where their gradient descent leads to: a trend and a
    remainder that are both mapped linearly are one linear map of the window.
    """
    return {name: _fit(y, origins, last, task) for name, last in LINEAR.items()}


def _fit(y: np.ndarray, origins: np.ndarray, last: bool, task: Any) -> np.ndarray:
    size = task.look_back + 1
    products, answers = np.zeros((size, size)), np.zeros((size, task.horizon))
    for start in range(0, len(origins), AT_ONCE):
        rows = origins[start : start + AT_ONCE]
        inputs = _window(y, rows, last, task)
        ahead = y[rows[:, None] + np.arange(1, task.horizon + 1)]
        products += inputs.T @ inputs
        answers += inputs.T @ (ahead - y[rows][:, None] * last)
    ridge = RIDGE * (np.trace(products) / size + 1e-12)
    return np.linalg.solve(products + ridge * np.eye(size), answers)


def _window(y: np.ndarray, rows: np.ndarray, last: bool, task: Any) -> np.ndarray:
    """[n, T + 1]: the window and a 1."""
    window = y[rows[:, None] - np.arange(task.look_back)] - y[rows][:, None] * last
    return np.column_stack([window, np.ones(len(rows))])


def linear(
    y: np.ndarray, rows: np.ndarray, weights: dict[str, np.ndarray], task: Any
) -> dict[str, np.ndarray]:
    """{name: [n, H]} of y."""
    return {
        name: _window(y, rows, last, task) @ weights[name] + y[rows][:, None] * last
        for name, last in LINEAR.items()
    }
