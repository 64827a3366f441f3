"""time our LSTM layers beside flax, haiku, equinox, keras and torch, and every variant.

lstm-jax bench                         the layers at six shapes, forward and training step
lstm-jax bench --quick                 the same with few repetitions
lstm-jax bench variants chunked        every row of the ablation table; memory and time of chunked
lstm-jax bench devices                 our configs by one device and by every core
lstm-jax bench start packs             from the command to the first step; packs of trials
lstm-jax bench --shapes=100,32,10,128 --rows=lstm_jax,torch --modes=train

Rows are interleaved in one run. It wants the machine to itself, and says how much others used.
"""

from __future__ import annotations

from pathlib import Path

from lstm_jax.cli import OK, Arguments, Flag

FLAGS = (
    Flag("shapes", "", "T,B,D,H of the layers, several with a semicolon between them"),
    Flag("rows", "", "only these, as in lstm_jax,torch; names as the table prints them"),
    Flag("modes", "forward,train", "forward, train or both"),
    Flag("seconds", 25.0, "that each shape gets a mode, at least three rounds"),
    Flag("quick", False, "three rounds of everything"),
    Flag("out", "runs/bench", "folder of tables, CSV files and plots", path=True),
)


def run(arguments: Arguments) -> int:
    """Run the parts that are named; the layers where none is."""
    from lstm_jax.bench.parts import PARTS
    from lstm_jax.core import lookup

    flags = arguments.flags
    flags.seconds = 0.0 if flags.quick else flags.seconds
    parts = [
        lookup("part of the benchmark", word, PARTS) for word in arguments.words or ("layers",)
    ]
    for part in parts:
        part(flags, Path(flags.out))
    return OK
