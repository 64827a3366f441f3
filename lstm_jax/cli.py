"""The command line: `lstm-jax VERB [--config=FILE[:ARG]] [--config.section.field=VALUE] [--flags]`.

A verb is one row of `VERBS` and one module of `commands`, imported when it is asked for: its
docstring is its help, `FLAGS` what it takes, `run(arguments) -> exit code` what it does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from absl import flags

from lstm_jax import warm
from lstm_jax.core import (
    DEFECT,
    DIVERGED,
    INTERRUPTED,
    OK,
    USAGE_ERROR,
    UsageError,
    unknown,
)

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
__all__ = ["DEFECT", "DIVERGED", "INTERRUPTED", "OK", "USAGE_ERROR", "Arguments", "Flag", "main"]

VERBS = {
    "train": ("lstm_jax.commands.train", "train a model, or go on where the last run stopped"),
    "evaluate": ("lstm_jax.commands.evaluate", "metrics of a run's best parameters"),
    "predict": ("lstm_jax.commands.predict", "forecasts, classes or text from a run's model"),
    "config": ("lstm_jax.commands.config", "the resolved config and the model, without training"),
    "sweep": ("lstm_jax.sweep.commands", "many trials at once, here or on a cluster"),
    "report": ("lstm_jax.commands.report", "a sweep's statistics, words and figures as one page"),
    "diagnose": ("lstm_jax.commands.diagnose", "gradients, gates and memory of a run or a sweep"),
    "checkpoint": ("lstm_jax.commands.checkpoint", "a run's checkpoints, each verified"),
    "data": ("lstm_jax.commands.data", "the data files: list, fetch, check"),
    "cells": ("lstm_jax.commands.cells", "what a cell can be made of: equations, size, source"),
    "bench": ("lstm_jax.commands.bench", "our layers beside the other libraries', on this machine"),
}

USAGE = """lstm-jax: why is the LSTM built this way, and what happens if I change it?

usage: lstm-jax VERB [--config=FILE[:PRESET]] [--config.section.field=VALUE ...] [--workdir=DIR]

{verbs}

  lstm-jax train --config=configs/airline.py
  lstm-jax train --config=configs/airline.py:smoke            the same in seconds
  lstm-jax train --config=configs/adding.py --config.cell.gate_activation=relu --workdir=runs/relu
  lstm-jax evaluate --workdir=runs/relu

`lstm-jax VERB --help` says more. Exit codes: 0 done, 2 you can fix it, 3 diverged,
4 interrupted (the same command goes on), 1 a defect of ours.
"""


class Flag(NamedTuple):
    """A flag of a verb; its type is its default's, and the default "" or 0 often means none."""

    name: str
    default: Any
    help: str
    path: bool = False  # a file or a folder: `~` is the home folder, as in the shell


class Arguments(NamedTuple):
    """A parsed command line."""

    config: str  # "path.py[:arg]", or "" where none was given
    overrides: dict[str, Any]  # {"optimizer.learning_rate": "0.01"}
    flags: SimpleNamespace
    words: tuple[str, ...]  # positional arguments
    argv: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name); the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals_interrupt():
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
        return out_of_memory(error) if is_out_of_memory(error) else defect()


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Every signal that asks to stop acts as Ctrl-C does; a run, once it trains, saves first."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours
        return
    numbers = [getattr(signal, name) for name in SIGNALS]
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def out_of_memory(error: Exception) -> int:
    what = str(error).splitlines()[0] if str(error) else "no memory left"
    print(
        f"lstm-jax: out of memory: {what[:200]}\nsmaller sizes fit (train.batch_size, "
        "cell.hidden, model.layers, the task's lengths), and model.engine=chunked needs less",
        file=sys.stderr,
    )
    return USAGE_ERROR


def defect() -> int:
    traceback.print_exc()
    print("lstm-jax: this is a defect of lstm_jax; please report it", file=sys.stderr)
    return DEFECT


def dispatch(argv: list[str]) -> int:
    verb = argv[0] if argv else "help"
    if verb in ("help", "--help", "-h", "-help"):
        print(usage(), end="")
        return OK
    if verb == "--version":
        from importlib.metadata import version

        print(version("lstm-jax"))
        return OK
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    command = importlib.import_module(VERBS[verb][0])
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        print(command_help(verb, command), end="")
        return OK
    arguments = parse(verb, command.FLAGS, argv[1:])
    warm.keep_programs()
    return command.run(arguments)


def usage() -> str:
    width = max(map(len, VERBS))
    return USAGE.format(verbs="\n".join(f"  {v:<{width}}  {h}" for v, (_, h) in VERBS.items()))


def command_help(verb: str, command: ModuleType) -> str:
    """The module's docstring, then its flags."""
    width = max((len(flag.name) for flag in command.FLAGS), default=0)
    lines = [f"  --{flag.name:<{width}}  {flag.help}" for flag in command.FLAGS]
    text = (command.__doc__ or "").strip().replace("\nlstm-jax", "\n  lstm-jax")
    return f"lstm-jax {verb}: {text}\n\n" + "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------
# Parsing: --config and its fields are read here, in any order; absl reads the rest.


def parse(verb: str, known: Sequence[Flag], argv: Sequence[str]) -> Arguments:
    config, overrides, rest = config_arguments(argv)
    values = flags.FlagValues()
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    for flag in known:
        if isinstance(flag.default, bool):
            flags.DEFINE_boolean(flag.name, flag.default, flag.help, flag_values=values)
        else:
            define[type(flag.default)](flag.name, flag.default, flag.help, flag_values=values)
    try:
        words = values([verb, *rest])[1:]
    except flags.Error as error:
        names = ", ".join(f"--{flag.name}" for flag in known)
        raise UsageError(f"{error} ({verb} takes: {names})") from None
    options = SimpleNamespace(**{flag.name: _value(flag, values) for flag in known})
    takes_config = any(flag.name == "config" for flag in known)
    if (config or overrides) and not takes_config:
        raise UsageError(f"{verb} takes no --config; it reads the one in --workdir")
    return Arguments(config, overrides, options, tuple(words), (verb, *argv))


def _value(flag: Flag, values: flags.FlagValues) -> Any:
    """What was given; the shell expands a `~` only where it starts a word."""
    value = values[flag.name].value
    return os.path.expanduser(str(value)) if flag.path else value


def config_arguments(argv: Sequence[str]) -> tuple[str, dict[str, Any], list[str]]:
    """(config file, overrides, the other arguments)."""
    config, overrides, rest = "", {}, []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        is_flag = word.startswith("-")
        if is_flag and name.startswith("noconfig."):
            overrides[name.removeprefix("noconfig.")] = False
        elif is_flag and (name == "config" or name.startswith("config.")):
            bare = not equals and (not words or words[0].startswith("--"))
            value = True if bare else value if equals else words.pop(0)
            if name == "config":
                config = _config_file(value)
            else:
                overrides[name.removeprefix("config.")] = value
        else:
            rest.append(word)
    return config, overrides, rest


def _config_file(value: Any) -> str:
    if value is True or not value:
        raise UsageError("--config needs a file, as in --config=configs/airline.py")
    return os.path.expanduser(value)


def no_words(arguments: Arguments) -> None:
    """Refuses positional arguments: `config.cell.hidden=3` without its dashes, for one."""
    if arguments.words:
        word = arguments.words[0]
        hint = f"; did you mean --{word}?" if "=" in word else ""
        raise UsageError(f"{arguments.argv[0]} takes flags only, given {word!r}{hint}")


if __name__ == "__main__":
    sys.exit(main())
