"""Reports of draws: settings of one variant, the best ten of them, and how to train one alone."""

import csv
import shlex

import numpy as np
import pytest
import reports

from lstm_jax.protocol.steps import widen
from lstm_jax.report import build_report
from lstm_jax.report.analysis import analyse
from lstm_jax.report.collect import read_sweep
from lstm_jax.report.importance import importance
from lstm_jax.report.search import beaten, command, extras, top
from lstm_jax.sweep import claims
from lstm_jax.sweep.follow import status

RATE = "optimizer.learning_rate"
TRIALS = """
    from lstm_jax.sweep import choice, log_uniform, random, uniform
    draws = {
        "optimizer.learning_rate": log_uniform(1e-3, 1e-1),
        "optimizer.momentum": uniform(0.1, 0.9),
        "cell.hidden": choice((8, 16)),
    }
    for seed, draw in enumerate(random(40, draws)):
        yield {**draw, "seed": seed}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Forty draws at random, of which the first was pruned; the rate alone decides."""
    folder = tmp_path_factory.mktemp("drawn")

    def outcome(plan, trial):
        return reports.outcome(plan, trial) | ({"status": "pruned"} if trial == 0 else {})

    plan, workdir = reports.sweep(folder, trials=TRIALS, more="", results=outcome)
    build_report(workdir)
    return plan, workdir


@pytest.mark.slow
def test_drawn_fields_are_tuned_and_the_draws_one_variant(drawn):
    plan, workdir = drawn
    assert list(plan.drawn) == [RATE, "optimizer.momentum", "cell.hidden"]
    sweep = read_sweep(plan, workdir)
    (section,) = analyse(sweep)
    (row,) = section.rows
    assert row.trials == 40 and row.seeds == 1
    scores = {t.number: t.valid for t in sweep.trials if t.status == "completed"}
    best = min(scores, key=lambda n: scores[n])
    assert section.chosen[row.variant][0].number == best
    assert widen(sweep).trials == []  # draws are no grid that could go on
    shares = importance(sweep, section)
    assert next(iter(shares)) == RATE and shares[RATE].share > 0.5


def test_the_ten_best_stand_there_with_the_command_that_trains_the_first(drawn):
    plan, workdir = drawn
    sweep = read_sweep(plan, workdir)
    (section,) = analyse(sweep)
    found = top(sweep, section, section.rows[0].variant)
    assert len(found.rows) == 10
    assert [float(r[1]) for r in found.rows] == sorted(float(r[1]) for r in found.rows)
    number = int(found.rows[0][0])
    words = shlex.split(command(plan, number))
    assert words[:2] == ["lstm-jax", "train"] and words[2].endswith("study/study.py")
    rate = plan.trials[number][RATE]
    assert f"--config.{RATE}={rate}" in words and f"--config.seed={number}" in words
    assert "39 draws by random; 1 more were pruned at a rung" in found.sentences[0]


def test_the_page_says_what_was_found(drawn):
    _, workdir = drawn
    text = (workdir / "report" / "report.md").read_text()
    assert "**The best of 39 draws, by valid/loss (" in text
    assert text.index("## The best") < text.index("## Variants")
    figures = {path.stem for path in (workdir / "report" / "figures").glob("*.svg")}
    assert {"best_so_far", "coordinates", "importance", "budget"} <= figures
    with (workdir / "report" / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_a_launch_closes_with_the_best_setting(drawn):
    plan, workdir = drawn
    (pack, *_) = status.packs(plan, workdir, claims.Watcher())
    (line,) = status.best_setting(plan, [pack._replace(best=1.0, best_trial=3)])
    assert line.startswith("best setting: optimizer.learning_rate=") and "cell.hidden=" in line


def test_what_nothing_beats():
    points = np.array([[1.0, 5.0], [2.0, 3.0], [2.0, 4.0], [9.0, 1.0], [1.0, 5.0]])
    assert [beaten(p, points) for p in points] == [False, False, True, False, False]


def test_sweeps_without_draws_have_no_such_part(tmp_path):
    plan, workdir = reports.sweep(tmp_path, trials='    yield from grid({"seed": range(2)})')
    sweep = read_sweep(plan, workdir)
    assert extras(sweep, analyse(sweep)) == []
