"""the checkpoints of a run: step, ok or corrupt, sha256 over every leaf of the state.

  lstm-jax checkpoint --workdir=runs/airline

Every checkpoint is read and verified in full; nothing is moved or changed.
"""

from __future__ import annotations

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.errors import OK, UsageError
from lstm_jax.training.saved import workdir_of
from lstm_jax.workdir.checkpoint import Checkpoints

FLAGS = (Flag("workdir", "", "the run", path=True),)


def run(arguments: Arguments) -> int:
    """Print one line a checkpoint, oldest first."""
    no_words(arguments)
    workdir = workdir_of(arguments.flags.workdir, "checkpoint")
    steps = Checkpoints(workdir).steps()
    if not steps:
        raise UsageError(f"{workdir} has no checkpoints")
    width = max(len(str(info.step)) for info in steps)
    for info in steps:
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in sorted(info.metrics.items()))
        digest = f"sha256:{info.digest}" if info.digest else ""
        line = f"{info.step:>{width}}  {info.status}  {info.bytes:,} bytes  {digest}  {metrics}"
        print(line.rstrip())
    return OK
