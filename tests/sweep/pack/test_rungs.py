"""Who goes on at a rung, and who takes over whose state."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sweeps import After, digests, lines, planned, study, summary

from lstm_jax.errors import UsageError
from lstm_jax.sweep.define.study import load_study
from lstm_jax.sweep.pack.loop import Pack
from lstm_jax.sweep.pack.rungs import at_rung, brackets, evolved, kept, numbers_at, remember
from lstm_jax.sweep.workers.worker import work

PBT = {"share": 0.25, "factors": (0.5, 2.0), "fields": {"rate": (0.1, 1.0)}}


def test_the_best_share_goes_on_and_at_least_one():
    assert kept([3.0, 1.0, 2.0, 4.0], [], 0.5) == [1, 2]
    assert kept([1.0, 1.0, 1.0], [], 0.4) == [0, 1]
    assert kept([3.0, 1.0, 2.0, 4.0], [0.1] * 12, 0.25) == [1]


def test_a_good_batch_keeps_more_than_its_share():
    assert kept([3.0, 1.0, 2.0, 4.0], [9.0] * 12, 0.25) == [0, 1, 2, 3]


def test_brackets_are_those_of_hyperband():
    """Li et al. (2018), algorithm 1 with R=81, eta=3: 81, 34, 15, 8 and 5 trials."""
    found = brackets(143, (1, 3, 9, 27), 1 / 3)
    assert [(len(part), rungs) for part, rungs in found] == [
        (81, (1, 3, 9, 27)), (34, (3, 9, 27)), (15, (9, 27)), (8, (27,)), (5, ())
    ]  # fmt: skip
    assert [n for part, _ in found for n in part] == list(range(143))
    assert brackets(1, (10,), 0.5) == [(range(1), ())]


def test_trials_of_a_bracket_compete_among_themselves():
    """Sixteen in brackets of 6, 5, 5, the smaller the number the better; trial 12 has diverged."""
    pack: Any = object.__new__(Pack)
    pack.plan = SimpleNamespace(halving={"brackets": True}, packs=[list(range(10, 26))])
    pack.number, pack.rungs, pack.folder_of = 0, (60, 140), None
    pack.options = SimpleNamespace(best_metric="loss")
    pack.compiled = SimpleNamespace(fetch=lambda tree: tree)
    pack.trials = [SimpleNamespace(number=n) for n in range(10, 26)]
    state = SimpleNamespace(best=SimpleNamespace(value=np.arange(16.0)))
    active = [n for n in range(16) if n != 2]
    pack.step = 60
    assert pack.survivors(state, active) == [0, 1, 3, *range(6, 16)]
    pack.step = 140
    assert pack.survivors(state, active) == [0, 1, 3, 6, 7, 8, *range(11, 16)]


def test_the_value_at_a_rung_is_the_best_up_to_it(tmp_path):
    points = [(10, 3.0), (20, 1.0), (30, 2.0), (40, 0.5)]
    lines = [{"step": s, "split": "valid", "loss": v, "accuracy": v} for s, v in points]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert at_rung(tmp_path, "loss", 30) == 1.0
    assert at_rung(tmp_path, "accuracy", 30) == -3.0
    assert at_rung(tmp_path, "loss", 50) is None


def test_the_worst_copy_the_best_with_perturbed_numbers():
    values = [5.0, float("nan"), 1.0, 2.0, 3.0, 4.0, 9.0, 0.5]
    numbers = [{"rate": r} for r in (0.2, 0.2, 0.4, 0.2, 0.2, 0.2, 0.2, 0.6)]
    found = evolved(values, numbers, PBT, (0, 3, 100))
    assert found == evolved(values, numbers, PBT, (0, 3, 100))
    assert set(found) == {1, 6}
    for change in found.values():
        rate = numbers[change.source]["rate"]
        assert change.source in (2, 7)
        assert change.numbers["rate"] in (rate / 2, min(rate * 2, 1.0))


def test_numbers_of_a_step_and_what_came_after_it_is_dropped(tmp_path):
    assert numbers_at(tmp_path, 10) == {}
    for step, rate in ((10, 0.2), (20, 0.3), (30, 0.4)):
        remember(tmp_path, step, 7, {"rate": rate})
    assert numbers_at(tmp_path, 25) == {"rate": 0.3}
    assert numbers_at(tmp_path, 99) == {"rate": 0.3}
    assert numbers_at(tmp_path, 5) == {}


@pytest.mark.parametrize(
    "more, match",
    [
        ('HALVING = {"rungs": (10,), "across": True}', "earlier batches of a search"),
        (
            'PBT = {"every": 7, "fields": {"optimizer.learning_rate": (0.1, 1)}}',
            "multiple of train",
        ),
        ('PBT = {"every": 10}', "expected {field: .lowest, highest"),
        ('PBT = {"every": 10, "fields": {"cell.hidden": (1, 2)}}', "only numbers"),
        ('PBT = {"every": 10, "fields": {"optimizer.learning_rate": (1, 0.1)}}', "lower one first"),
        ('PBT = {"each": 10, "fields": {}}', "unknown entries"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, more, match):
    study(tmp_path, more=f"\n{more}\n")
    with pytest.raises(UsageError, match=match):
        load_study(str(tmp_path))


# ---------------------------------------------------------------- really run


@pytest.mark.slow
def test_a_population_goes_on_exactly_and_compiles_nothing_anew(tmp_path):
    """The worst take over the best one's state; stopped and resumed, to the bit the same."""
    more = 'PBT = {"every": 10, "fields": {"optimizer.learning_rate": (1e-4, 1.0)}}\n'
    rates = (1e-6, 1e-5, 1e-3, 3e-3, 1e-2, 3e-2, 5e-2, 1e-1)
    trials = f'    yield from grid({{"optimizer.learning_rate": {rates}}})'
    for name in ("whole", "stopped"):
        words = {"config": 'config.optimizer.schedule = "constant"', "more": more}
        planned(tmp_path / name / "study", tmp_path / name, 0, trials=trials, **words)
    assert work(tmp_path / "whole") == 0
    assert work(tmp_path / "stopped", stop=After(tmp_path / "stopped", 5)) == 4
    assert work(tmp_path / "stopped") == 0
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")
    changed = sorted((tmp_path / "whole").glob("trials/*/evolution.jsonl"))
    assert 2 <= len(changed) <= 6
    for path in changed:
        twin = tmp_path / "stopped" / path.relative_to(tmp_path / "whole")
        assert twin.read_text() == path.read_text()
        found = [json.loads(line) for line in path.read_text().splitlines()]
        assert {line["step"] for line in found} <= {10, 20, 30}
        (trained,) = [
            line["learning_rate"]
            for line in lines(tmp_path / "whole", int(path.parent.name))
            if (line["step"], line["split"]) == (found[-1]["step"] + 5, "train")
        ]
        assert trained == pytest.approx(found[-1]["optimizer.learning_rate"], rel=1e-5)


@pytest.mark.slow
def test_a_search_with_halving_measures_batches_against_each_other(tmp_path):
    more = """
from lstm_jax.sweep import log_uniform
SEARCH = {"sampler": "random", "trials": 16, "batch": 8, "space": {
    "optimizer.learning_rate": log_uniform(1e-6, 1e-1)}}
HALVING = {"rungs": (10, 20), "keep": 0.25, "across": True}
"""
    planned(tmp_path / "a", tmp_path / "w", trials="    yield {}", more=more)
    assert work(tmp_path / "w") == 0
    ends = [summary(tmp_path / "w", trial) for trial in range(16)]
    first, second = ([s["status"] for s in ends[i : i + 8]] for i in (0, 8))
    assert first.count("completed") == 1 and first.count("pruned") == 7
    assert second.count("completed") >= 1
    at_first = [at_rung(tmp_path / f"w/trials/{n:04d}", "loss", 10) or 0.0 for n in range(16)]
    best = sorted(at_first)[:4]
    kept_on = [n for n in range(8, 16) if ends[n]["step"] > 10]
    assert kept_on == [n for n in range(8, 16) if at_first[n] in best] or len(kept_on) == 1
