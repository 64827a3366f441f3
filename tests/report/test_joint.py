"""Several sweeps as one report: what is planted comes out, what does not fit is refused."""

import csv

import numpy as np
import pytest
import reports

from lstm_jax import cli
from lstm_jax.errors import UsageError
from lstm_jax.report import build_joint
from lstm_jax.report import statistics as s
from lstm_jax.report.collect import read_sweep
from lstm_jax.report.joint import forest, source
from lstm_jax.report.names import label_variants
from lstm_jax.report.register import register
from lstm_jax.report.together import join, said
from lstm_jax.sweep.define.plan import read_plan

BASE = '\nBASELINE = {"cell.gates": "lstm"}\n'
TRIALS = reports.TRIALS.replace("[1e-3, 1e-2, 1e-1]", "[1e-3, 1e-2]")
# A gap of 3 each; on the second task scores are a hundred times as large and `cifg` is better.
EFFECTS = {"one": {"nfg": 0.9, "cifg": 0.0}, "two": {"nfg": 0.9, "cifg": -0.9}}
SCALES = {"one": 1.0, "two": 100.0}


def planted(folder, task, effects=None, scale=None, trials=TRIALS, config="", more=BASE):
    """A made-up sweep of a task of that name, told apart by its look-back."""
    shifts, factor = effects or EFFECTS[task], scale or SCALES.get(task, 1.0)

    def results(plan, number):
        trial = plan.trials[number]
        noise = 0.1 * np.random.default_rng(number).standard_normal()
        far = 0.0 if trial["optimizer.learning_rate"] == 1e-2 else 1.0
        score = factor * (1.0 + shifts.get(trial["cell.gates"], 0.0) + noise)
        found = {"valid": {"loss": score + factor * far}, "test": {"loss": score}}
        return found | {"trivial": 4.0 * factor}

    look = f"config.task.look_back = {3 + len(task) + ord(task[0]) % 7}"
    return reports.sweep(folder, trials, more, results, "\n".join(filter(None, (look, config))))[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    return [planted(root / name, name) for name in ("one", "two")]


def read_sweep_at(place):
    return read_sweep(read_plan(place), place)


def joined(places):
    return join(list(map(read_sweep_at, places)), list(map(str, places)))


def test_planted_effects_over_two_tasks(two):
    joint = joined(two)
    words = {row.variant: said(row) for row in joint.overall}
    assert words["gates=nfg"] == "worse"
    assert words["gates=cifg"] == "better on some"
    base, nfg, cifg = joint.overall
    assert base.is_baseline and base.iqm[0] == pytest.approx(1.0, abs=0.05)
    assert nfg.iqm[0] == pytest.approx(0.7, abs=0.06)  # 0.9 of a gap of 3 on either scale
    assert nfg.iqm[1] < nfg.iqm[0] < nfg.iqm[2] < 1
    assert nfg.improvement[0] == 0.0
    assert cifg.improvement[0] == pytest.approx(0.75, abs=0.2)
    levels = {row.level for s_ in joint.strata for row in s_.section.rows if row.level == row.level}
    assert min(levels) <= 1 - 0.05 / 4 + 1e-9 and max(levels) >= 1 - 0.05 / 4  # one family of four


def test_the_forest_leaves_no_more_room_below_than_its_legend_takes(two):
    figure = forest(joined(two)).figure
    figure.draw_without_rendering()
    below = figure.axes[0].get_position().y0 * figure.get_figheight()
    assert below < 0.9, "inches: ticks, a label and a row of the legend"


def test_every_margin_is_told(tmp_path):
    margins = {"one": BASE + "MARGIN = 0.1\n", "two": BASE + "MARGIN = 0.02\n"}
    places = [planted(tmp_path / name, name, more=more) for name, more in margins.items()]
    page = build_joint(places, tmp_path / "out").read_text()
    assert "inside the margin, 0.1 or, by sweep, 0.02 of the gap" in page


def test_the_files_of_a_joint_report(two, tmp_path, capsys):
    assert cli.main(["report", *map(str, two), f"--out={tmp_path / 'r'}"]) == 0
    out = tmp_path / "r"
    page = (out / "report.html").read_text()
    assert "Over 2 tasks, against the baseline. Worse: gates=nfg" in page
    assert 'id="over_all"' in page and "What hangs on a choice" in page
    table = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [row["verdict"] for row in table].count("worse") == 2
    trials = list(csv.DictReader((out / "trials.csv").read_text().splitlines()))
    assert len(trials) == 60 and {row["judges"] for row in trials} == {"0", "1"}
    assert "| gates=nfg | worse +" in (out / "report.md").read_text()
    assert str(out / "report.html") in capsys.readouterr().out


def matched(sizes):
    """The trials of TRIALS, two cells with a hidden size of their own."""
    sized = [f'{{"cell.gates": {name!r}, "cell.hidden": {size}}}' for name, size in sizes.items()]
    kept = '[{"cell.gates": "lstm"}, ' + ", ".join(sized) + "]"
    found = TRIALS.replace('[{"cell.gates": g} for g in ("lstm", "nfg", "cifg")]', kept)
    assert found != TRIALS
    return found


def test_hidden_sizes_at_matched_counts_name_no_variant(tmp_path, capsys):
    sizes = {"one": {"nfg": 20, "cifg": 20}, "two": {"nfg": 31, "cifg": 30}}
    places = [planted(tmp_path / n, n, trials=matched(sizes[n])) for n in sizes]
    joint = joined(places)
    assert [row.variant for row in joint.overall] == ["baseline", "gates=nfg", "gates=cifg"]
    assert all(len(row.rows) == 2 for row in joint.overall)
    assert cli.main(["report", *map(str, places), f"--out={tmp_path / 'r'}"]) == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "cell.hidden follows from the rest of a variant and its task" in page
    alone = read_sweep_at(places[1])
    assert {label for label in label_variants(alone).values() if "nfg" in label} == {
        "gates=nfg, hidden=31"
    }


def test_fields_that_a_variant_needs_stay_in_its_name(tmp_path):
    two_sizes = TRIALS.replace(
        '[{"cell.gates": g} for g in ("lstm", "nfg", "cifg")]',
        '[{"cell.gates": "lstm"}] + [{"cell.gates": "nfg", "cell.hidden": h} for h in SIZES]',
    )
    sizes = {"one": "(20, 30)", "two": "(21, 31)"}
    places = [planted(tmp_path / n, n, trials=two_sizes.replace("SIZES", sizes[n])) for n in sizes]
    assert len(joined(places).overall) == 5
    apart = planted(tmp_path / "again", "one", trials=matched({"nfg": 50, "cifg": 50}))
    other = planted(tmp_path / "other", "one", trials=matched({"nfg": 20, "cifg": 20}))
    assert len(joined([apart, other]).overall) == 5  # one task: two sizes are two variants


def test_what_was_registered_of_each_sweep_is_told(two):
    joint = joined(two)
    plans = [s.sweep.plan._replace(registered=register(s.sweep.plan)) for s in joint.strata]
    pairs = zip(joint.strata, plans, strict=True)
    strata = [s._replace(sweep=s.sweep._replace(plan=plan)) for s, plan in pairs]
    assert source(joint._replace(strata=strata)).count(", registered</dt>") == 2


REFUSED = {
    "trained differently": ({"config": "config.train.num_steps = 80"}, "train.num_steps 40 and 80"),
    "other data": ({"scale": 2.0}, "other data: their trivial scores are always <0> 4"),
    "both have": ({}, "both have gates=nfg, gates=cifg: which counts?"),
    "different metrics": (
        {"more": BASE + 'REPORT = {"metric": "valid/loss"}\n'},
        "different metrics, test/loss and valid/loss",
    ),
    "no gap": ({"effects": {"lstm": 9.0}}, "its scores cannot be normalised. The baseline ("),
    "baselines": (
        {"more": '\nBASELINE = {"cell.gates": "cifg"}\n'},
        "their baselines differ: cell.gates lstm there, cifg here",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_sweeps_that_cannot_be_put_together(two, tmp_path, kind):
    changed, reason = REFUSED[kind]
    other = planted(tmp_path, "one", **changed)
    with pytest.raises(UsageError, match="cannot be put together") as caught:
        joined([two[0], other])
    assert reason in str(caught.value)


def test_the_same_sweep_twice_and_no_folder_to_write_to(two, tmp_path, capsys):
    with pytest.raises(UsageError, match="named twice"):
        build_joint([two[0], two[0]], tmp_path)
    assert cli.main(["report", *map(str, two)]) == 2
    assert "--out=DIR" in capsys.readouterr().err
    assert cli.main(["report", "out=here"]) == 2
    assert "did you mean --out=here?" in capsys.readouterr().err


# ---------------------------------------------------------------- statistics


def test_the_interquartile_mean_weighs_strata_alike():
    """Twice the runs of one task are not twice its weight; equal ones are as in rliable."""
    x = np.random.default_rng(0).standard_normal(16)
    assert s.weighted_iqm(x, np.ones(16)) == pytest.approx(s.interquartile_mean(x))
    few, many = np.array([0.0, 0.0]), np.ones(200)
    estimate, low, high = s.stratified_iqm([few, many])
    assert estimate == pytest.approx(0.5) and low <= estimate <= high


def test_the_bootstrap_covers():
    """95 % intervals of the interquartile mean of two tasks with ten runs: at least 88 %."""
    random, hits = np.random.default_rng(0), 0
    for _ in range(60):
        _, low, high = s.stratified_iqm(list(random.standard_normal((2, 10))))
        hits += low <= 0 <= high
    assert hits >= 0.85 * 60


def test_the_probability_of_improvement():
    ours, theirs = [np.array([1.0, 2.0]), np.array([0.0, 0.0])], [np.zeros(2), np.zeros(2)]
    estimate, low, high = s.stratified_improvement(ours, theirs)
    assert (estimate, low, high) == (0.75, 0.75, 0.75)
