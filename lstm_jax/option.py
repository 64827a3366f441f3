"""What a field of a config is, and a flag of a verb: a row that says all that is known of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The values that a field may hold."""

    expected: str  # in words: what stands in the message and on the page
    fits: Callable[[Any], bool]


ANY = Range("", lambda v: True)
RATE = Range("a rate from 0 up to, not including, 1", lambda v: 0 <= v < 1)
SHARE = Range("a rate from 0 to 1", lambda v: 0 <= v <= 1)
FRACTION = Range("from 0 to 1", SHARE.fits)
SIZE = Range("a positive whole number", lambda v: v >= 1)
NOT_NEGATIVE = Range("at least 0", lambda v: v >= 0)
POSITIVE = Range("above 0", lambda v: v > 0)


class Option(NamedTuple):
    """A field of a config. A 0 stands for off and "" for the part's own choice.

    The default's type is the field's: bool, int, float, str or tuple, as a command line can give.
    """

    name: str  # without its section: "hidden" of cell.hidden
    default: bool | int | float | str | tuple
    help: str  # one line, for `lstm-jax config` and docs/options.md
    range: Range = ANY
    numeric: bool = False  # enters compiled code as an array, so that a pack may vary it; 0: off
    placement: bool = False  # where and how a run is computed: the same numbers but for rounding
    midway: bool = False  # may change while a run goes on: what is watched, kept and done
    period: bool = False  # of the loop: steps after which something is due; 0: never
    option_of: str = ""  # of a cell: the constructor's option, where it is not the one of its name
    gate: str = ""  # of a cell: the one gate that it is about
    transform: str = ""  # of a cell: the transform that it turns on, .argument that it becomes


class Flag(NamedTuple):
    """A flag of a verb; its type is its default's, and the default "" or 0 often means none."""

    name: str
    default: Any
    help: str
    path: bool = False  # a file or a folder: `~` is the home folder, as in the shell
