"""A search goes on: when all that was asked has ended, the next batch is asked and written down.

A batch is a manifest like any other that is added to a sweep, created by whoever comes first: a
worker that has nothing left to do, or a launch. What is asked follows from the files alone, so it
makes no difference who asks, or how often.

Where fields shape the program, a batch falls apart into small packs. What is left over of each
program waits for the next batch, `SEARCH["wait"]` of them at most; see `define.plan.filled`.
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
from lstm_jax.sweep.define.plan import (
    SEARCH,
    Growth,
    Plan,
    compiled_sizes,
    filled,
    pack_folder,
    programs,
    signatures,
    trial_folder,
    write_growth,
)
from lstm_jax.sweep.define.samplers import Told, batch
from lstm_jax.sweep.define.search import COSTS, SEED, Search, of_manifest
from lstm_jax.sweep.pack.cost import grown
from lstm_jax.sweep.pack.program import pack_program
from lstm_jax.training import train
from lstm_jax.training.program import stream
from lstm_jax.workdir.files import read_json


def is_open(plan: Plan) -> bool:
    """Whether the plan's search has trials to ask for."""
    return len(plan.searched) < plan.meant


def go_on(plan: Plan, workdir: Path) -> Plan:
    """The plan with its next batch; as it is while a pack runs or has failed, or all is asked."""
    if not is_open(plan):
        return plan
    ends = (claims.ended(pack_folder(workdir, n)) for n in range(len(plan.packs)))
    if any(end.get("status") != "completed" for end in ends):
        return plan
    search = of_manifest(plan.search)
    seen = told(plan, search, workdir)
    waiting: list[list[Any]] = [[] for _ in search.variants]
    for _, trial in plan.waiting:
        waiting[search.variant_of(trial)].append(search.setting_of(trial))
    lists = [seen[i] for i in range(len(search.variants))]
    new = batch(search, lists, plan.base[SEED], waiting)
    asked = [*((n + 1, trial) for n, trial in plan.waiting), *((0, trial) for trial in new)]
    return write_growth(plan, chosen(plan, search, asked), workdir)


def chosen(plan: Plan, search: Search, asked: list[tuple[int, Any]]) -> Growth:
    """The trials that go now, in their packs, and those that wait; all of the last batch go."""
    trials, ended = [trial for _, trial in asked], len(plan.searched)
    if not search.wait or ended + len(asked) == search.trials * len(search.variants):
        return grown(plan, SEARCH, trials, ended=ended)
    waited = [count for count, _ in asked]
    names, known = signatures(plan, trials), compiled_sizes(plan)
    packs = filled(names, waited, known, sizes(search), search.wait)
    places = sorted(place for pack in packs for place in pack)
    number = {place: len(plan.trials) + i for i, place in enumerate(places)}
    left = [pair for place, pair in enumerate(asked) if place not in number]
    return grown(
        plan,
        SEARCH,
        [trials[place] for place in places],
        packs=[[number[place] for place in pack] for pack in packs],
        waiting=left,
        ended=ended,
    )


def sizes(search: Search) -> list[int]:
    """All that is asked at once, and its halves, down to a quarter of a batch."""
    whole, least = search.batch * len(search.variants), max(search.batch // 4, 2)
    halves = [-(-whole // 2**n) for n in range(whole.bit_length())]
    return [n for n in dict.fromkeys(halves) if n >= least] or [whole]


def news(plan: Plan, workdir: Path) -> str:
    """What the newest batch is: its packs, who waits, and what its new programs cost."""
    more = plan.grown[-1]
    first = len(plan.packs) - len(more.packs)
    kinds = list(zip(programs(plan), map(len, plan.packs), strict=True))
    new = len(set(kinds[first:]) - set(kinds[:first]))
    spent = [claims.ended(pack_folder(workdir, n)).get("compile_seconds") for n in range(first)]
    paid = [s for s in spent if s]
    sizes = ", ".join(str(len(pack)) for pack in more.packs)
    words = [f"batch {len(plan.grown)}: {len(more.trials)} trials in packs of {sizes}"]
    words += [f"{len(more.waiting)} wait for others of their program"] if more.waiting else []
    cost = f", {sum(paid) / len(paid):.1f} s each so far" if paid else ""
    return "; ".join([*words, f"{new} to compile{cost}" if new else "all compiled before"])


def told(plan: Plan, search: Search, workdir: Path) -> dict[int, list[Told]]:
    """{number of the variant: its trials so far, in the order of their numbers}."""
    found: dict[int, list[Told]] = {i: [] for i in range(len(search.variants))}
    prices: dict[str, float] = {}
    for number in plan.searched:
        trial = plan.trials[number]
        summary = read_json(trial_folder(workdir, number) / "summary.json")
        price = partial(forward_flops, plan, number, prices)
        values = tuple(_value(summary, name, price) for name in search.objectives)
        whole = summary.get("status") != "pruned"
        one = Told(search.setting_of(trial), values, int(summary.get("step") or 0), whole)
        found[search.variant_of(trial)].append(one)
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
