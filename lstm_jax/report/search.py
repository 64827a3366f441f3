"""What a search found: the best so far, the top ten and how to train the first alone.

Also of draws at random: whatever fields a sweep drew are tuned, and a variant has all its draws.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.report.analysis import Section
from lstm_jax.report.collect import ENDED, Sweep, Trial
from lstm_jax.report.figures import BLUE, FAINT, LINES, Plot, canvas, log_if_wide, text
from lstm_jax.report.names import number, plain, short
from lstm_jax.report.questions import Extra
from lstm_jax.report.samples import sign
from lstm_jax.sweep.define.names import SEED
from lstm_jax.sweep.define.plan import Plan

TOP = 10
COSTS = ("parameters", "seconds")


def drawn(sweep: Sweep) -> list[str]:
    """The fields that were drawn, and that a variant tunes."""
    return [name for name in sweep.plan.drawn if name in sweep.reading.tuned]


def way(sweep: Sweep) -> float:
    return sign(sweep.reading.choose_direction)


def scored(section: Section, variant: str) -> list[Trial]:
    """The trials that searched and have a validation score, in the order in which they ran."""
    found = (t for t in section.trials[variant] if not t.is_fresh and math.isfinite(t.valid))
    return sorted(found, key=lambda t: t.number)


# ---------------------------------------------------------------- tables


def extras(sweep: Sweep, sections: list[Section]) -> list[Extra]:
    """Of every variant the top ten; with several objectives what none beats."""
    if not drawn(sweep):
        return []
    found = [
        part(sweep, section, row.variant)
        for section in sections
        for row in section.rows
        for part in (top, front)
    ]
    return [extra for extra in found if extra is not None and extra.rows]


def top(sweep: Sweep, section: Section, variant: str) -> Extra:
    """The best ten by validation, with all that was drawn for them."""
    trials = [t for t in scored(section, variant) if t.status in ENDED]
    best = sorted(trials, key=lambda t: (way(sweep) * t.valid, t.number))[:TOP]
    names, reading = drawn(sweep), sweep.reading
    heads = ["trial", reading.choose, reading.metric, *map(short, names), *COSTS]
    rows = [
        [str(t.number), number(t.valid), number(t.test), *settings(sweep, t, names), *costs(t)]
        for t in best
    ]
    return Extra(titled("The best", section, variant), said(sweep, trials, best), heads, rows)


def titled(words: str, section: Section, variant: str) -> str:
    """With the variant where there are several."""
    alone = len(section.rows) == 1
    return ": ".join(filter(None, (words, section.title, "" if alone else variant)))


def answer(sweep: Sweep, section: Section) -> str:
    """The best draw in a sentence, "" where nothing was drawn or variants are compared."""
    (row, *others) = section.rows
    trials = [t for t in scored(section, row.variant) if t.status in ENDED]
    if others or not trials or not drawn(sweep):
        return ""
    best = min(trials, key=lambda t: (way(sweep) * t.valid, t.number))
    names = drawn(sweep)
    values = zip(names, settings(sweep, best, names), strict=True)
    found = ", ".join(f"{short(name)} {value}" for name, value in values if value)
    at = f"At {section.title}, the" if section.title else "The"
    return (
        f"{at} best of {len(trials)} draws, by {sweep.reading.choose} ({number(best.valid)}): "
        f"trial {best.number}, {found}; {sweep.reading.metric} {number(best.test)}."
    )


def settings(sweep: Sweep, trial: Trial, names: list[str]) -> list[str]:
    """What was drawn; nothing where the field was switched off."""
    found = sweep.plan.trials[trial.number]
    return [shown(found[name]) if name in found else "" for name in names]


def shown(value: Any) -> str:
    return plain(tuple(value) if isinstance(value, list) else value)


def costs(trial: Trial) -> list[str]:
    return [f"{trial.parameters:,}" if trial.parameters else "", number(trial.seconds, 3)]


def said(sweep: Sweep, trials: list[Trial], best: list[Trial]) -> list[str]:
    """How it was searched, and the command that trains the best alone."""
    if not best:
        return []
    plan, sampler = sweep.plan, sweep.plan.search.get("sampler", "random")
    pruned = sum(t.status == "pruned" for t in sweep.trials)
    cut = f"; {pruned} more were pruned at a rung" if pruned else ""
    number, place = best[0].number, trials.index(best[0]) + 1
    words = {
        f"{len(trials)} draws by {sampler}{cut}; the best is trial {number}, draw {place}.": True,
        "It won a selection: its score favours it. Fresh seeds judge it: CONFIRM in the study.": (
            not sweep.reading.fresh
        ),
        "Draws that learn from those before are no random sample: importances and expected "
        "validation performance are of what was tried.": sampler != "random",
        "PBT changed numbers on the way, see evolution.jsonl of a trial; here stand those it "
        "started with.": plan.pbt,
        f"To train trial {number} alone: {command(plan, number)}": True,
    }
    return [sentence for sentence, holds in words.items() if holds]


def command(plan: Plan, trial: int) -> str:
    """`lstm-jax train` with the study's config and what the trial changes."""
    words = shlex.split(plan.command)
    spec = next((w.partition("=")[2] for w in words if w.startswith("--study=")), plan.study)
    given = [word for word in words if word.startswith("--config.")]
    path, _, arg = spec.partition(":")
    file = path if path.endswith(".py") else f"{Path(path)}/study.py"
    fields = [f"--config.{n}={worded(v)}" for n, v in plan.trials[trial].items()]
    return " ".join(
        map(shlex.quote, ["lstm-jax", "train", f"--config={file}{arg and ':'}{arg}"])
    ) + ("".join(f" {shlex.quote(word)}" for word in (*given, *fields)))


def worded(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def front(sweep: Sweep, section: Section, variant: str) -> Extra | None:
    """Of several objectives the trials that no other beats in all of them."""
    aims = sweep.plan.search.get("objectives", {})
    if not {"parameters"} & set(aims) or len(aims) < 2:
        return None
    known = [t for t in scored(section, variant) if t.status in ENDED and t.parameters]
    points = np.array([[way(sweep) * t.valid, t.parameters] for t in known], float)
    kept = [t for t, point in zip(known, points, strict=True) if not beaten(point, points)]
    names = drawn(sweep)
    rows = [
        [str(t.number), number(t.valid), f"{t.parameters:,}", *settings(sweep, t, names)]
        for t in sorted(kept, key=lambda t: t.parameters or 0)
    ]
    heads = ["trial", sweep.reading.choose, "parameters", *map(short, names)]
    words = ["No trial is better than one of these in both score and parameters."]
    return Extra(titled("What nothing beats", section, variant), words, heads, rows)


def beaten(point: np.ndarray, points: np.ndarray) -> bool:
    """Whether another is nowhere worse and somewhere better; smaller is better."""
    return bool(np.any(np.all(points <= point, axis=1) & np.any(points < point, axis=1)))


# ---------------------------------------------------------------- figures


def plots(sweep: Sweep, section: Section) -> list[Plot]:
    """Every figure of a search that there are numbers for."""
    if not drawn(sweep):
        return []
    found = [best_so_far(sweep, section), coordinates(sweep, section)]
    return [plot for plot in found if plot is not None]


def best_so_far(sweep: Sweep, section: Section) -> Plot | None:
    """The best validation score over trials, and over seconds where they are known."""
    series = {row.variant: scored(section, row.variant) for row in section.rows}
    series = {name: trials for name, trials in series.items() if len(trials) > 1}
    if not series:
        return None
    figure, axes = canvas(4.8, 4.6, 2, 1)
    values: list[float] = []
    for i, (variant, trials) in enumerate(series.items()):
        best = running(sweep, trials)
        values.extend(best)
        colour = LINES[i % len(LINES)]
        axes[0].plot(range(1, len(trials) + 1), [t.valid for t in trials], ".", c=FAINT, ms=3)
        axes[0].step(
            range(1, len(trials) + 1), best, where="post", c=colour, label=text(variant, 30)
        )
        over_seconds(sweep, axes[1], trials, colour)
    spread = np.quantile([t.valid for ts in series.values() for t in ts], (0.0, 0.8))
    for axis, label in zip(axes, ("trials", "seconds since the first ended"), strict=True):
        axis.set_xlabel(label)
        log_if_wide(axis, [*values, *spread])
        low, high = min(*values, *spread), max(*values, *spread)
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    figure.supylabel(text(sweep.reading.choose), fontsize=9)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    caption = (
        "Best validation score so far, by trials in the order in which they were asked and by the "
        "time at which they ended; dots: the trials, the worst fifth left out of the picture."
    )
    return Plot("best_so_far", figure, "Best so far", caption)


def running(sweep: Sweep, trials: list[Trial]) -> np.ndarray:
    best = np.minimum.accumulate([way(sweep) * t.valid for t in trials])
    return way(sweep) * best


def over_seconds(sweep: Sweep, axis: Any, trials: list[Trial], colour: str) -> None:
    """Trials by the time at which they ended."""
    known = sorted((t for t in trials if t.ended), key=lambda t: t.ended or 0.0)
    if known:
        seconds = np.array([t.ended for t in known], float) - (known[0].ended or 0.0)
        axis.step(seconds, running(sweep, known), where="post", c=colour)


def coordinates(sweep: Sweep, section: Section) -> Plot | None:
    """Parallel coordinates: a line a trial through all that was drawn, the best in colour."""
    trials = [t for row in section.rows for t in scored(section, row.variant)]
    names = [n for n in drawn(sweep) if n != SEED]
    if len(trials) < 5 or len(names) < 2:
        return None
    order = sorted(trials, key=lambda t: -way(sweep) * t.valid)
    best = {t.number for t in order[-max(len(order) // 10, 1) :]}
    figure, (axes,) = canvas(4.8, 3.2)
    heights = [scale(axes, i, sweep, name, order) for i, name in enumerate(names)]
    for t, line in zip(order, np.array(heights).T, strict=True):
        own = t.number in best
        look = {"color": BLUE, "lw": 1.4} if own else {"color": FAINT, "lw": 0.5, "alpha": 0.4}
        axes.plot(line, **look)
    axes.set_xticks(range(len(names)), [text(short(n), 14) for n in names], fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    caption = (
        "A line a trial. Blue: the best tenth by validation. Each axis runs from the smallest to "
        "the largest value drawn, by its logarithm where they span a factor of twenty; a gap: the "
        "field was switched off."
    )
    return Plot("coordinates", figure, "What the best have in common", caption)


def scale(axes: Any, place: int, sweep: Sweep, name: str, trials: list[Trial]) -> np.ndarray:
    """Heights of a field's values from 0 to 1, NaN where it is off; draws the axis."""
    raw = [sweep.plan.trials[t.number].get(name) for t in trials]
    known = [v for v in raw if v is not None]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
    kinds = sorted({shown(v) for v in known})
    found = np.array(
        [math.nan if v is None else float(v) if numeric else kinds.index(shown(v)) for v in raw]
    )
    low, high = np.nanmin(found), np.nanmax(found)
    ends = (number(low, 3), number(high, 3)) if numeric else (kinds[0], kinds[-1])
    if numeric and low > 0 and high / low > 20:
        found, low, high = np.log(found), np.log(low), np.log(high)
    axes.plot([place, place], [0, 1], color=FAINT, lw=0.8)
    for height, label, side in ((-0.03, ends[0], "top"), (1.03, ends[1], "bottom")):
        axes.text(place, height, text(label, 12), va=side, ha="center", fontsize=7)
    return (found - low) / max(high - low, 1e-12)
