"""A command line, parsed: --config and its fields in any order; absl reads the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from absl import flags

from lstm_jax.errors import UsageError
from lstm_jax.option import Flag

__all__ = ["Arguments", "Flag", "config_arguments", "no_words", "parse"]


class Arguments(NamedTuple):
    """A parsed command line."""

    config: str  # "path.py[:arg]", or "" where none was given
    overrides: dict[str, Any]  # {"optimizer.learning_rate": "0.01"}
    flags: SimpleNamespace
    words: tuple[str, ...]  # positional arguments
    argv: tuple[str, ...]


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
            rest.append(_spelled(word) if is_flag else word)
    return config, overrides, rest


def _spelled(word: str) -> str:
    """`--dry-run` is `--dry_run`."""
    name, equals, value = word.partition("=")
    return (
        "--" + name.removeprefix("--").replace("-", "_") + equals + value
        if word[:2] == "--"
        else word
    )


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
