"""predictions of a run's best model: forecasts, classes, generated text or music, by task.

lstm-jax predict --workdir=runs/airline --horizon=24
lstm-jax predict --workdir=runs/airline --refit            trained once more, on every row
lstm-jax predict --workdir=runs/airline --csv=other.csv --out=/tmp/forecast
lstm-jax predict --workdir=runs/sales --future=promotions.csv   what is known of the days to come
lstm-jax predict --workdir=runs/chars --prompt="KING:" --length=500 --temperature=0.8
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.config.fields import replaced
from lstm_jax.errors import EXIT_CODES, OK, UsageError
from lstm_jax.training import begin, saved, train

FLAGS = (
    Flag("workdir", "", "the run", path=True),
    Flag("out", "", "where the files go (default: WORKDIR/predictions)", path=True),
    Flag("horizon", 0, "steps to forecast (0: the task's own)"),
    Flag(
        "csv", "", "another file to predict from, with the columns of the training file", path=True
    ),
    Flag("future", "", "a file of task.known_future's columns, a row for each step", path=True),
    Flag(
        "refit", False, "first train again on every row, for as many steps as made the best model"
    ),
    Flag("changed_data", False, "predict from data that are not those of the run"),
    Flag("prompt", "", "text to go on from"),
    Flag("length", 0, "symbols to generate (0: the task's own)"),
    Flag("temperature", 1.0, "1 samples as learned, towards 0 takes the likeliest"),
    Flag("seed", 0, "of the sampling"),
)


def run(arguments: Arguments) -> int:
    """Reload, predict, print the files written."""
    no_words(arguments)
    flags = arguments.flags
    check(flags)
    workdir = saved.workdir_of(flags.workdir, "predict")
    loaded = opened(workdir, flags)
    if loaded.program.task.predict is None:
        raise UsageError(f"task {loaded.config.task.name!r} has nothing to predict")
    if flags.refit:
        folder, status = refit(loaded, workdir)
        if status != "completed":
            return EXIT_CODES[status]
        loaded = opened(folder, flags)
    predict = loaded.program.task.predict
    out = Path(flags.out or workdir / "predictions")
    out.mkdir(parents=True, exist_ok=True)
    for path in predict(forward(loaded), out, flags):
        print(path)
    return OK


def check(flags: SimpleNamespace) -> None:
    """Refuses numbers that mean nothing, before anything is loaded."""
    for name in ("horizon", "length", "seed"):
        if getattr(flags, name) < 0:
            raise UsageError(f"--{name}={getattr(flags, name)}: expected at least 0")
    if not 0 <= flags.temperature < 1e6:
        raise UsageError(f"--temperature={flags.temperature}: expected 0 or more")
    for name in ("csv", "future"):
        given = getattr(flags, name)
        if given and not Path(given).is_file():
            raise UsageError(f"--{name}: no file {given!r}")


def opened(workdir: Path, flags: SimpleNamespace) -> saved.Run:
    check_data = partial(begin.check_data, workdir=workdir, may=flags.changed_data)
    return saved.open_run(workdir, check_data)


def refit(loaded: saved.Run, workdir: Path) -> tuple[Path, str]:
    """(folder, status) of a run like this one on every row of the series, its best step the last.

    Raises:
      UsageError: the task keeps no rows back, or no step was better than the start.
    """
    config, step = loaded.config, loaded.step
    if "train_on" not in config.task:
        raise UsageError(f"--refit is for forecasts, and the task is {config.task.name!r}")
    if not step:
        raise UsageError(
            f"--refit: no step of {workdir} was better than its start; train it longer"
        )
    folder = workdir / f"refit-{step}"
    print(f"{step} steps, the best of {workdir}, on every row: {folder}", flush=True)
    last = dict.fromkeys(("train.num_steps", "train.eval_every", "train.checkpoint_every"), step)
    fields = last | {"train.patience": 0, "task.train_on": "all"}
    return folder, train.train(replaced(config, fields), folder)["status"]


def forward(loaded):
    """(batch, carry=None) -> (outputs, carry), compiled, with the best parameters."""
    apply = jax.jit(loaded.program.model.apply)
    return lambda batch, carry=None: apply(loaded.params, loaded.hyper, batch, carry)
