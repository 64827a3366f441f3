"""train a model, or go on where the last run with this workdir stopped.

  lstm-jax train --config=configs/airline.py
  lstm-jax train --config=configs/airline.py:smoke --workdir=/tmp/try
  lstm-jax train --config=configs/adding.py --config.cell.gates=cifg --config.seed=3

  lstm-jax train --config=configs/airline.py --tracker=mlflow     what is logged, to MLflow too

  lstm-jax train --reproduce=runs/airline       trains it again from scratch, compares digests

  lstm-jax train --workdir=runs/airline                 goes on with that run
  lstm-jax train --workdir=runs/airline --extend=500    ... for 500 steps past its end
  lstm-jax train --workdir=runs/airline --extend=500 --config.optimizer.learning_rate=1e-4
  lstm-jax train --config=configs/airline.py --workdir=runs/tuned --init_from=runs/airline

The same command again resumes exactly; a finished run says so and does nothing. Fields of the
config are set with --config.section.field=VALUE; `lstm-jax config --config=FILE` lists them.
A larger train.num_steps goes past the end too. A schedule always spans train.num_steps steps, so a
cosine that had decayed is stretched and the learning rate rises again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lstm_jax import plugins
from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.compute import processes
from lstm_jax.compute import sharding as parallel
from lstm_jax.config.overrides import split_spec
from lstm_jax.errors import DEFECT, EXIT_CODES, INTERRUPTED, OK, USAGE_ERROR, UsageError
from lstm_jax.trackers import TRACKERS, chosen
from lstm_jax.trackers.follow import following
from lstm_jax.training import begin, train
from lstm_jax.training import saved as runs
from lstm_jax.training.check import load_config, with_overrides
from lstm_jax.training.reproduce import reproduce, say

FLAGS = (
    Flag("config", "", "config file, with a preset after a colon: configs/airline.py:smoke"),
    Flag("workdir", "", "where the run lives (default: runs/<name of the config>)", path=True),
    Flag("extend", 0, "steps to train past the end of a finished run"),
    Flag("init_from", "", "a run whose best weights a new run starts from", path=True),
    Flag("init_optimizer", False, "with --init_from: its newest weights and its optimizer's state"),
    Flag("changed_data", False, "go on with a run whose data file has changed"),
    Flag("tracker", "", f"{' | '.join(TRACKERS)} | FILE.py:NAME, several with commas between"),
    Flag(
        "reproduce",
        "",
        "a run to train again from scratch in --workdir (default: RUN-again)",
        path=True,
    ),
)


def run(arguments: Arguments) -> int:
    """Check everything, then train; nothing is created before all checks have passed."""
    no_words(arguments)
    if arguments.flags.reproduce:
        return again(arguments)
    flags, reopen = arguments.flags, False
    config, workdir = what_and_where(arguments)
    if flags.extend:
        if "train.num_steps" in arguments.overrides:
            raise UsageError("--extend and --config.train.num_steps both say how far; give one")
        config, reopen = begin.extended(config, workdir, flags.extend)
    begin.check_goes_on(config, workdir, bool(flags.workdir), reopen)
    source = begin.source_of(workdir, flags.init_from, flags.init_optimizer)
    trackers = chosen(flags.tracker, workdir)

    parallel.configure_cpu_devices(config.parallel.data)
    with processes.joined(config) as place:
        first = place is None or place.index == 0
        with following(trackers if first else [], workdir):
            summary = train.train(
                config, workdir, reopen=reopen, source=source, changed_data=flags.changed_data
            )
    return EXIT_CODES[summary["status"]]


def what_and_where(arguments: Arguments) -> tuple[Any, Path]:
    """(config, workdir): of a config file, or of the run that the workdir holds."""
    flags = arguments.flags
    if arguments.config:
        workdir = Path(flags.workdir or default_workdir(arguments.config))
        plugins.use(workdir)
        return load_config(arguments.config, arguments.overrides), workdir
    if not flags.workdir:
        raise UsageError(
            "train needs a config, as in --config=configs/airline.py, or a run to go on with: "
            "--workdir=DIR"
        )
    workdir = Path(flags.workdir)
    if not (workdir / "config.json").exists():
        raise UsageError(
            f"{workdir} holds no run to go on with; a new one needs a config, as in "
            "--config=configs/airline.py"
        )
    return with_overrides(runs.saved_config(workdir), arguments.overrides), workdir


def again(arguments: Arguments) -> int:
    """Train a run's config afresh and compare digests; 1 where they differ for no known reason."""
    if arguments.config or arguments.overrides:
        raise UsageError("--reproduce takes the config of the run; leave --config out")
    original = runs.workdir_of(arguments.flags.reproduce, "train --reproduce")
    workdir = Path(arguments.flags.workdir or f"{original}-again")
    trackers = chosen(arguments.flags.tracker, workdir)
    parallel.configure_cpu_devices(runs.saved_config(original).parallel.data)
    with following(trackers, workdir):
        summary, verdict = reproduce(original, workdir)
    say(verdict, original)
    if verdict.same or summary["status"] == "interrupted":
        return INTERRUPTED if summary["status"] == "interrupted" else OK
    return USAGE_ERROR if verdict.differences else DEFECT


def default_workdir(spec: str) -> str:
    """runs/airline, runs/airline-classic, runs/airline-classic-smoke."""
    path, arg = split_spec(spec)
    return "-".join(["runs/" + Path(path).stem, *(part for part in arg.split(",") if part)])
