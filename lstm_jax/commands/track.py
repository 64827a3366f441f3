"""sends a run, or every trial of a sweep, to a tracker: MLflow, W&B, trackio or one of your own.

  lstm-jax track --workdir=runs/airline --tracker=mlflow
  lstm-jax track --workdir=sweeps/airline_lr --tracker=mlflow,wandb
  lstm-jax track --workdir=runs/airline --tracker=mine.py:TRACKER

What was sent before is not sent again: WORKDIR/tracked remembers. `train` and `sweep` take
--tracker too and send while they run. Offline first: mlflow.db beside the run unless
MLFLOW_TRACKING_URI says else, W&B offline unless logged in, trackio local.
"""

from __future__ import annotations

from pathlib import Path

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.errors import OK, UsageError
from lstm_jax.trackers import TRACKERS, Named, chosen
from lstm_jax.trackers.contract import home_of
from lstm_jax.trackers.follow import reason
from lstm_jax.trackers.send import alone, runs, send
from lstm_jax.training.saved import workdir_of

FLAGS = (
    Flag("workdir", "", "of the run or the sweep", path=True),
    Flag("tracker", "", f"{' | '.join(TRACKERS)} | FILE.py:NAME, several with commas between"),
)


def run(arguments: Arguments) -> int:
    """Send what has not been sent."""
    no_words(arguments)
    flags = arguments.flags
    workdir = workdir_of(flags.workdir, "track")
    if not flags.tracker:
        raise UsageError(f"to which tracker? --tracker={'|'.join(TRACKERS)}, or FILE.py:NAME")
    if not (found := runs(workdir)):
        raise UsageError(f"{workdir} holds no run and no sweep that has begun")
    for named in chosen(flags.tracker, workdir):
        with alone(named, workdir):
            number = sent(named, workdir)
        many = f"{len(found)} runs" if len(found) > 1 else "a run"
        place = named.tracker.place(home_of(workdir))
        print(f"{named.name}: {number} lines of {many} sent; {place}", flush=True)
    return OK


def sent(named: Named, workdir: Path) -> int:
    """The number of lines; UsageError where the tracker fails."""
    try:
        return send(named, workdir, {})
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{named.name}: {reason(error)}; the same command goes on after what was accepted"
        ) from error
