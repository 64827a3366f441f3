"""A report is made again from what it keeps of its sweep: plan.json and trials.csv."""

import csv
import shutil
from pathlib import Path

import pytest
import reports

from lstm_jax import cli
from lstm_jax.report import build_joint, build_report
from lstm_jax.report.analysis import analyse
from lstm_jax.report.archive import open_sweep
from lstm_jax.report.build import table
from lstm_jax.sweep.define.plan import grow, read_plan, write_growth

MORE = '\nBASELINE = {"cell.gates": "lstm"}\nCONFIRM = 5\n'
FRESH = range(100, 105)
KEPT = ("plan.json", "trials.csv", "table.csv")


def odd(plan, trial):
    """With everything that trials.csv must keep: no score, not begun, diverged, half a curve."""
    kinds = {
        16: {"status": "diverged", "of_valid": 5.0},
        17: {"status": "running", "summary": False},
        18: {"test": None},
    }
    return None if trial == 19 else reports.outcome(plan, trial) | kinds.get(trial, {})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(workdir of a sweep that has grown, the folder of its report)."""
    plan, workdir = reports.sweep(tmp_path_factory.mktemp("kept"), more=MORE, results=odd)
    fresh = [
        {"cell.gates": gates, "optimizer.learning_rate": 1e-2, "seed": seed}
        for gates in ("lstm", "nfg", "cifg")
        for seed in FRESH
    ]
    more = grow(plan, "confirm", fresh, fresh=[*FRESH], budget=9)
    plan, first = write_growth(plan, more, workdir), len(plan.trials)
    reports.fill(plan, workdir, lambda p, n: reports.outcome(p, n) if n >= first else None)
    return workdir, build_report(workdir).parent


def test_the_same_report_without_its_curves(made, tmp_path):
    _, folder = made
    again = build_report(folder, tmp_path / "again").parent
    for name in KEPT:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    ours, theirs = ((place / "report.md").read_text() for place in (folder, again))
    curves = ours[ours.index("![Learning curves]") : ours.index("![Sensitivity")]
    origin = next(line for line in theirs.splitlines(True) if line.startswith("- read from: "))
    assert theirs.replace(origin, "") == ours.replace(curves, "")
    assert "effects.svg" in theirs and "confirm" in theirs


@pytest.mark.slow
def test_what_is_made_again_keeps_as_much(made, tmp_path):
    """Also onto its own place."""
    _, folder = made
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    build_report(build_report(place, place).parent, place)
    assert (place / "plan.json").read_bytes() == (folder / "plan.json").read_bytes()


@pytest.mark.slow
def test_several_reports_join_as_their_sweeps_do(made, tmp_path):
    workdir, folder = made
    _, other = reports.sweep(tmp_path, config="config.task.look_back = 5", results=odd)
    report = build_report(other).parent
    sweeps, kept = ("sweeps", [workdir, other]), ("kept", [folder, report])
    found = [build_joint(places, tmp_path / name).parent for name, places in (sweeps, kept)]
    for name in ("report.md", "table.csv", "trials.csv"):
        one, two = ((place / name).read_text() for place in found)
        assert one == two, name


def refused(capsys, *words):
    assert cli.main(["report", *map(str, words)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("trials.csv", lambda text: text.replace("trivial,", "easy,", 1), "its columns are ['tri"),
        ("trials.csv", lambda text: text.rsplit("\n", 2)[0] + "\n", "it has 59 trials, plan.json"),
        ("trials.csv", lambda text: text.replace("cifg", "nig", 1), "trial 30 has"),
        ("trials.csv", lambda text: text.replace("4.0", "four", 1), "'four'"),
        ("trials.csv", lambda text: "", "cannot be read"),
        ("trials.csv", lambda text: text.replace("completed", "compelted", 1), "'compelted'"),
        (
            "trials.csv",
            lambda text: text.replace("0,completed,lstm", "0,failed,lstm", 1),
            "'failed'",
        ),
        ("plan.json", lambda text: text[:100], "plan.json is damaged"),
        ("plan.json", lambda text: text.replace('"confirm": 5', '"margin": "x"'), "report cannot"),
        ("plan.json", lambda text: text.replace('"origin": {', '"origin": {"a": 3, '), "origin ca"),
        ("plan.json", lambda text: text.replace('"version": 1', '"version": 9'), "has version 9"),
        ("plan.json", lambda text: text.replace('"trivial"', '"worst"'), "is damaged: 'trivial'"),
    ],
)
def test_damage_is_named(made, tmp_path, capsys, name, change, said):
    place = tmp_path / "copy"
    shutil.copytree(made[1], place)
    path = place / name
    path.write_text(change(path.read_text()))
    found = refused(capsys, place)
    assert said in found and "Traceback" not in found


def test_a_table_that_a_spreadsheet_saved_is_read(made, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(made[1], place)
    path = place / "trials.csv"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert build_report(place, tmp_path / "again").exists()


def test_a_report_over_several_is_not_written_over_one_of_them(made, tmp_path, capsys):
    place = tmp_path / "copy"
    shutil.copytree(made[1], place)
    before = (place / "trials.csv").read_bytes()
    _, other = reports.sweep(tmp_path, config="config.task.look_back = 5", results=odd)
    found = refused(capsys, place, other, f"--out={place}")
    assert "holds the report of one sweep, whose trials.csv would be lost" in found
    assert (place / "trials.csv").read_bytes() == before


def test_a_missing_table_is_named(made, tmp_path, capsys):
    place = tmp_path / "copy"
    shutil.copytree(made[1], place)
    (place / "trials.csv").unlink()
    assert "trials.csv cannot be read" in refused(capsys, place)


def test_a_folder_of_sweeps_is_no_sweep(made, capsys):
    assert "folders in it that do: sweep\n" in refused(capsys, made[0].parent)


def test_nothing_runs_in_the_folder_of_a_report(made, capsys):
    assert cli.main(["sweep", "resume", f"--workdir={made[1]}"]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    assert read_plan(made[0]).grown


RESULTS = Path(__file__).parents[2] / "experiments"
PUBLISHED = sorted(path.parent for path in RESULTS.rglob("results/*/plan.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda place: place.name)
def test_published_words_and_numbers_follow_from_the_published_trials(folder):
    again, published = table(analyse(open_sweep(folder)[0])), (folder / "table.csv").read_text()
    rows = zip(csv.reader(again.splitlines()), csv.reader(published.splitlines()), strict=True)
    for ours, theirs in rows:
        assert [*map(rounded, ours)] == [*map(rounded, theirs)]


def rounded(cell):
    """Another NumPy may differ in the last digits."""
    try:
        return f"{float(cell):.9g}"
    except ValueError:
        return cell
