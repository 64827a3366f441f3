"""Parts in a user's own file outside the checkout: every verb finds them again from the run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from lstm_jax import cli, plugins
from lstm_jax.cells import from_step
from lstm_jax.compute import sharding
from lstm_jax.config import default_config
from lstm_jax.config.overrides import read_config
from lstm_jax.core import Hidden
from lstm_jax.errors import UsageError
from lstm_jax.model.cell import build_cell
from lstm_jax.model.layers import encoder_of
from lstm_jax.sweep.define.plan import make_plan, write_plan
from lstm_jax.sweep.define.study import load_study
from lstm_jax.sweep.workers.worker import work
from lstm_jax.tasks import task_of
from lstm_jax.training import optim

OWN = Path(__file__).parent / "own"


def own_folder(folder: Path) -> Path:
    """A user's folder, with the parts of tests/own in it."""
    return shutil.copytree(OWN, folder, ignore=shutil.ignore_patterns("__pycache__"))


def lstm_jax(*argv: object) -> int:
    return cli.main([str(word) for word in argv])


pytestmark = pytest.mark.usefixtures("no_parts")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the user's folder, a run trained from it)."""
    home = own_folder(tmp_path_factory.mktemp("user") / "own")
    workdir = home.parent / "run"
    assert lstm_jax("train", f"--config={home / 'config.py'}", f"--workdir={workdir}") == 0
    return home, workdir


def evaluated(workdir, capsys):
    capsys.readouterr()
    assert lstm_jax("evaluate", f"--workdir={workdir}", "--json") == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.slow
def test_the_run_keeps_what_it_used(run):
    home, workdir = run
    kept = json.loads((workdir / "parts" / "parts.json").read_text())
    assert set(kept) == {"mine.py"}
    assert kept["mine.py"]["file"] == str(home / "mine.py")
    copy = workdir / "parts" / kept["mine.py"]["copy"]
    for name, sha in kept["mine.py"]["sha256"].items():
        text = (copy.parent / name).read_bytes()
        assert text == (home / name).read_bytes()
        assert plugins._sha(text) == sha
    assert set(kept["mine.py"]["sha256"]) == {"mine.py", "curves.py"}


@pytest.mark.slow
def test_a_changed_file_is_said_and_the_copy_is_used(run, capsys, tmp_path):
    home, workdir = run
    before, said = evaluated(workdir, capsys)
    assert not said
    mine = home / "mine.py"
    text = mine.read_text()
    mine.write_text(text.replace("xs[0, 0]", "7.0 + xs[0, 0]"))
    try:
        after, said = evaluated(workdir, capsys)
    finally:
        mine.write_text(text)
    assert after == before
    assert f"note: {mine} has changed since {workdir} began" in said
    moved = home.rename(home.with_name("moved"))
    try:
        assert evaluated(workdir, capsys)[0] == before
    finally:
        moved.rename(home)


@pytest.mark.slow
def test_a_run_goes_on_with_the_parts_that_it_began_with(run, capsys, tmp_path):
    home = own_folder(tmp_path / "own")
    workdir = shutil.copytree(run[1], tmp_path / "run")
    argv = [f"--config={home / 'config.py'}", f"--workdir={workdir}"]
    (home / "mine.py").write_text("raise SystemError('not this one')")
    assert lstm_jax("train", *argv, "--extend=2") == 0
    assert json.loads((workdir / "summary.json").read_text())["step"] == 6


def test_a_damaged_copy_is_refused(run, capsys, tmp_path):
    workdir = shutil.copytree(run[1], tmp_path / "run")
    (copy,) = workdir.glob("parts/*/curves.py")
    copy.write_text(copy.read_text() + "\n")
    assert lstm_jax("evaluate", f"--workdir={workdir}") == 2
    assert "curves.py is not as the run left it; put back" in capsys.readouterr().err
    copy.unlink()
    assert lstm_jax("evaluate", f"--workdir={workdir}") == 2
    assert "curves.py is missing" in capsys.readouterr().err
    (workdir / "parts" / "parts.json").write_text("{")
    assert lstm_jax("evaluate", f"--workdir={workdir}") == 2
    assert "parts.json is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_diagnose_and_checkpoint_know_the_parts(run, capsys):
    _, workdir = run
    assert lstm_jax("diagnose", f"--workdir={workdir}") == 0
    assert lstm_jax("checkpoint", f"--workdir={workdir}") == 0
    assert (workdir / "figures").is_dir()


@pytest.mark.slow
def test_a_sweep_and_its_trials_know_the_parts(run, capsys, tmp_path, monkeypatch):
    home, _ = run
    monkeypatch.chdir(tmp_path)
    study = load_study(str(home / "study"), {"train.num_steps": 2})
    sweep = tmp_path / "sweep"
    write_plan(make_plan(study), sweep)
    plugins.forget()  # a worker knows the sweep's folder and nothing else
    assert work(sweep) == 0
    swept(sweep, capsys)


@pytest.mark.slow
def test_a_sweep_in_processes_of_its_own(run, capsys, tmp_path, monkeypatch):
    home, _ = run
    monkeypatch.chdir(tmp_path)
    study = f"--study={home / 'study'}"
    assert lstm_jax("sweep", "launch", study, "--config.train.num_steps=2", "--workers=1") == 0
    swept(tmp_path / "sweeps" / "study", capsys)


def swept(sweep, capsys):
    """Every trial stands by itself, and the sweep has its report."""
    trials = sorted((sweep / "trials").iterdir())
    assert len(trials) == 4
    assert (sweep / "parts" / "parts.json").is_file()
    assert (sweep / "tensorboard" / "lazy_swish_s0").is_dir()
    found, _ = evaluated(trials[-1], capsys)
    assert np.isfinite(found["metrics"]["test"]["loss"])
    assert json.loads((trials[-1] / "config.json").read_text())["cell"]["gates"] == "mine.py:lazy"
    assert lstm_jax("report", f"--workdir={sweep}") == 0
    assert "mine.py:lazy" in (sweep / "report" / "report.md").read_text()


# ---------------------------------------------------------------- every kind of part


@pytest.fixture
def mine(tmp_path):
    home = own_folder(tmp_path / "own")
    plugins.look_in(home)
    return home


def test_every_kind_of_part(mine):
    cell = default_config().cell
    cell.hidden, cell.name, cell.kernel_init = 3, "mine.py:leaky", "mine.py:small"
    assert build_cell(cell).info.name == "leaky"
    cell.name, cell.gates, cell.recurrent_init = "lstm", "mine.py:lazy", "mine.py:small"
    cell.transforms = ("mine.py:halved",)
    assert build_cell(cell).info.learned == ("i", "g", "o")
    cell.gates, cell.forget_init = "lstm", "mine.py:two"
    params = build_cell(cell).init(_key(), 2)
    assert params["bias"].tolist() == [0.0] * 3 + [2.0] * 3 + [0.0] * 6
    assert encoder_of("mine.py:Doubled").__name__ == "Doubled"
    config = default_config().optimizer
    config.name, config.schedule, config.learning_rate = "mine.py:lion", "mine.py:fading", 0.5
    assert float(optim.learning_rate(config, 10, 3)) == 0.25
    optim.build_optimizer(config, 10)
    rows = [row.name for row in task_of("mine.py:first").OPTIONS]
    assert rows == ["length", "scale", "eval_size"]


def _key():
    return jax.random.key(0)


def test_a_package_is_imported_and_recorded(mine, tmp_path, monkeypatch, capsys):
    package = tmp_path / "lib" / "some_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    text = "from lstm_jax.cells.gates import GateTable\nt = GateTable()\n"
    (package / "tables.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    assert plugins.find("gates", "some_package.tables:t", {}, fits=lambda v: True).o.recurrent
    plugins.keep(tmp_path / "w", ["some_package.tables:t", ["mine.py:swish"]])
    kept = json.loads((tmp_path / "w" / "parts" / "parts.json").read_text())
    assert set(kept) == {"some_package.tables", "mine.py"}
    assert kept["some_package.tables"]["file"] == str(package / "tables.py")
    (package / "tables.py").write_text(text + "# changed\n")
    plugins.use(tmp_path / "w")
    said = capsys.readouterr().err
    assert f"{package / 'tables.py'} has changed since {tmp_path / 'w'} began" in said
    assert "what is installed now is what runs" in said
    del sys.modules["some_package.tables"], sys.modules["some_package"]


def test_two_files_of_one_name_are_told_apart(mine, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="mine.py may be .* and .*; write the one you mean"):
        plugins.source("mine.py")


def test_configs_import_their_siblings(tmp_path):
    for name, hidden in (("a", 3), ("b", 5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sizes.py").write_text(f"HIDDEN = {hidden}")
        (folder / "config.py").write_text(
            "from sizes import HIDDEN\nfrom lstm_jax.config import default_config\n"
            "def get_config():\n    from sizes import HIDDEN\n    config = default_config()\n"
            "    config.cell.hidden = HIDDEN\n    return config\n"
        )
        assert read_config(str(folder / "config.py")).cell.hidden == hidden
    assert "sizes" not in sys.modules


def test_a_config_in_a_checkout_imports_configs(tmp_path):
    config = Path(__file__).parents[1] / "configs" / "airline.py"
    (tmp_path / "lstm_jax").mkdir()
    (tmp_path / "configs").mkdir()
    shutil.copy(config, tmp_path / "configs")
    place = tmp_path / "experiments" / "mine.py"
    place.parent.mkdir()
    place.write_text("from configs.airline import get_config\n")
    assert read_config(f"{place}:smoke").train.num_steps < 300
    assert "configs" not in sys.modules


WRONG = [
    ("mine.py:lazzy", r"did you mean 'mine.py:lazy'\? known: mine.py:lazy"),
    ("mine.py:swish", "it is a function, expected a GateTable"),
    ("mine.py", r"which part of it\? mine.py:NAME; it has: lazy"),
    ("mien.py:lazy", r"no file 'mien.py'; did you mean 'mine.py'\?.*if it has moved"),
    ("no.such:lazy", "no module 'no' for 'no.such'; install its package"),
    ("broken.py:lazy", "broken.py:2: ZeroDivisionError: division by zero"),
    ("torn.py:lazy", "torn.py:1: SyntaxError"),
    ("needs.py:lazy", "needs.py:1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
]
FILES = {"broken": "\n1 / 0", "torn": "def f(:", "needs": "import nowhere_at_all"}


@pytest.mark.parametrize(("name", "words"), WRONG, ids=[name for name, _ in WRONG])
def test_what_is_wrong_is_said(mine, name, words):
    for stem, text in FILES.items():
        (mine / f"{stem}.py").write_text(text)
    cell = default_config().cell
    cell.gates = name
    with pytest.raises(UsageError, match=words):
        build_cell(cell)


def test_an_activation_that_changes_the_shape(mine):
    (mine / "odd.py").write_text("def first(u):\n    return u[..., :1]\n")
    cell = default_config().cell
    cell.output_activation = "odd.py:first"
    with pytest.raises(UsageError, match=r"'odd.py:first' makes \[2, 1\] of u \[2, 3\]"):
        build_cell(cell)


def test_a_part_that_computes_when_it_is_read(mine, monkeypatch, capsys):
    """JAX has started by then, and its CPU cannot be split any more."""
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    plugins.source("mine.py")
    jax.devices()
    sharding.configure_cpu_devices(17)
    said = capsys.readouterr().err
    assert "instead of 17" in said and str(mine / "mine.py") in said
    sharding.configure_cpu_devices(len(jax.devices("cpu")))
    assert not capsys.readouterr().err


def test_a_cell_of_one_function_is_made_before_jax_starts(mine, monkeypatch):
    """And its carry is of the type of the parameters, whatever its author wrote."""
    cell = default_config().cell
    cell.name = "mine.py:leaky"
    key = jax.random.key

    def abstract(seed):
        assert isinstance(jnp.zeros(()), Tracer)
        return key(seed)

    monkeypatch.setattr(jax.random, "key", abstract)
    made = build_cell(cell)
    with jax.enable_x64(True):
        params = {"kernel": np.ones((2, 3), np.float32)}
        own = from_step(
            made.update, lambda key, size: params, lambda p, shape: Hidden(jnp.zeros(3))
        )
        assert own.initial_carry(params, ()).h.dtype == np.float32


def test_something_that_is_not_a_cell(mine):
    (mine / "no.py").write_text("def cell(hidden):\n    return {'hidden': hidden}\n")
    config = default_config().cell
    config.name = "no.py:cell"
    with pytest.raises(UsageError, match=r"no.py:cell returned a dict, expected a lstm_jax.Cell"):
        build_cell(config)


def test_a_part_that_fails_is_not_a_bug_of_ours(mine, capsys):
    (mine / "late.py").write_text("def swish(u):\n    return u @ u.nothing\n")
    argv = [f"--config={mine / 'config.py'}", "--config.cell.output_activation=late.py:swish"]
    assert lstm_jax("config", *argv) == 2
    said = capsys.readouterr().err
    assert f"{mine / 'late.py'}:2: AttributeError" in said and "Traceback" not in said


def test_cells_tells_of_own_parts(mine, capsys):
    assert lstm_jax("cells", f"{mine / 'mine.py'}:leaky", f"{mine / 'mine.py'}:lazy") == 0
    said = capsys.readouterr().out
    assert "h' = 0.9 h + 0.1 tanh(x W + h R)" in said and "Jaeger et al. (2007)" in said
    assert "f = 1 - i, g = swish(u_g)" in said and "FLOPs" in said
