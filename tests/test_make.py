"""`make` and the environments it builds: any Python, any JAX that the constraints allow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BARE = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")}


def make(*words, **environment):
    command = ["make", "-n", *words]
    return subprocess.run(
        command, cwd=ROOT, env=BARE | environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_flags_that_this_jax_does_not_know_are_left_out():
    """An unknown one would end every process of the test run."""
    known, unknown = "--xla_backend_optimization_level=0", "--xla_cpu_no_such_flag=1"
    done = make("test", f"BIN={Path(sys.executable).parent}", f"QUICK={known} {unknown}")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "XLA_FLAGS" in line]
    assert known in line
    assert unknown not in line


@pytest.fixture
def pythons(tmp_path):
    """A folder with a Python of the future and a shim that starts nothing."""
    for name, body in (("python3.98", "echo 3098"), ("python3.99", "exit 127")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def newest(path, pyenv):
    environment = BARE | {"PATH": str(path), "PYENV_ROOT": str(pyenv)}
    script = ROOT / ".ci" / "newest.py"
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_newest_python_that_runs_is_found(pythons, tmp_path):
    assert newest(pythons, tmp_path / "none") == str(pythons / "python3.98")
    folder = tmp_path / "pyenv" / "versions" / "3.98.0"
    folder.mkdir(parents=True)
    (folder / "bin").symlink_to(pythons)
    assert newest(folder, tmp_path / "pyenv") == str(folder / "bin" / "python3.98")
    assert newest(tmp_path / "none", tmp_path / "none") == ""


def test_the_newest_python_gets_an_environment_of_its_own():
    """Lines that call make again are run even by `make -n`; -B: as if none were there yet."""
    done = make("-B", "test-newest", "NEWEST=/opt/python3.98")
    assert "/opt/python3.98 -m venv .venv-newest" in done.stdout, done.stderr
    assert re.search(r"\.venv-newest/bin/python -m pytest .* tests/test_laws\.py", done.stdout)


def test_without_a_newer_python_a_line_says_so():
    done = make("test-newest", "NEWEST=", f"PYTHON={sys.executable}")
    assert re.search(r"^skipped: no Python newer than Python 3\.\d+\.\d", done.stdout, re.MULTILINE)


def test_a_folder_called_like_the_package_does_not_hide_it(tmp_path):
    """The parent folder of a clone called lstm_jax holds one."""
    (tmp_path / "lstm_jax").mkdir()
    code = "import lstm_jax; print(lstm_jax.unroll.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=BARE, capture_output=True, text=True
    )
    assert done.stdout == "unroll\n", done.stderr


def test_the_lowest_versions_are_those_of_the_project():
    script = ROOT / ".ci" / "lowest.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert {"jax==0.10.2", "numpy==2.1", "pandas==2.2.2"} <= set(lines), done.stderr
    assert all(re.fullmatch(r"[\w.-]+==[\d.]+", line) for line in lines)
