"""The plots of a report: matplotlib figures, named; what each shows stands in its caption."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.report import statistics
from lstm_jax.report.analysis import Section
from lstm_jax.report.causes import MEASURES, Measure
from lstm_jax.report.collect import Sweep, Trial
from lstm_jax.report.importance import importance
from lstm_jax.report.names import number, short
from lstm_jax.report.samples import aim, seed_differences, sign, units
from lstm_jax.report.statistics import NOTHING

# Sentinels: the page replaces them by its own colours, light or dark.
INK, FAINT, BASE = "#14202e", "#8793a1", "#7a8794"
BLUE, ORANGE = "#2b83ba", "#d9662b"
LINES = (
    "#2b83ba", "#d9662b", "#2a9d6f", "#b05cc2", "#c79a1e", "#d1495b", "#5b6ee1", "#8a6d3b",
    "#3aa6a6", "#9aa53a",
)  # fmt: skip
VERDICTS = {"better": "#2a9d6f", "worse": "#d1495b", "equivalent": "#2b83ba"}
STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


class Plot(NamedTuple):
    """A figure, and in words what it shows."""

    name: str
    figure: Any
    title: str
    caption: str


def plots(sweep: Sweep, section: Section) -> list[Plot]:
    """Every plot that the section has numbers for."""
    import matplotlib  # start-up

    with matplotlib.rc_context(STYLE):
        drawn = [draw(sweep, section) for draw in DRAWERS]
    return [plot for plot in drawn if plot is not None]


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple:
    """(figure, [axes]) without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # start-up
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def text(label: str, most: int = 40) -> str:
    """A label as matplotlib may have it: no mathematics in a name that holds a dollar.

    What is too long loses its middle: names differ at their ends, gate=relu from gate=relu1.
    """
    half = most // 2
    label = label if len(label) <= most else f"{label[: most - half - 1]}…{label[-half:]}"
    return label.replace("$", r"\$")


def unpadded(values: Any) -> np.ndarray:
    found = np.asarray(values, float)
    return found[np.isfinite(found)]


def log_if_wide(axes: Any, values: Any, factor: float = 20) -> None:
    """A logarithmic axis where positive values span more than `factor`."""
    found = unpadded(values)
    if len(found) and found.min() > 0 and found.max() / found.min() > factor:
        axes.set_yscale("log")


# ---------------------------------------------------------------- effects


def forest(sweep: Sweep, section: Section) -> Plot | None:
    """Differences to the baseline with their intervals, and every seed."""
    rows = [row for row in section.rows if math.isfinite(row.difference)][::-1]
    if not rows:
        return None
    base = next(row.variant for row in section.rows if row.is_baseline)
    figure, (axes,) = canvas(4.8, 1.1 + 0.36 * len(rows))
    if section.gap.margin > 0:
        axes.axvspan(-section.gap.margin, section.gap.margin, color=FAINT, alpha=0.18, lw=0)
    way = sign(aim(sweep.reading))
    far = 1.25 * section.gap.size if section.gap.size > 0 else NOTHING
    beyond = [y for y, row in enumerate(rows) if way * row.difference > far]
    for y, row in enumerate(rows):
        if y in beyond:
            continue
        colour = VERDICTS.get(row.verdict, FAINT)
        ours, theirs = section.chosen[row.variant], section.chosen[base]
        seeds = seed_differences(sweep, row.variant, ours, theirs)
        axes.plot(seeds, np.full(len(seeds), y + 0.22), ".", color=colour, ms=4, alpha=0.7)
        ends = np.nan_to_num(
            [row.difference_low, row.difference_high], posinf=np.nan, neginf=np.nan
        )
        axes.plot(ends, [y, y], color=colour, lw=2)
        axes.plot([row.difference], [y], "o", color=colour, ms=6)
    axes.axvline(0, color=INK, lw=1)
    axes.set_yticks(range(len(rows)), [text(row.variant, 26) for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.locator_params(axis="x", nbins=5)
    end = way * max(way * np.array(axes.get_xlim()))
    for y in beyond:
        colour = VERDICTS.get(rows[y].verdict, FAINT)
        axes.plot([end], [y], ">" if way > 0 else "<", color=colour, ms=6, clip_on=False)
    if beyond:
        axes.set_xlim(**{"right" if way > 0 else "left": end})
    good = "left" if way > 0 else "right"
    label = f"difference, {text(units(sweep.reading), 60)}\n{good} of 0 is better"
    axes.set_xlabel(label, loc="right")
    caption = (
        "Circles: difference to the baseline with the interval that the word is read off. Small "
        "dots: the seeds, less the baseline's typical one, or their partner where they are paired. "
        "Grey band: the margin. Red: worse, green: better, blue: equivalent, grey: undecided. "
        "Arrows: further than 1.25 gaps."
    )
    return Plot("effects", figure, "Effects", caption)


# ---------------------------------------------------------------- small multiples

ENDS = "Dotted: the strongest trivial score; far beyond it nothing is drawn."


def panels(section: Section, draw: Any, height: float = 1.5) -> Any:
    """A panel a variant, the baseline in grey behind each; None where nothing was drawn."""
    base = next((row.variant for row in section.rows if row.is_baseline), None)
    rows = [row for row in section.rows if not row.is_baseline] or section.rows
    columns = min(2, len(rows))
    lines = -(-len(rows) // columns)
    options = {"sharex": True, "sharey": True}
    figure, axes = canvas(4.8, 0.5 + height * lines, lines, columns, **options)
    drawn = False
    for axis, row in zip(axes, rows, strict=False):
        if base is not None and base != row.variant:
            draw(axis, base, BASE, "--")
        drawn = draw(axis, row.variant, BLUE, "-") or drawn
        axis.set_title(text(row.variant, 30), fontsize=8)
    for axis in axes[len(rows) :]:
        axis.set_visible(False)
    for axis in axes[max(len(rows) - columns, 0) : len(rows)]:
        axis.tick_params(labelbottom=True)
    return (figure, axes) if drawn else None


def end_at_trivial(axes: list[Any], sweep: Sweep, section: Section, values: list[float]) -> None:
    """The scores' axis ends a quarter of the gap beyond the trivial score, if any lie there.

    One variant that diverges would flatten the curves of all others.
    """
    trials = itertools.chain.from_iterable(section.trials.values())
    trivial = next((t.trivial_valid for t in trials if math.isfinite(t.trivial_valid)), NOTHING)
    way = sign(sweep.reading.choose_direction)
    found = unpadded(values)
    best = way * float((way * found).min())
    log_if_wide(axes[0], found[~(way * found > way * trivial)])
    if not way * trivial > way * best:
        return
    for axis in axes:
        axis.axhline(trivial, color=FAINT, lw=1, ls=":")
    scale = axes[0].yaxis.get_transform()
    near, far = scale.transform(np.array([best, trivial]))
    first, last = scale.inverted().transform([near - (far - near) / 20, far + (far - near) / 4])
    if (way * found > way * last).any():
        axes[0].set_ylim(*sorted((first, last)))


def learning_curves(sweep: Sweep, section: Section) -> Plot | None:
    """Validation curves at the chosen setting; those of all trials where none is chosen yet."""
    values: list[float] = []

    def draw(axis: Any, variant: str, colour: str, style: str) -> bool:
        trials = section.chosen[variant] or section.trials[variant]
        steps, band = bands(trials)
        if not len(steps):
            return False
        values.extend(band.ravel())
        axis.fill_between(steps, band[0], band[2], color=colour, alpha=0.25, lw=0)
        alone = "." if len(steps) == 1 else ""
        axis.plot(steps, band[1], color=colour, lw=1.6, ls=style, marker=alone)
        return True

    found = panels(section, draw)
    if not found:
        return None
    figure, axes = found
    end_at_trivial(axes, sweep, section, values)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel(text(sweep.reading.choose), fontsize=9)
    caption = (
        "Mean over the seeds of the chosen setting; band: lowest to highest seed. Grey, dashed: "
        f"the baseline. {ENDS}"
    )
    return Plot("learning_curves", figure, "Learning curves", caption)


def bands(trials: list[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """(steps [S], [lowest, mean, highest] [3, S]) over the trials that have a value there."""
    points: dict[int, list[float]] = {}
    for trial in trials:
        for step, value in trial.curve:
            points.setdefault(step, []).append(value)
    steps = np.array(sorted(points))
    rows = [(min(points[s]), float(np.mean(points[s])), max(points[s])) for s in steps]
    return steps, np.array(rows).T if rows else np.zeros((3, 0))


DRAWN = 20  # so many values of a field are draws, not a grid


def sensitivity(sweep: Sweep, section: Section) -> Plot | None:
    """The choosing metric against the first tuned number: the learning rate in most studies."""
    if not sweep.reading.tuned:
        return None
    name, values = sweep.reading.tuned[0], []

    def draw(axis: Any, variant: str, colour: str, style: str) -> bool:
        points = {}
        for trial in section.trials[variant]:
            if not trial.lacks and isinstance(trial.setting[0], int | float):
                points.setdefault(trial.setting[0], []).append(trial.valid)
        if len(points) < 2:
            return False
        xs = sorted(points)
        values.extend(v for x in xs for v in points[x])
        flat = [(x, v) for x in xs for v in points[x]]
        axis.plot(*zip(*flat, strict=True), ".", color=colour, ms=3, alpha=0.6)
        if 2 * sum(len(found) > 1 for found in points.values()) > len(xs):
            axis.plot(xs, [np.mean(points[x]) for x in xs], color=colour, lw=1.6, ls=style)
        return True

    found = panels(section, draw)
    if not found:
        return None
    figure, axes = found
    end_at_trivial(axes, sweep, section, values)
    tried = {t.setting[0] for trials in section.trials.values() for t in trials}
    if all(isinstance(v, int | float) and v > 0 for v in tried):
        axes[0].set_xscale("log")
        if len(tried) < DRAWN:
            mark_values(axes[0], sorted(tried))
    figure.supxlabel(text(short(name)), fontsize=9)
    figure.supylabel(text(sweep.reading.choose), fontsize=9)
    caption = (
        f"Best validation score of each trial against {short(name)}; line: mean over seeds. Grey, "
        f"dashed: the baseline. {ENDS}"
    )
    return Plot("sensitivity", figure, f"Sensitivity to {short(name)}", caption)


def mark_values(axes: Any, values: list[float]) -> None:
    """Ticks at the values that were tried, at most four of them named."""
    step = max(-(-len(values) // 4), 1)
    axes.set_xticks(values[::-1][::step], [number(v) for v in values[::-1][::step]], fontsize=8)
    axes.set_xticks(values, minor=True, labels=None)
    axes.xaxis.set_minor_formatter("")


def budget(sweep: Sweep, section: Section) -> Plot | None:
    """Expected best validation score of n random trials."""
    values: list[float] = []

    def draw(axis: Any, variant: str, colour: str, style: str) -> bool:
        scores = unpadded([t.valid for t in section.trials[variant] if not t.lacks])
        if len(scores) < 2:
            return False
        best = statistics.expected_best(scores, sweep.reading.choose_direction)
        values.extend(best)
        axis.plot(np.arange(1, len(best) + 1), best, color=colour, lw=1.6, ls=style)
        return True

    found = panels(section, draw, 1.3)
    if not found:
        return None
    figure, axes = found
    counts = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    most = max(len(line.get_xdata()) for axis in axes for line in axis.lines)
    axes[0].set_xscale("log")
    mark_values(axes[0], [n for n in counts if n <= most])
    end_at_trivial(axes, sweep, section, values)
    figure.supxlabel("trials drawn from those of the sweep", fontsize=9)
    figure.supylabel(f"expected best {text(sweep.reading.choose)}", fontsize=9)
    caption = (
        "Expected best validation score of n trials drawn with replacement; estimator: Dodge et "
        "al. (2019), eq. 5, which is biased towards the worse (Tang et al. 2020). Grey, dashed: "
        f"the baseline. {ENDS}"
    )
    return Plot("budget", figure, "Expected validation performance", caption)


# ---------------------------------------------------------------- importance


def importances(sweep: Sweep, section: Section) -> Plot | None:
    """The share of the variance of validation ranks that each field explains alone."""
    found = importance(sweep, section)
    if not found:
        return None
    figure, (axes,) = canvas(4.8, 1.0 + 0.32 * len(found))
    names = [text(short(name)) for name in reversed(found)]
    shares, errors = np.array([found[name] for name in reversed(found)]).T
    axes.barh(names, shares, xerr=errors, color=BLUE, ecolor=INK, height=0.6)
    for y, (share, error) in enumerate(zip(shares, errors, strict=True)):
        words = f"{share:.0%} ± {error:.0%}"
        place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(words, (max(share + error, 0), y), **place)
    axes.set_xlim(0, max(1.35 * (shares + errors).max(), 0.15))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel("share of the variance of ranks")
    caption = (
        "How much of the variance of the ranks of validation scores lies between this field's "
        "values, less what a shuffled field would explain; bars: how far shuffled ones scatter. "
        "Not scaled to sum to 1: the rest are interactions and luck."
    )
    return Plot("importance", figure, "Importance of the hyper-parameters", caption)


# ---------------------------------------------------------------- diagnoses


def flows(sweep: Sweep, section: Section) -> Plot | None:
    """How far back the gradient reaches, one line a variant."""
    curves = {row.variant: flow_of(section.chosen[row.variant]) for row in section.rows}
    curves = {variant: curve for variant, curve in curves.items() if curve is not None}
    if not curves:
        return None
    figure, (axes,) = canvas(4.8, 3.4)
    for i, (variant, curve) in enumerate(curves.items()):
        style = ("-", "--", ":")[i // len(LINES) % 3]
        axes.plot(curve, color=LINES[i % len(LINES)], ls=style, lw=1.6, label=text(variant, 30))
    axes.axhline(1e-3, color=FAINT, lw=0.8, ls=":")
    positive = [v for c in curves.values() for v in unpadded(c) if v > 0]
    if positive:
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(min(positive), 1e-9))
    axes.set_xlabel("steps before the loss")
    axes.set_ylabel("gradient norm, relative")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    caption = (
        "Norm of the gradient of the last step's loss with respect to the carry, by its value one "
        "step back; first layer, mean over the chosen trials that were diagnosed. Dotted: 1e-3."
    )
    return Plot("gradient_flow", figure, "Gradient flow through time", caption)


def flow_of(trials: list[Trial]) -> np.ndarray | None:
    """The mean over trials of the first layer's curve, as far as the shortest goes."""
    name = "layer_0/flow/carry"
    found = [np.asarray(t.flow[name], float) for t in trials if name in t.flow]
    size = min(map(len, found), default=0)
    return np.mean([curve[:size] for curve in found], axis=0) if found else None


def saturation(sweep: Sweep, section: Section) -> Plot | None:
    """How much of the time each gate is shut or open, by variant; a row of panels a layer."""
    shares = {row.variant: gate_shares(section.chosen[row.variant]) for row in section.rows}
    shares = {variant: found for variant, found in shares.items() if found}
    names = {name for found in shares.values() for name in found}
    gates = sorted({gate for _, gate in names}, key="ifozrn".find)
    layers = sorted({layer for layer, _ in names})
    if not gates:
        return None
    size = 4.8, (1.1 + 0.3 * len(shares)) * len(layers)
    figure, axes = canvas(*size, len(layers), len(gates), sharey=True)
    for axis, (layer, gate) in zip(axes, itertools.product(layers, gates), strict=True):
        bars(axis, [found.get((layer, gate), (0.0, 0.0)) for found in shares.values()])
        where = f", layer {layer}" if len(layers) > 1 else ""
        axis.set_title(f"gate {text(gate)}{where}", fontsize=9)
    axes[0].set_yticks(range(len(shares)), [text(name, 24) for name in reversed(shares)])
    caption = (
        "Share of units and steps with the gate below 0.1 (to the left) and above 0.9 (to the "
        "right); mean over the chosen trials that were diagnosed, forward direction."
    )
    return Plot("saturation", figure, "Gate saturation", caption)


def through_training(sweep: Sweep, section: Section) -> Plot | None:
    """Reach of the gradient and saturation of the gates from initialisation on, by variant."""
    shown = {row.variant: section.chosen[row.variant] for row in section.rows}
    shown = {v: ts for v, ts in shown.items() if len({s for t in ts for s in t.looks}) > 1}
    if not shown:
        return None
    figure, axes = canvas(4.8, 4.2, 2, 1, sharex=True)
    for i, (variant, trials) in enumerate(shown.items()):
        style = ("-", "--", ":")[i // len(LINES) % 3]
        for axis, measure in zip(axes, MEASURES, strict=True):
            steps, band = over_steps(measure, trials)
            colour = LINES[i % len(LINES)]
            axis.fill_between(steps, band[0], band[2], color=colour, alpha=0.15, lw=0)
            label = text(variant, 30) if axis is axes[0] else None
            axis.plot(steps, band[1], color=colour, ls=style, marker=".", lw=1.4, label=label)
    axes[0].set_ylabel("reach, steps")
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylabel("saturated gates")
    axes[1].set_ylim(0, 1)
    axes[1].set_xlabel("updates")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    caption = (
        "Median over the seeds that were diagnosed there, band: all; step 0 is initialisation. "
        "Reach: steps back until the gradient stays below 1e-3 of its value one step back."
    )
    return Plot("through_training", figure, "Reach and saturation through training", caption)


def over_steps(measure: Measure, trials: list[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """(steps [S], [lowest, median, highest] [3, S]) over the seeds that were looked at there."""
    points: dict[int, list[float]] = {}
    for trial in trials:
        for step, arrays in trial.looks.items():
            points.setdefault(step, []).append(measure.of(arrays))
    steps = np.array(sorted(points))
    rows = [(min(points[s]), float(np.median(points[s])), max(points[s])) for s in steps]
    return steps, np.array(rows).T


def bars(axis: Any, shares: list[tuple[float, float]]) -> None:
    """Shut to the left, open to the right, the first on top."""
    for y, (low, high) in enumerate(reversed(shares)):
        axis.barh(y, -low, color=ORANGE, height=0.6)
        axis.barh(y, high, color=BLUE, height=0.6)
    axis.axvline(0, color=INK, lw=0.8)
    axis.set_xlim(-1, 1)
    axis.set_xticks([-1, 1], ["shut", "open"], fontsize=7)


def gate_shares(trials: list[Trial]) -> dict[tuple[int, str], tuple[float, float]]:
    """{(layer, gate): (share below 0.1, share above 0.9)}, mean over trials and time."""
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for trial in trials:
        arrays = trial.flow
        for name in arrays:
            layer, kind, gate = (*name.split("/"), "")[:3]
            if kind == "shut":
                opened = arrays.get(f"{layer}/open/{gate}", np.nan)
                pair = float(np.nanmean(arrays[name])), float(np.nanmean(opened))
                found.setdefault((int(layer.removeprefix("layer_")), gate), []).append(pair)
    return {name: tuple(np.mean(pairs, axis=0)) for name, pairs in found.items()}


DRAWERS = (
    forest,
    learning_curves,
    sensitivity,
    budget,
    importances,
    flows,
    saturation,
    through_training,
)
