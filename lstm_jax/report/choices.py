"""Which verdicts hang on a choice: the same trials under other choices of the analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lstm_jax.report.analysis import Section, analyse_all
from lstm_jax.report.collect import Reading, Sweep
from lstm_jax.sweep.define.names import SEED


def _scaled(scale: str) -> Callable[[Sweep], Sweep]:
    return lambda sweep: read(sweep, scale=scale)


def read(sweep: Sweep, **changes) -> Sweep:
    return sweep._replace(reading=sweep.reading._replace(**changes))


def tuning(sweep: Sweep) -> Sweep:
    """Without its fresh seeds, which there are at one setting only."""
    return sweep._replace(trials=[t for t in sweep.trials if not t.is_fresh])


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
    "baseline's setting": lambda sweep: read(tuning(sweep), select="common"),
    "second-best setting": lambda sweep: read(tuning(sweep), select="second"),
    "the seeds that chose": lambda sweep: tuning(sweep),
    "validation": by_validation,
}


def choices(sweep: Sweep, sections: list[Section]) -> dict[str, list[dict[str, str]]]:
    """{choice: [{variant: word} of each section]}, of the choices that make a difference here."""
    return choices_of_all([sweep], sections)


def choices_of_all(
    sweeps: Sequence[Sweep], sections: Sequence[Section]
) -> dict[str, list[dict[str, str]]]:
    """The same for sweeps that are judged as one family: a choice is made where it can be."""
    if not any(row.seeds > 1 and not row.is_baseline for s in sections for row in s.rows):
        return {}
    found = {}
    for name, change in CHOICES.items():
        able = [matters(name, sweep.reading) for sweep in sweeps]
        if any(able):
            changed = [change(s) if can else s for s, can in zip(sweeps, able, strict=True)]
            words = [{row.variant: row.verdict for row in s.rows} for _, s in analyse_all(changed)]
            found[name] = words
    return found


def matters(choice: str, reading: Reading) -> bool:
    """Whether a choice differs from what was done, and can be made."""
    if reading.select != "setting" or reading.scale in ("rank", "solved"):
        return False
    same = {
        "log": reading.scale == "log",
        "not log": reading.scale == "linear",
        "paired by seed": bool(reading.block),
        "baseline's setting": not reading.tuned,
        "second-best setting": not reading.tuned,
        "the seeds that chose": not reading.fresh,
        "validation": reading.metric == reading.choose or reading.scale == "log",
    }
    return not same.get(choice)
