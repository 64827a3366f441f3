"""Pages of the site that lie elsewhere or are made from the code.

README is the first page; notes/ and experiments/ are read where they are; `cells.md` is the
catalogue, and the map comes from the imports: none of them can be out of date.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import equations

ROOT = Path(__file__).parents[2]
SHOWN = {".md", ".svg", ".png", ".csv"}


def on_files(files: Files, config: Any) -> Files:
    """All that is not in docs/."""
    from lstm_jax.model import catalogue  # brings JAX

    made = {"cells.md": with_equations(catalogue.markdown())}
    files_of = {"index.md": ROOT / "README.md", "CONTRIBUTING.md": ROOT / "CONTRIBUTING.md"}
    for folder in ("notes", "experiments"):
        found = sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in SHOWN)
        files_of |= {path.relative_to(ROOT).as_posix(): path for path in found}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for name, path in files_of.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Links as they hold in the repository, turned into links of the site."""
    uri = page.file.src_uri
    if uri == "map.md":
        markdown = markdown.replace("<!-- rooms -->", drawing() + "\n\n" + table())
    if uri in ("index.md", "CONTRIBUTING.md"):
        return re.sub(r"\]\(docs/", "](", markdown)
    if uri.startswith(("notes/", "experiments/")):
        return re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", markdown)
    return re.sub(r"\]\(\.\./((?:\.\./)*)(notes|experiments)/", r"](\1\2/", markdown)


def with_equations(catalogue: str) -> str:
    """The catalogue with its third column drawn."""
    wide = ["---", "hide: [toc]", "---"]
    return "\n".join([*wide, *map(_row, catalogue.splitlines())]) + "\n"


def _row(text: str) -> str:
    cells = text.split(" | ")
    if not text.startswith("| ") or len(cells) < 7 or text.startswith("| entry"):
        return text
    drawn = [equations.line(part[1:-1]) for part in cells[2].split("<br>")]
    return " | ".join([*cells[:2], "<br>".join(drawn), *cells[3:]])


def rooms() -> list[str]:
    """From top to bottom, as import-linter holds them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return project["tool"]["importlinter"]["contracts"][0]["layers"]


def arrows() -> dict[str, list[str]]:
    """{room: the rooms that it imports}, from top to bottom."""
    graph, found = grimp.build_graph("lstm_jax"), {room: set() for room in rooms()}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            if "." in module and "." in other:
                found[module.split(".")[1]].add(other.split(".")[1])
    return {room: [r for r in rooms() if r in found[room] - {room}] for room in found}


def table() -> str:
    """A row a room: what it is, its lines, what it imports."""
    lines = ["| room | what it is | lines | imports |", "|---|---|---:|---|"]
    for room, imports in arrows().items():
        words, count = _about(ROOT / "lstm_jax" / room)
        lines.append(f"| `{room}` | {words} | {count:,} | {', '.join(imports) or '-'} |")
    return "\n".join(lines)


def _about(place: Path) -> tuple[str, int]:
    head = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    files = list(place.rglob("*.py")) if place.is_dir() else [head]
    words = (ast.get_docstring(ast.parse(head.read_text())) or "").partition("\n")[0]
    return words, sum(len(path.read_text().splitlines()) for path in files)


def drawing(height: int = 26, left: int = 120) -> str:
    """Rooms one below the other, an arc for every import: all of them lead down."""
    place = {room: height * (n + 1) for n, room in enumerate(rooms())}
    arcs = [
        f'<path d="M{left} {place[a]} A{r} {r} 0 0 1 {left} {place[b]}"><title>{a} imports {b}'
        "</title></path>"
        for a, targets in arrows().items()
        for b in targets
        for r in [(place[b] - place[a]) / 2]
    ]
    names = [
        f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{r}</text>' for r, y in place.items()
    ]
    tall = height * (len(place) + 1)
    size = f'viewBox="0 0 {left + tall // 2} {tall}" role="img" aria-label="rooms and imports"'
    return f'<svg class="rooms" {size}>{"".join(arcs + names)}</svg>'
