"""a run's best model as a file for something else, compared before it is called done.

lstm-jax export --workdir=runs/airline --to=onnx
lstm-jax export --workdir=runs/airline --to=torch --out=airline.safetensors

Weights: safetensors and npz under our names; torch, keras, linen, nnx, haiku and equinox under
theirs, in a .safetensors or .npz file. Models: onnx (with a step model for streaming), stablehlo.
A model card lies beside the file. docs/convert.md says more.
"""

from __future__ import annotations

from pathlib import Path

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.convert.conventions import OUTER
from lstm_jax.convert.export import FORMATS, export
from lstm_jax.errors import OK, UsageError, lookup
from lstm_jax.training import saved

FLAGS = (
    Flag("workdir", "", "the run", path=True),
    Flag("to", "", " | ".join(FORMATS)),
    Flag("out", "", "the file (default: WORKDIR/export/model.SUFFIX)", path=True),
)


def run(arguments: Arguments) -> int:
    """Reload, write, read back, compare, describe."""
    no_words(arguments)
    flags = arguments.flags
    workdir = saved.workdir_of(flags.workdir, "export")
    if not flags.to:
        raise UsageError(f"to which format? --to={'|'.join(FORMATS)}")
    name = (flags.to if flags.to in OUTER else "model") + lookup("format", flags.to, FORMATS).suffix
    out = Path(flags.out or workdir / "export" / name)
    done, card = export(workdir, saved.open_run(workdir), flags.to, out)
    for line in done.checked:
        print(line)
    for name, what in done.files.items():
        print(f"{out.with_name(name)}  {what}")
    print(f"{card}  the model card")
    return OK
