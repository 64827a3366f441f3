"""Trials -> packs, and the manifest that says so for good.

Trials whose configs differ only in numbers (of one `signature`) share a program and train
together as a pack. The manifest, WORKDIR/sweep.json, is written once and never changed: workers
need nothing else, neither the study's code nor its launcher. What is added to a sweep later stands
in manifests of its own, sweep.001.json, sweep.002.json, ..., each as final as the first; trials and
packs are numbered on.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lstm_jax import plugins
from lstm_jax.config.fields import Resolved, flatten, resolve
from lstm_jax.config.options import default_config
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.errors import UsageError
from lstm_jax.sweep.define.study import Study, trial_configs, varied
from lstm_jax.training.check import validate
from lstm_jax.workdir.files import create_json

MANIFEST, GROWN = "sweep.json", "sweep.{:03d}.json"
SEARCH = "search"  # the kind of what a search adds
VERSION = 1


class Growth(NamedTuple):
    """What was added to a sweep, and why; see `protocol`."""

    kind: str  # rates | confirm | seeds | amend | search
    first: int  # how many trials the sweep had
    trials: list[dict[str, Any]]
    hashes: list[str]
    packs: list[list[int]]
    fresh: list[int]  # of its seeds: those that judge and choose nothing
    budget: int  # trials that may be added in all, when this was
    report: dict[str, Any]  # how the sweep is judged from here on, {} where as before
    created: str
    ended: int  # trials that had ended
    waiting: list[tuple[int, dict[str, Any]]] = []  # of a search: (batches waited, trial)


class Plan(NamedTuple):
    """What is to be run. Trials are numbered as the study yields them, packs by first trial."""

    study: str
    question: str
    baseline: dict[str, Any]
    metric: str
    direction: str
    base: dict[str, Any]  # the base config, flat
    varied: tuple[str, ...]
    trials: list[dict[str, Any]]  # overrides by trial number
    hashes: list[str]  # config_hash by trial number
    packs: list[list[int]]  # trial numbers by pack number
    launch: dict[str, Any]
    halving: dict[str, Any]
    report: dict[str, Any] = {}
    command: str = ""
    registered: dict[str, Any] = {}  # how it was to be judged, at launch; see report.register
    search: dict[str, Any] = {}  # SEARCH as `define.search` writes it
    drawn: Sequence[str] = ()  # fields whose values were drawn
    pbt: dict[str, Any] = {}  # population based training, as the study's PBT says
    grown: tuple[Growth, ...] = ()

    @property
    def launched(self) -> int:
        """Trials of the launch; those after them were added."""
        return self.grown[0].first if self.grown else len(self.trials)

    @property
    def meant(self) -> int:
        """Trials that the study has, those that its search is still to ask for among them."""
        found = self.search
        return found["trials"] * len(found["variants"]) if found else self.launched

    @property
    def searched(self) -> list[int]:
        """The trials of the launch, and those that a search has asked for since."""
        asked = [m for m in self.grown if m.kind == SEARCH]
        later = (range(m.first, m.first + len(m.trials)) for m in asked)
        return [*range(self.launched), *itertools.chain.from_iterable(later)]

    @property
    def waiting(self) -> list[tuple[int, dict[str, Any]]]:
        """Trials that a search has asked for and that wait for others of their program."""
        return next((m.waiting for m in reversed(self.grown) if m.kind == SEARCH), [])

    def rungs(self, pack: int) -> tuple[int, ...]:
        """Steps at which the pack drops its worst trials; what was added to judge is not halved."""
        return tuple(self.halving.get("rungs", ())) if self.evolves(pack) else ()

    def evolves(self, pack: int) -> bool:
        """Whether the pack's trials compete; those that were added to judge do not."""
        return self.packs[pack][0] in self.searched

    def config(self, trial: int) -> Resolved:
        """The resolved config of a trial, from the manifest alone."""
        return resolve(apply_overrides(self.base_config(), self.trials[trial]))

    def base_config(self) -> ConfigDict:
        return apply_overrides(default_config(self.base["task.name"]), self.base)

    def pack_of(self) -> dict[int, int]:
        return {trial: number for number, pack in enumerate(self.packs) for trial in pack}


def make_plan(study: Study, largest: int = 0, configs: Sequence[Resolved] = ()) -> Plan:
    """Group the study's trials; no pack has more than `largest` of them (0: as many as there are).

    Raises:
      UsageError: every bad override of the study.
    """
    configs = configs or trial_configs(study)
    return Plan(
        study=study.name,
        question=study.question,
        baseline=study.baseline,
        metric=study.metric,
        direction=study.direction,
        base=flatten(study.config),
        varied=tuple(varied(study, list(configs))),
        trials=study.trials,
        hashes=[config.hash for config in configs],
        packs=grouped(configs, largest),
        launch=study.launch,
        halving=study.halving,
        report=study.report,
        command=study.command,
        search=study.search,
        drawn=study.drawn,
        pbt=study.pbt,
    )


def grouped(
    configs: Sequence[Resolved],
    largest: int = 0,
    first: int = 0,
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> list[list[int]]:
    """Packs of trials, numbered from `first`, whose configs share a program.

    `sizes` says by signature where fewer or more than `largest` fit.
    """
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(configs, first):
        groups.setdefault(config.signature, []).append(number)
    return [part for s, group in groups.items() for part in _parts(group, sizes.get(s, largest))]


def filled(
    signatures: Sequence[str],
    waited: Sequence[int],
    known: Mapping[str, Collection[int]],
    sizes: Sequence[int],
    bound: int,
) -> list[list[int]]:
    """Packs of places whose configs share a program; who is in none waits for others of its own.

    A pack has a size that its program was compiled for, or one of `sizes`, largest first: every
    other size costs a compilation. What is left over goes once one of it has waited `bound`
    batches, or if nothing else does.
    """
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(signatures):
        groups.setdefault(name, []).append(place)
    packs, left = [], []
    for name, group in groups.items():
        while size := _size(len(group), known.get(name, ()), sizes):
            packs, group = [*packs, group[:size]], group[size:]
        due = any(waited[place] >= bound for place in group)
        (packs if due else left).extend([group] if group else [])
    return packs or [max(left, key=len)]


def _size(count: int, known: Collection[int], sizes: Sequence[int]) -> int:
    """Of the next pack from `count` trials; 0: all of them wait."""
    compiled = max((n for n in known if n <= count), default=0)
    fits = next((n for n in sizes if n <= count), 0)
    return compiled if fits and 2 * compiled > fits else fits


def signatures(plan: Plan, trials: Iterable[Mapping[str, Any]]) -> list[str]:
    """The program of each of these trials."""
    base = plan.base_config()
    return [resolve(apply_overrides(base, trial)).signature for trial in trials]


def programs(plan: Plan) -> list[str]:
    """The signature of every pack."""
    return signatures(plan, (plan.trials[pack[0]] for pack in plan.packs))


def compiled_sizes(plan: Plan) -> dict[str, set[int]]:
    """{signature: how many trials its packs have}."""
    found: dict[str, set[int]] = {}
    for name, pack in zip(programs(plan), plan.packs, strict=True):
        found.setdefault(name, set()).add(len(pack))
    return found


def pack_sizes(plan: Plan) -> dict[str, int]:
    """{signature: trials of its largest pack}: as many are known to fit."""
    return {name: max(sizes) for name, sizes in compiled_sizes(plan).items()}


def divided(plan: Plan) -> dict[str, int]:
    """{signature: trials of its largest pack}, of those that the launch had to divide."""
    found = zip(programs(plan), plan.packs, strict=True)
    names = [name for name, pack in found if pack[0] < plan.launched]
    return {n: size for n, size in pack_sizes(plan).items() if names.count(n) > 1}


def _parts(group: list[int], largest: int) -> list[list[int]]:
    """Equal parts, so that none compiles a program for a handful of trials."""
    count = -(-len(group) // largest) if largest else 1
    size = -(-len(group) // count)
    return [group[i : i + size] for i in range(0, len(group), size)]


def write_plan(plan: Plan, workdir: Path) -> Plan:
    """Make the manifest, or find that it says the same already; the plan it holds.

    Raises:
      UsageError: the workdir holds another sweep, or cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        names = [name for flat in (plan.base, *plan.trials) for name in flat.values()]
        plugins.keep(workdir, names)
        whole = {name: value for name, value in plan._asdict().items() if name != "grown"}
        create_json(workdir / MANIFEST, {"version": VERSION, **whole})
    except OSError as error:
        raise UsageError(f"could not write {workdir / MANIFEST}: {error.strerror}") from error
    there = read_plan(workdir)
    if there.search != plan.search:
        raise UsageError(
            f"{workdir} holds another search: {_changes(there.search, plan.search)}; put SEARCH "
            "back, or name another directory with --workdir=DIR"
        )
    if there.hashes[: there.launched] != plan.hashes:
        raise UsageError(
            f"{workdir} holds another sweep: {there.launched} trials of {there.study!r}, "
            f"{_difference(there, plan)}; name another directory with --workdir=DIR"
        )
    return there


def _changes(there: dict[str, Any], here: dict[str, Any]) -> str:
    names = dict.fromkeys((*there, *here))
    return "; ".join(
        f"{name} {there.get(name)} there, {here.get(name)} here"
        for name in names
        if there.get(name) != here.get(name)
    )


def _difference(there: Plan, here: Plan) -> str:
    if there.launched != len(here.hashes):
        return f"not the {len(here.hashes)} of this study"
    number = next(
        i for i, (a, b) in enumerate(zip(there.hashes, here.hashes, strict=False)) if a != b
    )
    theirs = json.loads(json.dumps(there.config(number).flat))
    ours = json.loads(json.dumps(here.config(number).flat))
    fields = [
        f"{n} {theirs.get(n)} there, {ours.get(n)} here" for n in ours if theirs.get(n) != ours[n]
    ]
    return f"of which trial {number} differs: {'; '.join(fields[:5])}"


def read_plan(workdir: Path) -> Plan:
    """The manifest in `workdir`, with what was added to it.

    Raises:
      UsageError: there is none, or it is damaged or of another version.
    """
    path = workdir / MANIFEST
    plugins.use(workdir)
    if not path.exists():
        raise UsageError(f"{workdir} holds no sweep: it has no {MANIFEST}")
    plan = read_versioned(path, plan_of)
    for number in itertools.count(1):
        path = workdir / GROWN.format(number)
        if not path.exists():
            return plan
        more = read_versioned(path, lambda found: Growth(**found))
        if more.first != len(plan.trials):
            raise UsageError(
                f"{path} is damaged: it goes on from trial {more.first}, and the manifests before "
                f"it have {len(plan.trials)} trials"
            )
        plan = with_growth(plan, more)
    raise AssertionError  # the loop has no other end


def plan_of(found: dict[str, Any]) -> Plan:
    """A plan from its JSON."""
    return Plan(**{**found, "varied": tuple(found["varied"])})


def read_versioned(path: Path, build: Callable[[dict[str, Any]], Any]) -> Any:
    """What `build` makes of a JSON file that a version of this program has written.

    Raises:
      UsageError: it cannot; another version has.
    """
    try:
        found = json.loads(path.read_text())
        version = found.pop("version")
        built = build(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    if version != VERSION:
        raise UsageError(f"{path} has version {version}; this program reads {VERSION}")
    return built


# ---------------------------------------------------------------- growing


def grow(
    plan: Plan,
    kind: str,
    trials: list[dict[str, Any]],
    sizes: Mapping[str, int] = MappingProxyType({}),
    **more: Any,
) -> Growth:
    """What adding these trials would be: checked, in packs of these sizes, nothing written.

    `more` are entries of it, which may name the packs.

    Raises:
      UsageError: a trial whose config cannot be.
    """
    first, base = len(plan.trials), plan.base_config()
    configs = [validate(apply_overrides(base, trial)) for trial in trials]
    found = {
        "fresh": [], "budget": 0, "report": {}, "ended": 0, **more,
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }  # fmt: skip
    hashes = [config.hash for config in configs]
    packs = found.pop("packs", None) or grouped(configs, 0, first, sizes)
    return Growth(kind, first, trials, hashes, packs, **found)


def with_growth(plan: Plan, more: Growth) -> Plan:
    """The plan that has it."""
    trials = [*plan.trials, *more.trials]
    names = dict.fromkeys((*plan.varied, *(name for trial in more.trials for name in trial)))
    flat = [plan.base | trial for trial in trials]
    varied = [n for n in names if n in plan.varied or len({str(f.get(n)) for f in flat}) > 1]
    fresh = list(dict.fromkeys((*plan.report.get("fresh", ()), *more.fresh)))
    return plan._replace(
        trials=trials,
        hashes=[*plan.hashes, *more.hashes],
        packs=[*plan.packs, *more.packs],
        varied=tuple(varied),
        report={**plan.report, **more.report} | ({"fresh": fresh} if fresh else {}),
        grown=(*plan.grown, more),
    )


def write_growth(plan: Plan, more: Growth, workdir: Path) -> Plan:
    """Make the next manifest, unless somebody else has just made it; the plan that is there."""
    path = workdir / GROWN.format(len(plan.grown) + 1)
    try:
        plugins.keep(workdir, [name for trial in more.trials for name in trial.values()])
        create_json(path, {"version": VERSION, **more._asdict()})
    except OSError as error:
        raise UsageError(f"could not write {path}: {error.strerror}") from error
    return read_plan(workdir)


def trial_folder(workdir: Path, trial: int) -> Path:
    return workdir / "trials" / f"{trial:04d}"


def pack_folder(workdir: Path, pack: int) -> Path:
    return workdir / "packs" / f"{pack:03d}"
