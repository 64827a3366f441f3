"""Pages: every link leads to a file and, within a page, to a heading; performance.md is short."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE = {"cells.md"}  # from the catalogue, by `make docs`
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(
        p for folder in ("docs", "notes", "experiments") for p in (ROOT / folder).rglob("*.md")
    ),
]


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() or target.name in MADE, link
        assert not anchor or anchor in anchors(target), link


def test_the_site_shows_every_page_of_docs():
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}" in nav, page


def test_results_are_pages_figures_and_tables():
    """`lstm-jax report` makes the HTML again; a repository does not keep it."""
    kept = [p for p in (ROOT / "experiments").glob("*/results/**/*") if p.is_file()]
    assert {p.suffix for p in kept} - {".html"} <= {".md", ".csv", ".json", ".svg", ".png"}
    for report in {p.parent for p in kept if p.name == "report.md"}:
        assert (report / "trials.csv").exists()
        assert "](figures/" in (report / "report.md").read_text()
    assert "report.html" in (ROOT / ".gitignore").read_text()


def test_performance_is_a_page_and_the_diary_is_a_note():
    assert len((ROOT / "docs" / "performance.md").read_text().split()) < 650  # tables included
    assert "What was tried" in (ROOT / "notes" / "performance.md").read_text()


def test_what_builds_the_site_is_pinned():
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for need in extra["optional-dependencies"]["docs"]:
        assert re.split(r"[>=\[]", need)[0] in pins, need
