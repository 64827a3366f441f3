"""Reports of made-up sweeps: what is chosen, claimed, escaped; and every way a sweep can be bad."""

import csv
import json
import re
import time
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, cast

import drawn
import numpy as np
import pytest
import reports
from sweeps import study

from lstm_jax import cli
from lstm_jax.errors import UsageError
from lstm_jax.report import build_report, figures, text
from lstm_jax.report.analysis import analyse
from lstm_jax.report.collect import read_sweep
from lstm_jax.report.figures import saturation
from lstm_jax.report.importance import explained
from lstm_jax.report.questions import extras
from lstm_jax.sweep.define.plan import trial_folder
from lstm_jax.sweep.define.study import load_study

BASE = '\nBASELINE = {"cell.gates": "lstm"}\n'


def section(plan, workdir):
    (found,) = analyse(read_sweep(plan, workdir))
    return found


def rows(plan, workdir):
    return {row.variant: row for row in section(plan, workdir).rows}


def test_parameters_are_those_of_the_chosen_setting(tmp_path):
    """A search may draw the hidden size."""

    def sized(plan, trial):
        rate = plan.trials[trial]["optimizer.learning_rate"]
        return reports.outcome(plan, trial) | {"parameters": int(1e5 * rate)}

    found = rows(*reports.sweep(tmp_path, more=BASE, results=sized))
    assert {row.parameters for row in found.values()} == {1000}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(workdir, report.html of it) of a sweep in which all went well."""
    _, workdir = reports.sweep(tmp_path_factory.mktemp("built"))
    return workdir, build_report(workdir).read_text()


@pytest.mark.parametrize("select", ["setting", "tenth"])
def test_a_study_that_tunes_nothing_says_so(select):
    words = {"choose": "valid/loss", "metric": "test/loss", "direction": "min"}
    judged = {"block": (), "fresh": (), "scale": "linear"}
    reading = SimpleNamespace(tuned=(), select=select, **words, **judged)
    said = text.method(cast("Any", SimpleNamespace(reading=reading)))
    assert "(nothing)" not in said and "no field is tuned" in said.lower()


def test_what_the_numbers_say(tmp_path):
    plan, workdir = reports.sweep(tmp_path)
    found = rows(plan, workdir)
    assert list(found) == ["baseline (gates=lstm)", "gates=nfg", "gates=cifg"]
    worse, same = found["gates=nfg"], found["gates=cifg"]
    assert (worse.verdict, same.verdict) == ("worse", "undecided")
    assert {row.setting for row in found.values()} == {"learning_rate=0.01"}
    scores = {gates: planned_scores(plan, gates, 1e-2) for gates in ("lstm", "nfg")}
    middle = {gates: np.mean(sorted(values)[1:4]) for gates, values in scores.items()}
    assert worse.mean == pytest.approx(middle["nfg"])
    assert worse.low < worse.mean < worse.high
    assert worse.improvement == 0.0
    assert worse.difference == pytest.approx(middle["nfg"] - middle["lstm"])
    gap = 4.0 - middle["lstm"]  # "always <0>" scores 4
    assert worse.share == pytest.approx(worse.difference / gap)
    assert section(plan, workdir).gap.margin == pytest.approx(0.05 * gap)
    assert worse.seconds == pytest.approx(30 / 15)
    assert section(plan, workdir).notes == []


def planned_scores(plan, gates, rate):
    """Of one variant at one rate."""
    trials = enumerate(plan.trials)
    return [
        reports.outcome(plan, n)["test"]["loss"]
        for n, t in trials
        if t["cell.gates"] == gates and t["optimizer.learning_rate"] == rate
    ]


def test_the_figures_of_a_report_show_its_numbers(tmp_path):
    """Effects with their intervals, a panel a variant, every rate that was tried."""
    plan, workdir = reports.sweep(tmp_path)
    sweep, found = read_sweep(plan, workdir), section(plan, workdir)
    plots = {plot.name: drawn.panels(plot.figure) for plot in figures.plots(sweep, found)}
    others = [row for row in found.rows if not row.is_baseline]
    (effects,) = plots["effects"]
    assert effects["ticks"][1] == [row.variant for row in others[::-1]]
    assert effects["labels"][0].endswith("left of 0 is better")
    for y, row in enumerate(others[::-1]):
        assert [[row.difference], [y]] in effects["marks"]
        assert [[row.difference_low, row.difference_high], [y, y]] in effects["marks"]
    rates = sorted({trial["optimizer.learning_rate"] for trial in plan.trials})
    for name in ("learning_curves", "sensitivity", "budget"):
        assert [p["title"] for p in plots[name]] == [row.variant for row in others]
    tried = {x for line in plots["sensitivity"][0]["marks"] for x in line[0]}
    assert sorted(tried) == rates and plots["sensitivity"][0]["scales"][0] == "log"
    (importance,) = plots["importance"]
    assert importance["limits"][0][0] == 0 and "%" in importance["texts"][0]


@pytest.mark.parametrize("sign", [1, -1])
def test_one_variant_that_diverges_does_not_flatten_the_others(tmp_path, sign):
    """Scores from 1.1 to 1.9, the trivial one 4, and one at 1e6; so too where more is better."""

    def far(plan, number):
        found = reports.outcome(plan, number) | {"of_valid": 4.0 * sign, "trivial": 4.0 * sign}
        shift = 1e6 if plan.trials[number]["cell.gates"] == "nfg" else 0.0
        for part in ("valid", "test"):
            found[part] = {"loss": sign * (found[part]["loss"] + shift)}
        return found | {"curve": (sign * (3.0 + shift), sign * (2.0 + shift))}

    more = BASE + ('DIRECTION = "max"\n' if sign < 0 else "")
    plan, workdir = reports.sweep(tmp_path, more=more, results=far)
    sweep, found = read_sweep(plan, workdir), section(plan, workdir)
    plots = {plot.name: plot for plot in figures.plots(sweep, found)}
    for name in ("learning_curves", "sensitivity", "budget"):
        for panel in drawn.panels(plots[name].figure):
            low, high = sorted(sign * end for end in panel["limits"][1])
            assert 0.5 < low < 2 and 4 < high < 5, (name, low, high)
            assert [[0, 1], [4.0 * sign, 4.0 * sign]] in panel["marks"]
    (effects,) = drawn.panels(plots["effects"].figure)
    nfg, cifg = (row for row in found.rows if not row.is_baseline)
    low, high = sorted(sign * end for end in effects["limits"][0])
    assert low < sign * cifg.difference < high < found.gap.size < 1e4
    assert sign * nfg.difference > high and [[sign * high], [1]] in effects["marks"]


@pytest.mark.slow
def test_the_files_of_a_report(built):
    workdir, page = built
    out = workdir / "report"
    names = ("effects", "learning_curves", "sensitivity", "budget", "importance")
    for name in names:
        drawn.picture(out / "figures" / f"{name}.png")
        assert (out / "figures" / f"{name}.svg").read_text().startswith("<?xml")
        assert f'id="{name}"' in page
    table = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [row["verdict"] for row in table] == ["baseline", "worse", "undecided"]
    assert float(table[1]["difference"]) == pytest.approx(0.5, abs=0.2)
    text = (out / "report.md").read_text()
    assert "**Against baseline (gates=lstm), in test/loss. Worse: gates=nfg (+" in text
    assert "always &lt;0&gt; 4" in text
    trials = list(csv.DictReader((out / "trials.csv").read_text().splitlines()))
    assert len(trials) == 45
    assert {"status", "cell.gates", "seed", "valid/loss", "test/loss", "trivial"} <= set(trials[0])
    assert "- command: lstm-jax sweep launch --study=" in text


def test_the_page_needs_nothing_else(built):
    _, page = built
    for tag, name in re.findall(r'<(\w+)[^>]*? (?:src|xlink:href|href)="([^"]*)"', page):
        assert name.startswith("#"), f"<{tag}> fetches {name}"
    assert "@import" not in page
    assert "url(http" not in page


class Balance(HTMLParser):
    """Every tag that is opened is closed."""

    VOID = {"meta", "br", "input", "link", "hr", "img"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
def test_names_are_only_text(tmp_path):
    """Markup, mathematics and table marks in names reach no page as such."""
    nasty = '<script>alert("1")</script> $x_{$ | *b*'
    more = f"\nQUESTION = {nasty!r}\n" + BASE
    _, workdir = reports.sweep(tmp_path, more=more)
    manifest = workdir / "sweep.json"
    text = json.loads(manifest.read_text())
    for trial in text["trials"]:
        if trial["cell.gates"] == "nfg":
            trial["cell.gates"] = nasty
    manifest.write_text(json.dumps(text))
    page = build_report(workdir).read_text()
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(" in page
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    markdown = (workdir / "report" / "report.md").read_text()
    assert "<script>" not in markdown
    heads = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in heads} == {7, 9, 12}


# ---------------------------------------------------------------- what can be wrong


def bad(kind):
    """An outcome for every trial, spoilt in one way."""

    def results(plan, trial):
        found = reports.outcome(plan, trial)
        gates, seed = plan.trials[trial]["cell.gates"], plan.trials[trial]["seed"]
        if kind == "missing" and trial % 4 == 3:
            return None
        if kind == "running" and gates == "cifg":
            return {"status": "running", "summary": False}
        if kind == "failed" and gates == "cifg":
            return {"status": "failed", "summary": False}
        if kind == "diverged" and gates == "nfg":
            return found | {"status": "diverged"}
        if kind == "pruned" and seed > 2:
            return found | {"status": "pruned"}
        if kind == "names" and gates == "nfg":
            return found | {"test": {"accuracy": 0.5}}
        if kind == "constant":
            return {"valid": {"loss": 1.0}, "test": {"loss": 1.0}}
        if kind == "nan" and gates == "nfg":
            return found | {"test": {"loss": None}}
        if kind == "no baseline" and gates == "lstm":
            return None
        return found

    return results


EXPECTED = {
    "missing": ("11 trials not counted, pending", "no setting with a score for every seed", ""),
    "running": ("15 trials not counted, running", "gates=cifg: undecided, not compared", ""),
    "failed": ("15 trials not counted, failed", "gates=cifg: undecided, not compared", ""),
    "diverged": ("15 diverged, counted with the trivial", "gates=nfg: worse", "worse"),
    "pruned": ("18 trials not counted, pruned", "gates=nfg: undecided, not compared", "undecided"),
    "names": ("15 trials not counted, no finite test/loss", "gates=nfg: undecided", "undecided"),
    "constant": ("", "gates=nfg: equivalent; 0 [0, 0]", "equivalent"),
    "nan": ("no finite test/loss", "gates=nfg: undecided, not compared", "undecided"),
    "no baseline": ("15 trials not counted, pending", "the baseline has no setting", "undecided"),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_bad_sweep_is_reported_as_such(tmp_path, kind):
    plan, workdir = reports.sweep(tmp_path, results=bad(kind))
    note, sentence, verdict = EXPECTED[kind]
    found = section(plan, workdir)
    assert not note or any(note in line for line in found.notes), found.notes
    assert any(sentence in line for line in found.sentences), found.sentences
    assert not verdict or found.rows[1].verdict == verdict
    if note and kind in ("running", "nan"):  # those that leave a plot without numbers
        assert note in build_report(workdir).read_text()


def test_nothing_has_begun(tmp_path):
    plan, workdir = reports.sweep(tmp_path, results=lambda plan, trial: None)
    page = build_report(workdir).read_text()
    assert "No trial has ended yet" in page
    assert {row.verdict for row in section(plan, workdir).rows} == {"baseline", "undecided"}


def test_one_seed(tmp_path):
    trials = reports.TRIALS.replace("range(5)", "range(1)")
    plan, workdir = reports.sweep(tmp_path, trials=trials)
    assert "Nothing is claimed of how much of it is luck" in build_report(workdir).read_text()
    found = rows(plan, workdir)["gates=nfg"]
    assert (found.verdict, found.why) == ("undecided", "the baseline has one score")


@pytest.mark.slow
def test_no_trial_of_the_baseline(tmp_path):
    """A study is refused then; a sweep that was launched before is not."""
    plan, workdir = reports.sweep(tmp_path, more=BASE)
    plan = plan._replace(baseline={"cell.gates": "nig"})
    path = workdir / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"baseline": plan.baseline}))
    assert "no difference is claimed" in build_report(workdir).read_text()
    assert {row.verdict for row in rows(plan, workdir).values()} == {"undecided"}


def test_a_metric_that_no_trial_has(tmp_path):
    _, workdir = reports.sweep(tmp_path, more=BASE + 'REPORT = {"metric": "test/accuracy"}\n')
    page = build_report(workdir).read_text()
    assert "No trial has test/accuracy" in page
    assert "there are: valid/loss, valid/rmse, test/loss, test/rmse" in page


def test_duplicates_count_once(tmp_path):
    """Two trials that say the same in different words have one config."""
    trials = reports.TRIALS + '    yield {"optimizer.learning_rate": 1e-2, "seed": 0}\n'
    plan, workdir = reports.sweep(tmp_path, trials=trials.replace("[1e-3, 1e-2, 1e-1]", "[1e-2]"))
    found = section(plan, workdir)
    assert found.rows[0].seeds == 5
    assert "1 trial not counted, the same config as trial 0: trial 15." in found.notes


@pytest.mark.slow
def test_damaged_files_are_missing_ones(tmp_path):
    plan, workdir = reports.sweep(tmp_path)
    (trial_folder(workdir, 3) / "summary.json").write_text("{torn")
    (trial_folder(workdir, 4) / "metrics.jsonl").write_bytes(b"\xff\x00{}\n[1]\n")
    (trial_folder(workdir, 5) / "status.json").write_text("[]")
    build_report(workdir)
    notes = section(plan, workdir).notes
    assert "1 trial not counted, its summary.json is missing or damaged: trial 3." in notes


@pytest.mark.slow
def test_sections_and_the_best_tenth(tmp_path):
    """`by` compares within its values; `tenth` takes the best by validation, at least five."""
    more = BASE + 'REPORT = {"by": ("train.batch_size",), "select": "tenth"}\n'
    trials = """
    yield from product(
        [{"cell.gates": "lstm"}, {"cell.gates": "nfg"}],
        [{"train.batch_size": 8}, {"train.batch_size": 16}],
        random(60, {"optimizer.learning_rate": log_uniform(1e-3, 1e-1)}),
    )
"""
    trials = "    from lstm_jax.sweep import log_uniform, random\n" + trials
    plan, workdir = reports.sweep(tmp_path, trials=trials, more=more)
    found = analyse(read_sweep(plan, workdir))
    assert [s.title for s in found] == ["batch_size=8", "batch_size=16"]
    assert [row.setting for row in found[0].rows] == ["best 6 draws", "best 6 draws"]
    best = sorted(
        (reports.outcome(plan, t)["valid"]["loss"], t)
        for t in range(len(plan.trials))
        if plan.trials[t]["cell.gates"] == "lstm" and plan.trials[t]["train.batch_size"] == 8
    )[:6]
    chosen = found[0].chosen[found[0].rows[0].variant]
    assert {t.number for t in chosen} == {t for _, t in best}
    page = build_report(workdir).read_text()
    assert 'id="batch_size-8_effects"' in page


SIZES = reports.TRIALS.replace("product(", 'product([{"train.batch_size": b} for b in (8, 16)],')
FAR = BASE + 'REPORT = {"by": ("train.batch_size",), "solved": 0.3}\n'


def diagnose(folder, layers=1, reach=4):
    """A made-up diagnosis: a gradient that vanishes after `reach` steps, gates shut or open."""
    arrays = {}
    for layer in range(layers):
        arrays[f"layer_{layer}/flow/carry"] = np.r_[np.nan, np.ones(reach - 1), np.zeros(20)]
        arrays |= {f"layer_{layer}/{kind}/f": np.full(5, 0.25) for kind in ("shut", "open")}
    (folder / "diagnostics").mkdir()
    np.savez(folder / "diagnostics" / "step_00000001.npz", **arrays)


@pytest.mark.slow
def test_how_far_each_variant_solves_and_its_gradient_reaches(tmp_path):
    """Trivial is 4.0, so 1.2 solves: `lstm` and `cifg` (1.1) do, `nfg` (1.6) does not."""
    plan, workdir = reports.sweep(tmp_path, trials=SIZES, more=FAR)
    page = build_report(workdir).read_text()
    assert "Gradients were not measured" in page
    for number, trial in enumerate(plan.trials):
        diagnose(trial_folder(workdir, number), reach=4 if trial["cell.gates"] == "nfg" else 12)
    sweep = read_sweep(plan, workdir)
    extra = extras(sweep, analyse(sweep))[0]
    table = {row[0]: row[1:] for row in extra.rows}
    assert table["gates=nfg"] == ["none", "0 of 5", "4", "0 of 5", "4"]
    solved, *_, reach = table["baseline (gates=lstm)"]
    assert (solved, reach) == ("16", "12")
    assert "gates=nfg: solves none of batch_size 8, 16; at batch_size 8 its gradient vanishes " in (
        " ".join(extra.sentences)
    )
    assert any("where it does not, 2 of 4" in words for words in extra.sentences)
    build_report(workdir)
    assert "| gates=nfg | none | 0 of 5 | 4 |" in (workdir / "report/report.md").read_text()


def test_importance_is_not_scaled_and_noise_has_none():
    """Ranks of pure noise: nothing explains them; then the variant decides all of them."""
    random = np.random.default_rng(0)
    names = [f"v{n % 9}" for n in range(180)]
    rates = [10.0 ** (n // 9 % 4) for n in range(180)]
    draws = [str(n // 9) for n in range(180)]
    noise = random.permutation(180.0 + np.arange(180))
    for column in (names, rates, draws):
        assert explained(column, noise, draws).share < 0.05
    planned = np.array([20.0 * int(name[1:]) for name in names]) + noise / 100
    assert explained(names, planned, draws).share > 0.95
    assert explained(rates, planned, draws).share < 0.05
    assert 0 < explained(rates, noise, draws).error < 0.1


@pytest.mark.slow
def test_pairs_and_what_was_published(tmp_path):
    more = (
        BASE
        + """REPORT = {
    "pairs": (("gates=nfg", "gates=cifg"), ("gates=nfg", "gates=nog")),
    "published": {
        "source": "somebody", "verdicts": {"gates=nfg": "worse", "gates=gone": "?"},
        "importance": {"optimizer.learning_rate": "most of it"},
    },
}
"""
    )
    _, workdir = reports.sweep(tmp_path, more=more)
    build_report(workdir)
    text = (workdir / "report" / "report.md").read_text()
    assert "| gates=nfg | gates=cifg | worse | 0.5" in text
    assert "gates=nog" not in text
    assert "| gates=nfg | worse | worse | 0.5" in text
    assert "Theirs: somebody." in text
    assert "| learning_rate | most of it | " in text


def test_every_layer_is_shown(tmp_path):
    plan, workdir = reports.sweep(tmp_path)
    for number in range(len(plan.trials)):
        diagnose(trial_folder(workdir, number), layers=2)
    plot = saturation(read_sweep(plan, workdir), section(plan, workdir))
    assert plot
    titles = [axis.get_title() for axis in plot.figure.axes]
    assert titles == ["gate f, layer 0", "gate f, layer 1"]
    widths = {bar.get_width() for axis in plot.figure.axes for bar in axis.patches}
    assert widths == {-0.25, 0.25}


def test_validation_says_the_opposite(tmp_path):
    def results(plan, trial):
        found = reports.outcome(plan, trial)
        if plan.trials[trial]["cell.gates"] == "nfg":
            found["valid"] = {"loss": found["valid"]["loss"] - 1.0}
        return found

    plan, workdir = reports.sweep(tmp_path, results=results)
    found = rows(plan, workdir)["gates=nfg"]
    assert found.verdict == "worse"
    assert found.warnings == ("validation says the opposite",)


@pytest.mark.slow
def test_the_largest_rate_was_the_best(tmp_path):
    """The warning stands in the word's own cell."""
    trials = reports.TRIALS.replace("1e-3, 1e-2, 1e-1", "1e-4, 1e-3, 1e-2")
    plan, workdir = reports.sweep(tmp_path, trials=trials)
    found = rows(plan, workdir)
    assert all("largest learning_rate tried" in row.warnings for row in found.values())
    page = build_report(workdir).read_text()
    assert "<b class=worse>worse</b><small>largest learning_rate tried</small></td>" in page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('REPORT = {"tuend": ()}', "did you mean 'tuned'"),
        ('REPORT = {"select": "best"}', "known: all, setting, tenth"),
        ("MARGIN = 0", "MARGIN=0: expected a share of the gap"),
        ("MARGIN = 5", "above 0 and below 1, such as 0.05"),
        ('SCALE = "lgo"', "did you mean 'log'"),
        ('SCALE = "rank"', "say which trials are pairs, as in BLOCK='seed'"),
        ('SCALE = "solved"', "SCALE='solved' needs REPORT['solved']"),
        ('BLOCK = "sede"', "did you mean 'seed'"),
        ("CONFIRM = 1", "expected how many fresh seeds judge each variant, 2 or more"),
        ('REPORT = {"limit": 0}', "expected a positive number, the value beyond which"),
        ('REPORT = {"direction": "down"}', "known: max, min"),
        ('REPORT = {"solved": 2}', "expected a share of the trivial score"),
        ('REPORT = {"published": {"sorce": ""}}', "did you mean 'source'"),
        ('REPORT = {"by": ("task.lenght",)}', "unknown field of REPORT 'task.lenght'"),
    ],
)
def test_mistakes_in_report(tmp_path, text, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        load_study(str(study(tmp_path, more=f"\n{text}\n")))


def test_the_verb(built, tmp_path, capsys):
    workdir, page = built
    assert cli.main(["report", f"--workdir={workdir}", f"--out={tmp_path / 'r'}"]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert (tmp_path / "r" / "report.html").read_text() == page
    assert cli.main(["report"]) == 2
    assert cli.main(["report", "--workdir=configs"]) == 2
    assert "no sweep.json" in capsys.readouterr().err


@pytest.mark.slow
def test_360_trials_in_a_minute(tmp_path):
    """The nine variants of design_rationale, or as many."""
    trials = """
    gates = ("lstm", "nig", "nfg", "nog", "cifg", "niaf", "noaf", "janet", "no_memory")
    rates = [1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2]
    yield from product(
        [{"cell.gates": g} for g in gates],
        grid({"optimizer.learning_rate": rates, "seed": range(5)}),
    )
"""
    plan, workdir = reports.sweep(tmp_path, trials=trials)
    assert len(plan.trials) == 360
    began = time.process_time()
    path = build_report(workdir)
    assert time.process_time() - began < 60
    assert path.stat().st_size < 3_000_000
