"""SEARCH: what is refused before anything runs, and what samplers ask for."""

import math
import statistics

import pytest
from sweeps import planned, study

from lstm_jax.errors import UsageError
from lstm_jax.report.collect import how
from lstm_jax.sweep import choice, integers, log_uniform, uniform
from lstm_jax.sweep.define.plan import make_plan
from lstm_jax.sweep.define.samplers import Told, batch, propose
from lstm_jax.sweep.define.search import Search, of_manifest
from lstm_jax.sweep.define.study import load_study

RATE, LOSS = "optimizer.learning_rate", {"valid/loss": "min"}
NEEDS = {"tpe": "optuna", "gp": "torch", "cmaes": "cmaes"}
IMPORT = "\nfrom lstm_jax.sweep import choice, integers, log_uniform, uniform\n"
MIXED = {
    RATE: log_uniform(1e-4, 1e-1),
    "cell.gates": choice(("lstm", "cifg")),
    "cell.peepholes": choice(("none", "diagonal")),
    "model.dropout": uniform(0.1, 0.5),
    "cell.hidden": integers(4, 9),
}
NUMBERS = {"a": log_uniform(1e-4, 1e-1), "b": uniform(0, 1), "c": uniform(0, 1), "d": uniform(0, 1)}


def search(sampler, space=NUMBERS, trials=64, size=8, objectives=LOSS, when=None, seed=0):
    when = {name: {f: list(v) for f, v in w.items()} for name, w in (when or {}).items()}
    return Search(sampler, trials, size, seed, objectives, space, when, [{}])


def played(found, objective, enough=-math.inf):
    """A search of a function, to its end or until it has found enough."""
    told = []
    while trials := batch(found, [told], 0):
        settings = [{n: v for n, v in t.items() if n != "seed"} for t in trials]
        told += [Told(s, tuple(objective(s)), 10, True) for s in settings]
        if min(t.values[0] for t in told) <= enough:
            break
    return told


def bowl(setting):
    x = [NUMBERS[name].unit(value) for name, value in setting.items()]
    yield 4 * (x[0] - 0.7) ** 2 + (x[1] - 0.8) ** 2 + 0.5 * (x[2] - 0.3) ** 2 + 0.2 * x[3] ** 2


# ---------------------------------------------------------------- what is refused


def refused(tmp_path, text, match):
    text = text.replace("SPACE", SPACE)
    study(tmp_path, trials="    yield {}", more=f"{IMPORT}SEARCH = {text}\n")
    with pytest.raises(UsageError, match=match):
        load_study(str(tmp_path))


SPACE = '"space": {"optimizer.learning_rate": log_uniform(1e-4, 1e-1)}'


@pytest.mark.parametrize(
    "text, match",
    [
        ("{}", "expected at least one field"),
        ('{"sampler": "tpo", SPACE}', "did you mean 'tpe'"),
        ('{"budget": 5, SPACE}', "SEARCH entry 'budget'"),
        ('{"sampler": "random", "trials": 4, "batch": 8, SPACE}', "no larger than the trials"),
        ('{"sampler": "random", "trials": 0, SPACE}', "positive whole numbers"),
        (
            '{"sampler": "random", "space": {"optimizer.lr": uniform(0, 1)}}',
            "unknown config field 'optimizer.lr'",
        ),
        (
            '{"sampler": "random", "space": {"model.dropout": uniform(0.5, 0.1)}}',
            "the lower bound must be below",
        ),
        (
            '{"sampler": "random", "space": {"model.dropout": uniform(0.5, 1.5)}}',
            r"config.model.dropout=1.5: expected a rate",
        ),
        (
            '{"sampler": "random", "space": {"cell.hidden": uniform(1, 9)}}',
            "cell.hidden is an int",
        ),
        ('{"sampler": "random", "space": {"cell.gates": choice(("lstm", "lsmt"))}}', "unknown ga"),
        ('{"sampler": "random", "space": {"cell.hidden": [4, 8]}}', r"expected uniform\(low, high"),
        (
            '{"sampler": "random", SPACE, '
            '"when": {"optimizer.learning_rate": {"cell.gates": "lstm"}}}',
            "'cell.gates' must stand in the space, before",
        ),
        ('{"sampler": "random", SPACE, "objectives": {"test/loss": "min"}}', "never looks at"),
        (
            '{"sampler": "cmaes", "space": {"cell.gates": choice(("lstm", "cifg"))}}',
            "draws numbers only, not cell.gates: use sampler='tpe'",
        ),
        (
            '{"sampler": "cmaes", "objectives": {"valid/loss": "min", "parameters": "min"}, SPACE}',
            "has one objective, not valid/loss, parameters: use sampler='tpe'",
        ),
        (
            '{"sampler": "gp", "space": {"cell.gates": choice(("lstm", "cifg")), '
            '"model.dropout": uniform(0.1, 0.2)}, '
            '"when": {"model.dropout": {"cell.gates": "cifg"}}}',
            "knows no conditional fields .model.dropout.: use sampler='tpe'",
        ),
        ('{"sampler": "random", "space": {"seed": integers(1, 9)}}', "seeds are no setting"),
        ('{"sampler": "random", "space": {"model.dropout": uniform("a", 1)}}', "two numbers"),
        ('{"big": {"sampler": "random", SPACE}}', "by preset, big: --study=STUDY:PRESET"),
        ('{"sampler": "random", "wait": -1, SPACE}', "how many batches a trial may wait"),
        ('{"sampler": "cmaes", "wait": 1, SPACE}', "is told whole batches: wait=0"),
    ],
)
def test_a_search_that_cannot_be_is_refused_with_the_fix(tmp_path, text, match):
    refused(tmp_path, text, match)


def test_a_sampler_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(tmp_path, "{SPACE}", r"needs optuna: pip install 'lstm-jax\[search\]'")


@pytest.mark.parametrize(
    "halving",
    [
        '{"rungs": 20}',
        '{"rungs": ()}',
        '{"keep": 0.5}',
        '{"rungs": ("20",)}',
        '{"rungs": (20,), "keep": "x"}',
    ],
)
def test_halving_without_rungs_is_refused(tmp_path, halving):
    study(tmp_path, more=f"\nHALVING = {halving}\n")
    with pytest.raises(UsageError, match="expected rungs, a list of multiples of train.eval_every"):
        load_study(str(tmp_path))


def test_a_batch_of_one_has_nothing_to_drop(tmp_path):
    search = IMPORT + 'SEARCH = {"sampler": "random", "trials": 4, "batch": 1, SPACE}\n'
    more = search.replace("SPACE", SPACE) + 'HALVING = {"rungs": (10,)}\n'
    study(tmp_path, trials="    yield {}", more=more)
    with pytest.raises(UsageError, match="nothing to drop"):
        load_study(str(tmp_path))


def test_a_search_has_as_many_trials_as_it_may_ask_for(tmp_path):
    more = IMPORT + 'SEARCH = {"sampler": "random", "trials": 6, "batch": 2, SPACE}\n'
    trials = '    yield {"cell.gates": "lstm"}\n    yield {"cell.gates": "cifg"}'
    study(tmp_path, trials=trials, more=more.replace("SPACE", SPACE))
    plan = make_plan(load_study(str(tmp_path)))
    assert (len(plan.trials), plan.meant) == (4, 12)
    assert how(plan).budget == 12, "trials that may be added where the study names no BUDGET"


def test_fields_that_sweep_fixes_are_not_drawn(tmp_path):
    more = IMPORT + 'SEARCH = {"sampler": "random", SPACE}\n'.replace("SPACE", SPACE)
    study(tmp_path, trials='    yield {"optimizer.learning_rate": 0.1, "seed": 1}', more=more)
    with pytest.raises(UsageError, match="both in the space and set by sweep") as refusal:
        load_study(str(tmp_path))
    assert "seed is set by sweep()" in str(refusal.value)


def test_a_workdir_holds_one_search(tmp_path):
    def more(trials):
        given = f'"sampler": "random", "trials": {trials}, "batch": 4, {SPACE}'
        return f"{IMPORT}SEARCH = {{{given}}}\n"

    planned(tmp_path / "a", tmp_path / "w", trials="    yield {}", more=more(8))
    with pytest.raises(UsageError, match="trials 8 there, 9 here; put SEARCH back"):
        planned(tmp_path / "b", tmp_path / "w", trials="    yield {}", more=more(9))


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    "name", ["random", "tpe", "cmaes", pytest.param("gp", marks=pytest.mark.slow)]
)
def test_a_search_asks_the_same_wherever_it_goes_on(name):
    """Also from a manifest; each trial has its seed, and each value lies in its range."""
    for module in filter(None, [NEEDS.get(name), name == "gp" and "optuna"]):
        pytest.importorskip(module)
    found = search(name, trials=16 if name == "gp" else 64)
    told = played(found, bowl)
    assert len(told) == found.trials
    for done in (0, 8, 16):
        trials = batch(of_manifest(found.written()), [told[:done]], 100)
        assert [t.pop("seed") for t in trials] == list(range(100 + done, 100 + done + len(trials)))
        assert trials == [t.setting for t in told[done : done + len(trials)]]
    for name, draw in NUMBERS.items():
        assert all(draw.low <= t.setting[name] <= draw.high for t in told)


def test_random_draws_do_not_depend_on_the_batch():
    few, many = (played(search("random", size=size), bowl) for size in (5, 32))
    assert few == many


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_conditional_fields_are_drawn_where_they_count(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    when = {"cell.peepholes": {"cell.gates": ["lstm"]}}
    found = search(name, MIXED, trials=32, when=when, objectives={"valid/loss": "min", "x": "max"})
    told = played(found, lambda s: (s[RATE], s["cell.hidden"]))
    assert {len(t.setting) for t in told} == {4, 5}
    for setting in (t.setting for t in told):
        assert ("cell.peepholes" in setting) == (setting["cell.gates"] == "lstm")
        assert setting["cell.hidden"] in range(4, 9)


def test_trials_that_wait_are_known_to_the_sampler():
    """They count as asked, their seeds are taken, and they are taken for bad ones."""
    pytest.importorskip("optuna")
    found = search("tpe", size=4, trials=16)
    told = played(found._replace(trials=8), bowl)
    waiting = [t.setting for t in told[-2:]]
    trials = batch(found, [told[:-2]], 0, [waiting])
    assert [t["seed"] for t in trials] == [8, 9, 10, 11]
    bad, good = ([t._replace(values=(v,)) for t in told[-2:]] for v in (9.0, -9.0))
    assert trials == batch(found, [[*told[:-2], *bad]], 0)
    assert trials != batch(found, [[*told[:-2], *good]], 0)
    assert batch(found._replace(trials=8), [told[:-2]], 0, [waiting]) == []


def test_trials_without_a_value_count_as_the_worst():
    pytest.importorskip("optuna")
    found, told = search("tpe"), []
    for i, s in enumerate(propose(search("random"), [], 16)):
        told.append(Told(s, (math.nan if i % 2 else s["b"],), 5 + i, i % 3 > 0))
    assert len(propose(found, told, 8)) == 8


def test_a_third_of_the_trials_finds_what_random_search_does():
    """Median of 10 repeats, whole batches counted; random search has 128 trials."""
    pytest.importorskip("optuna")
    needed = []
    for seed in range(10):
        best = min(t.values[0] for t in played(search("random", trials=128, seed=seed), bowl))
        needed.append(len(played(search("tpe", trials=128, seed=seed), bowl, best)))
    assert statistics.median(needed) <= 128 / 3
