"""W&B: online where one is logged in, else offline files in wandb/ beside the run.

An offline run is a picture of metrics.jsonl: opened again it is drawn afresh, and the older picture
goes. So each point is in it once, and `wandb sync` uploads one folder a run.
"""

from __future__ import annotations

import importlib
import netrc
import os
import shutil
import socket
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from lstm_jax.errors import UsageError
from lstm_jax.trackers.contract import PROJECT, Point, Run, Tracker, installed, writable

SERVER = "https://api.wandb.ai"
MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}
SECONDS = 5.0


class Handle(NamedTuple):
    """A run of W&B's, and the older pictures that it replaces."""

    run: Any
    older: list[Path]


def server() -> str:
    return os.environ.get("WANDB_BASE_URL", SERVER)


def is_logged_in() -> bool:
    try:
        known = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        known = {}
    return bool(os.environ.get("WANDB_API_KEY")) or urlsplit(server()).hostname in known


def mode() -> str:
    given = os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
    if given not in MODES:
        raise UsageError(
            f"--tracker=wandb: WANDB_MODE={given!r}: expected online or offline; set one of them, "
            "unset it to be online where you are logged in, or leave --tracker=wandb out"
        )
    return MODES[given]


def place(home: Path) -> str:
    return server() if mode() == "online" else f"wandb sync {folder(home)}/offline-run-*"


def folder(home: Path) -> Path:
    return Path(os.environ.get("WANDB_DIR", home)) / "wandb"


def check(home: Path) -> None:
    """Installed; logged in and reachable, or offline and writable."""
    installed("wandb")
    if mode() == "offline":
        return writable("wandb", folder(home))
    if mode() == "online" and not is_logged_in():
        raise UsageError(
            "--tracker=wandb: WANDB_MODE=online, and nobody is logged in; run `wandb login` or set "
            "WANDB_API_KEY, or set WANDB_MODE=offline and `wandb sync` later"
        )
    if mode() == "online":
        _answers(urlsplit(server()))


def _answers(url: Any) -> None:
    address = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection(address, timeout=SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"--tracker=wandb: {server()} does not answer ({error}); set WANDB_MODE=offline and "
            "`wandb sync` later, or correct WANDB_BASE_URL"
        ) from None


def open_run(run: Run) -> Handle:
    wandb = importlib.import_module("wandb")
    offline = mode() == "offline"
    older = sorted(folder(run.home).glob(f"offline-run-*-{run.id}")) if offline else []
    made = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run.id,
        name=run.name,
        group=run.group or None,
        config={**run.config, **{f"lstm_jax.{k}": v for k, v in run.notes.items()}},
        dir=os.environ.get("WANDB_DIR", str(run.home)),
        mode=mode(),
        resume=None if offline else "allow",
        reinit="create_new",
        settings=_quiet(wandb),
    )
    made.define_metric("step", hidden=True)
    made.define_metric("*", step_metric="step")  # a test's step is that of the best weights
    return Handle(made, older)


def _quiet(wandb: Any) -> Any:
    """No console, no system metrics, no git: the workdir has what there is to know."""
    return wandb.Settings(
        silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False
    )


def held(handle: Handle, tags: Iterable[str]) -> dict[str, set[int]]:
    """Nothing of a new picture; of an online run what the server says."""
    found: dict[str, set[int]] = defaultdict(set)
    if not handle.run.offline and handle.run.resumed:
        wanted = set(tags)
        for row in importlib.import_module("wandb").Api().run(handle.run.path).scan_history():
            for tag in wanted & {name for name, value in row.items() if value is not None}:
                found[tag].add(int(row["step"]))
    return found


def scalars(handle: Handle, points: Sequence[Point]) -> None:
    for point in points:
        handle.run.log({"step": point.step, **point.values})


def figure(handle: Handle, step: int, name: str, path: Path) -> None:
    image = importlib.import_module("wandb").Image(str(path))
    handle.run.log({"step": step, f"figures/{name}": image})


def text(handle: Handle, step: int, name: str, words: str) -> None:
    html = importlib.import_module("wandb").Html(f"<pre>{_escaped(words)}</pre>")
    handle.run.log({"step": step, f"text/{name}": html})


def _escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")


def summary(handle: Handle, step: int, values: dict[str, Any]) -> None:
    handle.run.summary.update(values)


def close(handle: Handle, status: str) -> None:
    handle.run.finish(exit_code=0 if status in ("completed", "pruned") else 1)
    for path in handle.older:
        shutil.rmtree(path, ignore_errors=True)


TRACKER = Tracker(open_run, scalars, figure, text, summary, close, held, check, place)
