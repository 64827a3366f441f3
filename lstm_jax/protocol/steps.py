"""What a sweep still needs, read off its trials: each function looks, and says which trials to add.

    widen     rates beyond an edge of the grid, until the best is interior or half of them diverge
    confirm   CONFIRM fresh seeds at every variant's chosen setting
    narrow    fresh seeds until the interval of every difference is narrower than the margin

None of them looks at a p value. `narrow` asks how wide the interval is at the level that Holm's
procedure uses at its strictest, alpha / comparisons: a level that does not depend on the scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lstm_jax.config.overrides import apply_overrides
from lstm_jax.errors import UsageError
from lstm_jax.report.analysis import Section, questions, sections_of
from lstm_jax.report.collect import Sweep, Trial
from lstm_jax.report.names import number, short
from lstm_jax.report.samples import Edge, at_edges, block_of, choose, compare
from lstm_jax.report.statistics import ALPHA, Comparison
from lstm_jax.sweep.define.names import SEED
from lstm_jax.sweep.define.plan import SEARCH, Plan
from lstm_jax.training.check import validate

WIDEN, CONFIRM, NARROW = "rates", "confirm", "seeds"
FIRST = 5  # fresh seeds to begin with where a study names no CONFIRM


class Step(NamedTuple):
    """Trials to add, and in words why, or why there are none."""

    kind: str
    trials: list[dict[str, Any]]
    fresh: list[int]  # the seeds that judge, all of them
    said: list[str]


def chosen_by_tuning(sweep: Sweep, section: Section) -> dict[str, list[Trial]]:
    """The trials that chose each variant's setting; [] where none can be chosen."""
    return {name: choose(sweep, trials) for name, trials in section.trials.items()}


def label(section: Section, variant: str) -> str:
    return ": ".join(filter(None, (section.title, variant)))


# ---------------------------------------------------------------- beyond an edge


def widen(sweep: Sweep) -> Step:
    """The next value beyond every edge that a chosen setting stands at, for the same seeds."""
    trials, said = [], []
    for section in sections_of(sweep):
        for variant, chosen in chosen_by_tuning(sweep, section).items():
            tuning = [t for t in section.trials[variant] if not t.is_fresh]
            for edge in at_edges(sweep.reading, tuning, chosen):
                words = f"{label(section, variant)}: best at the {_end(edge)}"
                if 2 * sum(t.status == "diverged" for t in chosen) > len(chosen):
                    said.append(f"{words}, where more than half of the seeds diverge")
                    continue
                value = beyond(edge)
                new = [moved(sweep, t, {edge.field: value}) for t in chosen]
                why = impossible(sweep.plan, new[0])
                said.append(f"{words}; {why or f'next: {number(value)}'}")
                trials += [] if why else new
    return Step(WIDEN, trials, list(sweep.reading.fresh), said)


def _end(edge: Edge) -> str:
    end, value = ("largest", edge.tried[-1]) if edge.is_largest else ("smallest", edge.tried[0])
    return f"{end} {short(edge.field)} tried, {number(value)}"


def beyond(edge: Edge) -> float:
    """The grid goes on as it ended: by the same factor, or by the same step where 0 is in it."""
    near, last = edge.tried[-2:] if edge.is_largest else edge.tried[1::-1]
    value = last * last / near if edge.tried[0] > 0 else 2 * last - near
    return round(value) if isinstance(last, int) else float(f"{value:.3g}")


def impossible(plan: Plan, trial: dict[str, Any]) -> str:
    """Why a trial's config cannot be, "" where it can."""
    try:
        validate(apply_overrides(plan.base_config(), trial))
    except UsageError as error:
        return str(error).splitlines()[0]
    return ""


def moved(sweep: Sweep, trial: Trial, changes: dict[str, Any]) -> dict[str, Any]:
    """The overrides of a trial, some of them changed."""
    return {**sweep.plan.trials[trial.number], **changes}


# ---------------------------------------------------------------- fresh seeds


def confirm(sweep: Sweep) -> Step:
    """CONFIRM fresh seeds for every variant."""
    count = sweep.reading.confirm or FIRST
    seeds = fresh_seeds(sweep, count)[:count]
    wanted = {
        (i, name): len(seeds)
        for i, section in enumerate(sections_of(sweep))
        for name in section.trials
    }
    trials = list(fresh_trials(sweep, seeds, wanted))
    said = [f"{len(seeds)} fresh seeds judge: {seeds[0]} to {seeds[-1]}"] if trials else []
    return Step(CONFIRM, trials, seeds, said)


def fresh_seeds(sweep: Sweep, count: int) -> list[int]:
    """`count` seeds that chose nothing: those the study names, then new ones."""
    known = list(sweep.reading.fresh)
    used = {t.seed for t in sweep.trials if isinstance(t.seed, int)} | set(known)
    new = itertools.count(max(used, default=-1) + 1)
    return known + list(itertools.islice(new, max(count - len(known), 0)))


def fresh_trials(
    sweep: Sweep, seeds: list[int], wanted: dict[tuple[int, str], int]
) -> Iterable[dict[str, Any]]:
    """Seed by seed, the trials that {(section, variant): seeds} still lacks."""
    there = {(t.section, t.variant, t.setting, t.seed) for t in sweep.trials}
    chosen = {
        (i, name): found[0]
        for i, section in enumerate(sections_of(sweep))
        for name, found in chosen_by_tuning(sweep, section).items()
        if found
    }
    for position, seed in enumerate(seeds):
        for key, count in wanted.items():
            trial = chosen.get(key)
            if trial is None or position >= count:
                continue
            if (trial.section, trial.variant, trial.setting, seed) not in there:
                yield moved(sweep, trial, {SEED: seed})


# ---------------------------------------------------------------- narrower intervals


def narrow(sweep: Sweep) -> Step:
    """Fresh seeds where an interval is wider than the margin; at most twice as many a round."""
    if not sweep.reading.fresh and sweep.reading.confirm:
        return Step(NARROW, [], [], ["widths are judged by fresh seeds: lstm-jax sweep confirm"])
    if not sweep.reading.fresh:
        return confirm(sweep)._replace(kind=NARROW)
    sections = sections_of(sweep)
    asked = [(i, a, b) for i, s in enumerate(sections) for a, b in questions(sweep, s)]
    wanted, said = {}, []
    for i, a, b in asked:
        section = sections[i]
        ours, theirs = section.chosen[a], section.chosen.get(b, [])
        compared, why = compare(sweep, a, ours, theirs)
        if compared is None or not section.gap.margin > 0:
            said.append(f"{label(section, a)}: {why or 'no margin, so no width to aim at'}")
            continue
        count = needed(compared, section.gap.margin, ALPHA / len(asked), len(ours))
        if count > len(ours):
            width = half_width(compared, ALPHA / len(asked)) / section.gap.size
            said.append(
                f"{label(section, a)}: the interval is ±{width:.1%} of the gap, the margin "
                f"±{sweep.reading.margin:.1%}; seeds {len(ours)} -> {count}"
            )
            for name in (a, b):
                wanted[i, name] = max(wanted.get((i, name), 0), count)
    wanted = partnered(sweep, sections, wanted)
    seeds = fresh_seeds(sweep, max(wanted.values(), default=0))
    return Step(NARROW, list(fresh_trials(sweep, seeds, wanted)), seeds, said)


def half_width(compared: Comparison, alpha: float) -> float:
    low, high = compared.interval(alpha)
    return float(high - low) / 2


def needed(compared: Comparison, margin: float, alpha: float, count: int) -> int:
    """How many seeds make the half-width `margin`, as it shrinks with their square root.

    At least one more than there are, at most twice as many: the spread is only estimated.
    """
    half = half_width(compared, alpha)
    if half <= margin:
        return count
    times = (half / margin) ** 2  # infinite where so few pairs allow no interval
    return max(math.ceil(count * min(times, 2.0)), count + 1)


def partnered(
    sweep: Sweep, sections: list[Section], wanted: dict[tuple[int, str], int]
) -> dict[tuple[int, str], int]:
    """A paired variant has its baseline's seeds: a block without a partner says nothing."""
    found = dict(wanted)
    for i, section in enumerate(sections):
        most = max((n for (j, _), n in wanted.items() if j == i), default=0)
        paired = [name for name in section.trials if block_of(sweep.reading, name)]
        found |= {(i, name): most for name in paired if most}
    return found


# ---------------------------------------------------------------- one after the other

STEPS: dict[str, Callable[[Sweep], Step]] = {WIDEN: widen, CONFIRM: confirm, NARROW: narrow}


def next_step(sweep: Sweep, kinds: Iterable[str], budget: int) -> Step:
    """The first of `kinds` that has trials to add, within the budget; else what all have said."""
    if sweep.reading.select != "setting":
        words = f"REPORT select={sweep.reading.select!r} chooses no setting: nothing can be added"
        return Step("", [], [], [words])
    there, said = {_key(sweep.plan.base | trial) for trial in sweep.plan.trials}, []
    for kind in kinds:
        step = STEPS[kind](sweep)
        new = {_key(sweep.plan.base | trial): trial for trial in step.trials}
        step = step._replace(trials=[trial for key, trial in new.items() if key not in there])
        if kind != CONFIRM:
            step = within(step, budget - spent(sweep))
        if step.trials:
            return step
        said += step.said
    return Step("", [], [], said)


def spent(sweep: Sweep) -> int:
    """Trials that were added, but for those of a search and the fresh seeds of CONFIRM."""
    announced = (CONFIRM, SEARCH)
    return sum(len(more.trials) for more in sweep.plan.grown if more.kind not in announced)


def within(step: Step, left: int) -> Step:
    """The step's first trials, as many as there may be: whole settings, whole seeds."""
    if len(step.trials) <= left:
        return step
    kept: list[dict[str, Any]] = []
    for _, group in itertools.groupby(step.trials, lambda t: _together(step.kind, t)):
        trials = list(group)
        if len(kept) + len(trials) > left:
            break
        kept += trials
    words = f"the budget has {max(left, 0)} trials left of the {len(step.trials)} that this needs"
    return step._replace(trials=kept, said=[*step.said, words])


def _together(kind: str, trial: dict[str, Any]) -> Any:
    """What only trials have that make sense together: all variants at a seed, all seeds of one."""
    rest = {name: str(value) for name, value in trial.items() if name != SEED}
    return trial.get(SEED) if kind == NARROW else rest


def _key(flat: dict[str, Any]) -> tuple:
    return tuple(sorted((name, str(_plain(value))) for name, value in flat.items()))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
