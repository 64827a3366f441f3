"""how gradients, gates and memory of a trained model behave.

  lstm-jax diagnose --workdir=runs/airline
  lstm-jax diagnose --workdir=sweeps/airline_lr   its variants' chosen trials, for the report

Writes diagnostics/step_N.npz and figures/diagnostics_layer_0.png beside the run, and the same to
TensorBoard; prints the scalars. While training: --config.train.diagnose_every=STEPS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.diagnostics import observe
from lstm_jax.errors import OK, UsageError
from lstm_jax.report.analysis import analyse
from lstm_jax.report.collect import read_sweep
from lstm_jax.sweep.define.plan import MANIFEST, read_plan, trial_folder
from lstm_jax.training import saved as runs
from lstm_jax.workdir.metrics import Writer, read_metrics

FLAGS = (
    Flag("workdir", "", "the run, or a sweep", path=True),
    Flag("trials", 1, "of a sweep: chosen trials of each variant to look at"),
)


def run(arguments: Arguments) -> int:
    """Reload, look, write, print."""
    no_words(arguments)
    flags = arguments.flags
    if flags.trials < 1:
        raise UsageError(f"--trials={flags.trials}: expected a positive whole number")
    workdir = runs.workdir_of(flags.workdir, "diagnose")
    if (workdir / MANIFEST).exists():
        for variant, folder in chosen(workdir, flags.trials):
            print(f"{variant}: {diagnose(folder)[0]}", flush=True)
        return OK
    path, scalars = diagnose(workdir)
    width = max(map(len, scalars))
    for name, value in scalars.items():
        print(f"{name:<{width}}  {value:.4g}")
    print(path)
    return OK


def diagnose(workdir: Path) -> tuple[Path, dict[str, float]]:
    """(file, scalars) of the run's best parameters."""
    loaded = runs.open_run(workdir)
    arrays = observe.observer(loaded.program)(loaded.params, loaded.hyper, loaded.data)
    last = max((line["step"] for line in read_metrics(workdir)), default=loaded.step)
    with Writer(workdir, last, True) as writer:  # after all lines that are there
        return observe.write(arrays, writer, loaded.step), observe.summarise(arrays)


def chosen(workdir: Path, most: int) -> list[tuple[str, Path]]:
    """(variant, folder) of the trials that speak for each variant in the report."""
    plan = read_plan(workdir)
    found: list[tuple[str, Path]] = []
    for section in analyse(read_sweep(plan, workdir)):
        for variant, trials in section.chosen.items():
            folders: Any = (trial_folder(workdir, trial.number) for trial in trials[:most])
            found += [(variant, folder) for folder in folders]
    if not found:
        raise UsageError(f"{workdir}: no trial has ended with a score yet; lstm-jax sweep status")
    return found
