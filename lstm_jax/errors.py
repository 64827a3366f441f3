"""What can go wrong, as exit codes and as messages that say how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

# Exit codes: done, a bug in lstm_jax, the user can fix it, diverged, the same command goes on.
OK, DEFECT, USAGE_ERROR, DIVERGED, INTERRUPTED = 0, 1, 2, 3, 4
# Of how a run ended.
EXIT_CODES = {"completed": OK, "diverged": DIVERGED, "interrupted": INTERRUPTED, "failed": DEFECT}


class UsageError(ValueError):
    """Something the user can fix: says what was given, what was expected and how to fix it."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in `known`, with the nearest one that is."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UsageError(f"unknown {kind} {name!r}{hint} known: {', '.join(names)}")


def lookup(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or `unknown` raised."""
    if not isinstance(name, Hashable) or name not in table:
        raise unknown(kind, name, table)
    return table[name]


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
