"""Trial-steps that a search needs to reach what random search finds in all of its own.

    python -m benchmarks.search [--repeats=10] [--rows=tpe/8,tpe/16,asha/16] [--trials=128]
                                [--study=airline_search] [--hidden=64] [--keep=FILE]

The task is a study of `experiments`, asha its preset `halving`. Each repeat has seeds of its own,
for the sampler, the weights and the noise; random search's trials are those of the same seed. A
search has reached the value at the end of the batch that holds it; one that never does counts as
all of random search's trial-steps. `--keep=FILE` appends every trial to a file of JSON lines, and
takes from it what random search has found.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lstm_jax.config.fields import resolve
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.sweep.define.samplers import Told, batch
from lstm_jax.sweep.define.search import Search, of_manifest
from lstm_jax.sweep.define.study import load_study
from lstm_jax.sweep.pack import rungs
from lstm_jax.sweep.pack.program import compiled, pack_program

Train = Callable[[list[dict[str, Any]]], list[tuple[float, int]]]


def trainer(config: Any, halving: dict[str, Any]) -> Train:
    """Trains trials as a pack: (best validation loss, last step) of each; remembers its rungs."""
    at_rung: dict[int, list[float]] = defaultdict(list)

    def train(trials: list[dict[str, Any]]) -> list[tuple[float, int]]:
        configs = [resolve(apply_overrides(config, trial)) for trial in trials]
        hypers, options = [c.hyper for c in configs], configs[0].train
        functions, there = compiled(pack_program(configs[0]), hypers), list(range(len(trials)))
        state, found = functions.init(), {}
        for step in range(options.eval_every, options.num_steps + 1, options.eval_every):
            state, _ = functions.validate(functions.chunk(options.eval_every, state)[0])
            host = functions.fetch(state)
            values = np.where(host.bad, math.inf, host.best.value).tolist()
            found |= {n: (v, step) for n, v in zip(there, values, strict=True)}
            if step in halving.get("rungs", ()):
                keep = rungs.kept(values, at_rung[step], halving["keep"])
                at_rung[step] += values
                there, hypers = [there[i] for i in keep], [hypers[i] for i in keep]
                functions = compiled(pack_program(configs[0]), hypers)
                state = functions.place(jax.tree.map(itemgetter(np.array(keep)), host))
        return [found[n] for n in range(len(trials))]

    return train


def played(search: Search, train: Train, whole: int, seed: int, enough: float = 0.0) -> list[Told]:
    """A search of trials of `whole` steps, to its end or until it has found `enough`."""
    told: list[Told] = []
    while trials := batch(search, [told], seed):
        settings = [{n: v for n, v in trial.items() if n != "seed"} for trial in trials]
        found = zip(settings, train(trials), strict=True)
        told += [Told(s, (value,), step, step == whole) for s, (value, step) in found]
        if min(t.values[0] for t in told) <= enough:
            break
    return told


def measure(flags: dict[str, str]) -> None:
    """Each row: trial-steps as a share of random search's, by repeat, and their median."""
    trials, words = int(flags.get("trials", 128)), flags.get("rows", "tpe/8,tpe/16,asha/16")
    given = {"cell.hidden": int(flags["hidden"])} if "hidden" in flags else {}
    name = f"experiments/{flags.get('study', 'airline_search')}"
    study, halved = (load_study(f"{name}{p}", given) for p in ("", ":halving"))
    search, whole = of_manifest(study.search)._replace(trials=trials), study.config.train.num_steps
    train, shares = trainer(study.config, {}), defaultdict(list)
    for repeat in range(int(flags.get("repeats", 10))):
        seed = 1000 * repeat
        if (bar := kept(flags, repeat, trials)) is None:
            drawn = search._replace(sampler="random", batch=min(16, trials), seed=seed)
            keep(flags, "random", repeat, told := played(drawn, train, whole, seed))
            bar = min(t.values[0] for t in told)
        for row in words.split(","):
            kind, _, size = row.partition("/")
            own = trainer(halved.config, halved.halving) if kind == "asha" else train
            began, mine = time.process_time(), search._replace(batch=int(size), seed=seed)
            keep(flags, row, repeat, told := played(mine, own, whole, seed, bar))
            reached = min(t.values[0] for t in told) <= bar
            share = sum(t.step for t in told) / (whole * trials) if reached else 1.0
            shares[row].append(round(share, 3))
            took = time.process_time() - began
            print(f"{repeat}: random {bar:.4f}; {row}: {share:.1%}, {took:.0f} s CPU", flush=True)
    for row, found in shares.items():
        print(f"{row}: median {statistics.median(found):.1%} of {sorted(found)}")


def keep(flags: dict[str, str], row: str, repeat: int, told: list[Told]) -> None:
    if path := flags.get("keep"):
        lines = [json.dumps([row, repeat, t.setting, t.values[0], t.step]) for t in told]
        with Path(path).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))


def kept(flags: dict[str, str], repeat: int, trials: int) -> float | None:
    """Random search's best of a repeat that has been measured, whole."""
    path = Path(flags.get("keep", "-"))
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    values = [line[3] for line in lines if line[:2] == ["random", repeat]]
    return min(values[:trials]) if len(values) >= trials else None


if __name__ == "__main__":
    measure(dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:]))
