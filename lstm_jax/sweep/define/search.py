"""SEARCH of a study: what is drawn, by which sampler, how often; checked before anything runs.

SEARCH = {
    "sampler": "tpe",                    # a row of SAMPLERS
    "trials": 64,                        # of each variant; what `sweep()` yields is a variant
    "batch": 16,                         # asked, trained and told together
    "space": {"optimizer.learning_rate": log_uniform(1e-4, 1e-1), ...},
    "when": {"optimizer.momentum": {"optimizer.name": "sgd"}},    # else the field is left alone
    "objectives": {"valid/loss": "min", "parameters": "min"},     # default: METRIC and DIRECTION
    "seed": 0,                           # of the sampler
    "wait": 2,                           # batches that a trial waits for others of its program
}
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lstm_jax.config.fields import flatten
from lstm_jax.config.overrides import apply_overrides, unknown_field
from lstm_jax.errors import UsageError, lookup
from lstm_jax.sweep.define.draws import Draw
from lstm_jax.training.check import validate

DIRECTIONS = ("min", "max")
COSTS = ("parameters", "flops")  # objectives that no training is needed for
SEED, BATCH, WAIT = "seed", 32, 2


class Sampler(NamedTuple):
    """What one needs, and what it can do."""

    needs: tuple[str, ...]  # modules
    choices: bool = True
    conditions: bool = True
    objectives: bool = True
    least: int = 1  # asks in a batch
    waits: bool = True  # knows of trials that were asked before and not told


SAMPLERS = {
    "tpe": Sampler(("optuna",)),
    "gp": Sampler(("optuna", "torch"), conditions=False),
    "cmaes": Sampler(
        ("cmaes",), choices=False, conditions=False, objectives=False, least=4, waits=False
    ),
    "random": Sampler(()),
}
INSTALL = {"torch": "pip install torch", "optuna": "", "cmaes": ""}


class Search(NamedTuple):
    """A SEARCH that was read; a variant is what all trials of one search share."""

    sampler: str
    trials: int
    batch: int
    seed: int
    objectives: dict[str, str]  # {valid/loss, parameters or flops: min or max}
    space: dict[str, Draw]
    when: dict[str, dict[str, list[Any]]]  # {field: {another field: values at which it is drawn}}
    variants: list[dict[str, Any]]
    wait: int = 0  # batches that a trial waits for others of its program, at most

    def variant_of(self, trial: Mapping[str, Any]) -> int:
        """The number of the variant that a trial belongs to."""
        fixed = {n: v for n, v in trial.items() if n not in (*self.space, SEED)}
        return self.variants.index(fixed)

    def setting_of(self, trial: Mapping[str, Any]) -> dict[str, Any]:
        """What was drawn of a trial, as it was drawn."""
        return {n: hashable(trial[n]) for n in self.space if n in trial}

    def is_active(self, name: str, setting: Mapping[str, Any]) -> bool:
        """Whether a field is drawn, beside what has been drawn before it."""
        wanted = self.when.get(name, {})
        return all(setting.get(field) in values for field, values in wanted.items())

    def active(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """The setting without the fields that its other fields switch off."""
        found: dict[str, Any] = {}
        for name in self.space:
            if name in setting and self.is_active(name, found):
                found[name] = setting[name]
        return found

    def written(self) -> dict[str, Any]:
        """As a manifest has it."""
        return json.loads(json.dumps(self._asdict()))


ENTRIES = tuple(name for name in Search._fields if name != "variants")


def of_manifest(found: Mapping[str, Any]) -> Search:
    """What `written` wrote."""
    space = {
        name: Draw(kind, low, high, tuple(map(hashable, values)))
        for name, (kind, low, high, values) in found["space"].items()
    }
    return Search(**{**found, "space": space})


def hashable(value: Any) -> Any:
    """A value as a choice has it: JSON makes lists of tuples."""
    return tuple(value) if isinstance(value, list) else value


def read_search(
    path: Path, given: Mapping[str, Any], config: ConfigDict, aim: tuple[str, str], variants: list
) -> Search:
    """A study's SEARCH; `aim` is its metric and direction.

    Raises:
      UsageError: everything in it that cannot be; nothing has run then.
    """
    for name in given:
        lookup("SEARCH entry", name, dict.fromkeys(ENTRIES))
    metric, direction = aim
    trials = given.get("trials", 64)
    when = given.get("when", {})
    sampler = given.get("sampler", "tpe")
    found = Search(
        sampler=sampler,
        trials=trials,
        batch=given.get("batch", min(BATCH, trials) if isinstance(trials, int) else BATCH),
        seed=given.get("seed", 0),
        objectives=given.get("objectives") or {f"valid/{metric.partition('/')[2]}": direction},
        space=given.get("space", {}),
        when=_conditions(when) if isinstance(when, Mapping) else when,
        variants=variants,
        wait=given.get("wait", WAIT if sampler in SAMPLERS and SAMPLERS[sampler].waits else 0),
    )
    lookup("SEARCH sampler", found.sampler, SAMPLERS)
    for look in (_shape, _space, _ability):
        if wrong := look(found, config):
            lines = "\n".join(f"  {line}" for line in wrong)
            raise UsageError(f"{path}: SEARCH: nothing was launched\n{lines}")
    return found


def _conditions(when: Mapping[str, Any]) -> Any:
    """One value, or several in a list or tuple."""
    many = (list, tuple)
    return {
        name: {f: list(v) if isinstance(v, many) else [v] for f, v in wanted.items()}
        if isinstance(wanted, Mapping)
        else wanted
        for name, wanted in when.items()
    }


# ---------------------------------------------------------------- what is wrong with it


def _shape(search: Search, config: ConfigDict) -> list[str]:
    """Entries that are not of the right kind."""
    sampler, counts = SAMPLERS[search.sampler], (search.trials, search.batch)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts)
    found = {
        f"trials={search.trials!r}, batch={search.batch!r}: expected positive whole numbers, the "
        "batch no larger than the trials": not whole or search.batch > search.trials,
        f"seed={search.seed!r}: expected a whole number from 0": not isinstance(search.seed, int)
        or search.seed < 0,
        f"wait={search.wait!r}: expected how many batches a trial may wait for others of its "
        "program, 0 or more": not isinstance(search.wait, int) or search.wait < 0,
        f"space={search.space!r}: expected at least one field, as in "
        "{'optimizer.learning_rate': log_uniform(1e-4, 1e-1)}": not search.space
        or not isinstance(search.space, Mapping),
        f"when={search.when!r}: expected {{field: {{another field: value}}}}": not isinstance(
            search.when, Mapping
        )
        or not all(isinstance(w, Mapping) for w in search.when.values()),
        f"sampler='cmaes' needs at least {sampler.least} trials in a batch, its generation; given "
        f"batch={search.batch!r}": whole and search.batch < sampler.least,
    }
    return [words for words, holds in found.items() if holds] + _objectives(search)


def _objectives(search: Search) -> list[str]:
    if not isinstance(search.objectives, Mapping):
        return [f"objectives={search.objectives!r}: expected {{'valid/loss': 'min', ...}}"]
    found = []
    for name, direction in search.objectives.items():
        if direction not in DIRECTIONS:
            found.append(f"objective {name!r}: {direction!r}: expected min or max")
        if name not in COSTS and not str(name).startswith("valid/"):
            words = f"expected valid/METRIC, {' or '.join(COSTS)}"
            test = "; a search never looks at the test" if str(name).startswith("test/") else ""
            found.append(f"objective {name!r}: {words}{test}")
    return found


def _space(search: Search, config: ConfigDict) -> list[str]:
    """Fields that do not exist, ranges that are none or that a field may not hold."""
    flat, found = flatten(config), []
    for name, draw in search.space.items():
        if name == SEED:
            found.append(f"{name}: seeds are no setting; CONFIRM says how many judge the best one")
        elif name not in flat:
            found.append(str(unknown_field(str(name), config, flat)))
        elif not isinstance(draw, Draw):
            found.append(
                f"{name}={draw!r}: expected uniform(low, high), log_uniform(low, high), "
                "integers(low, high) or choice(values)"
            )
        elif draw.kind == "choice" and len({str(v) for v in draw.values}) < 2:
            found.append(f"{name}: choice({list(draw.values)}): expected two values or more")
        elif draw.kind != "choice" and not draw.low < draw.high - (draw.kind == "integers"):
            words = f"{draw.kind}({draw.low:g}, {draw.high:g})"
            found.append(f"{name}: {words}: the lower bound must be below the upper one")
        else:
            found += _values(search, config, name, draw)
    return found + _when(search, flat) + _twice(search)


def _values(search: Search, config: ConfigDict, name: str, draw: Draw) -> list[str]:
    """What the config says of the ends of a range and of something between, or of every choice."""
    ends = [draw.low, draw(0.37), draw.high - (draw.kind == "integers")]
    around = search.variants[0] | _at(search, name)
    for value in draw.values or ends:
        try:
            validate(apply_overrides(config, {**around, name: value}))
        except UsageError as error:
            return [f"{name} from {draw.kind}: {line}" for line in str(error).splitlines()]
    return []


def _at(search: Search, name: str) -> dict[str, Any]:
    """Values of other fields at which a field is drawn."""
    known = {f: getattr(search.space.get(f), "values", ()) for f in search.when.get(name, {})}
    wanted = search.when.get(name, {}).items()
    return {f: v for f, values in wanted for v in values[:1] if v in known[f]}


def _when(search: Search, flat: Mapping[str, Any]) -> list[str]:
    """Conditions on what is not drawn before, or never has that value."""
    found, order = [], list(search.space)
    for name, wanted in search.when.items():
        if name not in search.space:
            found.append(f"when: {name!r} is not in the space; it has: {', '.join(order)}")
            continue
        for field, values in wanted.items():
            draw = search.space.get(field)
            if draw is None or order.index(field) > order.index(name):
                found.append(f"when {name}: {field!r} must stand in the space, before {name!r}")
            elif not isinstance(draw, Draw) or draw.kind != "choice":
                found.append(f"when {name}: {field} must be a choice(...) of values")
            elif never := [v for v in values if v not in draw.values] or not values:
                found.append(f"when {name}: {field} is never {never}: {list(draw.values)}")
    return found


def _twice(search: Search) -> list[str]:
    """Fields that a variant sets and the space draws."""
    names = {name for variant in search.variants for name in variant if name in search.space}
    seeds = any(SEED in variant for variant in search.variants)
    own = ["seed is set by sweep(), but every trial of a search has one of its own: leave it out"]
    return own * seeds + [
        f"{name} is both in the space and set by sweep(), whose trials are what each search keeps "
        "fixed: leave it out of one of them"
        for name in sorted(names)
    ]


def _ability(search: Search, config: ConfigDict) -> list[str]:
    """What the sampler cannot do, and what is not installed."""
    sampler, name = SAMPLERS[search.sampler], search.sampler
    chosen = [n for n, draw in search.space.items() if draw.kind == "choice"]
    missing = [module for module in sampler.needs if importlib.util.find_spec(module) is None]
    fix = "use sampler='tpe'"
    found = {
        f"sampler={name!r} draws numbers only, not {', '.join(chosen)}: {fix}, or fix them": (
            chosen and not sampler.choices
        ),
        f"sampler={name!r} knows no conditional fields ({', '.join(search.when)}): {fix}": (
            search.when and not sampler.conditions
        ),
        f"sampler={name!r} is told whole batches: wait=0, or {fix}": (
            search.wait and not sampler.waits
        ),
        f"sampler={name!r} has one objective, not {', '.join(search.objectives)}: {fix}": (
            len(search.objectives) > 1 and not sampler.objectives
        ),
        f"sampler={name!r} needs {' and '.join(missing)}: {_install(missing)}": missing,
    }
    return [words for words, holds in found.items() if holds]


def _install(missing: list[str]) -> str:
    commands = dict.fromkeys(INSTALL[m] or "pip install 'lstm-jax[search]'" for m in missing)
    return "; ".join(commands)
