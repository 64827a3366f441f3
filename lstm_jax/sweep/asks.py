"""A search goes on: when all that was asked has ended, the next batch is asked and written down.

A batch is a manifest like any other that is added to a sweep, created by whoever comes first: a
worker that has nothing left to do, or a launch. What is asked follows from the files alone, so it
makes no difference who asks, or how often.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.compute import flops
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import SEARCH, Plan, pack_folder, trial_folder, write_growth
from lstm_jax.sweep.define.samplers import Told, batch
from lstm_jax.sweep.define.search import COSTS, SEED, Search, hashable, of_manifest
from lstm_jax.sweep.pack.cost import grown
from lstm_jax.sweep.pack.program import pack_program
from lstm_jax.training import train
from lstm_jax.training.program import stream
from lstm_jax.workdir.files import read_json


def is_open(plan: Plan) -> bool:
    """Whether the plan's search has trials to ask for."""
    if not plan.search:
        return False
    return len(plan.searched) < plan.search["trials"] * len(plan.search["variants"])


def go_on(plan: Plan, workdir: Path) -> Plan:
    """The plan with its next batch; as it is while a pack runs or has failed, or all is asked."""
    if not is_open(plan):
        return plan
    ends = (claims.ended(pack_folder(workdir, n)) for n in range(len(plan.packs)))
    if any(end.get("status") != "completed" for end in ends):
        return plan
    search = of_manifest(plan.search)
    seen = told(plan, search, workdir)
    trials = batch(search, [seen[i] for i in range(len(search.variants))], plan.base[SEED])
    ended = len(plan.searched)
    return write_growth(plan, grown(plan, SEARCH, trials, ended=ended), workdir)


def told(plan: Plan, search: Search, workdir: Path) -> dict[int, list[Told]]:
    """{number of the variant: its trials so far, in the order in which they were asked}."""
    found: dict[int, list[Told]] = {i: [] for i in range(len(search.variants))}
    prices: dict[str, float] = {}
    for number in plan.searched:
        trial = plan.trials[number]
        fixed = {n: v for n, v in trial.items() if n not in (*search.space, SEED)}
        setting = {n: hashable(trial[n]) for n in search.space if n in trial}
        summary = read_json(trial_folder(workdir, number) / "summary.json")
        price = partial(forward_flops, plan, number, prices)
        values = tuple(_value(summary, name, price) for name in search.objectives)
        whole = summary.get("status") != "pruned"
        one = Told(setting, values, int(summary.get("step") or 0), whole)
        found[search.variants.index(fixed)].append(one)
    return found


def _value(summary: dict[str, Any], name: str, price: Any) -> float:
    """An objective of a trial; NaN where it diverged or has none."""
    if name in COSTS:
        return float(price() if name == "flops" else summary.get(name) or math.nan)
    split, _, metric = name.partition("/")
    value = summary.get("metrics", {}).get(split, {}).get(metric)
    if summary.get("status") == "diverged" or not isinstance(value, int | float):
        return math.nan
    return float(value)


def forward_flops(plan: Plan, number: int, known: dict[str, float]) -> float:
    """FLOPs of a forward pass, an example; one count for all trials of a program."""
    config = plan.config(number)
    if config.signature not in known:
        program = pack_program(config)
        state = jax.eval_shape(partial(train.init_state, program), config.hyper)
        key, data = stream(config.hyper, "data"), program.task.data
        seen = jax.eval_shape(lambda data: program.task.batch(data, key, jnp.int32(0)), data)
        apply, carry = program.model.apply, state.carry or None
        whole = flops.count(apply, state.params, config.hyper, seen, carry)
        known[config.signature] = whole / seen["inputs"].shape[1]
    return known[config.signature]
