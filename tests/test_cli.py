"""Every verb through its real entry point, and what it says to those who mistype."""

import csv
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import drawn
import pytest

from lstm_jax import cli
from lstm_jax.commands.arguments import config_arguments, parse
from lstm_jax.commands.train import default_workdir
from lstm_jax.config.fields import flatten
from lstm_jax.config.options import default_config
from lstm_jax.training.check import load_config

ROOT = Path(__file__).parent.parent
ADDING = str(ROOT / "configs" / "adding.py") + ":smoke"
AIRLINE = str(ROOT / "configs" / "airline.py") + ":smoke"


def call(*argv):
    """Exit code of a command line run in this process."""
    return cli.main([str(word) for word in argv])


def console(*argv, cwd=ROOT):
    """The installed program, as a user starts it."""
    program = Path(sys.executable).parent / "lstm-jax"
    return subprocess.run([program, *argv], cwd=cwd, capture_output=True, text=True, timeout=300)


def command(verb):
    return importlib.import_module(cli.VERBS[verb][0])


@pytest.fixture(scope="module")
def adding(tmp_path_factory):
    """A finished run of the adding problem, trained by the installed program."""
    workdir = tmp_path_factory.mktemp("adding") / "run"
    done = console("train", f"--config={ADDING}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def airline(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("airline") / "run"
    assert call("train", f"--config={AIRLINE}", f"--workdir={workdir}") == 0
    return workdir


def test_the_bare_program_teaches():
    done = console()
    assert done.returncode == 0
    for word in (*cli.VERBS, "--config=configs/airline.py", "--help", "Exit codes"):
        assert word in done.stdout


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert call(verb, "--help") == 0
    out = capsys.readouterr().out
    assert f"\n  lstm-jax {verb} " in out
    assert ("\n\n  --" in out) == bool(importlib.import_module(cli.VERBS[verb][0]).FLAGS)


def test_version_prints_three_numbers(capsys):
    assert call("--version") == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_an_unknown_verb(capsys):
    assert call("trian") == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_train_leaves_what_a_run_leaves(adding):
    names = {path.name.split(".")[0] for path in adding.iterdir()}
    assert {"config", "manifest", "metrics", "summary", "checkpoints", "figures", "events"} <= names
    summary = json.loads((adding / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("completed", 20)
    assert set(summary["metrics"]["test"]) >= {"loss"}


def test_a_finished_run_says_so_and_does_nothing(adding, capsys):
    before = {path: path.stat().st_mtime_ns for path in adding.rglob("*")}
    assert call("train", f"--config={ADDING}", f"--workdir={adding}") == 0
    assert "completed at step 20" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in adding.rglob("*")}


def test_the_run_of_another_config_is_refused(adding, capsys):
    changed = ("--config.cell.hidden=9", "--config.seed=4")
    assert call("train", f"--config={ADDING}", f"--workdir={adding}", *changed) == 2
    message = capsys.readouterr().err
    for word in ("cell.hidden: 8 there, 9 here", "seed: 0 there, 4 here", "--workdir=DIR"):
        assert word in message


def test_evaluate_repeats_the_metrics_of_the_summary(adding, capsys):
    assert call("evaluate", f"--workdir={adding}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((adding / "summary.json").read_text())
    for split in ("valid", "test"):
        ours, theirs = found["metrics"][split]["loss"], summary["metrics"][split]["loss"]
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_evaluate_prints_the_baselines(adding, capsys):
    assert call("evaluate", "--workdir", adding) == 0
    out = capsys.readouterr().out
    assert "test split" in out
    assert "always 1" in out


def test_predict_writes_forecasts(airline, tmp_path, capsys):
    out = tmp_path / "forecast"
    assert call("predict", f"--workdir={airline}", "--horizon=6", f"--out={out}") == 0
    printed = [Path(line) for line in capsys.readouterr().out.split()]
    assert {path.suffix for path in printed} == {".csv", ".png"}
    assert all(path.parent == out for path in printed)
    rows = list(csv.DictReader((out / "forecast.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    drawn.picture(out / "forecast.png")


@pytest.mark.slow
def test_predict_after_a_refit_on_every_row(airline, adding, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(airline, run)
    assert call("predict", f"--workdir={run}", "--refit") == 0
    steps = json.loads((run / "summary.json").read_text())["best_step"]
    said = capsys.readouterr().out
    assert f"{steps} steps, the best of {run}, on every row" in said and "tell nothing" in said
    refit = json.loads((run / f"refit-{steps}" / "manifest.json").read_text())
    assert refit["data"]["splits"]["train"] == ["1949-01", "1960-12"]
    assert json.loads((run / f"refit-{steps}" / "summary.json").read_text())["best_step"] == steps
    forecast = (run / "predictions" / "forecast.csv").read_text()
    assert call("predict", f"--workdir={run}", "--refit") == 0
    assert "compiled" not in capsys.readouterr().out, "it was trained already"
    assert (run / "predictions" / "forecast.csv").read_text() == forecast
    assert call("predict", f"--workdir={run}") == 0
    assert (run / "predictions" / "forecast.csv").read_text() != forecast
    both = ("--config.task.train_on=all", "--config.task.conformal=True")
    assert call("train", "--config=airline", f"--workdir={tmp_path / 'no'}", *both) == 2
    assert "too narrow" in capsys.readouterr().err


def test_a_run_whose_data_file_changed_is_refused(airline, tmp_path, capsys):
    """Rows appended to a CSV would change the test split of an old run without a word."""
    run = tmp_path / "run"
    shutil.copytree(airline, run)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["data"]["splits"]["test"] == ["1957-01", "1960-12"]
    manifest["data"]["sha256"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    for verb in ("evaluate", "predict"):
        assert call(verb, f"--workdir={run}") == 2
        assert "sha256: 0000" in capsys.readouterr().err
    assert call("train", f"--workdir={run}", "--config.train.num_steps=21") == 2
    assert "--changed_data" in capsys.readouterr().err


def test_inspect_says_how_a_file_is_read(tmp_path, capsys):
    rows = [f"{day:02d}.01.2020;{day},5" for day in range(1, 31)]
    (tmp_path / "a.csv").write_text("\n".join(["Tag;Wert", *rows]) + "\n")
    picture = f"--out={tmp_path / 'a.png'}"
    assert call("data", "inspect", tmp_path / "a.csv", picture) == 0
    out = capsys.readouterr().out
    for words in ("semicolon", "%d.%m.%Y", "daily (D)", "2020-01-30", "--config.task.period=7"):
        assert words in out
    drawn.picture(tmp_path / "a.png")


def test_checkpoint_lists_steps_and_digests(adding, capsys):
    assert call("checkpoint", f"--workdir={adding}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["10", "20"]
    assert all(re.search(r"  ok  .*sha256:[0-9a-f]{64}", line) for line in lines)


def test_checkpoint_names_a_corrupt_step(adding, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(adding, copy)
    largest = max((copy / "checkpoints" / "20").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))
    assert call("checkpoint", f"--workdir={copy}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ok" in lines[0]
    assert "corrupt" in lines[1]
    assert call("evaluate", f"--workdir={copy}", "--json") == 0
    assert json.loads(capsys.readouterr().out)["step"] <= 10


def test_config_prints_fields_model_and_cost(capsys):
    words = ("--config.cell.hidden=16", "--config.train.num_steps=1e3")
    assert call("config", f"--config={ADDING}", *words) == 0
    out = capsys.readouterr().out
    assert "* --config.cell.hidden=16" in out
    assert "  --config.train.num_steps=1000" in out  # as it is by default
    assert re.search(r"layer_0/forward/recurrent_kernel +\[16, 64\]", out)
    expected = 4 * 16 * (2 + 16 + 1) + 16 + 1
    assert re.search(rf"parameters +{expected:,}", out)
    assert re.search(r"FLOPs per training step +[1-9]", out)
    assert re.search(r"^device +cpu, 1 of 8: \S", out, flags=re.MULTILINE)
    assert not re.search(r"^(mesh|sharded) ", out, flags=re.MULTILINE)


def test_config_explains_its_fields(capsys):
    assert call("config", f"--config={ADDING}", "--config.cell.gates=cifg") == 0
    lines = capsys.readouterr().out.splitlines()
    fields = {line.partition("=")[0]: line for line in lines if "--config." in line}
    assert all(re.search(r" # \S", line) for line in fields.values())
    assert fields["* --config.cell.gates"].endswith("; default lstm")
    assert fields["  --config.model.layers"].endswith("# L, recurrent layers")
    assert fields["  --config.cell.candidate_activation"].endswith("; here tanh")
    assert fields["  --config.cell.forget_gate_activation"].endswith("; here 1 - i")
    assert fields["  --config.cell.reset"].endswith("; here nothing: no option of lstm")


def test_config_shows_only_what_differs_from_the_defaults(capsys):
    config, defaults = load_config(ADDING), flatten(default_config("adding"))
    changed = {name for name, value in flatten(config).items() if value != defaults[name]}
    words = ("--changed", "--config.cell.hidden=64", "--config.cell.gates=nfg")
    assert call("config", f"--config={ADDING}", *words) == 0
    shown = re.findall(r"^\* --config\.(\S+)=", capsys.readouterr().out, flags=re.MULTILINE)
    assert set(shown) == changed - {"cell.hidden"} | {"cell.gates"}


def test_config_output_can_be_pasted_back(capsys):
    assert call("config", f"--config={ADDING}") == 0
    first = capsys.readouterr().out
    lines = re.findall(r"^[ *] (--config\.\S*=.*)$", first, flags=re.MULTILINE)
    fields = [word for line in lines for word in shlex.split(line, comments=True)]
    assert len(fields) == len(lines) == len(flatten(load_config(ADDING)))
    assert call("config", f"--config={ADDING}", *fields) == 0
    hashes = [re.findall(r"config hash (\w+)", text) for text in (first, capsys.readouterr().out)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("argv", "config", "overrides", "rest"),
    [
        (["--config=a.py:x", "--config.b.c=1"], "a.py:x", {"b.c": "1"}, []),
        (["--config.b.c=1", "--config=a.py"], "a.py", {"b.c": "1"}, []),
        (["--config", "a.py", "--config.b.c", "-1"], "a.py", {"b.c": "-1"}, []),
        (["--config.b", "--workdir=d"], "", {"b": True}, ["--workdir=d"]),
        (["--noconfig.b", "--workdir", "d"], "", {"b": False}, ["--workdir", "d"]),
        (["-config=a.py", "--config.b=x=y"], "a.py", {"b": "x=y"}, []),
        (["--config.b=1", "--config.b=2", "--config.c="], "", {"b": "2", "c": ""}, []),
    ],
)
def test_config_flags_in_any_order_and_form(argv, config, overrides, rest):
    assert config_arguments(argv) == (config, overrides, rest)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config.optimizer.learnng_rate=1"], ["optimizer.learning_rate"]),
        (["--config.train.num_steps=abc"], ["config.train.num_steps", "an int", "'abc'"]),
        (["--config.train.num_steps"], ["config.train.num_steps", "an int"]),
        (["--config.cell.name=lsmt"], ["'lsmt'", "did you mean 'lstm'"]),
        (["--config.cell.gate_activation=rleu"], ["'rleu'", "'relu'"]),
        (["--config.optimizer.name=adm"], ["'adm'", "'adam'"]),
        (["--config.task.name=addng"], ["'addng'", "'adding'"]),
        (["--config.optimizer.learning_rate=nan"], ["learning_rate", "finite"]),
        (["--config.train.best_metric=accuracy"], ["train.best_metric", "'accuracy'", "loss"]),
        (["--config.model.engine=associative"], ["associative", "lstm"]),
        (["--config.parallel.data=64"], ["parallel.data=64"]),
        (
            ["--config.train.batch_size=1", "--config.parallel.data=2"],
            ["batch_size=1", "sizes that can: 2"],
        ),
        (["--workdr=x"], ["workdr", "--workdir"]),
        (["config.cell.hidden=3"], ["--config.cell.hidden=3"]),
    ],
)
def test_a_mistake_is_one_message_and_creates_nothing(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("train", f"--config={ADDING}", *argv) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train"], ["--config=configs/airline.py"]),
        (["train", "--config"], ["--config needs a file"]),
        (["train", "--config=configs/nowhere.py"], ["no config file"]),
        (["config"], ["--config=configs/airline.py"]),
        (["evaluate"], ["--workdir=DIR"]),
        (["evaluate", "--workdir=nowhere"], ["nowhere"]),
        (["evaluate", "--workdir=."], ["no run", "config.json"]),
        (["evaluate", "--config=a.py"], ["takes no --config"]),
        (["checkpoint", "--workdir=."], ["no checkpoints"]),
        (["predict", "--workdir=.", "--horizon=-1"], ["--horizon=-1"]),
        (["predict", "--workdir=.", "--horizon=x"], ["horizon"]),
        (["predict", "--workdir=.", "--temperature=-1"], ["--temperature"]),
        (["predict", "--workdir=.", "--csv=no.csv"], ["no.csv"]),
        (["predict", "--workdir=.", "--future=no.csv"], ["--future: no file"]),
    ],
)
def test_a_mistake_ends_with_code_2_and_says_what_to_do(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*argv) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == []


def test_the_installed_program_exits_with_2(tmp_path):
    done = console("train", f"--config={ADDING}", "--config.cell.hiden=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "cell.hidden" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_config_is_named(adding, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert call("evaluate", f"--workdir={tmp_path}") == 2
    assert "config.json is damaged" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[]")
    assert call("evaluate", f"--workdir={tmp_path}") == 2
    assert "config.json is damaged" in capsys.readouterr().err


def test_a_bug_of_lstm_jax_is_1_with_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(cli, "dispatch", lambda argv: 1 / 0)
    assert call("train") == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "a bug in lstm_jax" in err


def test_workdirs_are_named_after_the_config():
    assert default_workdir("configs/airline.py") == "runs/airline"
    assert default_workdir("configs/airline.py:classic,smoke") == "runs/airline-classic-smoke"


def test_a_config_file_whose_name_holds_a_colon(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a:b.py").write_text(Path(ADDING.partition(":")[0]).read_text())
    assert call("config", "--config=a:b.py:smoke") == 0
    assert "--config.train.num_steps=20" in capsys.readouterr().out
    assert default_workdir("a:b.py") == "runs/a:b"
    assert default_workdir("a:b.py:smoke") == "runs/a:b-smoke"


PATHS = [(verb, f.name) for verb in cli.VERBS for f in command(verb).FLAGS if f.path]


def test_a_tilde_is_the_home_folder_in_every_flag_that_names_a_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"workdir", "study", "out", "csv", "data_dir", "reproduce", "init_from", "future"}
    assert places | {"from", "model", "apptainer"} == {n for _, n in PATHS}
    for verb, name in PATHS:
        found = parse(verb, command(verb).FLAGS, [f"--{name}=~/x"]).flags
        assert vars(found)[name] == f"{tmp_path}/x", (verb, name)
    assert parse("predict", command("predict").FLAGS, ["--prompt=~/x"]).flags.prompt == "~/x"
    assert config_arguments(["--config=~/a.py:smoke"])[0] == f"{tmp_path}/a.py:smoke"


@pytest.mark.slow
def test_a_run_in_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert call("train", f"--config={ADDING}", "--workdir=~/run") == 0
    assert call("evaluate", "--workdir=~/run") == 0
    assert (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "override", ["--config.cell.gate_activation=relu", "--config.cell.output_activation=identity"]
)
def test_the_switches_change_the_result(adding, tmp_path, override):
    workdir = tmp_path / "run"
    assert call("train", f"--config={ADDING}", override, f"--workdir={workdir}") == 0
    losses = [
        json.loads((folder / "summary.json").read_text())["metrics"]["test"]["loss"]
        for folder in (adding, workdir)
    ]
    assert losses[0] != losses[1]


def test_bench_says_where_the_benchmarks_are(capsys):
    assert cli.main(["bench"]) == 2
    assert "make bench" in capsys.readouterr().err
