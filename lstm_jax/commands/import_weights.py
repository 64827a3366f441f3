"""a workdir from a file of weights, which evaluate, predict, diagnose and train take as a run.

lstm-jax import --from=runs/airline/export/model.onnx --workdir=runs/again
lstm-jax import --from=airline.safetensors --workdir=runs/torch
lstm-jax import --from=lstm.pt --rename=lstm.=rnn.,fc.=head.linear. --config=configs/airline.py \\
  --workdir=runs/theirs
lstm-jax train --config=configs/airline.py --workdir=runs/tuned --init_from=runs/theirs

Reads .safetensors, .npz, .onnx and, where torch is installed, .pt with nothing but tensors. A file
that `lstm-jax export` wrote knows its config; for any other, --config says which model the weights
are of. Every array that is missing, unknown or of another shape is listed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.config.fields import flatten
from lstm_jax.config.options import default_config
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.convert import files, imports, runs
from lstm_jax.errors import OK, UsageError, lookup
from lstm_jax.training.check import load_config

FLAGS = (
    Flag("from", "", "the file", path=True),
    Flag("workdir", "", "where the run is made", path=True),
    Flag("config", "", "config file of the model, where the file does not know its own"),
    Flag("library", "", f"whose names: {' | '.join(runs.NAMES)} (default: the file's, or a guess)"),
    Flag("rename", "", "OLD=NEW,...: names that begin with OLD begin with NEW"),
    Flag("partial", False, "what the file lacks keeps its initial values"),
)


def run(arguments: Arguments) -> int:
    """Read, compare with the config's model, make the workdir."""
    no_words(arguments)
    flags = vars(arguments.flags)
    if not flags["from"] or not flags["workdir"]:
        raise UsageError("import needs both ends: lstm-jax import --from=FILE --workdir=DIR")
    if flags["library"]:
        lookup("library", flags["library"], dict.fromkeys(runs.NAMES))
    path, workdir = Path(flags["from"]), Path(flags["workdir"])
    config = _config(arguments, path)
    found = imports.make(config, path, workdir, flags["library"], flags["rename"], flags["partial"])
    guessed = "guessed from them; --library says otherwise" if found.guessed else "as told"
    print(f"{path}: the names of {found.library} ({guessed})")
    for name in found.lacking:
        print(f"  not in the file, initial values: {name}")
    print(f"{workdir}: step 0 of a run; evaluate, predict, diagnose and train --init_from take it")
    return OK


def _config(arguments: Arguments, path: Path) -> Any:
    """The config that was given, else the file's own, with the overrides."""
    if arguments.config:
        return load_config(arguments.config, arguments.overrides)
    text = files.load(path)[1].get("config")
    if not text:
        raise UsageError(
            f"{path} does not say which model its weights are of: give --config=FILE, as in "
            "--config=configs/airline.py"
        )
    try:
        saved = flatten(json.loads(text))
    except ValueError as error:
        raise UsageError(f"{path} holds a damaged config: {error}; give --config=FILE") from None
    return apply_overrides(default_config(saved["task.name"]), saved | arguments.overrides)
