"""Forecast the next values of a series from a window of past ones.

The embedded series is Box & Jenkins' airline passengers, 144 months from 1949 to 1960; task.csv
names any other. Rows are split by time, never at random: training, validation, test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data import files as data_files
from lstm_jax.data.datasets import DATASETS
from lstm_jax.errors import UsageError, unknown
from lstm_jax.option import Option
from lstm_jax.tasks.forecast import figures, windows
from lstm_jax.tasks.forecast.figures import Frame
from lstm_jax.tasks.forecast.series import Series, check_missing, check_varied, read_series
from lstm_jax.tasks.task import (
    Spec,
    Split,
    Task,
    average,
    example_weights,
    ratio,
    sequential,
    shuffled,
    weighed,
)

AIRLINE = Path(__file__).parent / "airline.csv"


OPTIONS = (
    Option("csv", "", 'a CSV file with a header; "": the embedded airline passengers'),
    Option("target", "", 'column to forecast; "": the last'),
    Option("features", "", "further input columns, separated by commas"),
    Option("date", "", 'date column, or year,month,day,hour; "": the first, where it holds dates'),
    Option("missing", "error", "error | zero | forward | linear | mask (with time since seen)"),
    Option("look_back", 12, "T: past rows in a window"),
    Option("horizon", 1, "H: rows ahead; metrics are those of the last of them"),
    Option("log", True, "the logarithm of the target"),
    Option("difference", True, "changes against the row before"),
    Option("seasonal_difference", False, "changes against the same row one period before"),
    Option(
        "seasonal_input", False, "a second input: what the target did a season before the forecast"
    ),
    Option("period", 12, "rows in a season"),
    Option("standardize", True, "z-score, fitted on the training part"),
    Option("objective", "squared", "squared | absolute error, after the transforms"),
    Option("test_part", 1 / 3, "of all rows, the last"),
    Option("valid_part", 1 / 8, "of the rows before the test part, the last"),
)


def load(task: Any, csv: str = "") -> Series:
    """The series that `task` names, or the same columns of another file, checked for gaps."""
    features = [name.strip() for name in task.features.split(",") if name.strip()]
    date = [name.strip() for name in task.date.split(",") if name.strip()]
    series = read_series(csv or _path(task), task.target, features, date)
    if task.missing == "error":
        check_missing(series)
    return series


def _path(task: Any) -> Path:
    """task.csv as given, below task.data_dir, or a file of a known data set."""
    if not task.csv:
        return AIRLINE
    given = Path(task.csv).expanduser()
    below = Path(task.data_dir or ".").expanduser() / task.csv
    if given.exists() or below.exists():
        return given if given.exists() else below
    dataset, _, name = task.csv.partition("/")
    known = dataset in DATASETS and name in [file.name for file in DATASETS[dataset].files]
    return data_files.path(dataset, name, task.data_dir) if known else given


def check_options(task: Any) -> None:
    if task.missing not in windows.FILLS:
        raise unknown("task.missing", task.missing, windows.FILLS)
    if task.objective not in ("squared", "absolute"):
        raise unknown("task.objective", task.objective, ("squared", "absolute"))
    for name in ("look_back", "horizon", "period"):
        if getattr(task, name) < 1:
            raise UsageError(f"task.{name}={getattr(task, name)}: expected a positive whole number")
    if task.seasonal_input and task.period == 1:
        raise UsageError("task.seasonal_input=True needs a season: set task.period above 1")
    for name in ("test_part", "valid_part"):
        if not 0 < getattr(task, name) < 1:
            raise UsageError(f"task.{name}={getattr(task, name)}: expected between 0 and 1")


def boundaries(series: Series, task: Any) -> tuple[int, int]:
    """First row of the validation part and of the test part."""
    num_rows = len(series.values)
    test = num_rows - round(num_rows * task.test_part)
    valid = test - round(test * task.valid_part)
    needed = windows.lost(task) + task.look_back + task.horizon
    if valid < needed or not valid < test < num_rows:
        raise UsageError(
            f"{series.source}: {num_rows} rows leave {max(valid, 0)} for training, "
            f"{test - valid} for validation and {num_rows - test} for the test, but one window "
            f"needs {needed} (look_back {task.look_back} + horizon {task.horizon} + "
            f"{windows.lost(task)} for differences); give more rows or lower task.look_back"
        )
    return valid, test


def build(config: Any) -> Task:
    """Windows of the training part in a new order each epoch; later parts in order of time."""
    task, batch_size = config.task, config.train.batch_size
    check_options(task)
    series = load(task)
    valid, test = boundaries(series, task)
    train_part = series._replace(values=series.values[:valid], rows=series.rows[:valid])
    check_varied(train_part)
    fitted = windows.fit(series, task, valid)
    data = windows.prepare(series, task, fitted)
    data["origins"] = origins(data, series, task, (0, valid, test, len(series.values)))
    frame = Frame(series, task, fitted, data, valid, test)

    def batch(data: dict, key: Array, step: Array) -> dict:
        picked = shuffled(key, step, len(data["origins"]["train"]), batch_size)
        return windows.take(data, jnp.asarray(data["origins"]["train"])[picked], task.look_back)

    return Task(
        spec=Spec(
            in_features=windows.num_inputs(series, task),
            out_features=task.horizon,
            readout="last",
        ),
        data=data,
        batch=batch,
        loss=loss_of(frame),
        summarize=summarize,
        splits={name: _split(frame, name, batch_size) for name in ("valid", "test")},
        baselines={name: baselines(frame, name) for name in ("valid", "test")},
        steps_per_epoch=-(-len(data["origins"]["train"]) // batch_size),
        figures=lambda forward: figures.figures(forward, frame),
        predict=lambda forward, out_dir, options: figures.predict(
            forward, out_dir, options, frame, load
        ),
    )


def origins(data: dict, series: Series, task: Any, edges: tuple[int, ...]) -> dict:
    """Rows after which a forecast is made, by the part that the row o+H falls into."""
    first = windows.lost(task) + task.look_back - 1
    found = {}
    for name, start, stop in zip(("train", "valid", "test"), edges, edges[1:], strict=False):
        rows = np.arange(max(start - task.horizon, first), stop - task.horizon)
        rows = rows[data["observed"][rows, -1] > 0]
        if not len(rows):
            raise UsageError(
                f"{series.source}, column {series.names[0]}: no value in the {name} part "
                f"(rows {series.rows[start]} to {series.rows[stop - 1]}) can be forecast; "
                "give more rows or change task.test_part and task.valid_part"
            )
        found[name] = rows.astype(np.int32)
    return found


def _split(frame: Frame, name: str, batch_size: int) -> Split:
    look_back = frame.task.look_back

    def take(data: dict, indices: Array) -> dict:
        return windows.take(data, jnp.asarray(data["origins"][name])[indices], look_back)

    return sequential(take, len(frame.data["origins"][name]), batch_size)


def loss_of(frame: Frame) -> Any:
    """loss(outputs [B, H], batch): error after the transforms, metrics in the target's units."""
    task = frame.task

    def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
        counted = example_weights(batch, outputs.shape[0])[:, None] * batch["observed"]
        known = weighed(counted, outputs, *(batch[name] for name in ("targets", "base", "actual")))
        outputs, targets, base, actual = known
        difference = outputs - targets
        error = jnp.abs(difference) if task.objective == "absolute" else jnp.square(difference)
        mean = average(error, counted)
        forecast = windows.to_units(outputs, base, task, frame.fitted)
        miss, counted = (forecast - actual)[:, -1], counted[:, -1]
        metrics = {
            "loss": mean,
            "squared_error": average(jnp.square(miss), counted),
            "mae": average(jnp.abs(miss), counted),
        }
        return ratio(mean), metrics

    return loss


def summarize(metrics: dict) -> dict:
    """squared_error -> rmse; both in the target's units, at the last step of the horizon."""
    rmse = jnp.sqrt(metrics["squared_error"])
    return {"loss": metrics["loss"], "rmse": rmse, "mae": metrics["mae"]}


def baselines(frame: Frame, name: str) -> dict:
    """rmse and mae of forecasts that need no network, on the same rows; loss one step ahead."""
    rows = frame.data["origins"][name]
    actual = frame.data["actual"][rows, -1].astype(np.float64)
    scores = {}
    for label, forecast in naive_forecasts(frame, rows).items():
        miss = forecast - actual
        rmse, mae = np.sqrt(np.mean(miss**2)), np.mean(np.abs(miss))
        scores[label] = {"rmse": float(rmse), "mae": float(mae)}
        if frame.task.horizon == 1:
            scores[label]["loss"] = transformed_loss(frame, forecast, actual)
    return scores


def transformed_loss(frame: Frame, forecast: np.ndarray, actual: np.ndarray) -> float:
    """The training loss of a forecast given in the target's units."""
    ours, theirs = (np.log(v) if frame.task.log else v for v in (forecast, actual))
    difference = (ours - theirs) / np.asarray(frame.fitted.targets.std)
    absolute = frame.task.objective == "absolute"
    return float(np.mean(np.abs(difference) if absolute else np.square(difference)))


def naive_forecasts(frame: Frame, rows: np.ndarray) -> dict:
    """Persistence, the last season, the last season times growth, linear autoregression."""
    task, horizon = frame.task, frame.task.horizon
    filled = windows.forward_fill(frame.series.values[:, :1])[:, 0]
    back = windows.season(task)
    found = {"persistence": filled[rows]}
    if task.period > 1 and rows[0] >= back:
        found["seasonal-naive"] = filled[rows + horizon - back]
        if np.nanmin(filled) > 0:
            growth = filled[rows] / filled[rows - back]
            found["seasonal-naive x growth"] = found["seasonal-naive"] * growth
    autoregression = linear_autoregression(filled, rows, frame.test, task)
    if autoregression is not None:
        found["linear autoregression"] = autoregression
    return found


def linear_autoregression(
    filled: np.ndarray, rows: np.ndarray, stop: int, task: Any
) -> np.ndarray | None:
    """Least squares for y[o+H] - y[o] on the last period + 1 changes of y, fitted before `stop`.

    y is the logarithm where every value is positive. None where there is too little to fit on.
    """
    logarithm = np.nanmin(filled) > 0
    y = np.log(filled) if logarithm else filled
    order, changes = task.period + 1, np.diff(y, prepend=np.nan)
    fitted_on = np.arange(order, stop - task.horizon)

    def past(origins: np.ndarray) -> np.ndarray:
        return np.stack([changes[origins - k] for k in range(order)], axis=1)

    if len(fitted_on) < 2 * order or rows[0] < order:
        return None
    design, answer = past(fitted_on), y[fitted_on + task.horizon] - y[fitted_on]
    good = np.isfinite(design).all(axis=1) & np.isfinite(answer)
    weights = np.linalg.lstsq(design[good], answer[good], rcond=None)[0]
    forecast = y[rows] + past(rows) @ weights
    return np.exp(forecast) if logarithm else forecast
