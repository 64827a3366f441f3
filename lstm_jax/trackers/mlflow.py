"""MLflow: the server of MLFLOW_TRACKING_URI, else mlflow.db beside the run (SQLite).

MLflow chooses run ids itself: ours is the tag `lstm_jax.id`, set as the run is made. Metrics are
asked for before they are sent, so that each is there once.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax.errors import UsageError
from lstm_jax.trackers.contract import PROJECT, Point, Run, Tracker, installed, writable

ID, PARENT, NAME = "lstm_jax.id", "mlflow.parentRunId", "mlflow.runName"
COMMIT = "mlflow.source.git.commit"  # its pages show it
STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
MOST_METRICS, MOST_PARAMETERS, LONGEST = 1000, 100, 6000  # of a request; of a parameter's value
SECONDS = 5.0


class Handle(NamedTuple):
    """A run of MLflow's."""

    client: Any
    run_id: str
    is_new: bool
    ended: float  # when training ended, 0 where it went on as the run was opened


def uri_of(home: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"


def shown(uri: str) -> str:
    """Without its password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)


def place(home: Path) -> str:
    uri = shown(uri_of(home))
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def check(home: Path) -> None:
    """Installed, and the store writable or the server there."""
    uri = uri_of(home)
    installed("mlflow", "mlflow", *(["sqlalchemy", "alembic"] if "sql" in uri else []))
    if uri.startswith("http"):
        _answers(uri)
    elif uri.startswith("sqlite:///"):
        writable("mlflow", Path(uri.removeprefix("sqlite:///")).parent)
    else:
        _opens(uri)


def _answers(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise UsageError(
                f"--tracker=mlflow: {shown(uri)} wants a login ({error}); set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from None
    except OSError as error:
        why = getattr(error, "reason", error)
        raise UsageError(
            f"--tracker=mlflow: no server at {shown(uri)} ({why}); start it (mlflow server), "
            "correct MLFLOW_TRACKING_URI, or unset it for a local file; or leave --tracker out "
            "and send the run later with lstm-jax track"
        ) from None


def _opens(uri: str) -> None:
    """A database, Databricks or whatever else MLflow knows; only it can say whether it is there."""
    try:
        _client(uri).search_experiments(max_results=1)
    except Exception as error:
        why = str(error).partition("\n")[0].partition(". ")[0].strip()
        raise UsageError(
            f"--tracker=mlflow: MLFLOW_TRACKING_URI={shown(uri)}: {why}; expected http://HOST:PORT "
            "of a server, sqlite:///FILE or another database; correct it, or unset it for a local "
            "file"
        ) from None


# ---------------------------------------------------------------- the run


def open_run(run: Run) -> Handle:
    client = _client(uri_of(run.home))
    experiment = _experiment(client, run.home)
    tags = {f"lstm_jax.{name}": value for name, value in run.notes.items()}
    tags |= {COMMIT: run.notes["commit"]} if "commit" in run.notes else {}
    if run.group:
        ours, began = f"group-{run.home}-{run.group}", run.began
        group, is_new = _run(client, experiment, ours, run.group, {}, began)
        if is_new:
            # It only holds the others together.
            client.set_terminated(group, end_time=_stamp(run.began))
        tags |= {PARENT: group, "lstm_jax.group": run.group}
    run_id, is_new = _run(client, experiment, run.id, run.name, tags, run.began)
    if not is_new:
        client.update_run(run_id, status="RUNNING")
    _parameters(client, run_id, run.config)
    return Handle(client, run_id, is_new, run.ended)


def _client(uri: str) -> Any:
    # A server that is away holds a run up for seconds, not for minutes; what fails is sent later.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    mlflow = importlib.import_module("mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        _create(mlflow, path)
    return mlflow.MlflowClient(tracking_uri=uri)


def _create(mlflow: Any, path: Path) -> None:
    """A store that has all its tables from its first moment.

    A kill while MLflow makes them leaves one that MLflow itself can neither use nor repair.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments(max_results=1)
        os.link(part, path)
    except FileExistsError:  # another process was first
        pass
    finally:
        part.unlink(missing_ok=True)


def _experiment(client: Any, home: Path) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    where = (home / "mlartifacts").as_uri() if local else None
    return client.create_experiment(name, artifact_location=where)


def _run(
    client: Any, experiment: str, ours: str, name: str, tags: dict[str, str], began: float
) -> tuple[str, bool]:
    """MLflow's id of the run that has our id, and whether it was made just now."""
    found = client.search_runs([experiment], f"tags.`{ID}` = '{ours}'", max_results=1)
    if found:
        return found[0].info.run_id, False
    tags = {**tags, ID: ours, NAME: name}
    made = client.create_run(experiment, _stamp(began), tags, run_name=name)
    return made.info.run_id, True


def _parameters(client: Any, run_id: str, config: dict[str, Any]) -> None:
    """Those that are not there yet: MLflow's never change."""
    entities = importlib.import_module("mlflow.entities")
    there = client.get_run(run_id).data.params
    new = [entities.Param(k, str(v)[:LONGEST]) for k, v in config.items() if k not in there]
    for some in _parts(new, MOST_PARAMETERS):
        client.log_batch(run_id, params=some)


# ---------------------------------------------------------------- what is sent


def held(handle: Handle, tags: Iterable[str]) -> dict[str, set[int]]:
    if handle.is_new:
        return {}
    history = handle.client.get_metric_history
    return {tag: {metric.step for metric in history(handle.run_id, tag)} for tag in tags}


def scalars(handle: Handle, points: Sequence[Point]) -> None:
    Metric, now = importlib.import_module("mlflow.entities").Metric, int(time.time() * 1000)
    found = [Metric(tag, v, now, p.step) for p in points for tag, v in p.values.items()]
    for some in _parts(found, MOST_METRICS):
        handle.client.log_batch(handle.run_id, metrics=some)


def figure(handle: Handle, step: int, name: str, path: Path) -> None:
    handle.client.log_artifact(handle.run_id, str(path), "figures")


def text(handle: Handle, step: int, name: str, words: str) -> None:
    handle.client.log_text(handle.run_id, words, f"{name}.md")


def summary(handle: Handle, step: int, values: dict[str, Any]) -> None:
    """Numbers as metrics, which MLflow's tables compare; words as tags."""
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
    there = held(handle, numbers)
    new = {k: v for k, v in numbers.items() if step not in there.get(k, ())}
    scalars(handle, [Point(step, new)])
    for name in values.keys() - numbers.keys():
        tag = f"lstm_jax.{name.removeprefix('run/')}"
        handle.client.set_tag(handle.run_id, tag, str(values[name]))


def close(handle: Handle, status: str) -> None:
    state = STATUS.get(status, "KILLED")
    handle.client.set_terminated(handle.run_id, state, _stamp(handle.ended))


def _stamp(seconds: float) -> int | None:
    """A time as MLflow wants it, in milliseconds; None, which it takes for now, where unknown."""
    return int(1000 * seconds) or None


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


TRACKER = Tracker(open_run, scalars, figure, text, summary, close, held, check, place)
