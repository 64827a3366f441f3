"""train a model, or go on where the last run with this workdir stopped.

  lstm-jax train --config=configs/airline.py
  lstm-jax train --config=configs/airline.py:smoke --workdir=/tmp/try
  lstm-jax train --config=configs/adding.py --config.cell.gates=cifg --config.seed=3

  lstm-jax train --reproduce=runs/airline       the same run afresh: the same digests?

The same command again resumes exactly; a finished run says so and does nothing. Fields of the
config are set with --config.section.field=VALUE; `lstm-jax config --config=FILE` lists them.
"""

from __future__ import annotations

from pathlib import Path

from lstm_jax.cli import (
    DEFECT,
    DIVERGED,
    INTERRUPTED,
    OK,
    USAGE_ERROR,
    Arguments,
    Flag,
    no_words,
)
from lstm_jax.core import UsageError

FLAGS = (
    Flag("config", "", "config file, with a preset after a colon: configs/airline.py:smoke"),
    Flag("workdir", "", "where the run lives (default: runs/<name of the config>)", path=True),
    Flag(
        "reproduce",
        "",
        "a run to train once more in --workdir (default: its own name -again)",
        path=True,
    ),
)
EXIT_CODES = {"completed": OK, "diverged": DIVERGED, "interrupted": INTERRUPTED, "failed": DEFECT}


def run(arguments: Arguments) -> int:
    """Check everything, then train; nothing is created before all checks have passed."""
    from lstm_jax import runs
    from lstm_jax.overrides import load_config

    no_words(arguments)
    if arguments.flags.reproduce:
        return again(arguments)
    if not arguments.config:
        raise UsageError("train needs a config, as in --config=configs/airline.py")
    config = load_config(arguments.config, arguments.overrides)
    workdir = Path(arguments.flags.workdir or default_workdir(arguments.config))
    runs.check_same(config, workdir)

    from lstm_jax import distributed, parallel, train

    parallel.configure_cpu_devices(config.parallel.data)
    with distributed.joined(config):
        summary = train.train(config, workdir)
    return EXIT_CODES[summary["status"]]


def again(arguments: Arguments) -> int:
    """Train a run's config afresh and compare digests; 1 where they differ for no known reason."""
    from lstm_jax import parallel, runs
    from lstm_jax.reproduce import reproduce, say

    if arguments.config or arguments.overrides:
        raise UsageError("--reproduce takes the config of the run; leave --config out")
    original = runs.workdir_of(arguments.flags.reproduce, "train --reproduce")
    workdir = Path(arguments.flags.workdir or f"{original}-again")
    parallel.configure_cpu_devices(runs.saved_config(original).parallel.data)
    summary, verdict = reproduce(original, workdir)
    say(verdict, original)
    if verdict.same or summary["status"] == "interrupted":
        return INTERRUPTED if summary["status"] == "interrupted" else OK
    return USAGE_ERROR if verdict.differences else DEFECT


def default_workdir(spec: str) -> str:
    """runs/airline, runs/airline-classic, runs/airline-classic-smoke."""
    from lstm_jax.overrides import split_spec

    path, arg = split_spec(spec)
    return "-".join(["runs/" + Path(path).stem, *(part for part in arg.split(",") if part)])
