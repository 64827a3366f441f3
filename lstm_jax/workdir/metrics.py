"""What a run writes while it trains: metrics.jsonl, TensorBoard events, figures.

Opening costs a stat and a read of metrics.jsonl; no handle stays open and no thread is started, so
one process may hold hundreds of writers. After any crash and resume metrics.jsonl holds each
(step, split) once, provided that lines are written before the checkpoint of their step is saved.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lstm_jax.config.fields import changed, resolve
from lstm_jax.errors import UsageError
from lstm_jax.workdir import tensorboard as events
from lstm_jax.workdir.files import append, read_json, to_json, write_bytes, write_text

__all__ = ["Writer", "open_writer", "read_metrics"]

METRICS = "metrics.jsonl"
PLACE = "tensorboard.json"  # of a trial: where its events go, its group, the fields that vary
BASELINE = "valid_baseline"  # tags of scores without a network; TensorBoard lists them last
LEARNING = "training, validation, and scores without a network"


def open_writer(
    workdir: str | Path, config: Any = None, *, resume_step: int = 0, tensorboard: bool = True
) -> Writer:
    """The writer of a run that goes on after `resume_step`, or starts (0); creates the directory.

    Lines after `resume_step` are dropped, for they will be written again; so are torn ones. A run
    that starts drops all, step 0 included: an attempt that died before its first checkpoint.
    """
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"could not create workdir {workdir}: {error.strerror}") from error
    writer = Writer(workdir, resume_step, tensorboard)
    if config is not None and resume_step == 0:
        writer.text(0, "config", _code_block(json.dumps(to_json(config.to_dict()), indent=2)))
    return writer


class Writer:
    """Log lines, TensorBoard and figures of one run; see `open_writer`."""

    def __init__(self, workdir: Path, resume_step: int, tensorboard: bool):
        self.workdir = workdir
        self._path = workdir / METRICS
        self._written = _repair(self._path, resume_step)
        self._tags: set[str] = set()
        self._last_step, self._has_layout = resume_step, False
        self.place = read_json(workdir / PLACE)  # {} of a run alone: its events lie here
        self._events = _event_file(workdir, self.place, resume_step) if tensorboard else None

    def scalars(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl and one point per metric under the tag `split/metric`.

        A (step, split) that is there already is left as it is: a resumed run may say it again.
        ValueError when it is said twice with different metrics: log a split's metrics in one call.
        """
        step, names = int(step), frozenset(metrics)
        known = self._written.get((step, split))
        if known is not None:
            if names - known:
                raise ValueError(f"step {step} of {split} is logged; too late for {names - known}")
            return
        values = {name: np.asarray(value).item() for name, value in metrics.items()}
        self._written[step, split] = names
        self._last_step = max(self._last_step, step)
        append(self._path, _line({"step": step, "split": split, **values}))
        self._points(step, {f"{split}/{name}": value for name, value in values.items()})
        if split == "valid":
            self._lay_out(values)

    def baselines(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Scores {name: {metric: value}} as level lines beside the learning curves of TensorBoard.

        A point at each evaluation, so that a line is as long as the curves are by then.
        """
        points = {f"{BASELINE}/{m}/{name}": v for name, s in scores.items() for m, v in s.items()}
        self._points(int(step), points)

    def _lay_out(self, metrics: Iterable[str]) -> None:
        """TensorBoard's Custom Scalars tab: a chart a metric, with all that compares in it."""
        if self._events is None or self._has_layout:
            return
        self._has_layout = True
        charts = {m: [f"^train/{m}$", f"^valid/{m}$", f"^{BASELINE}/{m}/"] for m in metrics}
        self._events.add(self._last_step, events.lines(LEARNING, charts))

    def varied(self, config: Any) -> dict[str, Any]:
        """What tells this run apart: the fields that its sweep varies, or that are not defaults."""
        flat = resolve(config).flat
        fields = self.place.get("fields", changed(config))
        return {name: flat.get(name) for name in fields}

    def histograms(self, step: int, tag: str, tree: Any) -> None:
        """One histogram per leaf of a pytree of arrays, under `tag/path`, of its finite values."""
        if self._events is None:
            return
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name = "/".join(
                filter(None, (tag, jax.tree_util.keystr(path, simple=True, separator="/")))
            )
            if (summary := events.histogram(name, leaf)) is not None:
                self._events.add(step, summary)

    def figure(self, step: int, name: str, figure: Any) -> Path:
        """Save a matplotlib figure as figures/NAME.png and show it in TensorBoard; its path."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
        path = self.workdir / "figures" / (re.sub(r"[^\w.-]+", "_", name) + ".png")
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, buffer.getvalue())
        if self._events is not None:
            self._events.add(step, events.image(name, buffer.getvalue()))
        return path

    def text(self, step: int, tag: str, text: str) -> None:
        """Text for TensorBoard, read as Markdown."""
        if self._events is not None:
            self._events.add(step, events.text(tag, text))

    def hparams(
        self, hparams: Mapping[str, Any], metrics: Mapping[str, Any], status: str = "completed"
    ) -> None:
        """The run's row in TensorBoard's HParams tab; `metrics` by tag, such as `test/rmse`.

        A metric that was not logged as a scalar before is logged at the last step: the tab reads
        values from the curves.
        """
        if self._events is None:
            return
        new = sorted(metrics.keys() - self._tags)
        self._points(self._last_step, {tag: float(metrics[tag]) for tag in new})
        for summary in events.hparams(hparams, metrics, status, self.place.get("group", "")):
            self._events.add(self._last_step, summary)

    def flush(self, sync: bool = True) -> None:
        """Hand everything to the file system and, with `sync`, to the disk: before a checkpoint."""
        if self._events is not None:
            self._events.flush(sync)
        if sync and self._path.exists():
            append(self._path, b"", sync=True)

    def close(self) -> None:
        self.flush(sync=False)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _points(self, step: int, values: Mapping[str, float]) -> None:
        if self._events is not None and values:
            self._tags.update(values)
            self._events.add(step, events.scalars(values))


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl as dicts; torn or foreign ones are left out, null is NaN."""
    try:
        data = (Path(workdir) / METRICS).read_bytes()
    except FileNotFoundError:
        return []
    records = filter(None, map(_parse, data.split(b"\n")))
    return [{k: float("nan") if v is None else v for k, v in r.items()} for r in records]


def _event_file(workdir: Path, place: Mapping[str, Any], resume_step: int) -> events.EventFile:
    folder = Path(os.path.normpath(workdir / place.get("events", "")))
    folder.mkdir(parents=True, exist_ok=True)
    return events.EventFile(folder, resume_step and resume_step + 1)


def _repair(path: Path, resume_step: int) -> dict[tuple[int, str], frozenset[str]]:
    """Leave whole lines up to `resume_step`, each (step, split) once; what is there by then."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    kept: dict[tuple[int, str], dict[str, Any]] = {}
    for record in filter(None, map(_parse, data.split(b"\n"))):
        if 0 <= record["step"] <= resume_step and resume_step:
            kept.setdefault((record["step"], record["split"]), record)
    good = b"".join(map(_line, kept.values()))
    if good != data:
        write_text(path, good.decode())
    return {pair: frozenset(r) - {"step", "split"} for pair, r in kept.items()}


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if type(record["step"]) is int and type(record["split"]) is str else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(to_json(record), allow_nan=False) + "\n").encode()


def _code_block(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
