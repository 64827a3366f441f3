"""The protocol on made-up results: what is added, why, when it stops, and what is registered."""

import json

import numpy as np
import pytest
import reports

from lstm_jax import cli
from lstm_jax.errors import UsageError
from lstm_jax.protocol.course import COURSE, amend, follow
from lstm_jax.protocol.steps import beyond, needed, next_step, spent, widen
from lstm_jax.report import register, text
from lstm_jax.report import statistics as s
from lstm_jax.report.analysis import analyse
from lstm_jax.report.collect import read_sweep
from lstm_jax.report.samples import Edge
from lstm_jax.sweep.define.plan import make_plan, pack_folder, read_plan, trial_folder, write_plan
from lstm_jax.sweep.define.study import load_study

BASE = '\nBASELINE = {"cell.gates": "lstm"}\n'
FAST = BASE + "CONFIRM, MARGIN, BUDGET = 6, 0.06, 90\n"
RATES = reports.TRIALS.replace("[1e-3, 1e-2, 1e-1]", "[1e-3, 3e-3]").replace("range(5)", "range(3)")


def planned(folder, more=FAST, trials=RATES):
    """A registered sweep of which nothing has run."""
    reports.study(folder / "study", trials=trials, more=more)
    plan = make_plan(load_study(str(folder / "study")))
    return write_plan(plan._replace(registered=register.register(plan)), folder / "w"), folder / "w"


def runs(workdir, results=reports.outcome, rounds=99):
    """A launch that gives every trial which has none its made-up outcome."""
    seen = []

    def launch(plan):
        seen.append(len(plan.trials))
        if len(seen) > rounds:
            return 4
        for number in range(len(plan.trials)):
            if not trial_folder(workdir, number).exists():
                reports.write(trial_folder(workdir, number), **results(plan, number))
        for number in range(len(plan.packs)):
            pack_folder(workdir, number).mkdir(parents=True, exist_ok=True)
            end = {"status": "completed", "attempt": 1}
            (pack_folder(workdir, number) / "ended.json").write_text(json.dumps(end))
        return 0

    return launch


def kinds(plan):
    return [more.kind for more in plan.grown]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(plan, workdir) of a sweep that went through its course."""
    _, workdir = planned(tmp_path_factory.mktemp("whole"))
    assert follow(workdir, COURSE, runs(workdir)) == 0
    return read_plan(workdir), workdir


@pytest.mark.slow
def test_the_grid_goes_on_until_the_best_is_interior(whole):
    """The best rate is 1e-2, of which the study tried none: 9e-3 and 2.7e-2 are added."""
    plan, workdir = whole
    assert kinds(plan)[:3] == ["rates", "rates", "confirm"]
    rates = {t["optimizer.learning_rate"] for more in plan.grown[:2] for t in more.trials}
    assert rates == {0.009, 0.027}
    assert {t["seed"] for more in plan.grown[:2] for t in more.trials} == {0, 1, 2}
    assert widen(read_sweep(plan, workdir)).trials == []


def test_fresh_seeds_judge_at_the_chosen_setting(whole):
    plan, workdir = whole
    confirmed = plan.grown[2]
    assert confirmed.fresh == [3, 4, 5, 6, 7, 8]
    assert {t["optimizer.learning_rate"] for t in confirmed.trials} == {0.009}
    assert len(confirmed.trials) == 3 * 6
    (section,) = analyse(read_sweep(plan, workdir))
    assert all(t.is_fresh for trials in section.chosen.values() for t in trials)
    assert {row.verdict for row in section.rows} == {"baseline", "worse", "equivalent"}


def test_seeds_are_added_until_intervals_are_narrower_than_the_margin(whole):
    plan, workdir = whole
    (section,) = analyse(read_sweep(plan, workdir))
    for row in section.rows[1:]:
        assert row.difference_high - row.difference_low <= 2 * section.gap.margin
    assert "seeds" in kinds(plan)
    assert spent(read_sweep(plan, workdir)) <= 90


def test_all_that_was_added_is_one_sweep(whole):
    """Numbers go on, packs hold new trials once, and the launch is still found to be the same."""
    plan, workdir = whole
    assert sorted(t for pack in plan.packs for t in pack) == list(range(len(plan.trials)))
    assert len(set(plan.hashes)) == len(plan.hashes) == len(plan.trials)
    assert plan.launched == 18
    again = make_plan(load_study(str(workdir.parent / "study")))
    assert write_plan(again, workdir) == plan
    assert follow(workdir, COURSE, runs(workdir)) == 0
    assert read_plan(workdir) == plan


@pytest.mark.slow
def test_an_interrupted_course_goes_on_where_it_was(tmp_path, whole):
    """Whatever round it is cut off in, the end is the same."""
    for rounds in (0, 2):
        _, workdir = planned(tmp_path / str(rounds))
        assert follow(workdir, COURSE, runs(workdir, rounds=rounds)) == 4
        assert follow(workdir, COURSE, runs(workdir)) == 0
        found = read_plan(workdir)
        assert found.trials == whole[0].trials
        assert [m._replace(created="", ended=0) for m in found.grown] == [
            m._replace(created="", ended=0) for m in whole[0].grown
        ]


def test_it_stops_where_more_than_half_of_the_seeds_diverge(tmp_path, capsys):
    def results(plan, trial):
        rate = plan.trials[trial]["optimizer.learning_rate"]
        score = {"loss": 9.0 - rate}  # worse than the trivial score, so a diverged trial keeps it
        found = {"valid": score, "test": score}
        return found | ({"status": "diverged"} if rate > 1 else {})

    trials = RATES.replace("[1e-3, 3e-3]", "[0.02, 0.2]")
    _, workdir = planned(tmp_path, BASE + "BUDGET = 99\n", trials)
    assert follow(workdir, ("rates",), runs(workdir, results)) == 0
    rates = {t["optimizer.learning_rate"] for t in read_plan(workdir).trials}
    assert rates == {0.02, 0.2, 2.0}
    assert "where more than half of the seeds diverge" in capsys.readouterr().out


def test_a_budget_ends_it_and_is_said(tmp_path, capsys):
    _, workdir = planned(tmp_path, more=FAST.replace("90", "13"))
    assert follow(workdir, COURSE, runs(workdir)) == 0
    assert spent(read_sweep(read_plan(workdir), workdir)) <= 13
    assert "the budget has" in capsys.readouterr().out


def test_a_value_that_cannot_be_is_not_tried(tmp_path):
    """A rate of dropout goes on to 1.2, which no config may have: said, and the rest goes on."""
    trials = """
    yield from grid({"model.dropout": [0.0, 0.4, 0.8], "seed": range(2)})
"""
    more = '\nBASELINE = {}\nREPORT = {"tuned": ("model.dropout",)}\n'
    plan, workdir = planned(tmp_path, more, trials)

    def results(plan, trial):
        score = {"loss": 1.0 - plan.trials[trial]["model.dropout"]}
        return {"valid": score, "test": score}

    runs(workdir, results)(plan)
    step = widen(read_sweep(plan, workdir))
    assert step.trials == []
    assert "1.2" in step.said[0] and "dropout" in step.said[0]


@pytest.mark.parametrize(
    ("tried", "is_largest", "value"),
    [
        ([1e-3, 3e-3, 1e-2], True, 0.0333),
        ([1e-3, 3e-3, 1e-2], False, 0.000333),
        ([0.0, 0.1, 0.2], True, 0.3),
        ([16, 32], True, 64),
    ],
)
def test_a_grid_goes_on_as_it_ended(tried, is_largest, value):
    assert beyond(Edge("a.b", tried, is_largest)) == pytest.approx(value)


def test_width_alone_decides_how_many_seeds():
    """Shifted by any amount, two samples need the same number."""
    x, y = np.random.default_rng(0).standard_normal((2, 10))
    counts = {needed(s.by_means(x + shift, y), 0.8, 0.01, 10) for shift in (0.0, 1.0, 50.0)}
    assert len(counts) == 1
    assert counts.pop() > 10
    assert needed(s.by_means(x, y), 100.0, 0.01, 10) == 10
    assert needed(s.by_means(x, y), 1e-6, 0.01, 10) == 20
    assert needed(s.by_ranks(x[:4], y[:4]), 0.5, 0.01, 4) == 8  # four pairs have no interval


def test_stopping_by_width_keeps_the_level():
    """Ten seeds, then as many as they ask for: with the first ten's freedom, 95 % hold."""
    values = np.random.default_rng(1).standard_normal((2, 400, 40))
    counts, covered = np.full(400, 10), {}
    for early in ((10, 10), s.ALL):
        counts[:] = 10
        for _ in range(3):
            for count in np.unique(counts):
                which = np.flatnonzero(counts == count)
                low, high = s.by_means(*values[:, which, :count], early=early).interval(0.05)
                half = (high - low) / 2
                more = np.ceil(count * (half / 0.8) ** 2).astype(int)
                counts[which] = np.where(half > 0.8, np.clip(more, count + 1, 40), count)
        hits = 0
        for count in np.unique(counts):
            which = np.flatnonzero(counts == count)
            low, high = s.by_means(*values[:, which, :count], early=early).interval(0.05)
            hits += np.sum((low <= 0) & (high >= 0))
        covered[early] = hits / 400
    assert covered[10, 10] > 0.94
    assert covered[10, 10] > covered[s.ALL]


def test_seeds_that_the_study_names_are_the_early_ones(tmp_path):
    """Fresh seeds that ran from the start said how many more there were to be."""
    trials = RATES.replace("range(3)", "range(6)").replace("3e-3", "1e-2")
    more = BASE + 'MARGIN = 0.04\nREPORT = {"fresh": [3, 4, 5]}\n'
    _, workdir = planned(tmp_path, more, trials)
    assert follow(workdir, ("seeds",), runs(workdir)) == 0
    plan = read_plan(workdir)
    assert plan.grown and plan.grown[0].fresh[0] == 6
    assert read_sweep(plan, workdir).reading.early == (3, 4, 5)


def test_paired_variants_get_the_baselines_seeds(tmp_path):
    _, workdir = planned(tmp_path, more=FAST + 'BLOCK = "seed"\n')
    assert follow(workdir, COURSE, runs(workdir)) == 0
    (section,) = analyse(read_sweep(read_plan(workdir), workdir))
    assert {len(trials) for trials in section.chosen.values()} == {section.rows[0].seeds}
    assert all(not row.why for row in section.rows)


def test_a_random_search_has_no_setting_to_extend(tmp_path):
    plan, workdir = planned(tmp_path, more=BASE + 'REPORT = {"select": "all"}\n')
    runs(workdir)(plan)
    step = next_step(read_sweep(plan, workdir), COURSE, 99)
    assert step.trials == [] and "nothing can be added" in step.said[0]


# ---------------------------------------------------------------- what was registered


def test_the_report_says_what_was_registered_and_that_nothing_changed(whole):
    plan, _ = whole
    assert plan.registered["margin"] == 0.06 and plan.registered["confirm"] == 6
    assert plan.registered["family"] == ["baseline", "gates=cifg", "gates=nfg"]
    assert register.departures(plan) == []
    assert plan.registered["hash"] in register.standing(plan)


def test_a_study_that_changes_after_its_launch(tmp_path, capsys):
    """Refused; with `amend` it judges, and the report says since when."""
    plan, workdir = planned(tmp_path)
    runs(workdir)(plan)
    reports.study(tmp_path / "study", trials=RATES, more=FAST.replace("0.06", "0.4"))
    now = make_plan(load_study(str(tmp_path / "study")))
    with pytest.raises(UsageError, match=r"changed since.*\n  margin 0.06 -> 0.4\n.*--amend"):
        amend(plan, now, workdir, allowed=False)
    assert read_plan(workdir) == plan
    there = amend(plan, now, workdir, allowed=True)
    assert read_sweep(there, workdir).reading.margin == 0.4
    said = " ".join(register.departures(there))
    assert "margin 0.06 -> 0.4" in said and "after 18 of 18 trials had ended: margin" in said
    assert amend(there, now, workdir, allowed=False) == there
    assert said.partition(".")[0] in " ".join(text.remarks(read_sweep(there, workdir)))


def test_a_manifest_that_was_edited(tmp_path):
    plan, _ = planned(tmp_path)
    edited = plan._replace(report={**plan.report, "margin": 0.5})
    assert "Not as registered at launch: margin 0.06 -> 0.5." in register.departures(edited)
    forged = plan._replace(registered={**plan.registered, "margin": 0.5})
    assert any("does not have its hash" in line for line in register.departures(forged))
    other = make_plan(load_study(str(tmp_path / "study")))._replace(metric="valid/rmse")
    with pytest.raises(UsageError, match="METRIC has changed since launch"):
        amend(plan, other, tmp_path / "w", allowed=True)


def test_confirm_needs_to_know_how_many(tmp_path, capsys):
    _, workdir = planned(tmp_path, more=BASE)
    assert cli.main(["sweep", "confirm", f"--workdir={workdir}"]) == 2
    assert "names no CONFIRM" in capsys.readouterr().err
    assert cli.main(["sweep", "extend", f"--workdir={workdir}", "--budget=-3"]) == 2
    assert "--budget=-3: expected how many trials" in capsys.readouterr().err
    assert not (workdir / "packs").exists()


def test_a_launch_again_of_a_changed_study_runs_nothing(tmp_path, capsys):
    one = RATES.replace('("lstm", "nfg", "cifg")', '("lstm",)')
    _, workdir = planned(tmp_path, trials=one)
    reports.study(tmp_path / "study", trials=one, more=FAST.replace("CONFIRM", "CONFIRM_"))
    argv = ["sweep", "launch", f"--study={tmp_path / 'study'}", f"--workdir={workdir}"]
    assert cli.main(argv) == 2
    assert "confirm 6 -> 0" in capsys.readouterr().err
    assert not (workdir / "packs").exists()


def test_a_growth_that_does_not_follow(tmp_path):
    _, workdir = planned(tmp_path)
    follow(workdir, ("rates",), runs(workdir, rounds=1))
    path = workdir / "sweep.001.json"
    path.write_text(path.read_text().replace('"first": 18', '"first": 17'))
    with pytest.raises(UsageError, match="goes on from trial 17"):
        read_plan(workdir)
