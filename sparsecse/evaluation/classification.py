"""Logistic regression on fixed features, its regularisation chosen on held-out rows, many folds at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from sparsecse.errors import InputError

T = TypeVar("T")

MISSING = (
    "Classification and clustering need the package scikit-learn, which is not installed; "
    "run pip install 'sparsecse[transfer]'."
)

# A path of fits from the strongest regularisation to the weakest, each starting from the last one's weights, needs a
# tolerance below scikit-learn's 1e-4: with that the later fits stop where they begin. At 1e-6 the accuracies are those
# of the exact solution.
_TOLERANCE = 1e-6
_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Fold:
    """Rows to train on and to test on, and the (fit, held out) rows by which C is chosen before that."""

    train: np.ndarray
    test: np.ndarray
    inner: Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Outcome:
    """What one fold gave: the chosen C, its accuracy in percent on held-out rows, the classes predicted for `test`."""

    C: float
    held_out_accuracy: float
    predicted: np.ndarray


def available() -> bool:
    """Whether scikit-learn is installed."""
    return find_spec("sklearn") is not None


def require() -> None:
    """Raise `InputError` with the pip command where scikit-learn is missing."""
    if not available():
        raise InputError(MISSING)


def stratified(labels: np.ndarray, rows: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Shuffled (fit, held out) parts of some rows, each part with the classes in their proportions."""
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer examples than folds is absent from some held-out parts, which does no harm.
        warnings.simplefilter("ignore", UserWarning)
        return [(rows[fit], rows[held]) for fit, held in splitter.split(rows, labels[rows])]


def classify(
    features: np.ndarray,
    labels: np.ndarray,
    folds: Sequence[Fold],
    grid: Sequence[float],
    *,
    workers: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Train and test on each fold, with the C of `grid` that is best on the fold's held-out rows.

    Best is the highest mean accuracy over `inner`, rounded to 0.01 points as SentEval does; of equals the smallest C.
    Folds run in `workers` threads with one BLAS thread each, so the result does not depend on their number.

    Args:
        features: [N, d], floating point.
        labels: [N], class numbers.
        grid: values of C, ascending; C is the inverse of the weight of the squared norm.
        advance: called after each inner part of each fold, and after each fold's last fit.

    Raises:
        InputError: scikit-learn is not installed.
    """
    require()
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # lbfgs in float32 may stop at rounding instead of at the tolerance: as good as it gets.
        warnings.simplefilter("ignore", ConvergenceWarning)
        paths = [partial(_path, features, labels, *inner, grid) for fold in folds for inner in fold.inner]
        scores = iter(_run(pool, paths, advance))
        chosen, accuracies = [], []
        for fold in folds:
            means = np.mean([next(scores) for _ in fold.inner], axis=0).round(2)
            chosen.append(grid[int(means.argmax())])
            accuracies.append(float(means.max()))
        finals = [partial(_predict, features, labels, fold, c) for fold, c in zip(folds, chosen, strict=True)]
        predicted = _run(pool, finals, advance)
    return [Outcome(*each) for each in zip(chosen, accuracies, predicted, strict=True)]


def _run(pool: ThreadPoolExecutor, jobs: Sequence[Callable[[], T]], advance: Callable[[], None]) -> list[T]:
    futures: list[Future[T]] = [pool.submit(job) for job in jobs]
    try:
        for future in as_completed(futures):
            future.result()
            advance()
    except BaseException:
        # Ctrl-C must not wait for hundreds of fits.
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]


def _regression(**options: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="lbfgs", tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, **options)


def _path(
    features: np.ndarray, labels: np.ndarray, fit: np.ndarray, held: np.ndarray, grid: Sequence[float]
) -> list[float]:
    """Accuracy in percent on the held-out rows, for each C."""
    model = _regression(warm_start=True)
    x, y, x_held, y_held = features[fit], labels[fit], features[held], labels[held]
    return [100 * float((model.set_params(C=c).fit(x, y).predict(x_held) == y_held).mean()) for c in grid]


def _predict(features: np.ndarray, labels: np.ndarray, fold: Fold, c: float) -> np.ndarray:
    return _regression(C=c).fit(features[fold.train], labels[fold.train]).predict(features[fold.test])
