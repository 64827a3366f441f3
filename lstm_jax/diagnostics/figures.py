"""A diagnosis as figures: one a layer, six panels."""

from __future__ import annotations

from typing import Any

import numpy as np

COLOURS = {"c": "#2b83ba", "h": "#d9662b", "carry": "#14202e"}
GATES = ("#2b83ba", "#d9662b", "#2a9d6f", "#b05cc2")


def draw(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """{layer: matplotlib Figure}."""
    layers = dict.fromkeys(name.partition("/")[0] for name in arrays)
    return {layer: figure(_own(arrays, layer)) for layer in layers}


def _own(arrays: dict[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    prefix = f"{layer}/"
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}


def figure(own: dict[str, np.ndarray]) -> Any:
    """Flow, its heat map, gates, time scales, growth and singular values of one layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # start-up
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(2, 3).flat
    for axes, panel in zip(panels, PANELS, strict=True):
        panel(axes, own)
    return drawn


def _empty(axes: Any, why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)


def flow(axes: Any, own: dict[str, np.ndarray]) -> None:
    curves = {n.removeprefix("flow/"): v for n, v in own.items() if n.startswith("flow/")}
    for name in [n for n in ("carry", "c", "h") if n in curves]:
        curve = np.where(curves[name] > 0, curves[name], np.nan)
        if np.isfinite(curve).any():
            axes.plot(curve, label=name, color=COLOURS[name], lw=1.6)
            axes.set_yscale("log")
    for floor in (1e-3, 1e-6):
        axes.axhline(floor, color="#8793a1", lw=0.8, ls=":")
    axes.set_title("gradient through time")
    axes.set_xlabel("steps before the loss")
    axes.set_ylabel("norm, by that one step back")
    axes.legend(frameon=False) if axes.lines[2:] else None


def heat(axes: Any, own: dict[str, np.ndarray]) -> None:
    values = own["norm/carry"]
    with np.errstate(all="ignore"):
        logs = np.log10(np.where(values > 0, values, np.nan))
    if not np.isfinite(logs).any():
        return _empty(axes, "no gradient flows back")
    top = np.nanmax(logs[np.isfinite(logs)])
    shown = axes.imshow(logs.T, aspect="auto", vmin=top - 8, vmax=top, interpolation="nearest")
    axes.figure.colorbar(shown, ax=axes, label="log10 norm")
    axes.set_title("gradient, by example")
    axes.set_xlabel("steps before the loss")
    axes.set_ylabel("example")


def gates(axes: Any, own: dict[str, np.ndarray]) -> None:
    names = [n.removeprefix("mean/") for n in own if n.startswith("mean/")]
    if not names:
        return _empty(axes, "no gates")
    for name, colour in zip(names, GATES * len(names), strict=False):
        axes.plot(own[f"mean/{name}"], color=colour, label=name, lw=1.6)
        axes.plot(own[f"shut/{name}"], color=colour, ls=":", lw=1)
        axes.plot(own[f"open/{name}"], color=colour, ls="--", lw=1)
    axes.set_title("gates: mean; share shut (..), open (--)")
    axes.set_xlabel("step")
    axes.legend(frameon=False, ncols=len(names))


def timescale(axes: Any, own: dict[str, np.ndarray]) -> None:
    values = own.get("timescale")
    if values is None:
        return _empty(axes, "no forget gate")
    usable = np.clip(values[np.isfinite(values)], 1e-1, 1e6)
    if not len(usable):
        return _empty(axes, "no finite time scale")
    low, high = min(usable.min(), 1.0), max(usable.max(), 10.0)
    axes.hist(usable, bins=list(np.geomspace(low, high * 1.01, 24)), color=GATES[0])
    axes.set_xscale("log")
    axes.set_title("forget time scale 1 / (1 - f)")
    axes.set_xlabel("steps")
    axes.set_ylabel("units")


def growth(axes: Any, own: dict[str, np.ndarray]) -> None:
    axes.plot(own["growth/mean"], color=GATES[0], label="mean")
    axes.plot(own["growth/max"], color=GATES[1], label="largest")
    if np.nanmax(own["growth/max"], initial=0.0) > 50:
        axes.set_yscale("log")
    axes.set_title("size of the memory")
    axes.set_xlabel("step")
    axes.legend(frameon=False)


def singular(axes: Any, own: dict[str, np.ndarray]) -> None:
    values = own["singular_values"]
    for row in values[np.isfinite(values).all(1)]:
        axes.plot(np.arange(1, len(row) + 1), row, color=GATES[0], alpha=0.6)
    axes.axhline(1, color="#8793a1", lw=0.8, ls=":")
    axes.set_title(f"step Jacobian; Lyapunov {np.mean(own['lyapunov']):.3g} nats/step")
    axes.set_xlabel("singular value, by size")


PANELS = (flow, heat, gates, timescale, growth, singular)
