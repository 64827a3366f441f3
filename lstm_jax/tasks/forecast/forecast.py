"""Forecast the next values of one or many series from windows of past ones.

The embedded series is Box & Jenkins' airline passengers, 144 months from 1949 to 1960; task.csv
names any other. Rows are split by time, never at random: training, validation, test. Many series
(`task.series_id`) train one global model, whose windows never cross from one to the next.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data import files as data_files
from lstm_jax.data.datasets import DATASETS
from lstm_jax.errors import UsageError, unknown
from lstm_jax.option import NOT_NEGATIVE, SHARE, SIZE, Option
from lstm_jax.tasks.task import (
    Decoding,
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
STRATEGIES = ("direct", "recursive", "sequence", "seq2seq")

# fmt: off
OPTIONS = (
    # What is read; what no option settles is recognised, and said.
    Option("csv", "", 'a CSV file; "": the embedded airline passengers'),
    Option("layout", "long", "long (a row each step) | rows (a row each series, its name first)"),
    Option("then_csv", "", "of rows: a file of the values that follow, as M4's test values do"),
    Option("target", "", 'column to forecast, or several as so many series; "": the last'),
    Option("joint", False, "one network says all targets of a row at once"),
    Option("features", "", "further input columns, with commas between; quote a name with a comma"),
    Option("date", "", 'date column, or several: Date,Time or year,month,day,hour; "": found'),
    Option("date_format", "", 'as in %d.%m.%Y; s, ms, us or ns since 1970; excel; "": recognised'),
    Option("time_zone", "", 'of dates without an offset, as in Europe/Paris; "": none'),
    Option("series_id", "", 'the column that names the series of each row; "": one series'),
    Option("encoding", "", 'of the file; "": UTF-8, UTF-16 with its mark, else Windows-1252'),
    Option("delimiter", "", 'between cells; "": comma, semicolon, tab or bar'),
    Option("decimal", "", 'point; "": recognised'),
    Option("thousands", "", 'mark between groups of digits; "": recognised'),
    Option("skip_rows", -1, "lines above the header; -1: recognised"),
    Option("header", "auto", "first | none | auto (refused where the first row holds values)"),
    Option("comment", "", "what lines to be left out begin with"),
    Option("missing_markers", (), "further cells that stand for a missing value, as in -999"),
    Option("duplicates", "error", "rows of one date: error | first | mean"),
    Option("gaps", "error", "dates left out: error | asfreq (missing values) | ignore"),
    Option("missing", "error", "error | zero | forward | linear | mask (with time since seen)"),
    Option("calendar", (), "inputs known ahead: hour, weekday, day, month, yearday"),
    Option("known_future", "", "features whose future is known; a sequence and seq2seq see it"),
    # Windows and what is forecast.
    Option("look_back", 12, "T: past rows in a window", SIZE),
    Option("horizon", 1, "H: rows ahead; loss and metrics are means over all of them", SIZE),
    Option("strategy", "direct",
           "direct (all H) | recursive (one, fed back) | sequence (on over known inputs) | "
           "seq2seq (so, by a decoder fed its outputs)"),
    Option("teacher_forcing", 0.0, "share of a decoder's training steps fed the truth", SHARE),
    Option("log", True, "the logarithm of the target"),
    Option("difference", True, "changes against the row before"),
    Option("seasonal_difference", False, "changes against the same row one period before"),
    Option("seasonal_input", False,
           "a second input: what the target did a season before the forecast"),
    Option("period", 12, "rows in a season; also of the naive forecast that MASE divides by", SIZE),
    Option("scaling", "zscore",
           "of each series: zscore | mean_abs (its training part) | none | instance (by window)"),
    Option("objective", "squared",
           "squared | absolute | quantile | gaussian | student, after the transforms"),
    Option("quantiles", (0.025, 0.1, 0.5, 0.9, 0.975), "of the forecast: ends of the intervals"),
    Option("conformal", False, "calibrate the intervals on the validation part"),
    Option("models", (), "further baselines, by statsforecast: AutoARIMA, AutoETS, AutoTheta"),
    # Splits; a date wins over a number of rows, and that over a share.
    Option("test_part", 1 / 3, "of all rows, the last"),
    Option("valid_part", 1 / 8, "of the rows before the test part, the last"),
    Option("test_rows", 0, "of each series, the last; 0: by share", NOT_NEGATIVE),
    Option("valid_rows", 0, "before the test part; 0: by share", NOT_NEGATIVE),
    Option("test_from", "", 'date on which the test begins; "": by number'),
    Option("valid_from", "", 'date on which validation begins; "": by number'),
    Option("until", "", 'rows from this date on are left out; "": none'),
    Option("train_on", "train", "train (its part) | all (every row: no score means anything then)"),
    Option("origins", 0, "test forecasts, evenly spread; 0: from every row", NOT_NEGATIVE),
)
# fmt: on
CHOICES = {
    "layout": ("long", "rows"),
    "missing": ("error", "zero", "forward", "linear", "mask"),
    "strategy": STRATEGIES,
    "scaling": ("zscore", "mean_abs", "instance", "none"),
    "duplicates": ("error", "first", "mean"),
    "gaps": ("error", "asfreq", "ignore"),
    "train_on": ("train", "all"),
}


READERS = {
    "long": lambda reading: reading.read_series,
    "rows": lambda reading: reading.read_rows,
}


def load(task: Any, csv: str = "") -> Any:
    """The series that `task` names, or the same columns of another file, checked for gaps.

    Returns:
      a `series.Series`.
    """
    from lstm_jax.tasks.forecast import series as reading  # start-up

    read = READERS[task.layout](reading)
    series = read(csv or _path(task, task.csv), task)
    if task.then_csv and not csv:
        series = reading.followed(series, read(_path(task, task.then_csv), task))
    series = reading.before(series, task.until) if task.until and not csv else series
    if task.missing == "error":
        reading.check_missing(series)
    return reading.with_calendar(series, task)


def _path(task: Any, csv: str) -> Path:
    """A file as given, below task.data_dir, or of a known data set; "": the embedded one."""
    if not csv:
        return AIRLINE
    given = Path(csv).expanduser()
    below = Path(task.data_dir or ".").expanduser() / csv
    if given.exists() or below.exists():
        return given if given.exists() else below
    dataset, _, name = csv.partition("/")
    known = dataset in DATASETS and name in [file.name for file in DATASETS[dataset].files]
    return data_files.path(dataset, name, task.data_dir) if known else given


def check_options(task: Any) -> None:
    from lstm_jax.tasks.forecast import baselines, intervals  # start-up

    for name, known in CHOICES.items():
        if getattr(task, name) not in known:
            raise unknown(f"task.{name}", getattr(task, name), known)
    for name in ("look_back", "horizon", "period"):
        if getattr(task, name) < 1:
            raise UsageError(f"task.{name}={getattr(task, name)}: expected a positive whole number")
    if task.seasonal_input and task.period == 1:
        raise UsageError("task.seasonal_input=True needs a season: set task.period above 1")
    for name in ("test_part", "valid_part"):
        if not 0 < getattr(task, name) < 1:
            raise UsageError(f"task.{name}={getattr(task, name)}: expected between 0 and 1")
    if task.train_on == "all" and task.conformal:
        raise UsageError(
            "task.conformal=True calibrates intervals on the validation rows, which "
            "task.train_on=all (predict --refit) trains on: they would be too narrow; leave one out"
        )
    intervals.check(task)
    baselines.check_models(task.models)
    if task.strategy == "recursive" and intervals.has_intervals(task):
        raise UsageError(
            "task.strategy=recursive feeds back one value, which says nothing of the spread; take "
            "task.strategy=direct for intervals, or objective squared or absolute without conformal"
        )


def framed(task: Any) -> Any:
    """The series of `task` with splits and scales: a `frame.Frame`."""
    from lstm_jax.tasks.forecast import baselines, intervals, windows
    from lstm_jax.tasks.forecast import frame as frames  # start-up
    from lstm_jax.tasks.forecast.series import check_varied

    check_options(task)
    series = load(task)
    edges = frames.edges(series, task)
    check_varied(series, [(start, valid) for start, valid, *_ in edges])
    fitted = windows.fit(series, task, [(valid, test) for _, valid, test, _ in edges])
    data = windows.prepare(series, task, fitted)
    origins = frames.origins(series, task, edges)
    intervals.check_calibration(len(origins["valid"]), task, series.source)
    whole = frames.train_origins(edges, task)
    linear = baselines.fit_linear(data["y"], whole, task)
    return frames.Frame(series, task, fitted, data, edges, origins, linear)


def build(config: Any) -> Task:
    """Windows of the training part in a new order each epoch; later parts in order of time."""
    from lstm_jax.tasks.forecast import figures, intervals, said, windows  # start-up

    task, batch_size = config.task, config.train.batch_size
    made = framed(task)
    rows = {name: windows.bases(found, made.series) for name, found in made.origins.items()}
    data = windows.on_device(made.data) | {
        "origins": {name: found.astype(np.int32) for name, found in rows.items()}
    }
    size = len(rows["train"])

    def batch(data: dict, key: Array, step: Array) -> dict:
        picked = shuffled(key, step, size, batch_size)
        return cut(data, jnp.asarray(data["origins"]["train"])[picked], task)

    at_once = intervals.outputs(task) * made.series.joint
    each = task.strategy in windows.SEE_AHEAD
    return Task(
        spec=Spec(
            in_features=windows.num_inputs(made.series, task),
            out_features=at_once if each else at_once * windows.steps(task),
            readout="every" if each else "last",
            decoding=decoding(made.series, task),
        ),
        data=data,
        batch=batch,
        loss=partial(loss, task=task, has_naive=bool((made.data["naive"] > 0).any())),
        summarize=partial(in_units, unit=made.fitted.unit_of_metrics),
        splits={name: split(name, len(rows[name]), task, batch_size) for name in ("valid", "test")},
        baselines={name: said.baselines(made, name) for name in ("valid", "test")},
        steps_per_epoch=-(-size // batch_size),
        figures=partial(figures.figures, frame=made),
        predict=partial(said.predict, frame=made, load=load),
        scores=partial(said.all_scores, frame=made),
        understood=said.understood(made),
        source=said.source(made),
    )


def decoding(series: Any, task: Any) -> Decoding | None:
    """Of seq2seq: the forecast is fed back, after the target's own history at the origin."""
    from lstm_jax.tasks.forecast import intervals, windows  # start-up

    if task.strategy != "seq2seq":
        return None
    size, place = intervals.outputs(task), intervals.place(task)
    fed = tuple(size * k + place for k in range(series.joint))
    return Decoding(task.horizon, fed, windows.first_columns(series, task), task.teacher_forcing)


def cut(data: dict, rows: Array, task: Any) -> dict:
    """Windows on the device; over examples along the axis that the model wants."""
    from lstm_jax.tasks.forecast import windows  # start-up

    found = windows.take(data, rows, task)
    each = task.strategy in windows.SEE_AHEAD
    return found | ({"targets": windows.by_step(found["targets"], task)} if each else {})


def split(name: str, size: int, task: Any, batch_size: int) -> Split:
    def take(data: dict, indices: Array) -> dict:
        return cut(data, jnp.asarray(data["origins"][name])[indices], task)

    return sequential(take, size, batch_size)


def loss(outputs: Array, batch: dict, task: Any, has_naive: bool) -> tuple[Array, dict]:
    """Error after the transforms, and metrics in one unit of the target, over all steps."""
    from lstm_jax.tasks.forecast import frame, intervals, windows  # start-up

    answers, targets = frame.answers(outputs, task), batch["targets"]
    targets = windows.by_example(targets) if task.strategy in windows.SEE_AHEAD else targets
    counted = example_weights(batch, len(targets))[:, None] * batch["observed"]
    answers, targets, actual = weighed(counted, answers, targets, batch["actual"])
    mean = average(intervals.loss(answers, targets, task), counted)
    apart = (intervals.middle(answers, task) - targets) * batch["factor"] * batch["unit"]
    miss = (
        actual * jnp.expm1(apart) if task.log else apart
    )  # of a billion, without a float32's gaps
    both = jnp.abs(actual) + jnp.abs(actual + miss)
    metrics = {
        "loss": mean,
        "squared_error": average(jnp.square(miss), counted),
        "mae": average(jnp.abs(miss), counted),
        "smape": average(200 * jnp.abs(miss) / jnp.where(both == 0, 1, both), counted),
    }
    if has_naive:
        naive = batch["naive"]
        scaled = jnp.abs(miss) / jnp.where(naive > 0, naive, 1)
        metrics["mase"] = average(scaled, counted * (naive > 0))
    return ratio(mean), metrics


def in_units(metrics: dict, unit: float) -> dict:
    """squared_error -> rmse; rmse and mae in the target's units."""
    rmse = unit * jnp.sqrt(metrics["squared_error"])
    rest = {name: metrics[name] for name in ("smape", "mase") if name in metrics}
    return {"loss": metrics["loss"], "rmse": rmse, "mae": unit * metrics["mae"], **rest}
