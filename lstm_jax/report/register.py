"""How a sweep is to be judged, written down before it runs: its manifest's `registered`.

The entries stand there with their hash. A report reads the sweep as the manifest says today, and
names every entry that is not what was registered.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lstm_jax.report.collect import how
from lstm_jax.report.names import plain, short
from lstm_jax.sweep.define.names import variant_fields
from lstm_jax.sweep.define.plan import SEARCH, Plan
from lstm_jax.workdir.files import to_json

HASH = "hash"
JUDGED = (
    "metric", "direction", "choose", "scale", "margin", "limit", "solved", "select", "trim",
)  # fmt: skip


def register(plan: Plan) -> dict[str, Any]:
    """The primary metric, margin, family and stopping rule of a plan, with their hash."""
    reading = how(plan)
    family = {plain(_variant(plan, trial)) for trial in plan.trials[: plan.launched]}
    found = {name: getattr(reading, name) for name in JUDGED} | {
        "block": plain(_listed(reading.block)),
        "tuned": list(reading.tuned),
        "by": list(reading.by),
        "family": sorted(family),
        "pairs": _listed(plan.report.get("pairs", ())),
        "confirm": reading.confirm,
        "budget": reading.budget,
    }
    found = to_json(found)
    return found | {HASH: digest(found)}


def digest(entries: dict[str, Any]) -> str:
    """The first 16 characters of SHA-256 over all entries but the hash."""
    rest = {name: value for name, value in entries.items() if name != HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _variant(plan: Plan, trial: dict[str, Any]) -> tuple[str, ...]:
    """Where the trial's variant differs from the baseline."""
    flat, base = plan.base | trial, plan.base | plan.baseline
    fields = [name for name in variant_fields(plan) if _listed(flat[name]) != _listed(base[name])]
    return tuple(f"{short(name)}={plain(flat[name])}" for name in fields) or ("baseline",)


def _listed(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def changes(registered: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Every entry that differs, in words."""
    names = dict.fromkeys((*registered, *now))
    return [
        f"{name} {registered.get(name)} -> {now.get(name)}"
        for name in names
        if name != HASH and registered.get(name) != now.get(name)
    ]


def entries(plan: Plan, names: list[str]) -> dict[str, Any]:
    """These entries as a manifest's `report` has them."""
    reading = how(plan)
    of_study = {name: plan.report.get(name, ()) for name in ("block", "pairs")}
    return {n: of_study[n] if n in of_study else getattr(reading, n) for n in names}


def departures(plan: Plan) -> list[str]:
    """What a report must say of how the sweep is judged against what was registered."""
    if not plan.registered:
        return []
    found = changes(plan.registered, register(plan))
    amended = {name for more in plan.grown for name in more.report}
    when = [m for m in plan.grown if m.report]
    said = [
        f"Changed on {m.created}, after {m.ended} of {m.first} trials had ended: "
        f"{', '.join(sorted(m.report))}."
        for m in when
    ]
    if found:
        said.insert(0, f"Not as registered at launch: {'; '.join(found)}.")
    if found and not amended:
        said.append("sweep.json has been edited since; put its `report` back, or say why.")
    if digest(plan.registered) != plan.registered.get(HASH):
        said.append(
            "The registration in sweep.json does not have its hash: it has been edited, and what "
            "it says proves nothing."
        )
    return said + _budgets(plan)


def _budgets(plan: Plan) -> list[str]:
    judged = [m for m in plan.grown if m.trials and m.kind != SEARCH]
    given = [m for m in judged if m.budget != plan.registered.get("budget")]
    return [
        f"The stopping rule changed: a budget of {m.budget} trials on {m.created}, "
        f"{plan.registered.get('budget')} were registered."
        for m in given[:1]
    ]


def standing(plan: Plan) -> str:
    """One line: what was registered."""
    if not plan.registered:
        return ""
    found = plan.registered
    return (
        f"{found['metric']}, {found['scale']}, margin {found['margin']:g} of the gap, "
        f"{len(found['family'])} variants, {found['confirm'] or 'no'} fresh seeds, at most "
        f"{found['budget']} trials added; hash {found[HASH]}"
    )
