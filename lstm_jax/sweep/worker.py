"""A worker: claims packs one after the other, trains them, and goes when none is left.

    python -m lstm_jax.sweep.worker WORKDIR [PACK ...]

Any number of workers may share a workdir, on any hosts. SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 save
and let go after the running chunk; so does the file WORKDIR/cancelled.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from lstm_jax.cli import is_out_of_memory
from lstm_jax.core import INTERRUPTED, OK, UsageError
from lstm_jax.sweep import claims
from lstm_jax.sweep.plan import Plan, pack_folder, read_plan, trial_folder
from lstm_jax.sweep.trials import OVER, STATUS, trial_status

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
CANCELLED = "cancelled"
WAIT_SECONDS = 0.5


class Stop:
    """Why the worker should stop, "" while it should not."""

    def __init__(self, workdir: Path):
        self.cancelled, self.why = workdir / CANCELLED, ""

    def catch_signals(self) -> None:
        for name in SIGNALS:
            signal.signal(getattr(signal, name), self._catch)

    def _catch(self, number: int, frame: Any) -> None:
        self.why = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one stops at once

    def __call__(self) -> str:
        return self.why or ("cancelled" if self.cancelled.exists() else "")


def work(workdir: Path, packs: list[int] | None = None, stop: Stop | None = None) -> int:
    """Run packs until all have ended, or until told to stop; an exit code.

    A pack that another worker holds is waited for: it may die, and then it is ours.
    """
    plan, stop, watcher = read_plan(workdir), stop or Stop(workdir), claims.Watcher()
    mine = list(range(len(plan.packs))) if packs is None else packs
    while left := [n for n in mine if not claims.ended(pack_folder(workdir, n))]:
        if stop():
            return INTERRUPTED
        if not any(run_next(plan, workdir, number, watcher, stop) for number in left):
            time.sleep(WAIT_SECONDS)
    return OK


def run_next(plan: Plan, workdir: Path, number: int, watcher: Any, stop: Stop) -> bool:
    """Claim and run one pack; False when it is not to be had."""
    claim = watcher.claim(pack_folder(workdir, number))
    if claim is None:
        return False
    say(f"pack {number}: attempt {claim.attempt}, {len(plan.packs[number])} trials")
    with claim:
        try:
            how = run_pack(plan, workdir, number, claim, stop)
        except claims.Lost as lost:
            how = str(lost)
        except Exception as error:
            how = fail(plan, workdir, number, claim, error)
    say(f"pack {number}: {how}")
    return True


def run_pack(plan: Plan, workdir: Path, number: int, claim: Any, stop: Stop) -> str:
    from lstm_jax.sweep.pack import Pack

    folder = pack_folder(workdir, number)
    how = Pack(plan, number, folder, partial(trial_folder, workdir), claim).run(stop)
    if how == "completed":
        claim.end("completed")
    return how


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
            claims.replace_json(folder / STATUS, {**status, "status": "failed", **mark})
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
    return text if isinstance(error, UsageError) else f"{type(error).__name__}: {text}"


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main(argv: list[str]) -> int:
    from lstm_jax import distributed, parallel, warm

    workdir, packs = Path(argv[0]), [int(word) for word in argv[1:]]
    stop = Stop(workdir)
    stop.catch_signals()
    parallel.configure_cpu_devices()
    warm.keep_programs()
    try:
        if distributed.find("auto") is not None:
            from lstm_jax.sweep import hosts

            return hosts.work(workdir, packs[0], stop)
        return work(workdir, packs or None, stop)
    except UsageError as error:
        say(f"lstm-jax: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
