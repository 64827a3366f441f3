"""Trial-steps that a search needs to reach what random search finds in all of its own.

    python -m benchmarks.search [--repeats=10] [--batch=4,8,16] [--trials=128] [--hidden=64]

The task is `experiments/airline_search`: four numbers, 300 steps a trial. Each repeat has seeds of
its own, for the sampler, the weights and the noise; random search's trials are those of the same
seed. A search has reached the value at the end of the batch that holds it; one that never does
counts as all of its trials. `--keep=FILE` appends every trial to a file of JSON lines.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lstm_jax.config.fields import resolve
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.sweep.define.samplers import Told, batch
from lstm_jax.sweep.define.search import Search, of_manifest
from lstm_jax.sweep.define.study import load_study
from lstm_jax.sweep.pack.program import compiled, pack_program

STUDY = "experiments/airline_search"
Train = Callable[[list[dict[str, Any]]], list[float]]


def trainer(config: Any) -> Train:
    """A function that trains these trials as a pack; their best validation losses."""

    def train(trials: list[dict[str, Any]]) -> list[float]:
        configs = [resolve(apply_overrides(config, trial)) for trial in trials]
        functions = compiled(pack_program(configs[0]), [c.hyper for c in configs])
        state, every = functions.init(), configs[0].train.eval_every
        for _ in range(0, configs[0].train.num_steps, every):
            state, _ = functions.validate(functions.chunk(every, state)[0])
        found = functions.fetch((state.best.value, state.bad))
        return [float("nan") if bad else float(v) for v, bad in zip(*found, strict=True)]

    return train


def played(search: Search, train: Train, seed: int, enough: float = -np.inf) -> list[Told]:
    """A search, whole or until it has found `enough`."""
    told: list[Told] = []
    while trials := batch(search, [told], seed):
        settings = [{n: v for n, v in trial.items() if n != "seed"} for trial in trials]
        values = train(trials)
        told += [Told(s, (v,), 0, True) for s, v in zip(settings, values, strict=True)]
        if np.nanmin([t.values[0] for t in told]) <= enough:
            break
    return told


def measure(flags: dict[str, str]) -> None:
    """A row a batch size: the median over repeats of the share of random search's trials."""
    repeats, trials = int(flags.get("repeats", 10)), int(flags.get("trials", 128))
    study = load_study(STUDY, {"cell.hidden": int(flags.get("hidden", 64))})
    train, search = trainer(study.config), of_manifest(study.search)._replace(trials=trials)
    shares: dict[int, list[float]] = {int(n): [] for n in flags.get("batch", "4,8,16").split(",")}
    for repeat in range(repeats):
        seed = 1000 * repeat
        told = played(search._replace(sampler="random", batch=16, seed=seed), train, seed)
        keep(flags, "random", repeat, told)
        bar = np.nanmin([t.values[0] for t in told])
        for size, found in shares.items():
            began = time.perf_counter()
            mine = played(search._replace(batch=size, seed=seed), train, seed, float(bar))
            keep(flags, f"tpe {size}", repeat, mine)
            found.append(len(mine) / trials)
            took = time.perf_counter() - began
            print(f"{repeat}: random {bar:.4f}, tpe {size}: {len(mine)} trials, {took:.0f} s")
            sys.stdout.flush()
    for size, found in shares.items():
        print(f"tpe, batches of {size}: {statistics.median(found):.0%} ({sorted(found)})")


def keep(flags: dict[str, str], name: str, repeat: int, told: list[Told]) -> None:
    if path := flags.get("keep"):
        with open(path, "a") as file:
            for t in told:
                file.write(json.dumps([name, repeat, t.setting, t.values[0]]) + "\n")


if __name__ == "__main__":
    measure(dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:]))
