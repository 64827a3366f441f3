"""Scores of forecasts as the field defines them, in float64 and in the units of the series."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Truth(NamedTuple):
    """What n forecasts of H steps are judged by."""

    actual: np.ndarray  # [n, H]; NaN where nothing was observed
    series: np.ndarray  # [n] number of the series
    naive: np.ndarray  # [S] mean absolute error of the (seasonal) naive forecast before the test
    naive_squared: np.ndarray  # [S] its mean square


def point(forecast: np.ndarray, truth: Truth) -> dict[str, float]:
    """rmse, mae, smape, mase and rmsse over all steps observed; forecast [n, H].

    smape: mean of 200 |y - f| / (|y| + |f|). mase: mean of |y - f| over the mean error of the
    seasonal naive forecast one step ahead, before the test; Makridakis et al. (2020), M4. rmsse:
    the mean over series of the root of the mean square likewise; Makridakis et al. (2022), M5.
    """
    miss = forecast - truth.actual
    scaled = np.abs(miss) / _positive(truth.naive)[truth.series][:, None]
    found = {
        "rmse": np.sqrt(_mean(np.square(miss))),
        "mae": _mean(np.abs(miss)),
        "smape": _mean(percentage(forecast, truth.actual)),
        "mase": _mean(scaled),
        "rmsse": rmsse(miss, truth),
    }
    return {name: float(value) for name, value in found.items()}


def percentage(forecast: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """200 |y - f| / (|y| + |f|); 0 where both are 0."""
    size = np.abs(forecast) + np.abs(actual)
    return 200 * np.abs(forecast - actual) / np.where(size == 0, 1.0, size)


def rmsse(miss: np.ndarray, truth: Truth) -> float:
    """sqrt(mean squared error / that of the naive forecast) of each series, then their mean."""
    squares, seen = np.square(miss), np.isfinite(miss)
    size = len(truth.naive)
    total = np.bincount(truth.series, np.where(seen, squares, 0).sum(axis=1), size)
    count = np.bincount(truth.series, seen.sum(axis=1), size)
    each = np.sqrt(total / _positive(count.astype(float)) / _positive(truth.naive_squared))
    return _mean(each)


def by_step(forecast: np.ndarray, truth: Truth) -> list[dict[str, float]]:
    """The scores of each step ahead."""
    columns = range(forecast.shape[1])
    one = [truth._replace(actual=truth.actual[:, [h]]) for h in columns]
    return [point(forecast[:, [h]], one[h]) for h in columns]


def intervals(quantiles: np.ndarray, levels: Any, actual: np.ndarray) -> dict[str, float]:
    """pinball and crps, and the coverage and mean width of each central interval.

    quantiles [n, H, Q] at `levels` [Q], rising and symmetric. crps is twice the mean pinball loss:
    the integral over these quantiles; Gneiting and Raftery (2007).
    """
    miss = actual[..., None] - quantiles
    levels = np.asarray(levels)
    pinball = _mean(np.maximum(levels * miss, (levels - 1) * miss))
    found = {"pinball": pinball, "crps": 2 * pinball}
    for k in range(len(levels) // 2):
        low, high = quantiles[..., k], quantiles[..., -1 - k]
        inside = np.where(np.isfinite(actual), (low <= actual) & (actual <= high), np.nan)
        name = name_of(levels[-1 - k] - levels[k])
        found |= {f"coverage_{name}": _mean(inside), f"width_{name}": _mean(high - low)}
    return {name: float(value) for name, value in found.items()}


def name_of(share: float) -> str:
    """95 of 0.95."""
    return f"{100 * share:.4g}"


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _mean(values: np.ndarray) -> float:
    """The mean of what is there; NaN of nothing."""
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if seen.size else float("nan")
