"""README's snippets run: the Python as it stands, the commands on shrunken configs."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
import types
from pathlib import Path

import pytest

from lstm_jax.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ELSEWHERE = ("make", "pip")  # what other tests run, or what needs a network
WHEEL = ("runs/airline", "runs/again")  # tests/test_wheel.py runs these, in an empty folder


def blocks(language: str) -> list[str]:
    """The fenced blocks of that language; "" for none."""
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
            if name == language]  # fmt: skip


def commands() -> list[list[str]]:
    """Every command line, comments left out; a block of anything else has no command in it."""
    lines = [line for block in blocks("") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [w for w in words if w and w[0] in ("lstm-jax", *ELSEWHERE)]


@pytest.mark.slow
def test_python_snippets(monkeypatch):
    page = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", page)
    for source in blocks("python"):
        exec(compile(source, "README.md", "exec"), page.__dict__)
        said = dict(re.findall(r"(\w+) \[([\w, ]+)\]", source))
        sizes = {"T": 20, "B": 4, "D": 10}
        for name in {"xs", "ys", "last", "batch"} & set(said):
            shape = tuple(sizes.get(axis) or int(axis) for axis in said[name].split(", "))
            assert getattr(page, name).shape == shape, (name, source)
    assert isinstance(page.same, type(page.cell)) and page.same.info == page.zoned.info


def shrunk(word: str) -> str:
    return re.sub(r"^(--config=configs/\w+\.py)$", r"\1:smoke", word)


@pytest.mark.slow
def test_commands(tmp_path, monkeypatch):
    """In the order of the page, in one folder: later lines go on with what earlier ones left."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    ours = [words[1:] for words in commands() if words[0] == "lstm-jax"]
    assert len(ours) >= 15
    for words in ours:
        if any(name in word for name in WHEEL for word in words):
            continue
        assert main([shrunk(word) for word in words]) == 0, words
    left = {path.name for path in (tmp_path / "runs" / "relu").iterdir()}
    block = next(block for block in blocks("") if "manifest.json" in block)
    for name in re.findall(r"[\w.]+\.jsonl?|\w+(?=/)", block):
        assert name in left or name == "incidents.jsonl", name


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "make"], ids=" ".join)
def test_make_knows_its_targets(words):
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)


def test_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.search(r"further extras: ([\w, ]+)", README)
    assert named
    assert {"tensorboard", *named[1].split(", ")} <= set(project["optional-dependencies"])


def test_the_findings_are_those_of_the_studies():
    """Every number of an interval in README stands in experiments/README.md too."""
    studies = (ROOT / "experiments" / "README.md").read_text()
    part = README.partition("## Five findings")[2].partition("## Change one thing")[0]
    intervals = re.findall(r"\[([\d.]+), ([\d.]+)\]", part)
    assert len(intervals) >= 7
    for low, high in intervals:
        assert any(f"{a}" in studies for a in _spellings(low, high)), (low, high)


def _spellings(low: str, high: str) -> list[str]:
    return [f"[{low}, {high}]", f"[+{low}, +{high}]", f"[-{high}, -{low}]"]
