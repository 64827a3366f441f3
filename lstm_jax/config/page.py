"""docs/options.md, written from the table: python -m lstm_jax.config.page > docs/options.md"""

from __future__ import annotations

from collections.abc import Iterable

from lstm_jax.config.options import OPTIONS
from lstm_jax.option import Option
from lstm_jax.tasks import TASKS

HEAD = """\
# Options

Written by `python -m lstm_jax.config.page > docs/options.md` from `lstm_jax/config/options.py` and
the `OPTIONS` of each task; edit those. `lstm-jax config --config=FILE` prints the same beside the
values of a config. A 0 stands for off and an empty string for the part's own choice.

- **number**: enters the compiled program as an array; trials that differ in it train as one pack.
- **placement**: says where and how a run is computed; its results are the same but for rounding.
- **midway**: may change while a run goes on.
"""
TABLE = """
## {title}

| option | default | meaning | expected | |
|---|---|---|---|---|
"""
MARKS = {"numeric": "number", "placement": "placement", "midway": "midway"}


def page() -> str:
    """Markdown: a table for each section, then one for each task."""
    shared = [_table(name or "seed", name, rows) for name, rows in OPTIONS.items()]
    own = [_table(f"task {name}", "task", task.OPTIONS) for name, task in TASKS.items()]
    return "".join([HEAD, *shared, *own])


def _table(title: str, section: str, rows: Iterable[Option]) -> str:
    return TABLE.format(title=title) + "".join(_line(section, row) for row in rows)


def _line(section: str, row: Option) -> str:
    name = f"{section}.{row.name}".lstrip(".")
    marks = ", ".join(word for mark, word in MARKS.items() if getattr(row, mark))
    cells = (f"`{name}`", f"`{row.default!r}`", row.help, row.range.expected, marks)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    print(page(), end="")
