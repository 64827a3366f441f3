"""how gradients, gates and memory of a trained model behave.

  lstm-jax diagnose --workdir=runs/airline
  lstm-jax diagnose --workdir=sweeps/airline_lr   its variants' chosen trials, for the report

Of a sweep: every seed that judges, at initialisation and with its best parameters; after an
interruption the same command goes on. Writes diagnostics/step_N.npz and
figures/diagnostics_layer_0.png beside the run, and the same to TensorBoard; prints the scalars.
While training: --config.train.diagnose_every=STEPS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.diagnostics import observe
from lstm_jax.errors import OK, UsageError
from lstm_jax.report.analysis import analyse
from lstm_jax.report.collect import SUMMARY, read_sweep
from lstm_jax.sweep.define.plan import MANIFEST, read_plan, trial_folder
from lstm_jax.training import saved as runs
from lstm_jax.training.state import init_state
from lstm_jax.workdir.files import read_json
from lstm_jax.workdir.metrics import Writer, read_metrics

FLAGS = (
    Flag("workdir", "", "the run, or a sweep", path=True),
    Flag("trials", 0, "of a sweep: chosen trials of each variant to look at (0: all)"),
)


def run(arguments: Arguments) -> int:
    """Reload, look, write, print."""
    no_words(arguments)
    flags = arguments.flags
    if flags.trials < 0:
        raise UsageError(f"--trials={flags.trials}: expected a positive whole number, or 0 for all")
    workdir = runs.workdir_of(flags.workdir, "diagnose")
    if (workdir / MANIFEST).exists():
        looks: Looks = {}
        for variant, folder in chosen(workdir, flags.trials):
            there = seen(folder)
            path = there or diagnose(folder, looks, True)[0]
            print(f"{variant}: {path}{' (already there)' if there else ''}", flush=True)
        return OK
    path, scalars = diagnose(workdir)
    width = max(map(len, scalars))
    for name, value in scalars.items():
        print(f"{name:<{width}}  {value:.4g}")
    print(path)
    return OK


Looks = dict[str, Callable]  # compiled once for all trials that share a program


def diagnose(
    workdir: Path, looks: Looks | None = None, start: bool = False
) -> tuple[Path, dict[str, float]]:
    """(file, scalars) of the run's best parameters; with `start` also of those it began with."""
    loaded, looks = runs.open_run(workdir), {} if looks is None else looks
    name = loaded.config.signature
    look = looks[name] = looks.get(name) or observe.observer(loaded.program)
    if start:
        first = init_state(loaded.program, loaded.hyper).params
        observe.save(look(first, loaded.hyper, loaded.data), workdir, 0)
    arrays = look(loaded.params, loaded.hyper, loaded.data)
    last = max((line["step"] for line in read_metrics(workdir)), default=loaded.step)
    with Writer(workdir, last, True) as writer:  # after all lines that are there
        return observe.write(arrays, writer, loaded.step), observe.summarise(arrays)


def seen(trial: Path) -> Path | None:
    """Both looks at an ended trial, which changes no more: the later of them, if they are there."""
    best = read_json(trial / SUMMARY).get("best_step")
    if not best:
        return None
    first, path = observe.place(trial, 0), observe.place(trial, best)
    return path if first.exists() and path.exists() else None


def chosen(workdir: Path, most: int) -> list[tuple[str, Path]]:
    """(variant, folder) of the trials that speak for each variant in the report."""
    plan = read_plan(workdir)
    found: list[tuple[str, Path]] = []
    for section in analyse(read_sweep(plan, workdir)):
        for variant, trials in section.chosen.items():
            shown = trials[: most or None]
            folders: Any = (trial_folder(workdir, trial.number) for trial in shown)
            found += [(variant, folder) for folder in folders]
    if not found:
        raise UsageError(f"{workdir}: no trial has ended with a score yet; lstm-jax sweep status")
    return found
