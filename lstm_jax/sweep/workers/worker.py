"""A worker: claims packs one after the other, trains them, and goes when none is left.

    python -m lstm_jax.sweep.workers.worker WORKDIR [PACK ...] [--leave]

Any number of workers may share a workdir, on any hosts. With --leave one goes as soon as others run
what is left of a search: its launcher starts workers for what is asked next. SIGINT, SIGTERM,
SIGUSR1 and SIGUSR2 save and let go after the running chunk; so does the file WORKDIR/cancelled.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from lstm_jax import signals
from lstm_jax.compute import compile_cache, processes, sharding
from lstm_jax.errors import INTERRUPTED, OK, UsageError
from lstm_jax.sweep import asks, claims
from lstm_jax.sweep.define.plan import Plan, pack_folder, read_plan, trial_folder
from lstm_jax.sweep.pack.loop import Pack
from lstm_jax.sweep.pack.program import forget
from lstm_jax.sweep.workers import logs, multihost
from lstm_jax.sweep.workers.stop import WAIT_SECONDS, Stop, fail, say

LEAVE = "--leave"


def work(
    workdir: Path, packs: list[int] | None = None, stop: Stop | None = None, leave: bool = False
) -> int:
    """Run packs until all have ended, or until told to stop; an exit code.

    A pack that another worker holds is waited for: it may die, and then it is ours. Those of a
    search are everybody's, and whoever finds them ended asks for the next ones; with `leave` only
    the packs that were given are waited for.
    """
    plan, stop, watcher = read_plan(workdir), stop or Stop(workdir), claims.Watcher()
    forget()
    while True:
        mine = range(len(plan.packs)) if packs is None or plan.search else packs
        left = [n for n in mine if not claims.ended(pack_folder(workdir, n))]
        if not left and not asks.is_open(plan):
            return OK
        if stop():
            return INTERRUPTED
        if left and not any(run_next(plan, workdir, number, watcher, stop) for number in left):
            if leave and packs is not None and not set(packs) & set(left):
                return OK
            time.sleep(WAIT_SECONDS)
        if not left:
            before, plan = plan, asks.go_on(plan, workdir)
            if plan is before:
                return OK  # a pack has failed: nothing is asked
            say(asks.news(plan, workdir))


def run_next(plan: Plan, workdir: Path, number: int, watcher: Any, stop: Stop) -> bool:
    """Claim and run one pack; False when it is not to be had."""
    claim = watcher.claim(pack_folder(workdir, number))
    if claim is None:
        return False
    logs.link(plan, workdir, number)
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
    folder = pack_folder(workdir, number)
    how = Pack(plan, number, folder, partial(trial_folder, workdir), claim).run(stop)
    if how == "completed":
        claim.end("completed")
    return how


def main(argv: list[str]) -> int:
    workdir, packs = Path(argv[0]), [int(word) for word in argv[1:] if word != LEAVE]
    with signals.asked() as asked:
        stop = Stop(workdir, asked)
        sharding.configure_cpu_devices()
        compile_cache.keep_programs()
        try:
            if processes.find("auto") is not None:
                return multihost.work(workdir, packs[0], stop)
            return work(workdir, packs or None, stop, LEAVE in argv)
        except UsageError as error:
            say(f"lstm-jax: {error}")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
