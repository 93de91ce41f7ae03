"""How sure a difference is: bootstrap over the pairs of every task, and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def interval_text(interval: Mapping[str, float] | None) -> str:
    """A difference with the ends of its interval, for tables; nothing for None."""
    return "" if interval is None else "{difference:+.2f} ({low:+.2f} to {high:+.2f})".format(**interval)


def paired_interval(
    golds: Mapping[str, np.ndarray],
    ours: Sequence[Mapping[str, np.ndarray]],
    theirs: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """The difference in mean Spearman x100 over tasks, ours minus theirs, with its percentile bootstrap interval.

    The pairs of each task are drawn with replacement, the same ones for both models; of several seeds of ours as many
    are drawn, and their mean is taken. Ranks are those among all pairs of the task: ranking each resample again changes
    an interval's ends by some hundredths and takes 50 times as long.

    Args:
        golds, theirs: {task: [pairs]} gold scores and the other model's cosines.
        ours: our model's cosines, once for each seed.

    Returns `difference`, `low` and `high`.
    """
    generator = np.random.default_rng(seed)
    resampled, measured = np.zeros((len(ours), RESAMPLES)), 0.0
    for task, gold in golds.items():
        size = len(gold)
        values = (gold, theirs[task], *(one[task] for one in ours))
        wanted, other, *seeds = [(rankdata(each) - (size + 1) / 2) / size for each in values]
        weights = generator.multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(np.float64)
        once = np.ones((1, size))
        base, base_once = (_correlations(wanted, other, how) for how in (weights, once))
        for seed_row, own in zip(resampled, seeds, strict=True):
            seed_row += _correlations(wanted, own, weights) - base
            measured += float((_correlations(wanted, own, once) - base_once)[0]) / len(ours)
    scale = 100 / len(golds)
    drawn = generator.integers(0, len(ours), size=resampled.shape)
    means = np.take_along_axis(resampled, drawn, axis=0).mean(axis=0)
    low, high = np.quantile(means * scale, [(1 - level) / 2, (1 + level) / 2])
    return {"difference": measured * scale, "low": float(low), "high": float(high)}
