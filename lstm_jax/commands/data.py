"""the data files: what exists, where it is, whether its checksum holds.

lstm-jax data list             what exists, sizes, licences, where it is
lstm-jax data fetch jsb        download, verify, keep in the cache
lstm-jax data check            verify every file that is here
"""

from __future__ import annotations

from lstm_jax.commands.arguments import Arguments, Flag
from lstm_jax.data import files as data
from lstm_jax.errors import OK, UsageError, lookup

FLAGS = (Flag("data_dir", "", "a folder to look in first", path=True),)


def run(arguments: Arguments) -> int:
    """List, fetch or check; 2 where something is damaged or missing."""
    words = arguments.words or ("list",)
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


ACTIONS = {"list": show, "fetch": fetch, "check": check}
