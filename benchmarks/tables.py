"""Tables, CSV and plot of what was measured, and the ratios that are promised."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.layers import Entry, Result

OURS, OURS_ALL = Entry("one device", "lstm_jax"), Entry("all cores", "lstm_jax")
DEFERRED = Entry("one device", "lstm_jax deferred")
ONE_PEERS = [Entry("one device", name) for name in peers.PEERS]
ALL_PEERS = [Entry("all cores", name) for name in peers.PEERS]
TORCH = Entry("torch", "torch")

# what is promised: (words, mode, whose time, over the fastest of whose, mean at most, each at most)
TARGETS = (
    ("one device against the fastest JAX peer", "train", OURS, ONE_PEERS, 0.60, 0.85),
    ("one device against torch", "train", OURS, [TORCH], 0.72, 1.0),
    ("`deferred` against the fastest JAX peer", "train", DEFERRED, ONE_PEERS, 0.80, math.inf),
    ("one device against the fastest JAX peer", "forward", OURS, ONE_PEERS, 1.0, 1.0),
    ("one device against torch", "forward", OURS, [TORCH], 0.95, math.inf),
    ("every core a device against torch", "train", OURS_ALL, [TORCH], 0.72, math.inf),
    ("every core a device against the fastest sharded peer", "train", OURS_ALL, ALL_PEERS, 0, 0),
)


def write(found: list[Result], folder: Path, conditions: list[str], title: str) -> str:
    """`layers.csv`, `layers.md` and `layers.png` in `folder`; the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(found, folder / "layers.csv")
    text = "\n".join([*conditions, "", *promises(found), *tables(found)]) + "\n"
    (folder / "layers.md").write_text(f"# {title}\n\n{text}")
    plot(found).savefig(folder / "layers.png", dpi=110)
    return text


def write_csv(found: Iterable[Result], path: Path) -> None:
    names = ("T", "B", "D", "H", "mode", "world", "row", "calls", "median_ms", "min_ms", "p10_ms",
             "p90_ms", "compile_s", "peak_mb", "error", "others")  # fmt: skip
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(names)
        for r in found:
            low, high = spread(r.seconds)
            numbers = [1e3 * t for t in (r.median, r.least, low, high)]
            peak = None if r.peak_bytes is None else r.peak_bytes / 1e6
            tail = [r.compile_seconds, peak, r.error, r.others]
            values = ["" if v is None else f"{v:.4g}" for v in (*numbers, *tail)]
            out.writerow([*r.shape, r.mode, *r.entry, len(r.seconds), *values])


def spread(seconds: list[float]) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return tenths[0], tenths[-1]


def tables(found: list[Result]) -> list[str]:
    """One table a mode, one row an entry: median (10th to 90th percentile) in ms at every shape."""
    lines = []
    for mode in dict.fromkeys(r.mode for r in found):
        part = [r for r in found if r.mode == mode]
        shapes = list(dict.fromkeys(r.shape for r in part))
        heads = [f"{shape}" for shape in shapes]
        lines += ["", f"## {mode}: ms a call, median (10th to 90th percentile), T,B,D,H", ""]
        lines += ["| | " + " | ".join(heads) + " | compile s | peak MB | error |"]
        lines += ["|---|" + "---:|" * (len(shapes) + 3)]
        for entry in dict.fromkeys(r.entry for r in part):
            at = {r.shape: r for r in part if r.entry == entry}
            cells = [timing(at[shape]) if shape in at else "" for shape in shapes]
            lines.append(f"| {entry} | " + " | ".join([*cells, *costs(list(at.values()))]) + " |")
    return lines


def timing(r: Result) -> str:
    low, high = spread(r.seconds)
    return f"{1e3 * r.median:.3g} ({1e3 * low:.3g}–{1e3 * high:.3g})"


def costs(found: list[Result]) -> list[str]:
    """The largest compile time, peak and error over the shapes."""
    compiles = [r.compile_seconds for r in found if r.compile_seconds is not None]
    peaks = [r.peak_bytes for r in found if r.peak_bytes is not None]
    errors = [r.error for r in found if r.error is not None]
    return [
        f"{max(compiles):.2f}" if compiles else "",
        f"{max(peaks) / 1e6:.0f}" if peaks else "",
        f"{max(errors):.0e}" if errors else "",
    ]


def promises(found: list[Result]) -> list[str]:
    """The ratios of the targets, shape by shape, of medians and of minima, and what became of each.

    A target holds by its medians; one whose rows did not run here is a line all the same.
    """
    shapes = list(dict.fromkeys(r.shape for r in found))
    head = " | ".join(map(str, shapes))
    lines = [f"| ratio | of | {head} | geometric mean | at most | |"]
    lines += ["|---|---|" + "---:|" * (len(shapes) + 2) + "---|"]
    for target in TARGETS:
        words, mode, ours, others, mean, each = target
        limit = f"{mean:.2f}" if mean else ""
        limit += f", none above {each:g}" if each and each < math.inf else ""
        for of, pick in {"medians": _median, "minima": _least}.items():
            ratios = [ratio(found, shape, mode, ours, others, pick) for shape in shapes]
            known = [r for r in ratios if r]
            cells = " | ".join(f"{r:.2f}" if r else "" for r in ratios)
            average = f"**{statistics.geometric_mean(known):.2f}**" if known else "not measured"
            met = verdict(known, mean, each) if of == "medians" else ""
            lines.append(f"| {mode}: {words} | {of} | {cells} | {average} | {limit} | {met} |")
    return [*lines, ""]


def verdict(ratios: list[float], mean: float, each: float) -> str:
    """Whether the ratios keep a target; "" where there is none, or nothing was measured."""
    if not (mean and ratios):
        return ""
    met = statistics.geometric_mean(ratios) <= mean and max(ratios) <= each
    return "met" if met else "missed"


def _median(r: Result) -> float:
    return r.median


def _least(r: Result) -> float:
    return r.least


def ratio(
    found: list[Result],
    shape: peers.Shape,
    mode: str,
    ours: Entry,
    others: list[Entry],
    pick: Callable[[Result], float],
) -> float:
    """Our time over the fastest of the others'; 0 where either is missing."""
    here = {r.entry: pick(r) for r in found if (r.shape, r.mode) == (shape, mode)}
    theirs = [here[entry] for entry in others if entry in here]
    return here[ours] / min(theirs) if theirs and ours in here else 0.0


def plot(found: list[Result]) -> Any:
    """Time over torch's (or our own on one device, without torch), a panel a mode."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    modes = list(dict.fromkeys(r.mode for r in found))
    shapes = list(dict.fromkeys(r.shape for r in found))
    base = TORCH if any(r.entry == TORCH for r in found) else OURS
    figure = Figure(figsize=(11, 4.2 * len(modes)), layout="constrained")
    for axes, mode in zip(figure.subplots(len(modes), squeeze=False)[:, 0], modes, strict=True):
        part = {(r.entry, r.shape): r.median for r in found if r.mode == mode}
        names = [e for e in dict.fromkeys(e for e, _ in part) if e != base]
        colours = {row: f"C{n}" for n, row in enumerate(dict.fromkeys(e.row for e in names))}
        for n, entry in enumerate(names):
            at = [i for i, s in enumerate(shapes) if (entry, s) in part and (base, s) in part]
            heights = [part[entry, shapes[i]] / part[base, shapes[i]] for i in at]
            mine = entry.row.startswith("lstm_jax")
            axes.plot(
                [i + (n / len(names) - 0.5) * 0.8 for i in at], heights,
                marker="D" if mine else "o", linestyle="", markersize=7 if mine else 5,
                markerfacecolor="white" if entry.world == "one device" else colours[entry.row],
                markeredgecolor=colours[entry.row], label=str(entry),
            )  # fmt: skip
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        for between in range(len(shapes) - 1):
            axes.axvline(between + 0.5, color="lightgrey", linewidth=0.8)
        axes.set_xticks(range(len(shapes)), [str(shape) for shape in shapes])
        axes.set_xlabel("T,B,D,H")
        axes.set_ylabel(f"{mode}: median time over that of\n{base}")
        axes.legend(fontsize=7, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
