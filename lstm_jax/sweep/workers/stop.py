"""Why a worker stops, and what it says when it fails."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax.errors import UsageError, is_out_of_memory
from lstm_jax.plugins import told
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import Plan, trial_folder
from lstm_jax.sweep.pack.trial import OVER, STATUS, trial_status
from lstm_jax.workdir.files import replace_json

CANCELLED = "cancelled"
WAIT_SECONDS = 0.5


class Stop:
    """Why the worker should stop, "" while it should not."""

    def __init__(self, workdir: Path, asked: Sequence[str] = ()):
        self.cancelled, self.asked = workdir / CANCELLED, asked

    def __call__(self) -> str:
        return "".join(self.asked[:1]) or ("cancelled" if self.cancelled.exists() else "")


def fail(plan: Plan, workdir: Path, number: int, claim: Any, error: Exception) -> str:
    """The pack fails, with its reason; the others go on."""
    why, log = reason(error, len(plan.packs[number])), []
    if not isinstance(error, UsageError):
        traceback.print_exc()
        log = traceback.format_exc().splitlines()[-12:]
    for trial in plan.packs[number]:
        folder = trial_folder(workdir, trial)
        folder.mkdir(parents=True, exist_ok=True)
        status = trial_status(folder)
        if status["status"] not in OVER:
            mark = {"attempt": claim.attempt, "pack": number, "error": why}
            replace_json(folder / STATUS, {**status, "status": "failed", **mark})
    try:
        claim.end("failed", error=why, log=log)
    except claims.Lost as lost:
        return str(lost)
    return f"failed: {why}"


def reason(error: Exception, num_trials: int) -> str:
    text = str(error).strip() or type(error).__name__
    if is_out_of_memory(error):
        return (
            f"out of memory with {num_trials} trials in a pack; plan smaller packs in another "
            f"workdir: --pack={max(num_trials // 2, 1)}"
        )
    if isinstance(error, UsageError):
        return text
    return told(error) or f"{type(error).__name__}: {text}"


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
