"""the data files: what exists, where it is, whether its checksum holds.

lstm-jax data list             what exists, sizes, licences, where it is
lstm-jax data fetch jsb        download, verify, keep in the cache
lstm-jax data check            verify every file that is here
lstm-jax data inspect FILE     how `task.csv=FILE` is read: a table, a picture, a line to start with
"""

from __future__ import annotations

from pathlib import Path

from lstm_jax.commands.arguments import Arguments, Flag
from lstm_jax.config.options import default_config
from lstm_jax.config.overrides import apply_overrides, read_config
from lstm_jax.data import files as data
from lstm_jax.errors import OK, UsageError, lookup

FLAGS = (
    Flag("data_dir", "", "a folder to look in first", path=True),
    Flag("config", "", "of inspect: a config that says how to read the file"),
    Flag("out", "", "of inspect: the picture (default: NAME.png here)", path=True),
)


def run(arguments: Arguments) -> int:
    """List, fetch or check; 2 where something is damaged or missing."""
    words = arguments.words or ("list",)
    if words[0] == "inspect":
        return inspect(words[1:], arguments)
    return lookup("action of data", words[0], ACTIONS)(words[1:], arguments.flags.data_dir)


def show(names: tuple[str, ...], data_dir: str) -> int:
    """Every dataset, or those named."""
    for name in names or data.DATASETS:
        data.lookup_dataset(name)
        print("\n".join(data.describe(name, data_dir)))
    return OK


def fetch(names: tuple[str, ...], data_dir: str) -> int:
    """Find or download every file of the datasets named."""
    if not names:
        known = ", ".join(data.DATASETS)
        raise UsageError(f"fetch which dataset? lstm-jax data fetch NAME; known: {known}")
    for name in names:
        for file in data.lookup_dataset(name).files:
            print(f"ok  {data.path(name, file.name, data_dir)}")
    return OK


def check(names: tuple[str, ...], data_dir: str) -> int:
    """Verify every file that is here."""
    return data.check(data_dir)


def inspect(names: tuple[str, ...], arguments: Arguments) -> int:
    """How a CSV file is read, with --config.task.OPTION=VALUE where it needs one."""
    from lstm_jax.tasks.forecast import figures, said, series  # start-up

    if len(names) != 1:
        raise UsageError("inspect which file? lstm-jax data inspect FILE.csv")
    base = read_config(arguments.config) if arguments.config else default_config("forecast")
    task = apply_overrides(base, {"task.csv": names[0], **arguments.overrides}).task
    read = series.read_rows if task.layout == "rows" else series.read_series
    found = read(names[0], task)
    print(said.table(said.facts(found) | said.ranges(found)))
    picture = Path(arguments.flags.out or f"{Path(names[0]).stem}.png")
    figures.whole(found).savefig(picture, dpi=120)
    print(f"picture    {picture}\n\nto start with:\n  {said.start(found, arguments.overrides)}")
    return OK


ACTIONS = {"list": show, "fetch": fetch, "check": check}
