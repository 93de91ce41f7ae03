"""Score an encoder: Spearman per similarity task, alignment and uniformity on one, accuracy per transfer task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from sparsecse.datasets import PairSet, TransferSet
from sparsecse.datasets.sets import positive_threshold
from sparsecse.errors import InputError
from sparsecse.evaluation.own import OwnResult, OwnTask
from sparsecse.evaluation.tasks import load_tasks
from sparsecse.evaluation.transfer import SEED, TransferResult, steps, transfer
from sparsecse.kernels import uniformity
from sparsecse.objectives import alignment

# Alignment and uniformity are measured on the first of these that is evaluated, else on the first task.
_ALIGN_UNIFORM_TASKS = ("stsb-test", "stsb-dev", "sickr-test", "demo-test")

_BATCHES_PER_STEP = 16  # between two calls of `progress`


class SentenceEncoder(Protocol):
    """Anything that turns sentences into embeddings."""

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor | np.ndarray:
        """Return the embeddings [N, d] of N sentences, normalised or not."""


@dataclass(frozen=True)
class Subset:
    """One part of a task (STS12's MSRpar): Spearman x100 over its own pairs."""

    spearman: float
    pairs: int


@dataclass(frozen=True)
class TaskResult:
    """Spearman x100 over all pairs of a task (SimCSE's "all"), and over its subsets where it has them."""

    spearman: float
    pairs: int
    source: str
    subsets: dict[str, Subset]

    @property
    def subset_mean(self) -> float | None:
        """The mean of the subsets' Spearman, each counting once; None without subsets."""
        if not self.subsets:
            return None
        return sum(subset.spearman for subset in self.subsets.values()) / len(self.subsets)

    @property
    def subset_weighted_mean(self) -> float | None:
        """The mean of the subsets' Spearman, each counting by its pairs; None without subsets."""
        if not self.subsets:
            return None
        return sum(subset.spearman * subset.pairs for subset in self.subsets.values()) / self.pairs

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; the keys about subsets are there only where the task has subsets."""
        result: dict[str, Any] = {"spearman": self.spearman, "pairs": self.pairs, "source": self.source}
        if self.subsets:
            result["subsets"] = {name: vars(subset) for name, subset in self.subsets.items()}
            result["subset_mean"] = self.subset_mean
            result["subset_weighted_mean"] = self.subset_weighted_mean
        return result


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured: similarity tasks in `tasks`, transfer tasks in `transfer`, others at paths in `own`.

    `alignment` (None where no pair is positive) and `uniformity` are those of the task `align_uniform_task`, with
    pairs scored at least `positive_minimum` as the positive ones; all three are None without a similarity task.
    `missing` tells why a group's tasks were left out.
    """

    tasks: dict[str, TaskResult]
    alignment: float | None
    uniformity: float | None
    align_uniform_task: str | None
    positive_minimum: float
    missing: dict[str, str]
    transfer: dict[str, TransferResult] = field(default_factory=dict)
    own: dict[str, OwnResult] = field(default_factory=dict)

    @property
    def average(self) -> float | None:
        """The mean of the similarity tasks' Spearman over all pairs; None without such tasks."""
        return _mean([task.spearman for task in self.tasks.values()])

    @property
    def transfer_average(self) -> float | None:
        """The mean of the transfer tasks' accuracy; None without such tasks."""
        return _mean([task.accuracy for task in self.transfer.values()])

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; all kinds of tasks are in `tasks`."""
        return {
            "tasks": {
                **{name: task.to_json() for name, task in self.tasks.items()},
                **{name: task.to_json() for name, task in self.transfer.items()},
                **{name: task.to_json() for name, task in self.own.items()},
            },
            "average": self.average,
            "transfer_average": self.transfer_average,
            "alignment": self.alignment,
            "uniformity": self.uniformity,
            "align_uniform_task": self.align_uniform_task,
            "positive_minimum": self.positive_minimum,
            "missing": self.missing,
        }


def evaluate(
    encoder: SentenceEncoder,
    tasks: str | Sequence[str],
    *,
    data_dir: str | Path | None = None,
    positive_minimum: float = 4.0,
    batch_size: int = 64,
    seed: int = SEED,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure an encoder on similarity tasks by SimCSE's protocol (Gao et al. 2021, appendix B) and on transfer tasks.

    A similarity task's score is Spearman's rank correlation x100 between the cosine of the two embeddings and the gold
    score, over all its pairs at once. Alignment is the mean squared distance of the unit embeddings of positive pairs,
    and uniformity the log of the mean, over ordered pairs of different sentences, of exp(-2 x squared distance) (Wang
    and Isola 2020), both on one task. A transfer task's score is the accuracy of logistic regression by SentEval's
    protocol (see `transfer`), in as many threads as torch has. Each distinct sentence is embedded once.

    Args:
        encoder: its embeddings are normalised here for the similarity tasks, and taken as they are for the others.
        tasks: names of `TASKS`, `TRANSFER_TASKS` or `GROUPS`, or paths of own data (see `load_tasks`), in a list or
            separated by commas.
        data_dir: the SentEval folder (see `sparsecse.datasets.load_pairs`).
        positive_minimum: the gold score, from 0 to 5, from which a pair is positive.
        batch_size: sentences the encoder takes at a time.
        seed: shuffles the folds of the transfer tasks; by default SentEval's.
        progress: called with the number of sentences embedded and classifiers trained so far, and of all.

    Raises:
        InputError: as `load_tasks` and `transfer`; a threshold out of range; embeddings that are not finite; a task
            whose gold scores or cosines are all the same, so that Spearman is undefined.
    """
    positive_threshold(positive_minimum)
    found = load_tasks(tasks, data_dir=data_dir)
    sets: list[PairSet | TransferSet | OwnTask] = [*found.pairs.values(), *found.transfer.values()]
    sets += found.own.values()
    sentences = list(dict.fromkeys(sentence for each in sets for sentence in each.sentences()))
    position = {sentence: index for index, sentence in enumerate(sentences)}
    total = len(sentences) + sum(map(steps, found.transfer.values()))
    done = 0

    def advance(count: int = 1) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    vectors = embed(encoder, sentences, batch_size, advance)

    def rows(texts: Sequence[str]) -> torch.Tensor:
        return vectors[[position[text] for text in texts]]

    def unit(texts: Sequence[str]) -> torch.Tensor:
        return F.normalize(rows(texts), dim=1)

    results = {}
    for name, pairs in found.pairs.items():
        cosines = (unit(pairs.first).double() * unit(pairs.second).double()).sum(dim=1)
        results[name] = _result(name, pairs, cosines)
    aligned, uniform, chosen = None, None, None
    if found.pairs:
        chosen = next((name for name in _ALIGN_UNIFORM_TASKS if name in found.pairs), next(iter(found.pairs)))
        pairs = found.pairs[chosen]
        positive = torch.tensor(pairs.scores) >= positive_minimum
        first, second = unit(pairs.first)[positive], unit(pairs.second)[positive]
        aligned = float(alignment(first, second)) if len(first) else None
        uniform = float(uniformity(unit(pairs.sentences()), t=2.0))
    return Evaluation(
        tasks=results,
        alignment=aligned,
        uniformity=uniform,
        align_uniform_task=chosen,
        positive_minimum=positive_minimum,
        missing=found.missing,
        transfer={
            name: transfer(
                task,
                lambda texts: rows(texts).numpy(),
                seed=seed,
                workers=torch.get_num_threads(),
                advance=advance,
            )
            for name, task in found.transfer.items()
        },
        own={name: task.measure(lambda texts: rows(texts).numpy()) for name, task in found.own.items()},
    )


def spearman(encoder: SentenceEncoder, pairs: PairSet, *, batch_size: int = 64) -> float:
    """Spearman x100 of one graded pair set; what training watches.

    Raises:
        InputError: the pairs have no gold scores, or they or the cosines are all the same.
    """
    if pairs.scores is None:
        raise InputError(f"{pairs.name} has no gold scores; give pairs with a score column.")
    sentences = pairs.sentences()
    vectors = F.normalize(embed(encoder, sentences, batch_size, lambda count: None), dim=1).double()
    row = {sentence: index for index, sentence in enumerate(sentences)}
    first, second = (vectors[[row[sentence] for sentence in side]] for side in (pairs.first, pairs.second))
    cosines = (first * second).sum(dim=1)
    return _spearman(cosines, torch.tensor(pairs.scores, dtype=torch.float64), pairs.name)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def embed(
    encoder: SentenceEncoder, sentences: list[str], batch_size: int, advance: Callable[[int], None]
) -> torch.Tensor:
    """The encoder's embeddings [N, d] in float32 on the CPU; `advance` is told how many each step adds."""
    if not sentences:
        return torch.empty(0, 0)
    # By length, so that every step's sentences need about the same padding.
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]), reverse=True)
    step = batch_size * _BATCHES_PER_STEP
    parts = []
    for start in range(0, len(order), step):
        chunk = [sentences[index] for index in order[start : start + step]]
        part = torch.as_tensor(encoder.encode(chunk, batch_size=batch_size)).detach().to("cpu", torch.float32)
        broken = (~part.isfinite().all(dim=1)).nonzero()
        if len(broken):
            raise InputError(
                f"The encoder's embedding of {chunk[int(broken[0])]!r} is not finite; check the model's weights."
            )
        parts.append(part)
        advance(len(chunk))
    vectors = torch.empty(len(sentences), parts[0].shape[1])
    vectors[order] = torch.cat(parts)
    return vectors


def _result(name: str, pairs: PairSet, cosines: torch.Tensor) -> TaskResult:
    assert pairs.scores is not None  # every named set is graded
    golds = torch.tensor(pairs.scores, dtype=torch.float64)
    subsets = {}
    for subset in dict.fromkeys(pairs.subsets or ()):
        inside = torch.tensor([each == subset for each in pairs.subsets or ()])
        subsets[subset] = Subset(_spearman(cosines[inside], golds[inside], f"{name}, {subset}"), int(inside.sum()))
    return TaskResult(_spearman(cosines, golds, name), len(pairs), pairs.source, subsets)


def _spearman(cosines: torch.Tensor, golds: torch.Tensor, where: str) -> float:
    for values, what in ((golds, "gold scores"), (cosines, "cosines")):
        if bool((values == values[0]).all()):
            raise InputError(
                f"Spearman is undefined on {where}: its {len(values)} {what} are all {values[0]:.4g}; "
                "give pairs, and a model, that tell sentences apart."
            )
    return 100 * float(spearmanr(cosines.numpy(), golds.numpy()).statistic)
