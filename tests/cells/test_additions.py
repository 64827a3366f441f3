"""What somebody adds: the guides' own snippets, and how few files they touch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import reference
import registry

import lstm_jax
from lstm_jax.cells import CELLS, gates
from lstm_jax.cells.activations import ACTIVATIONS, Activation
from lstm_jax.cells.gates import GATES, Coupled, GateTable
from lstm_jax.errors import UsageError
from lstm_jax.trackers.contract import Point, Run

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
SPELLED = (ROOT / "tests" / "reference.py").read_text()


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (GUIDES / page).read_text(), re.M | re.S)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("row", [r for r in GATES if f'    "{r}": {{' in SPELLED])
def test_a_row_read_from_the_table_is_the_row_as_the_reference_spells_it(row):
    assert registry.spelled(GATES[row]) == reference.STANDARD | reference.ROWS[row]


def agrees(cell, expected, engine="deferred"):
    """Values of the engine are those of the reference's loop."""
    data = registry.data_of(cell)
    out = lstm_jax.unroll(cell, *data[:1], data.xs, data.carry, engine=engine)
    every = np.ones_like(data.mask)
    args = (data.xs, data.carry._asdict(), every, ~every, False, reference.Noise())
    carry, ys, _ = reference.unroll(expected, data.params, *args)
    np.testing.assert_allclose(out[1], ys, rtol=1e-9, atol=1e-9)
    for name, leaf in carry.items():
        np.testing.assert_allclose(getattr(out[0], name), leaf, rtol=1e-9, atol=1e-9)


def test_the_gate_of_the_guide(float64, monkeypatch):
    (source,) = snippets("gate.md")
    (name, table), = eval("{" + source + "}", dict(vars(gates))).items()  # fmt: skip
    assert isinstance(table, GateTable) and table.f == Coupled("o") and table.equation
    monkeypatch.setitem(GATES, name, table)
    monkeypatch.setitem(reference.ROWS, name, registry.spelled(table))
    agrees(CELLS["lstm"](registry.H, gates=name), reference.lstm(registry.H, gates=name))


def test_the_activation_of_the_guide_and_its_slope(float64):
    (source,) = snippets("activation.md")
    (activation,) = eval("{" + source + "}", {"jax": jax, "jnp": jax.numpy, "Activation": Activation}).values()  # noqa: E501  # fmt: skip
    u = np.linspace(-5.0, 5.0, 101)
    slope = (activation(u + 1e-6) - activation(u - 1e-6)) / 2e-6
    np.testing.assert_allclose(activation.slope(activation(u)), slope, atol=1e-8)


@pytest.mark.parametrize("name", [n for n, a in ACTIVATIONS.items() if a.slope])
def test_every_slope_written_in_the_output_is_the_derivative(name, float64):
    u = np.linspace(-4.9, 4.9, 51) + 1e-3  # off the corners
    activation: Any = ACTIVATIONS[name]
    slope = jax.vmap(jax.grad(activation))(u)
    np.testing.assert_allclose(activation.slope(activation(u)), slope, atol=1e-12)


def module(name, source, **known):
    made = types.ModuleType(name)
    vars(made).update(known)
    exec(source, vars(made))
    return made


def test_the_cell_of_the_guide_is_its_reference(float64):
    source, numpy, short = snippets("cell.md")
    cell = module("cfn", source).cfn(registry.H)
    agrees(cell, module("ref", numpy, **vars(reference)).cfn(registry.H))
    assert cell.info.learned == ("f", "i", "n")
    mine = module("short", short).cell
    carry, ys = lstm_jax.unroll(mine, mine.init(jax.random.key(0), 3), jax.numpy.ones((5, 2, 3)))
    assert ys.shape == (5, 2, 8) and np.array_equal(carry.h, ys[-1])


def test_a_cell_is_its_file_alone(tmp_path):
    """The function and its row as the guide says, in a copy of the package, and nothing else."""
    shutil.copytree(
        ROOT / "lstm_jax", tmp_path / "lstm_jax", ignore=shutil.ignore_patterns("__py*")
    )
    place = tmp_path / "lstm_jax" / "cells" / "gru.py"
    function = snippets("cell.md")[0].partition("@constructor")[2]
    kin, _, table = place.read_text().partition("CELLS = {")
    place.write_text(f'{kin}@constructor{function}\n\nCELLS = {{"cfn": cfn, {table}')
    ask = (
        "import lstm_jax; from lstm_jax.model.catalogue import find; "
        "print(lstm_jax.cells.CELLS['cfn'](4).info.name, find('cfn')[0].source)"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.stdout.strip() == "cfn Laurent & von Brecht (2016), eq. 1-2", done.stderr


def test_every_cell_has_a_reference():
    assert list(CELLS)[:2] == ["lstm", "lstm_fgr"]
    assert set(CELLS) == set(reference.CELLS)


@pytest.mark.slow
def test_the_transform_of_the_guide():
    function, use = snippets("transform.md")
    made = module("noise", function + use)
    assert made.carry_noise(made.cell._replace(info=made.cell.info._replace(transforms=())))
    quiet = lstm_jax.unroll(made.cell, made.params, made.xs)[1]
    plain = lstm_jax.unroll(lstm_jax.cells.lstm(16), made.params, made.xs)[1]
    np.testing.assert_allclose(quiet, plain, 1e-5, 1e-6)
    assert np.abs(made.ys - plain).max() > 0.01


def test_the_launcher_of_the_guide(tmp_path, monkeypatch, capsys):
    (source,) = snippets("launcher.md")
    made, started = module("launcher", source), []

    def start(command):
        started.append(command)
        return types.SimpleNamespace(pid=len(started), poll=lambda: None if len(started) < 3 else 0)

    monkeypatch.setattr(made.subprocess, "Popen", start)
    with pytest.raises(UsageError, match="needs --host=NAME"):
        made.Launcher({"host": "", "workers": 2})
    launcher = made.Launcher({"host": "rosa", "workers": 2})
    launcher.submit(tmp_path, [0, 3])
    assert launcher.poll() == ["pid 1", "pid 2"]
    assert len(started) == 2 and started[0][:2] == ["ssh", "rosa"]
    assert started[0][2].endswith(f"lstm_jax.sweep.workers.worker {tmp_path} 0 3")
    assert "ssh rosa" in launcher.describe(tmp_path, [0])
    started.append("the end")
    assert launcher.poll() == [] and launcher.cancel() is None


def test_the_tracker_of_the_page(tmp_path):
    """docs/trackers.md's own, with the points of a run."""
    page = (GUIDES.parent / "trackers.md").read_text()
    (source,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    tracker = module("tracker", source).TRACKER
    run = Run("0a1b", "airline", "", tmp_path, {}, {})
    tracker.scalars(tracker.open(run), [Point(10, {"train/loss": 0.5})])
    assert (tmp_path / "airline-0a1b.jsonl").read_text() == '{"step": 10, "train/loss": 0.5}\n'
