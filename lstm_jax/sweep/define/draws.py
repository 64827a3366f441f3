"""Sets of trials: each helper yields flat dotted overrides, `{"optimizer.learning_rate": 3e-3}`.

    yield from grid({"cell.gates": ["lstm", "cifg"], "seed": range(5)})
    yield from product(zipped({"cell.hidden": [32, 64], "model.layers": [2, 1]}), grid({...}))
    yield from random(20, {"optimizer.learning_rate": log_uniform(1e-4, 1e-1)}, seed=0)

Random draws depend on their seed alone, so that a study expands to the same trials everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.errors import UsageError

Overrides = dict[str, Any]


class Drawn(str):
    """The name of a field whose value was drawn: reports do not take each draw for a variant."""


class Draw(NamedTuple):
    """What a field may be, as data; called with a point of [0, 1), a value."""

    kind: str  # a row of `KINDS`
    low: float = 0
    high: float = 0  # of integers the first that is too large
    values: tuple = ()

    def __call__(self, u: float) -> Any:
        return KINDS[self.kind].at(self, u)

    def unit(self, value: Any) -> float:
        """A point that gives `value`."""
        return KINDS[self.kind].unit(self, value)


class Kind(NamedTuple):
    """How a draw is made."""

    at: Callable[[Draw, float], Any]
    unit: Callable[[Draw, Any], float]


KINDS = {
    "uniform": Kind(
        lambda d, u: d.low + u * (d.high - d.low),
        lambda d, v: (v - d.low) / (d.high - d.low),
    ),
    "log_uniform": Kind(
        lambda d, u: d.low * (d.high / d.low) ** u,
        lambda d, v: math.log(v / d.low) / math.log(d.high / d.low),
    ),
    "integers": Kind(
        lambda d, u: int(d.low) + int(u * (d.high - d.low)),
        lambda d, v: (v - d.low + 0.5) / (d.high - d.low),
    ),
    "choice": Kind(
        lambda d, u: d.values[int(u * len(d.values))],
        lambda d, v: (d.values.index(v) + 0.5) / len(d.values),
    ),
}


def grid(values: Mapping[str, Iterable[Any]]) -> Iterator[Overrides]:
    """Every combination; the last field varies fastest."""
    for combination in itertools.product(*(list(column) for column in values.values())):
        yield dict(zip(values, combination, strict=True))


def zipped(values: Mapping[str, Iterable[Any]]) -> Iterator[Overrides]:
    """The first values together, then the second ones, ...

    Raises:
      UsageError: the fields have different numbers of values.
    """
    columns = {name: list(column) for name, column in values.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise UsageError(f"zipped fields need equally many values, given {sizes}")
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def product(*sets: Iterable[Overrides]) -> Iterator[Overrides]:
    """Each trial of the first set with each of the second, ...; later sets win where they meet."""
    for parts in itertools.product(*map(list, sets)):
        yield {name: value for part in parts for name, value in part.items()}


def random(
    num_trials: int, draws: Mapping[str, Callable[[float], Any]], seed: int = 0
) -> Iterator[Overrides]:
    """Independent draws."""
    points = np.random.default_rng(seed).random((num_trials, len(draws)))
    return _drawn(points, draws)


def sobol(
    num_trials: int, draws: Mapping[str, Callable[[float], Any]], seed: int = 0
) -> Iterator[Overrides]:
    """Scrambled Sobol points: random draws that leave no holes. Best for powers of two.

    Owen (1998), Scrambling Sobol' and Niederreiter-Xing points.
    """
    from scipy.stats import qmc  # start-up

    if num_trials < 1:
        return iter(())
    exponent = max(num_trials - 1, 0).bit_length()
    points = qmc.Sobol(len(draws), scramble=True, rng=seed).random_base2(exponent)
    return _drawn(points[:num_trials], draws)


def _drawn(points: np.ndarray, draws: Mapping[str, Callable[[float], Any]]) -> Iterator[Overrides]:
    for point in points:
        pairs = zip(draws.items(), point, strict=True)
        yield {Drawn(name): draw(float(u)) for (name, draw), u in pairs}


def uniform(low: float, high: float) -> Draw:
    """low + u (high - low)."""
    return _range("uniform", low, high)


def log_uniform(low: float, high: float) -> Draw:
    """low (high / low)^u: every factor of ten gets as many trials.

    Raises:
      UsageError: a bound that has no logarithm.
    """
    found = _range("log_uniform", low, high)
    if low <= 0 or high <= 0:
        raise UsageError(f"log_uniform({low}, {high}): both bounds must be above 0")
    return found


def integers(low: int, high: int) -> Draw:
    """low, ..., high - 1, equally likely."""
    return _range("integers", low, high)


def _range(kind: str, low: Any, high: Any) -> Draw:
    if not all(isinstance(bound, Real) for bound in (low, high)):
        raise UsageError(f"{kind}({low!r}, {high!r}): expected two numbers")
    return Draw(kind, low, high)


def choice(values: Sequence[Any]) -> Draw:
    """One of these, equally likely."""
    return Draw("choice", values=tuple(values))
