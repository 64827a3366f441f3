"""Unigram and bigram models of ids: what a language model has to beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def fit(text: np.ndarray, size: int) -> dict[str, Callable]:
    """{"unigram" | "bigram": nll}, where nll(ids [1 + N]) is [N], nats of each token but the first.

    Unigram with 1/2 added to each count; bigram interpolated with it as by Witten & Bell (1991):
    p(b | a) = (c(ab) + d(a) p(b)) / (c(a) + d(a)), d(a) the kinds of token seen after a.
    """
    text = text.astype(np.int64)
    counts = np.bincount(text[1:], minlength=size) + 0.5
    unigram = counts / counts.sum()
    pairs, pair_counts = np.unique(text[:-1] * size + text[1:], return_counts=True)
    after = np.bincount(text[:-1], minlength=size)
    kinds = np.bincount(pairs // size, minlength=size)

    def bigram(ids: np.ndarray) -> np.ndarray:
        before, ids = ids[:-1].astype(np.int64), ids[1:].astype(np.int64)
        place = np.minimum(np.searchsorted(pairs, before * size + ids), len(pairs) - 1)
        seen = np.where(pairs[place] == before * size + ids, pair_counts[place], 0)
        total = after[before] + kinds[before]
        joint = seen + kinds[before] * unigram[ids]
        return -np.log(np.where(total > 0, joint / np.maximum(total, 1), unigram[ids]))

    return {"unigram": lambda ids: -np.log(unigram[ids[1:]]), "bigram": bigram}
