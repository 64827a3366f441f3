"""Which verdicts hang on a choice: the same trials under other choices of the analysis."""

from __future__ import annotations

from collections.abc import Callable

from lstm_jax.report.analysis import Section, analyse
from lstm_jax.report.collect import Reading, Sweep
from lstm_jax.sweep.define.names import SEED


def _scaled(scale: str) -> Callable[[Sweep], Sweep]:
    return lambda sweep: read(sweep, scale=scale)


def read(sweep: Sweep, **changes) -> Sweep:
    return sweep._replace(reading=sweep.reading._replace(**changes))


def by_validation(sweep: Sweep) -> Sweep:
    """The sweep with its validation scores in the place of the test's."""
    trials = [t._replace(test=t.valid, trivial=t.trivial_valid) for t in sweep.trials]
    reading = sweep.reading
    changed = {"metric": reading.choose, "direction": reading.choose_direction}
    return read(sweep._replace(trials=trials), **changed)


CHOICES: dict[str, Callable[[Sweep], Sweep]] = {
    "plain mean": lambda sweep: read(sweep, trim=0.0),
    "log": _scaled("log"),
    "not log": _scaled("linear"),
    "paired by seed": lambda sweep: read(sweep, block=(SEED,)),
    "baseline's setting": lambda sweep: read(sweep, select="common"),
    "second-best setting": lambda sweep: read(sweep, select="second"),
    "validation": by_validation,
}


def choices(sweep: Sweep, sections: list[Section]) -> dict[str, list[dict[str, str]]]:
    """{choice: [{variant: word} of each section]}, of the choices that make a difference here."""
    reading: Reading = sweep.reading
    if reading.select != "setting" or reading.scale in ("rank", "solved"):
        return {}
    if not any(row.seeds > 1 and not row.is_baseline for s in sections for row in s.rows):
        return {}
    same = {
        "log": reading.scale == "log",
        "not log": reading.scale == "linear",
        "paired by seed": bool(reading.block),
        "baseline's setting": not reading.tuned,
        "second-best setting": not reading.tuned,
        "validation": reading.metric == reading.choose or reading.scale == "log",
    }
    return {
        name: [{row.variant: row.verdict for row in s.rows} for s in analyse(change(sweep))]
        for name, change in CHOICES.items()
        if not same.get(name)
    }
