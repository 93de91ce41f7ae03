"""SentEval's protocol for the transfer tasks: which rows train, choose C and test, and what is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecse.datasets import LabelledSplit, TransferSet
from sparsecse.errors import InputError
from sparsecse.evaluation.classification import Fold, classify, require, stratified

SEED = 1111  # SentEval's

_FOLDS = 10

# SentEval's values of C for its scikit-learn classifier; tasks with a test split but no dev split have their own.
_GRID = tuple(2.0**t for t in range(-2, 4))
_GRID_TRAIN_TEST = tuple(2.0**t for t in range(-1, 6))


@dataclass(frozen=True)
class TransferResult:
    """Accuracy in percent of logistic regression on an encoder's vectors.

    `examples` counts those that were tested, `splits` all of each split. `C` holds the chosen value of each outer fold
    (one for a task with a test split), `dev_accuracy` the accuracy on the held-out rows that chose it, averaged over
    the outer folds. `fold_accuracies` is there for cross-validated tasks, `f1` (of paraphrases, x100) for MRPC.
    """

    accuracy: float
    examples: int
    splits: dict[str, int]
    C: tuple[float, ...]
    dev_accuracy: float
    source: str
    fold_accuracies: tuple[float, ...] | None = None
    f1: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; `fold_accuracies` and `f1` are there only where the task has them."""
        result: dict[str, Any] = {
            "accuracy": self.accuracy,
            "examples": self.examples,
            "splits": self.splits,
            "C": list(self.C),
            "dev_accuracy": self.dev_accuracy,
            "source": self.source,
        }
        if self.fold_accuracies is not None:
            result["fold_accuracies"] = list(self.fold_accuracies)
        if self.f1 is not None:
            result["f1"] = self.f1
        return result


def steps(task: TransferSet) -> int:
    """How often `transfer` calls `advance` for a task."""
    if "all" in task.splits:
        return _FOLDS * _FOLDS + _FOLDS
    return 2 if "dev" in task.splits else _FOLDS + 1


def transfer(
    task: TransferSet,
    embed: Callable[[tuple[str, ...]], np.ndarray],
    *,
    seed: int = SEED,
    workers: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> TransferResult:
    """Measure vectors on one transfer task by SentEval's protocol (Conneau and Kiela 2018).

    One split (MR, CR, SUBJ, MPQA): 10 stratified folds, C chosen by 10 folds inside each training part, accuracy
    averaged over the folds. Train, dev and test (SST-2): C chosen on dev. Train and test (TREC, MRPC): C chosen by 10
    folds of train. A pair (u, v) becomes the features |u - v| and u * v.

    Args:
        embed: sentences to their vectors [N, d]; they are taken as they come, neither normalised nor centred.
        seed: shuffles the folds.
        workers: folds computed at a time; the result does not depend on it.
        advance: called `steps(task)` times.

    Raises:
        InputError: scikit-learn is not installed, or a class has fewer than 10 training examples.
    """
    require()
    ordered = {name: _ordered(split) for name, split in task.splits.items()}
    labels = np.concatenate([split.labels for split in ordered.values()]).astype(np.int64)
    ends = np.cumsum([len(split) for split in ordered.values()])
    rows = dict(zip(ordered, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
    first = next(iter(rows))  # `all` or `train`
    _check_classes(task, labels[rows[first]])
    features = np.concatenate([_features(split, embed) for split in ordered.values()])

    if first == "all":
        folds = [
            Fold(train, test, stratified(labels, train, _FOLDS, seed))
            for train, test in stratified(labels, rows[first], _FOLDS, seed)
        ]
    elif "dev" in rows:
        folds = [Fold(rows["train"], rows["test"], [(rows["train"], rows["dev"])])]
    else:
        folds = [Fold(rows["train"], rows["test"], stratified(labels, rows["train"], _FOLDS, seed))]
    grid = _GRID_TRAIN_TEST if list(rows) == ["train", "test"] else _GRID
    outcomes = classify(features, labels, folds, grid, workers=workers, advance=advance)
    accuracies = [
        100 * float((outcome.predicted == labels[fold.test]).mean())
        for fold, outcome in zip(folds, outcomes, strict=True)
    ]
    tested = np.concatenate([labels[fold.test] for fold in folds])
    predicted = np.concatenate([outcome.predicted for outcome in outcomes])
    return TransferResult(
        accuracy=float(np.mean(accuracies)),
        examples=sum(len(fold.test) for fold in folds),
        splits={name: len(split) for name, split in task.splits.items()},
        C=tuple(outcome.C for outcome in outcomes),
        dev_accuracy=float(np.mean([outcome.held_out_accuracy for outcome in outcomes])),
        source=task.source,
        fold_accuracies=tuple(accuracies) if first == "all" else None,
        f1=None if task.splits[first].second is None else _f1(tested, predicted),
    )


def _ordered(split: LabelledSplit) -> LabelledSplit:
    """In SentEval's order, by the number of words and then the label: the shuffled folds depend on it."""

    def key(index: int) -> tuple[int, ...]:
        texts = (split.first, split.second) if split.second is not None else (split.first,)
        return (*(len(column[index].split()) for column in texts), split.labels[index])

    order = sorted(range(len(split)), key=key)
    return LabelledSplit(
        tuple(split.first[index] for index in order),
        None if split.second is None else tuple(split.second[index] for index in order),
        tuple(split.labels[index] for index in order),
    )


def _check_classes(task: TransferSet, labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(task.classes))
    if counts.min() < _FOLDS:
        raise InputError(
            f"{task.source} has {counts.min()} training examples of the class {task.classes[int(counts.argmin())]!r} "
            f"but the protocol needs {_FOLDS}; restore the files of {task.name!r}."
        )


def _features(split: LabelledSplit, embed: Callable[[tuple[str, ...]], np.ndarray]) -> np.ndarray:
    u = embed(split.first)
    if split.second is None:
        return u
    v = embed(split.second)
    return np.concatenate([np.abs(u - v), u * v], axis=1)


def _f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    hits = int(((labels == 1) & (predicted == 1)).sum())
    named = int((labels == 1).sum() + (predicted == 1).sum())
    return 200 * hits / named if named else 0.0
