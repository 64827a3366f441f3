"""The statistics of reports against SciPy, rliable, closed forms and simulation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lstm_jax.report import statistics

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rliable.json").read_text())
X = np.array([1.0, 1.4, 0.9, 1.8, 1.1])
Y = np.array([2.0, 2.2, 1.5, 2.9, 2.4, 1.9])


def test_against_rliable():
    for case in GOLDEN["cases"]:
        x, y = np.array(case["x"]), np.array(case["y"])
        assert statistics.interquartile_mean(x) == pytest.approx(case["iqm"], rel=1e-12)
        better = statistics.improvement(x, y, "max")
        assert better == pytest.approx(case["improvement"], rel=1e-12)
        found = statistics.mean_interval(x, stretched=False, resamples=50_000)
        assert found == pytest.approx(case["mean_interval"], abs=0.03 * np.ptp(x))


def test_percentile_interval_against_scipy():
    expected = stats.bootstrap(
        (X,), np.mean, n_resamples=50_000, method="percentile", rng=1
    ).confidence_interval
    assert statistics.mean_interval(X, stretched=False) == pytest.approx(expected, abs=0.02)


def test_two_samples_against_scipy():
    assert statistics.welch(X, Y) == stats.ttest_ind(X, Y, equal_var=False)[1]
    assert statistics.mann_whitney(X, Y) == stats.mannwhitneyu(X, Y, method="exact")[1]
    u = stats.mannwhitneyu(X, Y)[0]
    assert statistics.improvement(X, Y, "max") == pytest.approx(u / (len(X) * len(Y)))
    assert statistics.improvement(X, Y, "min") == pytest.approx(1 - u / (len(X) * len(Y)))


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = statistics.holm([0.02, math.nan, 0.01])
    assert found[0] == found[2] == pytest.approx(0.02)
    assert math.isnan(found[1])


def test_effect_size_by_hand():
    """Two samples with variance 1 whose means are 1 apart: d = 1, g = d (1 - 3 / (4 * 4 - 1))."""
    found = statistics.effect_size(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    assert found == pytest.approx(1 - 3 / 15)


def test_smallest_difference_is_found_four_times_in_five():
    """Samples with exactly that difference, simulated: Welch's t at 0.05 / 3."""
    random = np.random.default_rng(0)
    x = np.array([-1.5, -0.5, 0.0, 0.5, 1.5]) / np.std([-1.5, -0.5, 0.0, 0.5, 1.5], ddof=1)
    apart = statistics.smallest_difference(x, x, comparisons=3)
    found = [
        statistics.welch(random.standard_normal(5) + apart, random.standard_normal(5)) < 0.05 / 3
        for _ in range(1500)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("size", [3, 5, 10])
def test_coverage_of_the_interval(size):
    """Of 600 intervals for the mean of normal samples, about 95 % hold it; plain ones do not."""
    random = np.random.default_rng(size)
    samples = random.standard_normal((600, size))

    def coverage(**options):
        spans = [statistics.mean_interval(x, resamples=1000, **options) for x in samples]
        return np.mean([low <= 0 <= high for low, high in spans])

    assert 0.92 <= coverage() <= 0.98
    assert coverage(stretched=False) < 0.92


def test_coverage_of_the_difference():
    random = np.random.default_rng(2)
    pairs = [(random.standard_normal(5), 3 * random.standard_normal(5)) for _ in range(600)]
    spans = [statistics.difference_interval(x, y, resamples=1000) for x, y in pairs]
    assert 0.92 <= np.mean([low <= 0 <= high for low, high in spans]) <= 0.98


def test_expected_best_by_enumeration():
    scores = [3.0, 1.0, 2.0]
    pairs = [min(a, b) for a in scores for b in scores]
    found = statistics.expected_best(np.array(scores), "min")
    assert found[:2] == pytest.approx([2.0, np.mean(pairs)])
    assert statistics.expected_best(np.array(scores), "max")[0] == pytest.approx(2.0)


def test_nothing_is_said_of_too_little():
    one, two, same = np.array([1.0]), np.array([1.0, 2.0]), np.array([1.0, 1.0])
    assert math.isnan(statistics.welch(one, two))
    assert math.isnan(statistics.welch(same, same))
    assert math.isnan(statistics.mann_whitney(one, two))
    assert math.isnan(statistics.effect_size(one, two))
    assert math.isnan(statistics.smallest_difference(one, two))
    assert all(map(math.isnan, statistics.mean_interval(one)))
    assert statistics.mean_interval(same) == (1.0, 1.0)
