"""A job of SLURM's that starts when others have ended, and submits again what they left undone.

    python -m lstm_jax.sweep.workers.keeper WORKDIR

For tasks that were killed or cancelled before they could put themselves back, in sweeps that nobody
watches. The jobs it submits have a keeper of their own, until every pack has ended. Where a search
was killed before it asked, it asks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax

from lstm_jax.errors import OK
from lstm_jax.sweep import asks, claims
from lstm_jax.sweep.define.plan import pack_folder, read_plan
from lstm_jax.sweep.workers import launchers
from lstm_jax.sweep.workers.launchers import slurm
from lstm_jax.sweep.workers.stop import CANCELLED, say
from lstm_jax.workdir.files import read_json


def main(argv: list[str]) -> int:
    workdir = Path(argv[0])
    if (workdir / CANCELLED).exists():
        say("cancelled")
        return OK
    for name in os.environ.keys() - slurm.outside().keys():
        del os.environ[name]  # of this small job; those that it submits have their own
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
    packs = range(len(asks.go_on(read_plan(workdir), workdir).packs))
    left = [n for n in packs if not claims.ended(pack_folder(workdir, n))]
    options = read_json(workdir / launchers.LAUNCH)
    again = slurm.Launcher(options).keep(workdir, left) if left else []
    say(f"{len(left)} packs have not ended; submitted again: {again}")
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
