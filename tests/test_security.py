"""Nothing that is loaded runs, and no name of a study, a folder or a field becomes a command."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import lstm_jax
from lstm_jax.sweep.workers.launchers import local, slurm

EVIL = "a; rm -rf b $(touch c) `touch d` 'e\" \n&& touch f"
SOURCES = sorted(Path(lstm_jax.__file__).parent.rglob("*.py"))
# Calls that run what they read, and the keyword that allows it.
CALLS = {"eval", "exec", "system", "popen", "unsafe_load", "full_load"}
MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "yaml"}
HARMLESS = {"pickle.PicklingError"}  # refuses to write, reads nothing
KEYWORDS = {"shell", "allow_pickle"}
# A user's own parts are Python files, as configs are; one place runs them, without cached bytecode.
MEANT = {("plugins.py", "exec()")}


def test_no_code_is_loaded_and_no_shell_is_asked():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            found = {(path.name, risk(node))} - MEANT if risk(node) else set()
            assert not found, f"{path.name}, line {getattr(node, 'lineno', 0)}: {risk(node)}"


def risk(node: ast.AST) -> str:
    """What makes this piece of source one that may run what it reads, or ""."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = getattr(node, "module", None)
        names = [f"{module or ''}.{n.name}".lstrip(".") for n in node.names]
        names = [name for name in names if name not in HARMLESS]
        return ", ".join({name.partition(".")[0] for name in names} & MODULES)
    if not isinstance(node, ast.Call):
        return ""
    owner, _, name = ast.unparse(node.func).rpartition(".")
    if name in CALLS and owner in ("", "os", "builtins"):
        return f"{name}()"
    false = [w.arg for w in node.keywords if ast.unparse(w.value) == "False"]
    return ", ".join(w.arg for w in node.keywords if w.arg in KEYWORDS and w.arg not in false)


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from yaml import load", "eval('1')", "os.system(x)", "run(x, shell=True)"],
)
def test_what_counts_as_a_risk(source):
    assert any(risk(node) for node in ast.walk(ast.parse(source)))


def test_the_error_of_a_refused_pickle_counts_as_none():
    source = "from pickle import PicklingError"
    assert not any(risk(node) for node in ast.walk(ast.parse(source)))
    assert any(risk(node) for node in ast.walk(ast.parse(f"{source}, loads")))


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A sweep's workdir with an evil name, beside a folder that must survive."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    workdir = tmp_path / EVIL
    workdir.mkdir()
    yield workdir
    assert {path.name for path in tmp_path.iterdir()} - {"bin"} == {"b", EVIL}


def test_the_local_launcher_starts_workers_without_a_shell(evil, monkeypatch):
    seen = []

    def start(command, **how):
        seen.append((command, how))

    monkeypatch.setattr(local.subprocess, "Popen", start)
    launcher = local.Launcher({"workers": 1})
    launcher.submit(evil, [0])
    ((command, how),) = seen
    assert command[-2:] == [str(evil), "0"] and "shell" not in how


def test_the_script_for_slurm_runs_what_it_should_and_nothing_else(evil, tmp_path):
    submitit = pytest.importorskip("submitit")
    launcher = object.__new__(slurm.Launcher)
    names = ("workers", "partition", "gres", "constraint", "mem", "cpus", "setup", "container")
    launcher.options = {name: "" for name in names} | {"nodes": 1, "tasks": 1}
    launcher.workdir, launcher.minutes = evil, 60
    text = submitit.slurm.slurm._make_sbatch_string(
        command=shlex.join(["true", str(evil)]),
        folder=evil / "logs",
        **launcher.parameters(2),
    )
    (line,) = [line for line in text.splitlines() if "--job-name" in line]
    assert re.fullmatch(r"[\w.-]+", line.partition("=")[2])
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text("#!/bin/sh\nexit 0\n")
    (tools / "srun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", text], env=environment, check=False, capture_output=True)
