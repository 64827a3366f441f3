"""Trials -> packs, and the manifest that says so for good.

Trials whose configs differ only in numbers (of one `signature`) share a program and train
together as a pack. The manifest, WORKDIR/sweep.json, is written once and never changed: workers
need nothing else, neither the study's code nor its launcher.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax import plugins
from lstm_jax.config.fields import Resolved, flatten, resolve
from lstm_jax.config.options import default_config
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.errors import UsageError
from lstm_jax.sweep.define.study import Study, trial_configs, varied
from lstm_jax.workdir.files import create_json

MANIFEST = "sweep.json"
VERSION = 1


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

    def config(self, trial: int) -> Resolved:
        """The resolved config of a trial, from the manifest alone."""
        base = apply_overrides(default_config(self.base["task.name"]), self.base)
        return resolve(apply_overrides(base, self.trials[trial]))

    def pack_of(self) -> dict[int, int]:
        return {trial: number for number, pack in enumerate(self.packs) for trial in pack}


def make_plan(study: Study, largest: int = 0, configs: Sequence[Resolved] = ()) -> Plan:
    """Group the study's trials; no pack has more than `largest` of them (0: as many as there are).

    Raises:
      UsageError: every bad override of the study.
    """
    configs = configs or trial_configs(study)
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        groups.setdefault(config.signature, []).append(number)
    packs = [part for group in groups.values() for part in _parts(group, largest)]
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
        packs=packs,
        launch=study.launch,
        halving=study.halving,
        report=study.report,
        command=study.command,
    )


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
        create_json(workdir / MANIFEST, {"version": VERSION, **plan._asdict()})
    except OSError as error:
        raise UsageError(f"could not write {workdir / MANIFEST}: {error.strerror}") from error
    there = read_plan(workdir)
    if there.hashes != plan.hashes:
        raise UsageError(
            f"{workdir} holds another sweep: {len(there.trials)} trials of {there.study!r}, "
            f"{_difference(there, plan)}; name another directory with --workdir=DIR"
        )
    return there


def _difference(there: Plan, here: Plan) -> str:
    if len(there.hashes) != len(here.hashes):
        return f"not the {len(here.hashes)} of this study"
    number = next(
        i for i, (a, b) in enumerate(zip(there.hashes, here.hashes, strict=True)) if a != b
    )
    theirs = json.loads(json.dumps(there.config(number).flat))
    ours = json.loads(json.dumps(here.config(number).flat))
    fields = [
        f"{n} {theirs.get(n)} there, {ours.get(n)} here" for n in ours if theirs.get(n) != ours[n]
    ]
    return f"of which trial {number} differs: {'; '.join(fields[:5])}"


def read_plan(workdir: Path) -> Plan:
    """The manifest in `workdir`.

    Raises:
      UsageError: there is none, or it is damaged or of another version.
    """
    path = workdir / MANIFEST
    plugins.use(workdir)
    try:
        found = json.loads(path.read_text())
        version = found.pop("version")
        plan = Plan(**{**found, "varied": tuple(found["varied"])})
    except FileNotFoundError:
        raise UsageError(f"{workdir} holds no sweep: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    if version != VERSION:
        raise UsageError(f"{path} has version {version}; this program reads {VERSION}")
    return plan


def trial_folder(workdir: Path, trial: int) -> Path:
    return workdir / "trials" / f"{trial:04d}"


def pack_folder(workdir: Path, pack: int) -> Path:
    return workdir / "packs" / f"{pack:03d}"
