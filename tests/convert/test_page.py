"""docs/convert.md is what the tables say."""

import re
from pathlib import Path

from lstm_jax.convert.conventions import CONVENTIONS
from lstm_jax.convert.page import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_written_from_the_tables():
    written = (ROOT / "docs" / "convert.md").read_text()
    assert written == page(), "python -m lstm_jax.convert.page > docs/convert.md"
    assert all(f"| {name} |" in written for name in CONVENTIONS)


def test_every_layer_stands_beside_its_own_library():
    """`docs/parity.md`, as tests/oracles/grid.py measured it."""
    written = (ROOT / "docs" / "parity.md").read_text()
    single, double = written.partition("## float64")[::2]
    for text, tolerance, rows in ((single, 1e-6, set(CONVENTIONS)), (double, 1e-12, None)):
        lines = re.findall(r"^\| (\w+ \w+) \|(.*)\|$", text, re.M)
        assert rows is None or {name for name, _ in lines} == rows
        found = [float(n) for _, line in lines for n in line.split("|") if n.strip() != "-"]
        assert found and max(found) < tolerance
