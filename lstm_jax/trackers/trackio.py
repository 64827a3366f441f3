"""trackio, local: its database (TRACKIO_DIR, or trackio's own folder); `trackio sync` shares it.

Written through trackio's storage, in transactions and without its threads: a record has an id of
ours, so that one that is sent again is ignored.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax.trackers.contract import PROJECT, Point, Run, Tracker, installed, writable


def project() -> str:
    return os.environ.get("TRACKIO_PROJECT", PROJECT)


def place(home: Path) -> str:
    return f"trackio show --project {project()}"


def check(home: Path) -> None:
    """Installed, and its folder writable."""
    installed("trackio")
    writable("trackio", Path(os.environ.get("TRACKIO_DIR") or Path.home() / ".cache"))


def scalars(run: Run, points: Sequence[Point]) -> None:
    _write(run, [(p.step, ",".join(p.values), dict(p.values)) for p in points])


def figure(run: Run, step: int, name: str, path: Path) -> None:
    image = importlib.import_module("trackio").Image(str(path), caption=name)
    image._save(project(), run.name, step)
    size = path.stat().st_size
    _write(run, [(step, f"figure {name} {size}", {f"figures/{name}": image._to_dict()})])


def text(run: Run, step: int, name: str, words: str) -> None:
    markdown = importlib.import_module("trackio").Markdown(words)
    _write(run, [(step, f"text {name}", {f"text/{name}": markdown._to_dict()})])


def summary(run: Run, step: int, values: dict[str, Any]) -> None:
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
    _write(run, [(step, "summary", numbers)])


def _write(run: Run, records: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
    """Records (step, what, metrics) and the config, in one transaction."""
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    storage.bulk_log(
        project=project(),
        run=run.name,
        run_id=run.id,
        metrics_list=[metrics for _, _, metrics in records],
        steps=[step for step, _, _ in records],
        log_ids=[f"{run.id}-{step}-{what}" for step, what, _ in records],
        config={**run.config, **run.notes, "_Group": run.group or None},
    )


def open_run(run: Run) -> Run:
    return run  # there as soon as something is written


TRACKER = Tracker(open_run, scalars, figure, text, summary, check=check, place=place)
