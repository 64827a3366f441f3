"""Faults that reports once had, each with the trials or the numbers that showed it."""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import reports

from lstm_jax.report import statistics as s
from lstm_jax.report.analysis import analyse
from lstm_jax.report.collect import read_sweep
from lstm_jax.sweep.define.plan import trial_folder
from lstm_jax.tasks.forecast import forecast
from lstm_jax.tasks.music import polyphonic

STORED = Path(__file__).parents[2] / "experiments"
BASE = '\nBASELINE = {"cell.gates": "lstm"}\n'


def stored(study, name):
    """The trials of a published report."""
    return table(study, name, "trials.csv")


def table(study, name, file="table.csv"):
    text = (STORED / study / "results" / name / file).read_text()
    return list(csv.DictReader(text.splitlines()))


def rows(plan, workdir):
    (section,) = analyse(read_sweep(plan, workdir))
    return {row.variant: row for row in section.rows}


def changed(rule):
    """Made-up outcomes, after `rule(gates, rate, seed, found)`."""

    def results(plan, number):
        trial = plan.trials[number]
        names = ("cell.gates", "optimizer.learning_rate", "seed")
        return rule(*(trial[name] for name in names), reports.outcome(plan, number))

    return results


def test_variants_that_share_draws_are_compared_draw_by_draw():
    """Odyssey: unpaired, none of nine differed; paired, Wilcoxon with Holm, three do."""
    scores = defaultdict(dict)
    names = ("cell.gates", "cell.peepholes", "cell.name", "cell.output_activation")
    for trial in stored("odyssey", "small"):
        variant = tuple(trial.get(name, "") for name in names)
        scores[variant][int(trial["seed"])] = float(trial["test/loss"])
    by_draw = {v: np.array([found[i] for i in range(32)]) for v, found in scores.items()}
    base = next(v for v in by_draw if v[:3] == ("lstm", "learned", "lstm"))
    others = [v for v in by_draw if v != base]
    said = s.judge([s.by_ranks(by_draw[v], by_draw[base]) for v in others], math.nan, "min")
    found = {v: verdict for v, verdict in zip(others, said, strict=True)}
    told = {(v[0], v[3]): (f.word, f.different) for v, f in found.items() if f.word != s.UNDECIDED}
    assert len(told) == 3
    assert told["niaf", ""] == ("better", pytest.approx(0.009, abs=5e-4))
    cifg = sorted(told[key] for key in told if key[0] == "cifg")
    assert [word for word, _ in cifg] == ["worse", "worse"]
    assert [p for _, p in cifg] == pytest.approx([0.003, 0.005], abs=1e-3)


def test_validation_and_the_edge_of_the_grid_stand_in_the_words_cell():
    """Airline: 11 of 14 `worse` contradicted by validation, 75 of 119 rates at an edge."""
    found = {row["variant"]: row["warnings"] for row in table("design_rationale", "adding_up")}
    assert "smallest learning_rate tried" in found["gates=multiplicative"]
    assert "validation says the opposite" in found["gates=cifg"]


def test_total_failure_is_worse():
    """Memory, T=50: activity weighting solves 0 of 5 against 5 of 5, the RNN as few."""
    found = [row for row in table("memory", "small") if row["section"] == "length=50"]
    words = {row["variant"]: (row["verdict"], row["failed"]) for row in found}
    assert words["activity_weighting=yes"] == words["name=rnn"] == ("worse", "5")
    assert words["name=gru"] == ("undecided", "0")


def test_scores_that_span_factors_are_compared_on_a_log_scale(tmp_path):
    """150 times worse, with seeds that lie as far apart: nothing to a test of raw scores."""
    spread = {"lstm": [3, 4, 5, 4, 3], "nfg": [400, 600, 90, 2000, 700], "cifg": [3, 4, 4, 5, 3]}

    def rule(gates, rate, seed, found):
        score = spread[gates][seed] / 1e4
        return {"valid": {"loss": score + rate}, "test": {"loss": score}}

    for scale, word in (("linear", "undecided"), ("log", "worse")):
        more = BASE + f'SCALE = "{scale}"\nMARGIN = 0.001\n'
        plan, workdir = reports.sweep(tmp_path / scale, more=more, results=changed(rule))
        assert rows(plan, workdir)["gates=nfg"].verdict == word
        assert rows(plan, workdir)["gates=nfg"].low > 0  # intervals stay in the metric's range


@pytest.mark.parametrize("lost", ["nan", "missing", "pruned"])
def test_survivors_do_not_speak_for_a_setting(tmp_path, lost):
    """At a rate of 0.1, two of five seeds have no score and the others are the best of all."""

    def rule(gates, rate, seed, found):
        if gates == "nfg" and rate == 0.1:
            if seed < 3:
                return {"valid": {"loss": 0.1}, "test": {"loss": 0.1 + seed / 100}}
            nothing = found | {"valid": {"loss": None}, "test": {"loss": None}}
            return {"nan": nothing, "missing": None, "pruned": found | {"status": "pruned"}}[lost]
        return found

    plan, workdir = reports.sweep(tmp_path, results=changed(rule))
    found = rows(plan, workdir)["gates=nfg"]
    assert (found.setting, found.verdict) == ("learning_rate=0.01", "worse")
    assert "2 trials without a score" in found.warnings


@pytest.mark.parametrize(("own", "counted"), [(2.0, 4.0), (61.0, 61.0)])
def test_a_diverged_trial_counts_as_the_trivial_score(tmp_path, own, counted):
    """Or as its own where that is worse: untrained, JSB scores 61 nats and the marginal 11."""

    def rule(gates, rate, seed, found):
        if gates == "nfg" and seed == 0:
            return found | {"status": "diverged", "test": {"loss": own}}
        return found

    plan, workdir = reports.sweep(tmp_path, results=changed(rule))
    sweep = read_sweep(plan, workdir)
    scores = {t.test for t in sweep.trials if t.status == "diverged"}
    assert scores == {counted}
    assert "1 of 5 seeds diverged" in rows(plan, workdir)["gates=nfg"].warnings


def test_fresh_seeds_judge_alone(tmp_path):
    """Seeds 0 to 4 choose 0.01 by validation; 5 to 9 tell the truth of it."""
    trials = reports.TRIALS.replace("range(5)", "range(10)")
    more = BASE + 'CONFIRM = 5\nREPORT = {"fresh": range(5, 10)}\n'

    def rule(gates, rate, seed, found):
        lucky = gates == "nfg" and seed < 5
        shift = -5.0 if lucky else 0.0
        if gates == "nfg" and seed >= 5 and rate == 0.1:
            shift = -9.0  # what fresh seeds would choose
        moved = {"loss": found["valid"]["loss"] + shift}
        return found | {"valid": moved, "test": moved}

    plan, workdir = reports.sweep(tmp_path, trials=trials, more=more, results=changed(rule))
    found = rows(plan, workdir)["gates=nfg"]
    assert (found.setting, found.seeds, found.verdict) == ("learning_rate=0.01", 5, "worse")


def test_word_and_interval_agree(tmp_path):
    """17 of 62 `no difference shown` rows had an interval without 0."""
    plan, workdir = reports.sweep(tmp_path)
    (section,) = analyse(read_sweep(plan, workdir))
    for row in section.rows[1:]:
        span = row.difference_low, row.difference_high
        assert row.verdict == s.word(*span, section.gap.margin, "min")
        assert row.level >= 0.95
        assert (row.different <= 0.05) == (span[0] * span[1] > 0)


def test_constants_that_differ_are_compared(tmp_path):
    def rule(gates, rate, seed, found):
        score = {"loss": {"lstm": 1.0, "nfg": 2.0, "cifg": 1.0}[gates]}
        return {"valid": score, "test": score}

    plan, workdir = reports.sweep(tmp_path, results=changed(rule))
    words = {name: row.verdict for name, row in rows(plan, workdir).items()}
    assert words["gates=nfg"] == "worse"
    assert words["gates=cifg"] == "equivalent"


def test_small_differences_are_equivalent_and_ties_are_undecided(tmp_path):
    """A margin of 0.15: 0.01 apart with a spread of 0.01, and 0.15 apart with a spread of 0.1."""
    noise = np.random.default_rng(0).standard_normal((2, 5))

    def rule(gates, rate, seed, found):
        near = 1.0 + 0.01 * noise[int(gates == "nfg"), seed] + 0.01 * (gates == "nfg")
        score = near + (0.15 + 0.1 * noise[1, seed] if gates == "cifg" else 0.0)
        return {"valid": {"loss": score + rate}, "test": {"loss": score}}

    plan, workdir = reports.sweep(tmp_path, results=changed(rule))
    found = rows(plan, workdir)
    assert found["gates=nfg"].verdict == "equivalent"
    assert found["gates=cifg"].verdict == "undecided"


def test_counts_beyond_the_limit_are_cut_there(tmp_path):
    """First failing n: 501 says that none up to 500 failed; a count is never below 1."""
    counts = {
        "lstm": [90, 60, 120, 80, 100],
        "nfg": [501, 900, 501, 300, 501],
        "cifg": [1, 1, 1, 4, 1],
    }
    more = BASE + 'SCALE = "log"\nREPORT = {"metric": "test/first_failing_n", "limit": 501}\n'

    def rule(gates, rate, seed, found):
        return found | {"test": {"first_failing_n": counts[gates][seed]}}

    plan, workdir = reports.sweep(tmp_path, more=more, results=changed(rule))
    found = rows(plan, workdir)
    assert found["gates=nfg"].verdict == "better"
    assert "4 of 5 at the limit of 501" in found["gates=nfg"].warnings
    assert found["gates=nfg"].high == 501
    assert (found["gates=cifg"].verdict, found["gates=cifg"].low) == ("worse", 1.0)


def test_pairs_lift_what_blocks_share(tmp_path):
    """Seeds lie 1 apart, the variant 0.05 above each: found only in pairs."""

    def rule(gates, rate, seed, found):
        score = seed + 0.05 * (gates == "nfg") + 0.001 * (seed % 2) * (gates == "nfg")
        return {"valid": {"loss": score + rate}, "test": {"loss": score}}

    for block, word in (
        ('""', "undecided"),
        ('"seed"', "worse"),
        ('{"gates=nfg": "seed"}', "worse"),
    ):
        folder = tmp_path / str(len(block))
        more = BASE + "MARGIN = 0.01\n" + (f"BLOCK = {block}\n" if block != '""' else "")
        plan, workdir = reports.sweep(folder, more=more, results=changed(rule))
        assert rows(plan, workdir)["gates=nfg"].verdict == word
        assert rows(plan, workdir)["gates=cifg"].verdict in ("undecided", "equivalent")


# ---------------------------------------------------------------- bad input


def test_a_block_without_partners(tmp_path):
    """Nothing is paired in silence: which blocks, and what to do."""
    trials = """
    yield from grid({"cell.gates": ["lstm"], "seed": range(5)})
    yield from grid({"cell.gates": ["nfg"], "seed": range(2, 7)})
"""
    more = BASE + 'BLOCK = "seed"\nREPORT = {"tuned": ()}\n'

    def results(plan, number):
        return {"valid": {"loss": 1.0 + number / 9}, "test": {"loss": 1.0 + number / 9}}

    plan, workdir = reports.sweep(tmp_path, trials=trials, more=more, results=results)
    found = rows(plan, workdir)["gates=nfg"]
    assert found.verdict == "undecided"
    assert found.why == "4 blocks have no partner, seed 5, 6, 0, 1: run those trials"


def test_a_baseline_that_is_no_better_than_trivial(tmp_path):
    """No gap, no margin: said on the page, and nothing is equivalent."""

    def rule(gates, rate, seed, found):
        score = {"loss": found["test"]["loss"] + 10}
        return {"valid": score, "test": score}

    plan, workdir = reports.sweep(tmp_path, results=changed(rule))
    (section,) = analyse(read_sweep(plan, workdir))
    assert any("is no better than the strongest trivial score (4)" in n for n in section.notes)
    assert all(row.verdict != "equivalent" for row in section.rows)
    assert all(math.isnan(row.share) for row in section.rows)


def test_a_log_scale_of_what_is_not_positive(tmp_path):
    def rule(gates, rate, seed, found):
        return found | {"test": {"loss": 0.0 if gates == "nfg" and seed == 1 else 1.0 + seed}}

    plan, workdir = reports.sweep(tmp_path, more=BASE + 'SCALE = "log"\n', results=changed(rule))
    assert "a log scale needs positive scores: trial" in rows(plan, workdir)["gates=nfg"].why


def test_a_diverged_baseline(tmp_path):
    """It counts as trivial, so there is no gap, and the page says so."""

    def rule(gates, rate, seed, found):
        return found | ({"status": "diverged"} if gates == "lstm" else {})

    plan, workdir = reports.sweep(tmp_path, results=changed(rule))
    (section,) = analyse(read_sweep(plan, workdir))
    assert any("is no better than the strongest trivial score" in n for n in section.notes)
    assert "5 of 5 seeds diverged" in section.rows[0].warnings


# ---------------------------------------------------------------- trivial scores


def test_trivial_scores_carry_the_loss_that_reports_read():
    """JSB's had only nll, airline's only rmse."""
    rolls = [np.random.default_rng(i).random((9, 88)) < 0.1 for i in range(4)]
    for scores in polyphonic.baselines([r.astype(np.float32) for r in rolls], rolls[:2]).values():
        assert scores["loss"] == scores["nll"]


def test_airlines_trivial_losses_are_those_of_its_forecasts():
    """In the units of training: logarithms of the series, by the spread of their changes."""
    from lstm_jax.config.overrides import read_config

    task = forecast.build(read_config("configs/airline.py"))
    scores = task.baselines["test"]
    assert scores["linear autoregression"]["loss"] == pytest.approx(0.3496, abs=1e-4)
    assert scores["seasonal-naive"]["loss"] == pytest.approx(3.424, abs=1e-3)
    rules = [name for name in scores if not name.endswith("linear")]
    ordered = sorted(rules, key=lambda name: scores[name]["rmse"])
    assert len(rules) == 4 and ordered == sorted(rules, key=lambda name: scores[name]["loss"])


def test_trials_are_always_written(tmp_path):
    from lstm_jax.report import build_report

    _, workdir = reports.sweep(tmp_path, results=lambda plan, trial: None)
    build_report(workdir)
    assert len((workdir / "report" / "trials.csv").read_text().splitlines()) == 46
    assert not trial_folder(workdir, 0).exists()


# ---------------------------------------------------------------- censored times


def test_updates_to_solve_are_read_off_the_curve_and_cut_where_the_run_ends(tmp_path):
    """Trivial is 4, so 0.4 solves: `lstm` at step 20, `nfg` never, `cifg` at 10."""
    curves = {"lstm": (3.0, 0.3), "nfg": (3.0, 2.0), "cifg": (0.3, 0.2)}
    more = BASE + 'SCALE = "log"\nREPORT = {"metric": "valid/updates_to_solve", "solved": 0.1}\n'

    def rule(gates, rate, seed, found):
        return found | {"curve": curves[gates], "of_valid": 4.0}

    plan, workdir = reports.sweep(tmp_path, more=more, results=changed(rule))
    sweep, found = read_sweep(plan, workdir), rows(plan, workdir)
    limit = plan.base["train.num_steps"] + plan.base["train.eval_every"]
    assert sweep.reading.limit == limit
    means = {name: row.mean for name, row in found.items()}
    assert means == pytest.approx(
        {"baseline (gates=lstm)": 20.0, "gates=nfg": limit, "gates=cifg": 10.0}
    )
    assert found["gates=nfg"].failed == 5
    assert f"5 of 5 at the limit of {limit}" in found["gates=nfg"].warnings
    assert (found["gates=nfg"].verdict, found["gates=cifg"].verdict) == ("worse", "better")
    assert found["gates=cifg"].difference == pytest.approx(-1.0)  # half the updates
