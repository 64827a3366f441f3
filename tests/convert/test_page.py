"""docs/convert.md is what the tables say."""

from pathlib import Path

from lstm_jax.convert.conventions import CONVENTIONS
from lstm_jax.convert.page import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_written_from_the_tables():
    written = (ROOT / "docs" / "convert.md").read_text()
    assert written == page(), "python -m lstm_jax.convert.page > docs/convert.md"
    assert all(f"| {name} |" in written for name in CONVENTIONS)
