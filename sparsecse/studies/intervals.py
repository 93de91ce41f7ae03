"""How sure a difference is: bootstrap over the pairs of every task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 1000


def _correlations(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's correlation under each row of weights [resamples, n]."""
    total = weights.sum(axis=1)
    mean_a, mean_b = weights @ first / total, weights @ second / total
    covariance = weights @ (first * second) / total - mean_a * mean_b
    spread_a = weights @ first**2 / total - mean_a**2
    spread_b = weights @ second**2 / total - mean_b**2
    return covariance / np.sqrt(spread_a * spread_b)


def paired_interval(
    golds: Mapping[str, np.ndarray],
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """The difference in mean Spearman x100 over tasks, ours minus theirs, with its percentile bootstrap interval.

    The pairs of each task are drawn with replacement, the same ones for both models. Ranks are those among all pairs
    of the task: ranking each resample again changes an interval's ends by some hundredths and takes 50 times as long.

    Args:
        golds, ours, theirs: {task: [pairs]} gold scores and the two models' cosines.

    Returns `difference`, `low` and `high`.
    """
    generator = np.random.default_rng(seed)
    resampled, measured = np.zeros(RESAMPLES), 0.0
    for task, gold in golds.items():
        size = len(gold)
        ranks = [(rankdata(values) - (size + 1) / 2) / size for values in (gold, ours[task], theirs[task])]
        weights = generator.multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(np.float64)
        once = np.ones((1, size))
        resampled += _correlations(ranks[0], ranks[1], weights) - _correlations(ranks[0], ranks[2], weights)
        measured += float((_correlations(ranks[0], ranks[1], once) - _correlations(ranks[0], ranks[2], once))[0])
    scale = 100 / len(golds)
    low, high = np.quantile(resampled * scale, [(1 - level) / 2, (1 + level) / 2])
    return {"difference": measured * scale, "low": float(low), "high": float(high)}
