"""The wheel in an environment of its own: README's tour and the examples of the help, in an empty
folder.

The first example of each verb; EXAMPLES=all runs every one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_jax import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# Appended to what trains, so that it takes seconds.
SHORT = "--config.train.num_steps=4 --config.train.log_every=2 --config.train.checkpoint_every=2"
LEAVE = shutil.ignore_patterns(".*", "runs", "sweeps", "build", "*.egg-info", "results")
ALONE = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
# What needs a download, a file of another library, or a sweep that has ended.
ELSEWHERE = (
    "runs/chars", "data fetch", "inspect FILE", "lstm.pt", "runs/theirs", "lstm-jax sweep",
    "sweeps/", *(() if importlib.util.find_spec("mlflow") else ("lstm-jax track",)),
)  # fmt: skip
TOUR = ("lstm-jax export", "lstm-jax import", "--model=")  # what the README's tour does too


def examples() -> list[str]:
    """The command lines in the help, in its order, without what stands beside them."""
    modules = (importlib.import_module(name) for name, _ in cli.VERBS.values())
    texts = [cli.usage(), *(module.__doc__ or "" for module in modules)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = [re.split(r"  +(?!-)", line)[0] for line in lines if line.startswith("lstm-jax ")]
    here = [line for line in found if not any(word in line for word in ELSEWHERE)]
    if os.environ.get("EXAMPLES") == "all":
        return sorted(here, key=lambda line: "--model=" in line)  # once it was exported
    here = [line for line in here if not any(word in line for word in TOUR)]
    near = [line for line in here if "runs/" not in line or "runs/airline" in line]
    return list({line.split()[1]: line for line in reversed(near)}.values())[::-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The program of the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = shutil.copytree(ROOT, folder / "tree", ignore=LEAVE)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, tree], check=True)
    shutil.rmtree(tree)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    install = [python, *pip[1:], "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, env=ALONE, check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return python.with_name("lstm-jax")


def run(program: Path, line: str, cwd: Path) -> subprocess.CompletedProcess:
    words = shlex.split(line.removeprefix("lstm-jax"))
    argv = [program, *words]
    return subprocess.run(argv, cwd=cwd, env=ALONE, capture_output=True, text=True, timeout=300)


def shortened(line: str) -> str:
    """The example, with less to do where it begins something."""
    begins = "train --config"
    return f"{line} {SHORT}" if line.removeprefix("lstm-jax ").startswith(begins) else line


def test_the_examples_of_the_help_run_in_an_empty_folder(installed, tmp_path, subtests):
    place = tmp_path / "empty"
    place.mkdir()
    shutil.copy(ROOT / "lstm_jax" / "tasks" / "forecast" / "airline.csv", tmp_path / "other.csv")
    for line in examples():
        with subtests.test(line):
            line = line.replace("/tmp/", f"{tmp_path}/").replace("=other.csv", "=../other.csv")
            done = run(installed, shortened(line), place)
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_tour_of_the_readme_in_an_empty_folder(installed, tmp_path):
    """Trained, exported, measured in onnxruntime, imported: three times the same metrics."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (tour,) = [block for block in blocks if "lstm-jax import" in block]
    scores = []
    for line in tour.splitlines():
        measures = line.startswith("lstm-jax evaluate")
        done = run(installed, line + " --json" * measures, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        scores += [json.loads(done.stdout)["metrics"]] if measures else []
    own, exported, imported = scores
    for split, row in own.items():
        assert exported[split] == pytest.approx(row, rel=1e-4)
        assert imported[split] == pytest.approx(row, rel=1e-6)


@pytest.mark.parametrize("spec", ["airline", "airline:smoke", "configs/airline.py", "adding.py"])
def test_configs_by_their_names(spec, installed, tmp_path):
    done = run(installed, f"lstm-jax config --config={spec} --changed", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"--config={spec.partition(':')[0]} is " in done.stderr


def test_studies_by_their_names(installed, tmp_path):
    for spec in ("gates", "airline_lr", "experiments/airline_lr"):
        done = run(installed, f"lstm-jax sweep plan --study={spec} --nomeasure", tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"--study={spec} is " in done.stderr
    done = run(installed, "lstm-jax sweep plan --study=airline_rl", tmp_path)
    assert done.returncode == 2 and "there are: " in done.stderr
