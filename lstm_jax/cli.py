"""The command line: `lstm-jax VERB [--config=FILE[:ARG]] [--config.section.field=VALUE] [--flags]`.

A verb is one row of `VERBS` and one module of `commands`, imported when it is asked for: its
docstring is its help, `FLAGS` what it takes, `run(arguments) -> exit code` what it does.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from lstm_jax import plugins, signals
from lstm_jax.commands.arguments import parse
from lstm_jax.errors import (
    DEFECT,
    INTERRUPTED,
    OK,
    USAGE_ERROR,
    UsageError,
    is_out_of_memory,
    unknown,
)

__all__ = ["main"]

VERBS = {
    "train": ("lstm_jax.commands.train", "train a model, or go on where the last run stopped"),
    "evaluate": ("lstm_jax.commands.evaluate", "metrics of a run's best parameters"),
    "predict": ("lstm_jax.commands.predict", "forecasts, classes or text from a run's model"),
    "config": ("lstm_jax.commands.config", "the resolved config and the model, without training"),
    "sweep": ("lstm_jax.commands.sweep", "many trials at once, here or on a cluster"),
    "report": ("lstm_jax.commands.report", "a sweep's statistics, words and figures as one page"),
    "track": ("lstm_jax.commands.track", "a run or a sweep to MLflow, W&B, trackio, or yours"),
    "diagnose": ("lstm_jax.commands.diagnose", "gradients, gates and memory of a run or a sweep"),
    "export": ("lstm_jax.commands.export", "a run's model for ONNX, torch, keras, StableHLO, ..."),
    "import": ("lstm_jax.commands.import_weights", "a run from a file of weights"),
    "checkpoint": ("lstm_jax.commands.checkpoint", "a run's checkpoints, each verified"),
    "data": ("lstm_jax.commands.data", "the data files: list, fetch, check; inspect a CSV file"),
    "new": ("lstm_jax.commands.new", "a file to start from: a cell, gate table, task or study"),
    "check": ("lstm_jax.commands.check", "hold a cell, gate table or task of your own to the laws"),
    "cells": ("lstm_jax.commands.cells", "what a cell can be made of: equations, size, source"),
}

USAGE = """lstm-jax: why is the LSTM built this way, and what happens if I change it?

usage: lstm-jax VERB [--config=FILE[:PRESET]] [--config.section.field=VALUE ...] [--workdir=DIR]

{verbs}

  lstm-jax train --config=configs/airline.py
  lstm-jax train --config=airline:smoke                       the same in seconds
  lstm-jax train --config=configs/adding.py --config.cell.gate_activation=relu --workdir=runs/relu
  lstm-jax evaluate --workdir=runs/relu

`lstm-jax VERB --help` says more. Exit codes: 0 done, 2 you can fix it, 3 diverged,
4 interrupted (the same command goes on), 1 a bug in lstm_jax.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name); the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(argv)
    except UsageError as error:
        print(f"lstm-jax: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:
        return OK
    except OSError as error:
        if not error.filename:
            return defect()
        print(f"lstm-jax: {error.strerror}: {error.filename}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("\nlstm-jax: interrupted; the same command goes on, or starts again", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return out_of_memory(error) if is_out_of_memory(error) else failed(error)


def program() -> NoReturn:
    """`main`, then the end of the process.

    Interrupted, without the interpreter's own end: XLA may still compile in a thread of its own,
    which would crash there.
    """
    code = main()
    signals.heard_by(signal.SIG_IGN)  # it is done: the interpreter's end is not interrupted
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def out_of_memory(error: Exception) -> int:
    what = str(error).splitlines()[0] if str(error) else "no memory left"
    print(
        f"lstm-jax: out of memory: {what[:200]}\nsmaller sizes fit (train.batch_size, "
        "cell.hidden, model.layers, the task's lengths), and model.engine=chunked needs less",
        file=sys.stderr,
    )
    return USAGE_ERROR


def failed(error: Exception) -> int:
    """An error on its way through the user's own part is the part's; any other is ours."""
    place = plugins.told(error)
    if not place:
        return defect()
    print(f"lstm-jax: {place}\nit is in a part of your own; mend it there", file=sys.stderr)
    return USAGE_ERROR


def defect() -> int:
    traceback.print_exc()
    if files := plugins.used():
        names = ", ".join(files)
        print(f"parts of your own take part, {names}: lstm-jax check FILE.py:NAME", file=sys.stderr)
    print("lstm-jax: internal error: a bug in lstm_jax; please report it", file=sys.stderr)
    return DEFECT


def dispatch(argv: list[str]) -> int:
    verb = argv[0] if argv else "help"
    if verb in ("help", "--help", "-h", "-help"):
        print(usage(), end="")
        return OK
    if verb == "--version":
        from importlib.metadata import version  # start-up

        print(version("lstm-jax"))
        return OK
    if verb == "bench":
        raise UsageError("the benchmarks have left the package; in a checkout: make bench")
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    command = importlib.import_module(VERBS[verb][0])
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        print(command_help(verb, command), end="")
        return OK
    plugins.forget()
    known = command.flags(argv[1:]) if hasattr(command, "flags") else command.FLAGS
    arguments = parse(verb, known, argv[1:])
    from lstm_jax.compute import compile_cache  # start-up: JAX

    compile_cache.keep_programs()
    with signals.interrupting():  # a run that trains saves first
        return command.run(arguments)


def usage() -> str:
    width = max(map(len, VERBS))
    return USAGE.format(verbs="\n".join(f"  {v:<{width}}  {h}" for v, (_, h) in VERBS.items()))


def command_help(verb: str, command: ModuleType) -> str:
    """The module's docstring, then its flags."""
    width = max((len(flag.name) for flag in command.FLAGS), default=0)
    lines = [f"  --{flag.name:<{width}}  {flag.help}" for flag in command.FLAGS]
    text = (command.__doc__ or "").strip().replace("\nlstm-jax", "\n  lstm-jax")
    return "\n".join([f"lstm-jax {verb}: {text}", *([""] if lines else []), *lines]) + "\n"


if __name__ == "__main__":
    program()
