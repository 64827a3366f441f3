"""How a report names variants, fields and numbers."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from lstm_jax.report.collect import Sweep


def short(name: str) -> str:
    """The field without its section: optimizer.learning_rate is learning_rate."""
    return name.rpartition(".")[2]


def label_variants(sweep: Sweep) -> dict[tuple, str]:
    """A name for every variant: where it differs from the baseline."""
    same = [n for n, count in Counter(map(short, sweep.fields)).items() if count > 1]
    names = [f if short(f) in same else short(f) for f in sweep.fields]

    def label(values: tuple) -> str:
        pairs = list(zip(names, values, sweep.baseline, strict=True))
        apart = [f"{n}={plain(v)}" for n, v, b in pairs if v != b]
        return ", ".join(apart) or baseline

    own = [n for n, f in zip(names, sweep.fields, strict=True) if f in sweep.plan.baseline]
    pairs = dict(zip(names, sweep.baseline, strict=True))
    named = ", ".join(f"{n}={plain(pairs[n])}" for n in own)
    baseline = f"baseline ({named})" if named else "baseline"
    return {t.variant: label(t.variant) for t in sweep.trials}


def plain(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "/".join(map(plain, value)) or "none"
    return "default" if value == "" else str(value)


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits; nothing where there is no number."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("inf", "∞")


def span(low: float, high: float, digits: int = 3) -> str:
    return "" if math.isnan(low) else f"[{number(low, digits)}, {number(high, digits)}]"


def percent(value: float) -> str:
    """A share with its sign; nothing where there is none."""
    if not math.isfinite(value):
        return ""
    return f"{100 * value:+.0f} %" if abs(value) >= 0.0995 else f"{100 * value:+.1f} %"


def listed(numbers: list[int], most: int = 12) -> str:
    more = f", and {len(numbers) - most} more" if len(numbers) > most else ""
    return "trial " + ", ".join(map(str, sorted(numbers)[:most])) + more
