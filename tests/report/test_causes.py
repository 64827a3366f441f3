"""What was measured inside: over all seeds, at initialisation and through training."""

import drawn
import numpy as np
import pytest
import reports

from lstm_jax.report import causes, figures
from lstm_jax.report.analysis import analyse
from lstm_jax.report.collect import read_sweep
from lstm_jax.report.questions import inside
from lstm_jax.sweep.define.plan import trial_folder

REACH = {"lstm": 12, "nfg": 4, "cifg": 12}
SHUT = {0: 0.1, 20: 0.2, 40: 0.4}


def look(folder, step, reach, shut):
    """A made-up diagnosis: the gradient vanishes after `reach` of 20 steps."""
    curve = np.r_[np.nan, np.ones(reach - 1), np.zeros(20 - reach)]
    arrays = {"layer_0/flow/carry": curve, "layer_0/norm/c": np.ones(3)}
    arrays |= {"layer_0/shut/f": np.full(5, shut), "layer_0/open/f": np.full(5, 0.25)}
    (folder / "diagnostics").mkdir(exist_ok=True)
    np.savez(folder / "diagnostics" / f"step_{step:08d}.npz", **arrays)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(sweep, section): every seed longer by one step; gates shut more and more."""
    plan, workdir = reports.sweep(tmp_path_factory.mktemp("measured"))
    for number, trial in enumerate(plan.trials):
        for step, shut in SHUT.items():
            reach = REACH[trial["cell.gates"]] + trial["seed"] - (step > 0)
            look(trial_folder(workdir, number), step, reach, shut)
    (trial_folder(workdir, 5) / "diagnostics" / "step_00000040.npz").write_bytes(b"torn")
    sweep = read_sweep(plan, workdir)
    return sweep, analyse(sweep)[0]


def test_every_seed_counts_before_training_and_after(measured):
    extra = inside(*measured)
    table = {row[0]: row[1:] for row in extra.rows}
    assert table["gates=nfg"] == ["5 of 5", "6 [4, 8]", "5 [3, 7]", "35%", "65%", "0"]
    assert table["baseline (gates=lstm)"][1:3] == ["14 [12, 16]", "13 [11, 15]"]
    assert extra.heads[2:4] == ["reach, at initialisation", "reach, after training"]


def test_what_goes_together_before_training_is_said(measured):
    """`nfg` has the shortest reach and scores worst, so reach and loss go against each other."""
    extra = inside(*measured)
    (said,) = [line for line in extra.sentences if line.startswith("reach at initialisation")]
    value = float(said.partition("correlation ")[2].split()[0])
    assert -1 < value < -0.4 and "over 15 seeds" in said
    assert not any(line.startswith("saturated") for line in extra.sentences)  # equal for all


def test_only_what_reports_read_is_kept_and_torn_files_are_left_out(measured):
    sweep, _ = measured
    assert set(sweep.trials[5].looks) == {0, 20}
    assert "layer_0/norm/c" not in sweep.trials[0].flow
    assert causes.reach({"layer_0/flow/carry": np.r_[np.nan, np.ones(9)]}) == 10


def test_the_figure_shows_medians_from_initialisation_on(measured):
    plot = figures.through_training(*measured)
    assert plot
    reach, shut = drawn.panels(plot.figure)
    assert [[0, 20, 40], [6, 5, 5]] in reach["marks"]
    assert [[0, 20, 40], pytest.approx([0.35, 0.45, 0.65])] in shut["marks"]
