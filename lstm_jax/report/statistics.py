"""The statistics of a report: functions of a few numbers, one a seed.

A *comparison* is an estimate with the interval of every level, and the two p values that follow
from those intervals. A word is read off an interval alone, so the two never disagree:

    better, worse   the interval is on one side of 0
    equivalent      the whole interval is inside the margin: two one-sided tests
    undecided       anything else

Means are 20 % trimmed (Yuen 1974): of five seeds the best and the worst are left out. A seed that
fails now and then has no interval for the plain mean: where one of ten fails, a sample without a
failure says nothing of it, and Welch's interval covers 54 % at n=5 and 66 % at n=10. What a typical
seed does can be said (96 %); how many failed is counted beside it.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

ALPHA, TRIM, RESAMPLES = 0.05, 0.2, 2000
BETTER, WORSE, EQUIVALENT, UNDECIDED = "better", "worse", "equivalent", "undecided"
NOTHING = float("nan")
ALL = (sys.maxsize, sys.maxsize)
Sample = np.ndarray
Interval = Callable[[Any], tuple[Any, Any]]


class Comparison(NamedTuple):
    """A variant against the baseline; arrays where the samples had leading axes."""

    estimate: Any
    interval: Interval  # alpha -> (low, high), of confidence 1 - alpha
    different: Any  # the smallest alpha whose interval leaves out 0
    alike: Callable[[Any], Any]  # margin -> the smallest alpha whose interval is inside it


# ---------------------------------------------------------------- means


class Mean(NamedTuple):
    """A trimmed mean or a difference of two, its standard error and degrees of freedom."""

    estimate: Any
    error: Any
    freedom: Any


def mean_of(x: Sample, trim: float = TRIM) -> Mean:
    """The trimmed mean of [..., n]."""
    return difference_of(x, np.zeros_like(np.asarray(x, float)), trim)


def difference_of(x: Sample, y: Sample, trim: float = TRIM) -> Mean:
    """Of the trimmed means of [..., n] and [..., m]: Yuen's test with Welch's degrees of freedom.

    Where trimming takes all spread out of a sample that has some, nothing is trimmed: four seeds
    of five at a limit do not make the fifth impossible.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    bare = _hides_spread(x, trim) | _hides_spread(y, trim)
    trimmed = _yuen(x, y, trim)
    if not np.any(bare):
        return trimmed
    whole = _yuen(x, y, 0.0)
    return Mean(*(np.where(bare, b, a) for a, b in zip(trimmed, whole, strict=True)))


def _hides_spread(x: Sample, trim: float) -> np.ndarray:
    cut = int(trim * x.shape[-1])
    ordered = np.sort(x, axis=-1)
    kept = ordered[..., cut : x.shape[-1] - cut]
    return (np.ptp(kept, axis=-1) == 0) & (np.ptp(ordered, axis=-1) > 0)


def _yuen(x: Sample, y: Sample, trim: Any) -> Mean:
    from scipy.stats import t, trim_mean, ttest_ind

    estimate = trim_mean(x, trim, axis=-1) - trim_mean(y, trim, axis=-1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a sample may hardly vary
        found: Any = ttest_ind(x, y, axis=-1, equal_var=False, trim=trim)
        low, high = found.confidence_interval(1 - ALPHA)
        error = (high - low) / 2 / t.ppf(1 - ALPHA / 2, found.df)
    return Mean(np.asarray(estimate), np.nan_to_num(error), found.df)


def by_means(x: Sample, y: Sample, trim: float = TRIM, early: tuple[int, int] = ALL) -> Comparison:
    """Independent samples [..., n] and [..., m], at least two values each."""
    whole, (n, m) = difference_of(x, y, trim), early
    grew = n < np.shape(x)[-1] or m < np.shape(y)[-1]
    return _by_t(_no_surer(whole, difference_of(x[..., :n], y[..., :m], trim)) if grew else whole)


def by_pairs(x: Sample, y: Sample, trim: float = TRIM, early: tuple[int, int] = ALL) -> Comparison:
    """Samples [..., n] whose i-th values share a block: a test of their differences."""
    found = np.subtract(x, y)
    whole, grew = mean_of(found, trim), early[0] < found.shape[-1]
    return _by_t(_no_surer(whole, mean_of(found[..., : early[0]], trim)) if grew else whole)


def _no_surer(whole: Mean, first: Mean) -> Mean:
    """No more degrees of freedom than the `early` values had, which said how many were to follow.

    A sample that grew until its interval was narrow ends where its spread is underestimated: with
    its own degrees of freedom a 95 % interval covers 93 %, with those of the first ten seeds 95 %.
    Stein (1945), A two-sample test for a linear hypothesis whose power is independent of the
    variance.
    """
    return whole._replace(freedom=np.fmin(whole.freedom, first.freedom))


def _by_t(mean: Mean) -> Comparison:
    return Comparison(
        mean.estimate,
        lambda alpha: t_interval(mean, alpha),
        p_of(mean, mean.estimate),
        lambda margin: np.where(
            np.abs(mean.estimate) < margin, p_of(mean, margin - np.abs(mean.estimate)), 1.0
        ),
    )


def t_interval(mean: Mean, alpha: Any) -> tuple[Any, Any]:
    from scipy.stats import t

    half = np.where(mean.error > 0, t.ppf(1 - alpha / 2, mean.freedom) * mean.error, 0.0)
    return mean.estimate - half, mean.estimate + half


def p_of(mean: Mean, distance: Any) -> Any:
    """Two-sided p of a distance; where nothing varies, 0 of any distance and 1 of none."""
    from scipy.stats import t

    distance = np.abs(distance)
    with np.errstate(all="ignore"):
        p = 2 * t.sf(distance / mean.error, mean.freedom)
    return np.where(mean.error > 0, p, np.where(distance > 0, 0.0, 1.0))


# ---------------------------------------------------------------- ranks, counts


def by_ranks(x: Sample, y: Sample) -> Comparison:
    """Paired samples [n] by Wilcoxon's signed ranks: the pseudo-median of their differences.

    Hodges & Lehmann (1963): the interval's ends are order statistics of the Walsh averages, for
    the exact distribution; ties and zeros count against every claim.
    """
    found = np.subtract(x, y)
    first, second = np.triu_indices(len(found))
    walsh = np.sort((found[first] + found[second]) / 2)
    below = np.cumsum(_signed_rank_pmf(len(found)))  # P(W <= k)

    def interval(alpha: float) -> tuple[float, float]:
        rank = int(np.searchsorted(below, alpha / 2, side="right"))
        return (walsh[rank - 1], walsh[-rank]) if rank else (-np.inf, np.inf)

    def p(count: Any) -> float:
        return min(1.0, 2 * float(below[count]))

    different = p(min(np.sum(walsh <= 0), np.sum(walsh >= 0)))
    return Comparison(
        float(np.median(walsh)),
        interval,
        different,
        lambda margin: p(max(np.sum(walsh <= -margin), np.sum(walsh >= margin))),
    )


def _signed_rank_pmf(n: int) -> np.ndarray:
    """P(W = k), k = 0 .. n (n + 1) / 2: each rank is in the sum or not."""
    counts = np.ones(1)
    for rank in range(1, n + 1):
        step = np.zeros(rank + 1)
        step[[0, rank]] = 0.5
        counts = np.convolve(counts, step)
    return counts


def by_counts(x: Sample, y: Sample) -> Comparison:
    """Shares of solved seeds, samples of 0 and 1: Boschloo's exact test and Newcombe's interval.

    The interval reaches to 0 where the exact test does not leave it out. Newcombe (1998),
    method 10.
    """
    return _counted((int(np.sum(x)), int(np.sum(y))), (len(x), len(y)))


@functools.cache
def _counted(solved: tuple[int, int], tried: tuple[int, int]) -> Comparison:
    from scipy.stats import boschloo_exact

    table = np.array([solved, np.subtract(tried, solved)])
    same = solved[0] * tried[1] == solved[1] * tried[0]
    exact = 1.0 if same else min(1.0, float(boschloo_exact(table).pvalue))
    estimate = solved[0] / tried[0] - solved[1] / tried[1]

    def interval(alpha: float) -> tuple[float, float]:
        low, high = newcombe(solved, tried, alpha)
        return (low, high) if exact <= alpha else (min(low, 0.0), max(high, 0.0))

    different = max(exact, _smallest(lambda a: np.prod(newcombe(solved, tried, a)) > 0))

    return Comparison(
        estimate,
        interval,
        different,
        lambda margin: _smallest(lambda a: max(np.abs(interval(a))) < margin),
    )


def newcombe(solved: tuple[int, int], tried: tuple[int, int], alpha: float) -> tuple[float, float]:
    """Interval of solved[0] / tried[0] - solved[1] / tried[1], from Wilson's of each."""
    (l1, u1), (l2, u2) = (wilson(s, n, alpha) for s, n in zip(solved, tried, strict=True))
    p1, p2 = (s / n for s, n in zip(solved, tried, strict=True))
    low = p1 - p2 - np.hypot(p1 - l1, u2 - p2)
    return float(low), float(p1 - p2 + np.hypot(u1 - p1, p2 - l2))


def wilson(solved: int, tried: int, alpha: float = ALPHA) -> tuple[float, float]:
    from scipy.stats import binomtest

    low, high = binomtest(solved, tried).proportion_ci(1 - alpha, method="wilson")
    return low, high


def _smallest(holds: Callable[[float], Any]) -> float:
    """The smallest alpha at which `holds`, which stays true above it; 1 where there is none."""
    from scipy.optimize import bisect

    low, high = np.log(1e-12), np.log(1 - 1e-9)
    if not holds(np.exp(high)):
        return 1.0
    if holds(np.exp(low)):
        return float(np.exp(low))
    edge: Any = bisect(lambda a: 1.0 if holds(np.exp(a)) else -1.0, low, high, xtol=1e-4)
    return float(np.exp(edge + 1e-4))


# ---------------------------------------------------------------- a family of comparisons


def holm(p: Any) -> np.ndarray:
    """Holm's step-down adjustment along the last axis; NaN stays NaN and counts for nothing."""
    p = np.asarray(p, float)
    order, steps = _steps(p)
    ordered = np.take_along_axis(p, order, -1) * steps
    adjusted = np.minimum(np.fmax.accumulate(ordered, axis=-1), 1.0)
    found = np.take_along_axis(adjusted, np.argsort(order, axis=-1), -1)
    return np.where(np.isnan(p), np.nan, found)


def holm_levels(p: Any, alpha: float = ALPHA) -> np.ndarray:
    """The alpha at which Holm's procedure tests each p: p <= level says that it is rejected.

    Those that are not rejected are tested at the level at which the procedure stopped.
    """
    p = np.asarray(p, float)
    order, steps = _steps(p)
    rejected = np.take_along_axis(holm(p), order, -1) <= alpha
    stop = np.max(np.where(rejected, 0, steps), axis=-1, keepdims=True)
    levels = alpha / np.where(rejected, steps, np.maximum(stop, 1))
    return np.take_along_axis(levels, np.argsort(order, axis=-1), -1)


def _steps(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order, [..., m] how many hypotheses are left at each rank); NaN is sorted last."""
    order = np.argsort(p, axis=-1, kind="stable")
    known = np.sum(~np.isnan(p), axis=-1, keepdims=True)
    return order, np.maximum(known - np.arange(p.shape[-1]), 1)


def word(low: Any, high: Any, margin: Any, direction: str) -> Any:
    """The word for an interval of a difference; a margin of NaN allows no `equivalent`."""
    less, more = (BETTER, WORSE) if direction == "min" else (WORSE, BETTER)
    inside = (np.abs(low) < margin) & (np.abs(high) < margin)
    tests = [inside, np.asarray(high) < 0, np.asarray(low) > 0]
    return np.select(tests, [EQUIVALENT, less, more], UNDECIDED)


class Verdict(NamedTuple):
    """A word with the interval it was read off, and both p values, adjusted."""

    word: str
    low: float
    high: float
    level: float  # confidence of that interval
    different: float  # Holm-adjusted p
    alike: float  # of the two one-sided tests, adjusted among themselves


def judge(comparisons: Sequence[Comparison], margins: Any, direction: Any) -> list[Verdict]:
    """The verdicts of one family; one margin and direction for all, or one each.

    Holm's procedure runs over the tests of difference and, on its own, over those of equivalence:
    each kind of false claim has a chance of at most 0.05 in the whole family.
    """
    if not comparisons:
        return []
    margins = np.broadcast_to(np.asarray(margins, float), (len(comparisons),))
    directions = np.broadcast_to(np.asarray(direction), (len(comparisons),))
    pairs = list(zip(comparisons, margins, strict=True))
    different = np.array([float(c.different) for c in comparisons])
    alike = np.array([float(c.alike(m)) if m > 0 else np.nan for c, m in pairs])
    levels = zip(holm_levels(different), holm_levels(alike), strict=True)
    adjusted = zip(holm(different), holm(alike), strict=True)
    found = [
        decide(c.interval, a, b, m, str(way))
        for (c, m), (a, b), way in zip(pairs, levels, directions, strict=True)
    ]
    return [
        Verdict(str(said), float(low), float(high), float(1 - alpha), *map(float, p))
        for (said, low, high, alpha), p in zip(found, adjusted, strict=True)
    ]


def decide(interval: Interval, different: Any, alike: Any, margin: Any, direction: str) -> tuple:
    """(word, low, high, alpha) from the levels that the two procedures allow this comparison.

    `equivalent` is read off the interval at the second procedure's level, `better` and `worse` at
    the first's; what neither says is read off the wider interval, whose word is as safe.
    """
    least = np.minimum(different, alike)
    first, second, last = (interval(a) for a in (alike, different, least))
    says = [word(*span, margin, direction) for span in (first, second)]
    tests = [says[0] == EQUIVALENT, (says[1] == BETTER) | (says[1] == WORSE)]
    low, high = (np.select(tests, [first[i], second[i]], last[i]) for i in (0, 1))
    alpha = np.select(tests, [alike, different], least)
    return word(low, high, margin, direction), low, high, alpha


# ---------------------------------------------------------------- others


def interquartile_mean(x: Sample) -> float:
    """Mean of the middle half: a quarter is cut off at each end, floor(n / 4) values.

    Agarwal et al. (2021), Deep RL at the edge of the statistical precipice; as in rliable.
    """
    from scipy.stats import trim_mean  # start-up

    return float(trim_mean(np.asarray(x, float), 0.25))


def improvement(x: Sample, baseline: Sample, direction: str) -> float:
    """Probability that a run of x beats a run of the baseline: P(better) + P(equal) / 2."""
    difference = np.subtract.outer(np.asarray(x, float), np.asarray(baseline, float))
    better = difference < 0 if direction == "min" else difference > 0
    return float(np.mean(better + 0.5 * (difference == 0)))


def weighted_iqm(x: Sample, weights: Sample) -> Any:
    """Mean of the middle half of [..., n] by weight [n]; what crosses an edge counts in part."""
    order = np.argsort(x, axis=-1)
    share = np.asarray(weights, float)[order] / np.sum(weights)
    upper = np.cumsum(share, axis=-1)
    inside = np.clip(np.minimum(upper, 0.75) - np.maximum(upper - share, 0.25), 0, None)
    return np.sum(inside * np.take_along_axis(x, order, -1), axis=-1) / np.sum(inside, axis=-1)


def stratified_iqm(strata: Sequence[Sample]) -> tuple[float, float, float]:
    """(interquartile mean over all strata, low, high): every stratum weighs the same.

    95 % by the bootstrap within strata, as in rliable (Agarwal et al. 2021).
    """
    weights = np.concatenate([np.full(len(x), 1 / len(x)) for x in strata])
    return _bootstrap(strata, lambda *x, axis: weighted_iqm(np.concatenate(x, axis), weights))


def stratified_improvement(
    ours: Sequence[Sample], theirs: Sequence[Sample]
) -> tuple[float, float, float]:
    """(mean over strata of P(a run of ours is above one of theirs), low, high)."""

    def mean(*samples: Sample, axis: int) -> Any:
        half = len(samples) // 2
        pairs = zip(samples[:half], samples[half:], strict=True)
        over = [x[..., :, None] - y[..., None, :] for x, y in pairs]
        return np.mean([np.mean((d > 0) + 0.5 * (d == 0), axis=(-2, -1)) for d in over], axis=0)

    return _bootstrap((*ours, *theirs), mean)


def _bootstrap(samples: Sequence[Sample], statistic: Any) -> tuple[float, float, float]:
    from scipy.stats import bootstrap  # start-up

    estimate = float(statistic(*samples, axis=-1))
    if min(map(len, samples)) < 2:
        return estimate, NOTHING, NOTHING
    found: Any = bootstrap(
        tuple(samples), statistic, n_resamples=RESAMPLES, method="percentile",
        vectorized=True, axis=-1, rng=np.random.default_rng(0),
    )  # fmt: skip
    low, high = found.confidence_interval
    return estimate, float(low), float(high)


def expected_best(scores: Sample, direction: str) -> np.ndarray:
    """Expected best of n draws with replacement, n = 1 .. N; [N].

        E[max of n] = sum_i v_(i) ((i / N)^n - ((i - 1) / N)^n)

    Dodge et al. (2019), eq. 5. Biased downwards (Tang et al. 2020), and of the known estimators
    the one that misleads least (Dodge et al. 2021).
    """
    sign = -1.0 if direction == "min" else 1.0
    ordered = np.sort(sign * np.asarray(scores, float))
    size = len(ordered)
    shares = np.arange(size + 1)[None, :] / max(size, 1)
    powers = shares ** np.arange(1, size + 1)[:, None]
    best: np.ndarray = np.diff(powers, axis=1) @ ordered
    return sign * best
