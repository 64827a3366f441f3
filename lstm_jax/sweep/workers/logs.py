"""Log files by variant: logs/variants/cifg_003.log leads to what the worker of pack 3 prints."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lstm_jax.sweep.define.names import variant_names
from lstm_jax.sweep.define.plan import Plan
from lstm_jax.workdir.files import replacing

FOLDER = Path("logs", "variants")


def link(plan: Plan, workdir: Path, number: int) -> None:
    """Links for the variants of a pack, to the newest attempt; none where we print to no file."""
    with contextlib.suppress(OSError):
        log = Path(os.readlink("/proc/self/fd/1"))
        if log.is_file():
            link_to(log, plan, workdir, number)


def link_to(log: Path, plan: Plan, workdir: Path, number: int) -> None:
    folder, named = workdir.resolve() / FOLDER, variant_names(plan)
    folder.mkdir(parents=True, exist_ok=True)
    for name in {named[trial] for trial in plan.packs[number]}:
        with replacing(folder / f"{name}_{number:03d}.log") as place:
            place.symlink_to(os.path.relpath(log, folder))
