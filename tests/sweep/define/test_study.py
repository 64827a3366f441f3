"""Studies: helpers, expansion, and everything that can be wrong with one."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from sweeps import study

from lstm_jax import cli, sweep
from lstm_jax.config.fields import replaced, resolve
from lstm_jax.config.overrides import apply_overrides, load_module
from lstm_jax.errors import UsageError
from lstm_jax.model.model import build_model
from lstm_jax.sweep.define.plan import make_plan, read_plan, write_plan
from lstm_jax.sweep.define.study import load_study, trial_configs
from lstm_jax.sweep.pack.program import pack_program
from lstm_jax.training.program import build_task, sizes
from lstm_jax.training.train import init_state

ROOT = Path(__file__).parents[3]
AIRLINE = "experiments/airline_lr"
RATE = "optimizer.learning_rate"
STUDIES = sorted(path.parent for path in ROOT.glob("experiments/*/study.py"))


def test_grid_product_zipped():
    both = [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]
    assert list(sweep.grid({"a": [1, 2], "b": [3, 4]})) == both
    assert list(sweep.product(sweep.grid({"a": [1, 2]}), [{"b": 3}, {"b": 4}])) == both
    assert list(sweep.zipped({"a": [1, 2], "b": [3, 4]})) == [both[0], both[3]]
    with pytest.raises(UsageError, match="'a': 2, 'b': 1"):
        list(sweep.zipped({"a": [1, 2], "b": [3]}))


@pytest.mark.parametrize("draw", [sweep.random, sweep.sobol])
def test_draws_repeat_and_stay_inside(draw):
    fields = {
        "a": sweep.log_uniform(1e-4, 1e-1),
        "b": sweep.uniform(-1, 1),
        "c": sweep.choice(["x", "y"]),
        "d": sweep.integers(3, 6),
    }
    found = list(draw(13, fields, seed=7))
    assert found == list(draw(13, fields, seed=7))
    assert found != list(draw(13, fields, seed=8))
    assert len(found) == 13
    assert all(1e-4 <= t["a"] < 1e-1 and -1 <= t["b"] < 1 for t in found)
    assert {t["c"] for t in found} == {"x", "y"}
    assert {t["d"] for t in found} == {3, 4, 5}


def test_sobol_points_fill_every_eighth():
    found = list(sweep.sobol(64, {"a": sweep.uniform(0, 1), "b": sweep.uniform(0, 1)}))
    for name in ("a", "b"):
        counts = np.histogram([t[name] for t in found], bins=8, range=(0, 1))[0]
        assert set(counts) == {8}


def test_log_uniform_is_even_in_the_logarithm():
    draw = sweep.log_uniform(1e-4, 1.0)
    assert draw(0.5) == pytest.approx(1e-2)
    with pytest.raises(UsageError, match="above 0"):
        sweep.log_uniform(0, 1)


def kind(config):
    """What a cell is made of, its size left out: one of each kind is built."""
    kept = {k: v for k, v in config.cell.items() if k not in ("hidden", "t_max")}
    return str(sorted(kept.items()))


def music(folder):
    """Pieces of three chords in a file, so that no data need be there."""
    piece = [[60, 64, 67], [60, 65, 69], [59, 62, 67]]
    path = folder / "music.json"
    path.write_text(json.dumps({"train": [piece] * 64, "valid": [piece], "test": [piece]}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("folder", STUDIES, ids=lambda p: p.name)
def test_every_study_expands_and_builds(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    found = load_study(str(folder))
    assert found.question
    configs = trial_configs(found)
    if found.config.task.name == "polyphonic":
        configs = [replaced(c, {"task.file": str(music(tmp_path))}) for c in configs]
    programs = {kind(config): config for config in configs}
    for config in programs.values():
        program = pack_program(config)
        state = jax.eval_shape(lambda h, p=program: init_state(p, h), resolve(config).hyper)
        assert jax.tree.leaves(state.params)


@pytest.mark.slow
def test_nine_variants_are_nine_packs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["sweep", "plan", "--study=experiments/design_rationale", "--nomeasure"]) == 0
    assert "360 trials in 9 packs of 40" in capsys.readouterr().out


@pytest.mark.slow
def test_every_question_expands(monkeypatch):
    """Each preset of design_rationale: its own question, the LSTM among at least three variants."""
    monkeypatch.chdir(ROOT)
    asked = load_study("experiments/design_rationale").question
    presets = load_module(ROOT / "experiments/design_rationale/study.py").PRESETS
    for preset, task in zip(presets, itertools.cycle(["etth1", "airline", "adding"]), strict=False):
        found = load_study(f"experiments/design_rationale:{preset},{task},smoke")
        variants = {str(t | {"seed": 0, RATE: 0}) for t in found.trials}
        assert found.question != asked
        assert len(variants) >= 3
        assert len(trial_configs(found)) == 20 * len(variants)


SMALLER = {"memory": 480, "counting": 160, "odyssey": 320, "design_rationale": 180}


@pytest.mark.parametrize("name", SMALLER)
def test_a_small_study_keeps_its_variants_and_rates(name, monkeypatch):
    """What `small` cuts are lengths, sizes, steps and draws."""
    monkeypatch.chdir(ROOT)
    task = ",jsb" if name == "design_rationale" else ""
    full = load_study(f"experiments/{name}:{task.strip(',')}")
    small = load_study(f"experiments/{name}:small{task}")
    assert len(small.trials) == SMALLER[name]
    assert small.config.train.num_steps <= full.config.train.num_steps
    cut = {"seed", "task.length", "cell.t_max", "cell.hidden", *full.report.get("tuned", ())}

    def variants(study):
        return {tuple((k, v) for k, v in t.items() if k not in cut) for t in study.trials}

    assert variants(small) == variants(full)
    assert len({t["seed"] for t in small.trials}) >= 5


def test_numbers_share_a_program_and_all_else_does_not(tmp_path):
    trials = """
    yield from product(
        [{"cell.gates": "lstm"}, {"cell.gates": "cifg"}, {"model.dropout": 0.1}],
        grid({"optimizer.learning_rate": [1e-3, 1e-2], "optimizer.clip_norm": [1.0, 2.0]}),
    )
    yield {"model.dropout": 0.2, "optimizer.clip_norm": 3.0}
"""
    plan = make_plan(load_study(str(study(tmp_path / "s", trials=trials))))
    assert plan.packs == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11, 12]]
    assert [len(p) for p in make_plan(load_study(str(tmp_path / "s")), 3).packs] == [
        2,
        2,
        2,
        2,
        3,
        2,
    ]


def test_the_manifest_says_all(tmp_path):
    found = load_study(str(study(tmp_path / "s", trials='    yield {"cell.gates": "cifg"}')))
    plan = make_plan(found)
    write_plan(plan, tmp_path / "w")
    again = read_plan(tmp_path / "w")
    assert again.config(0).to_dict() == trial_configs(found)[0].to_dict()
    assert write_plan(plan, tmp_path / "w") == again
    other = make_plan(load_study(str(study(tmp_path / "s"))))
    with pytest.raises(UsageError, match="another sweep"):
        write_plan(other, tmp_path / "w")


BAD = """
    yield {"optimizer.learnng_rate": 0.1}
    yield {"cell.gates": "cfig"}
    yield {"optimizer.learning_rate": "fast"}
    yield {"model.dropout": 1.5}
    yield {"cell.hiden": 3, "seed": 4}
    yield {"seed": 9}
"""


def test_every_bad_override_is_listed_and_nothing_launched(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = study(tmp_path / "s", trials=BAD)
    assert cli.main(["sweep", "launch", f"--study={folder}", f"--workdir={tmp_path / 'w'}"]) == 2
    error = capsys.readouterr().err
    for word in (
        "'optimizer.learning_rate'",
        "did you mean 'cifg'",
        "'fast'",
        "model.dropout=1.5",
        "'cell.hidden'",
        "trial 4",
        "nothing was launched",
    ):
        assert word in error
    assert "Traceback" not in error
    assert not (tmp_path / "w").exists()
    assert not (tmp_path / "sweeps").exists()


def test_a_reason_that_all_packs_share_is_said_once(tmp_path, capsys):
    file = tmp_path / "none.mat"
    config = f'config = config_file("configs/jsb.py:smoke")\nconfig.task.file = "{file}"'
    trials = '    yield from grid({"cell.hidden": [2, 3, 4, 5, 6]})'
    folder = study(tmp_path / "s", trials=trials, config=config)
    assert cli.main(["sweep", "launch", f"--study={folder}", f"--workdir={tmp_path / 'w'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("none.mat") == 1
    assert "(trials 0, 1, 2, 3, ... and those like it)" in error


def test_a_baseline_is_a_trial_s_by_value(tmp_path):
    """Lists are tuples in a config, and 1 is 1.0."""
    baseline = '{"cell.transforms": (), "cell.forget_bias": 1, "seed": 3}'
    study(tmp_path, trials='    yield {"seed": 3}', more=f"\nBASELINE = {baseline}\n")
    assert load_study(str(tmp_path)).baseline["seed"] == 3


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ("    yield from ()", "sweep() yields dicts"),
        ("    yield 3", "got 3"),
        ('    yield {"seed": 1}\n    yield {"seed": 1}', "twice"),
        ("    yield {}\n    1 / 0", "ZeroDivisionError"),
        ('    yield {"task.csv": "nowhere.csv"}', "nowhere.csv"),
        ('    yield {"seed": 1}\n    yield {7: 1}', "trial 1: 7 is no field: expected a string"),
        ("    yield {}\nBASELINE = {7: 1}", "BASELINE={7: 1}: expected a dict"),
        ("    yield {}\nHALVING = 3", "HALVING=3: expected a dict"),
        ('    yield {}\nBASELINE = {"cell.gatess": "lstm"}', "did you mean 'cell.gates'"),
        (
            '    yield {}\nBASELINE = {"cell.gates": "nfg"}',
            "no trial has these values; there are: ",
        ),
    ],
)
def test_studies_that_cannot_be(tmp_path, trials, words, capsys):
    folder = study(tmp_path / "s", trials=trials)
    assert cli.main(["sweep", "launch", f"--study={folder}", f"--workdir={tmp_path / 'w'}"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sweep"], "plan, run, launch"),
        (["sweep", "lunch"], "did you mean 'launch'"),
        (["sweep", "plan"], "--study=experiments/NAME"),
        (
            ["sweep", "plan", "--study=experiments/airline_l"],
            "did you mean 'experiments/airline_lr'",
        ),
        (["sweep", "plan", "--study=experiments/airline_lr", "--pack=-1"], "--pack=-1"),
        (
            ["sweep", "plan", f"--study={AIRLINE}", "--config.cell.hiden=3"],
            "cell.hidden",
        ),
        (["sweep", "launch", "--study=experiments/airline_lr", "--launcher=slrum"], "'slurm'"),
        (["sweep", "status", "--workdir=configs"], "no sweep.json"),
        (["sweep", "status"], "--workdir=DIR"),
    ],
)
def test_mistakes_on_the_command_line(argv, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(argv) == 2
    assert words in capsys.readouterr().err


BESIDE = """
from lstm_jax.sweep import config_file
def get_config(arg=""):
    return config_file("{spec}", arg)
def sweep():
    yield {{"seed": 1}}
"""


@pytest.mark.parametrize("spec", ["../mine.py:smoke", "./own:er.py:smoke", "own:er.py:smoke"])
def test_a_config_file_is_found_beside_the_study_from_anywhere(spec, tmp_path, monkeypatch):
    folder = tmp_path / "studies" / "s"
    folder.mkdir(parents=True)
    for place in (tmp_path / "studies" / "mine.py", folder / "own:er.py"):
        place.write_text((ROOT / "configs" / "adding.py").read_text())
    (folder / "study.py").write_text(BESIDE.format(spec=spec))
    elsewhere = tmp_path / "a" / "b"
    elsewhere.mkdir(parents=True)
    (tmp_path / "a" / "mine.py").write_text("1 / 0")  # what the current folder would have
    monkeypatch.chdir(elsewhere)
    found = load_study(str(folder)).config
    assert (found.task.name, found.train.num_steps) == ("adding", 20)


def test_a_config_file_that_is_not_beside_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "study.py").write_text(BESIDE.format(spec="../nowhere.py"))
    with pytest.raises(UsageError, match=r"no config file '.*/\.\./nowhere\.py'"):
        load_study(str(tmp_path))


def test_a_key_that_is_no_string_is_told_from_a_library_too():
    from lstm_jax.config.options import default_config
    from lstm_jax.config.overrides import apply_overrides

    with pytest.raises(UsageError, match="7 is no field: expected a string"):
        apply_overrides(default_config("adding"), {7: 1, "seed": 2})  # pyright: ignore


def test_a_name_is_only_a_name(tmp_path):
    folder = study(tmp_path / "a; rm -rf b", trials='    yield {"seed": 1}')
    (tmp_path / "b").mkdir()
    found = load_study(str(folder))
    assert found.name == "a; rm -rf b"
    write_plan(make_plan(found), tmp_path / "a; rm -rf b" / "w")
    assert (tmp_path / "b").exists()
    assert read_plan(tmp_path / "a; rm -rf b" / "w").study == found.name


def test_presets_and_fields_from_the_command_line(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = load_study("experiments/airline_lr:smoke", {"train.num_steps": "40"})
    assert found.config.cell.hidden == 8
    assert all(c.train.num_steps == 40 for c in itertools.islice(trial_configs(found), 3))


CELLS = {"": 240, "temporal_order": 240, "counting": 240, "jsb": 240, "jsb_full": 35}


@pytest.mark.parametrize("task", CELLS)
def test_the_study_of_cells_has_a_metric_a_task(task, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = load_study(f"experiments/cells:{task}" if task else "experiments/cells")
    assert len(found.trials) == CELLS[task]
    names = {"jsb": "test/nll", "jsb_full": "test/nll", "counting": "test/first_failing_n"}
    assert found.report["metric"] == names.get(task, "valid/updates_to_solve")
    assert found.report["scale"] == ("linear" if "jsb" in task else "log")
    announced = (0, 0) if task == "jsb_full" else (10, 120)
    assert (found.report.get("confirm", 0), found.report["budget"]) == announced


def test_a_preset_has_a_budget_of_its_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    report = load_study("experiments/cells:counting,matched").report
    assert (report["metric"], report["confirm"], report["budget"]) == (
        "test/first_failing_n", 10, 60,
    )  # fmt: skip


def test_matched_cells_have_the_lstms_parameters(monkeypatch):
    monkeypatch.chdir(ROOT)
    study, found = load_module(ROOT / "experiments/cells/study.py"), {}
    config = load_study("experiments/cells:matched").config
    for variant, matrices in study.VARIANTS[:8]:
        changed = study.matched(variant, matrices, config.cell.hidden, study.SIZES["adding"])
        resolved = resolve(apply_overrides(config, changed))
        task = build_task(resolved)
        found[str(variant)] = sizes(resolved, task, build_model(resolved, task.spec))[1]
    assert found.pop(str(study.BASELINE)) == 17217
    assert all(abs(count / 17217 - 1) < 0.03 for count in found.values()), found


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("CONFIRM = 1", "CONFIRM=1: expected how many fresh seeds"),
        ("CONFIRM = 2.5", "CONFIRM=2.5: expected how many"),
        ("BUDGET = -1", "BUDGET=-1: expected how many trials"),
        ("BUDGET = True", "BUDGET=True: expected how many trials"),
        ('REPORT = {"metric": "valid/updates_to_solve"}', "needs REPORT['solved']"),
    ],
)
def test_a_protocol_that_cannot_be(more, words, tmp_path):
    study(tmp_path / "s", more="\n" + more)
    with pytest.raises(UsageError) as caught:
        load_study(str(tmp_path / "s"))
    assert words in str(caught.value)
