"""metrics of a run's best parameters on every split, beside the trivial scores.

lstm-jax evaluate --workdir=runs/airline
lstm-jax evaluate --workdir=runs/airline --model=runs/airline/export/model.onnx     as exported
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import jax

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.errors import OK
from lstm_jax.training import begin, saved, train
from lstm_jax.training.journal import exact
from lstm_jax.workdir.console import closing_table

FLAGS = (
    Flag("workdir", "", "the run", path=True),
    Flag("model", "", "a .onnx or .stablehlo file to measure on the run's data", path=True),
    Flag("changed_data", False, "evaluate on data that are not those of the run"),
    Flag("json", False, "print one JSON object instead of tables"),
)


def run(arguments: Arguments) -> int:
    """Reload, evaluate, print."""
    no_words(arguments)
    workdir = saved.workdir_of(arguments.flags.workdir, "evaluate")
    check = partial(begin.check_data, workdir=workdir, may=arguments.flags.changed_data)
    loaded = saved.open_run(workdir, check)
    model = arguments.flags.model
    metrics = measured(Path(model), loaded) if model else evaluate(loaded)
    baselines = loaded.program.task.baselines
    if arguments.flags.json:
        found = {"step": loaded.step, "metrics": metrics, "baselines": baselines}
        print(json.dumps(found, default=float))
        return OK
    what = f"{model} on its data" if model else f"best parameters, from step {loaded.step}"
    print(f"{workdir}: {what}")
    closing_table(metrics, baselines, workdir, name=loaded.config.cell.name)
    return OK


def measured(path: Path, loaded) -> dict[str, dict[str, float]]:
    """The metrics of an exported model."""
    from lstm_jax.convert.measure import measure  # start-up

    return measure(path, loaded)


def evaluate(loaded) -> dict[str, dict[str, float]]:
    """{split: {metric: value}}."""

    def measure(params, hyper, data):
        return {
            split: train.evaluate(loaded.program, params, hyper, data, split)
            for split in loaded.program.task.splits
        }

    found = jax.jit(measure)(loaded.params, loaded.hyper, loaded.data)
    task, forward = loaded.program.task, loaded.program.forward(loaded.params, loaded.hyper)
    return exact(jax.tree.map(float, found), task, forward)
