"""What `sweep plan` says before anything runs: packs that fit, what they compile and cost."""

from __future__ import annotations

import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lstm_jax.compute import memory
from lstm_jax.compute.memory import gpu_memory
from lstm_jax.config.options import marked
from lstm_jax.errors import UsageError, lookup
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import (
    SEARCH,
    Growth,
    Plan,
    divided,
    grow,
    pack_folder,
    pack_sizes,
    with_growth,
)
from lstm_jax.sweep.pack import memory as estimate
from lstm_jax.sweep.pack import program as many
from lstm_jax.terminal import clock, speed
from lstm_jax.training import train

USABLE = 0.8  # of the memory that is free now


def fitted(plan: Plan) -> Plan:
    """The plan with packs that fit in this machine's memory; builds every pack's model on the way.

    Raises:
      UsageError: a pack's model or data cannot be built, or one trial alone does not fit.
    """
    packs, mistakes = [], {}  # whose trials are in it, by what is wrong
    gpu = gpu_memory()
    limit = USABLE * (gpu or memory.host_memory())
    for trials in plan.packs:
        try:
            check_aims(plan, plan.config(trials[0]))
            largest = most(plan, trials, limit, bool(gpu))
            count = -(-len(trials) // largest)
            size = -(-len(trials) // count)
            packs += [trials[i : i + size] for i in range(0, len(trials), size)]
        except UsageError as error:
            mistakes.setdefault(str(error), []).append(trials[0])
    if mistakes:
        lines = [f"  {why}  ({listed(who)} and those like it)" for why, who in mistakes.items()]
        raise UsageError(f"study {plan.study}: nothing was launched\n" + "\n".join(lines))
    return plan._replace(packs=packs)


def listed(trials: list[int]) -> str:
    """At most four of them."""
    named = ", ".join(map(str, trials[:4])) + (", ..." if len(trials) > 4 else "")
    return f"trial{'s' if len(trials) > 1 else ''} {named}"


def grown(plan: Plan, kind: str, trials: list[dict[str, Any]], **more: Any) -> Growth:
    """These trials as an addition to the plan, in packs that fit in memory.

    A program that has run fits, in packs of the size that ran; one that is new is looked at. Those
    of a search are as large as they come, unless its launch had to divide them.
    """
    sizes = pack_sizes(plan)
    found = grow(plan, kind, trials, divided(plan) if kind == SEARCH else sizes, **more)
    whole = with_growth(plan, found)
    known = [p for p in found.packs if len(p) <= sizes.get(whole.config(p[0]).signature, 0)]
    new = [p for p in found.packs if p not in known]
    return found._replace(packs=known + (fitted(whole._replace(packs=new)).packs if new else []))


def most(plan: Plan, trials: list[int], limit: float, gpu: bool) -> int:
    """How many of these trials fit at once in `limit` bytes (0: unknown, so all).

    A GPU computes them all at once; the cores of a CPU a few at a time.
    """
    config = plan.config(trials[0])
    program, hyper = many.pack_program(config), config.hyper
    kept, needed = estimate.trial_bytes(program, hyper)
    if not limit:
        return len(trials)
    fits = int(limit / (kept + (needed if gpu else 0)))
    if kept + needed > limit:
        raise UsageError(
            f"one trial needs about {(kept + needed) / 2**30:.1f} GiB of memory, of which "
            f"{limit / 2**30:.1f} may be used here; a smaller train.batch_size or cell.hidden fits"
        )
    return max(min(fits, len(trials)), 1)


def check_aims(plan: Plan, config: Any) -> None:
    """UsageError where what decides is none of the scores of the validation split."""
    aims = plan.search.get("objectives") or [plan.metric]
    wanted = {name.partition("/")[2] for name in aims if name.startswith("valid/")} - {"loss"}
    program = many.pack_program(config)
    task = program.task
    known = {"loss"}.union(*task.baselines.get("valid", {}).values())
    if wanted <= known:
        return
    state = jax.eval_shape(partial(train.init_state, program), config.hyper)
    scores = partial(train.evaluate, program, split="valid")
    known |= set(jax.eval_shape(scores, state.params, config.hyper, task.data))
    for name in sorted(wanted):
        lookup("METRIC or objective", f"valid/{name}", {f"valid/{k}": None for k in known})


def headline(plan: Plan, workdir: Path | None = None) -> str:
    sizes = [len(trials) for trials in plan.packs]
    low, high = min(sizes), max(sizes)
    each = f"{low}" if low == high else f"{low} to {high}"
    packs = f"{len(sizes)} pack{'s' if len(sizes) > 1 else ''}"
    done = (
        sum(bool(claims.ended(pack_folder(workdir, n))) for n in range(len(sizes)))
        if workdir
        else 0
    )
    over = f", {done} of them done before" if done else ""
    where = f" in {workdir}" if workdir else ""
    head = f"{plan.study}: {len(plan.trials)} trials in {packs} of {each}{over}{where}"
    return head + (f"\n{searching(plan)}" if plan.search else "")


def searching(plan: Plan) -> str:
    """What a search will ask for, and how many programs its space may need."""
    found, numeric = plan.search, marked("numeric", plan.base["task.name"])
    sizes = [
        len(values) if kind == "choice" else int(high - low)
        for name, (kind, low, high, values) in found["space"].items()
        if name not in numeric
    ]
    count = math.prod(sizes) * len(found["variants"])
    many = f"; up to {count} programs, each compiled on its first use" if count > 1 else ""
    several = len(found["variants"])
    each = f" for each of {several} variants" if several > 1 else ""
    return (
        f"search by {found['sampler']}: {found['trials']} trials in batches of {found['batch']}"
        f"{each}, over {', '.join(found['space'])}{many}"
    )


class Cost(NamedTuple):
    """Of one pack, on this machine."""

    memory: int  # bytes of one device
    compile_seconds: float
    step_seconds: float  # of all its trials, one step each


def measure(plan: Plan, number: int) -> Cost:
    """Compile the pack's program for all its trials, and time a few steps."""
    configs = [plan.config(trial) for trial in plan.packs[number]]
    program = many.pack_program(configs[0])
    compiled = many.compiled(program, [config.hyper for config in configs])
    state, began = compiled.init(), time.perf_counter()
    steps = min(4, configs[0].train.num_steps)
    run = compiled.compile_chunk(steps, state)
    took = time.perf_counter() - began
    needed = memory.check_memory(run, len(configs))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(compiled.chunk(steps, state))
        times.append(time.perf_counter() - began)
    return Cost(needed, took, min(times) / steps)


def print_plan(study: Any, plan: Plan, measured: bool) -> None:
    """The question, the packs, what each compiles, and with `measured` what it costs here."""
    print(headline(plan))
    if plan.question:
        print(f"question: {plan.question}")
    print(
        f"compared by {plan.metric} ({plan.direction}), with {plan.baseline or 'the base config'}"
    )
    print(f"varied: {', '.join(plan.varied)}\n")
    total = 0.0
    for number, trials in enumerate(plan.packs):
        print(f"pack {number}: {len(trials)} trials, {compiled_for(plan, number)}")
        if measured:
            total += print_cost(plan, number)
        sys.stdout.flush()
    if measured:
        devices = jax.local_devices()
        where = f"{len(devices)} {devices[0].platform} devices"
        print(f"\nall packs one after the other on {where}: about {clock(total)}")
    if measured and plan.search:
        batches = -(-plan.search["trials"] // plan.search["batch"])
        print(f"the whole search, {batches} batches: at most {clock(batches * total)}")


def compiled_for(plan: Plan, number: int) -> str:
    """The static fields that set this pack apart; numbers are arguments of its program."""
    base, numeric = plan.base, marked("numeric", plan.base["task.name"])
    flat = plan.config(plan.packs[number][0]).flat
    names = [n for n in plan.varied if n not in numeric and flat.get(n) != base.get(n)]
    return ", ".join(f"{n}={flat[n]}" for n in names) or "the base config's program"


def print_cost(plan: Plan, number: int) -> float:
    """Seconds that the pack will take here."""
    try:
        cost = measure(plan, number)
    except UsageError as error:
        print(f"    {error}")
        return 0.0
    trials, steps = len(plan.packs[number]), plan.config(plan.packs[number][0]).train.num_steps
    seconds = cost.compile_seconds + steps * cost.step_seconds
    print(
        f"    {cost.memory / 2**20:,.0f} MiB a device, compiles in {cost.compile_seconds:.1f} s, "
        f"{speed(trials / cost.step_seconds, 'trial-steps')}, about {clock(seconds)}"
    )
    return seconds
