"""Score an encoder: Spearman per similarity task, accuracy per transfer task, nDCG per retrieval task, and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sparsecse.datasets import PairSet, RerankingSet, RetrievalSet, TransferSet
from sparsecse.datasets.sets import positive_threshold
from sparsecse.errors import InputError
from sparsecse.evaluation.embedding import SentenceEncoder, embed
from sparsecse.evaluation.own import OwnResult, OwnTask
from sparsecse.evaluation.reranking import RerankingResult, reranking
from sparsecse.evaluation.reranking import steps as reranking_steps
from sparsecse.evaluation.retrieval import RetrievalResult, retrieval, same_size
from sparsecse.evaluation.retrieval import steps as retrieval_steps
from sparsecse.evaluation.similarity import TaskResult, align_uniform, similarity
from sparsecse.evaluation.tasks import Tasks, load_tasks
from sparsecse.evaluation.transfer import SEED, TransferResult, steps, transfer

# Alignment and uniformity are measured on the first of these that is evaluated, else on the first task.
_ALIGN_UNIFORM_TASKS = ("stsb-test", "stsb-dev", "sickr-test", "demo-test")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured: similarity tasks in `tasks`, the others in `transfer`, `retrieval`, `reranking`, `own`.

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
    retrieval: dict[str, RetrievalResult] = field(default_factory=dict)
    reranking: dict[str, RerankingResult] = field(default_factory=dict)
    own: dict[str, OwnResult] = field(default_factory=dict)

    @property
    def average(self) -> float | None:
        """The mean of the similarity tasks' Spearman over all pairs; None without such tasks."""
        return _mean([task.spearman for task in self.tasks.values()])

    @property
    def transfer_average(self) -> float | None:
        """The mean of the transfer tasks' accuracy; None without such tasks."""
        return _mean([task.accuracy for task in self.transfer.values()])

    @property
    def retrieval_average(self) -> float | None:
        """The mean of the retrieval tasks' nDCG@10; None without such tasks."""
        return _mean([task.ndcg_at_10 for task in self.retrieval.values()])

    @property
    def reranking_average(self) -> float | None:
        """The mean of the reranking tasks' MAP; None without such tasks."""
        return _mean([task.map_at_1000 for task in self.reranking.values()])

    def own_average(self, kind: str) -> float | None:
        """The mean, over the own tasks of a kind, of the figure that each is judged by; None without such tasks.

        kind: `classification` (accuracy after 8 examples a class) or `clustering` (V-measure).
        """
        found = [task.to_json() for task in self.own.values()]
        return _mean([next(iter(task["measures"].values())) for task in found if task["kind"] == kind])

    def figures(self) -> dict[str, float]:
        """What each task is judged by, x100, by its name: the figures that the averages are of."""
        own = {name: next(iter(task.to_json()["measures"].values())) for name, task in self.own.items()}
        return {
            **{name: task.spearman for name, task in self.tasks.items()},
            **{name: task.accuracy for name, task in self.transfer.items()},
            **{name: task.ndcg_at_10 for name, task in self.retrieval.items()},
            **{name: task.map_at_1000 for name, task in self.reranking.items()},
            **own,
        }

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; all kinds of tasks are in `tasks`, and each kind has an average of its own."""
        results: dict[str, TaskResult | TransferResult | RetrievalResult | RerankingResult | OwnResult]
        results = {**self.tasks, **self.transfer, **self.retrieval, **self.reranking, **self.own}
        return {
            "tasks": {name: task.to_json() for name, task in results.items()},
            "average": self.average,
            "transfer_average": self.transfer_average,
            "retrieval_average": self.retrieval_average,
            "reranking_average": self.reranking_average,
            "classification_average": self.own_average("classification"),
            "clustering_average": self.own_average("clustering"),
            "alignment": self.alignment,
            "uniformity": self.uniformity,
            "align_uniform_task": self.align_uniform_task,
            "positive_minimum": self.positive_minimum,
            "missing": self.missing,
        }


def evaluate(
    encoder: SentenceEncoder,
    tasks: str | Sequence[str] | Tasks,
    *,
    data_dir: str | Path | None = None,
    positive_minimum: float = 4.0,
    batch_size: int = 64,
    seed: int = SEED,
    documents: SentenceEncoder | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure an encoder on similarity tasks (SimCSE's protocol), transfer tasks (SentEval's), retrieval and reranking.

    A similarity task's score is Spearman's rank correlation x100 between the cosine of the two embeddings and the gold
    score, over all its pairs at once (Gao et al. 2021, appendix B). Alignment is the mean squared distance of the unit
    embeddings of positive pairs, and uniformity the log of the mean, over ordered pairs of different sentences, of
    exp(-2 x squared distance) (Wang and Isola 2020), both on one task. A transfer task's score is the accuracy of
    logistic regression by SentEval's protocol (see `transfer`), in as many threads as torch has. A retrieval task's
    score is the nDCG@10 of an exact search by cosine (see `retrieval`), a reranking task's the mean average precision
    (see `reranking`). Each distinct sentence is embedded once for the similarity and transfer tasks together, and once
    for each retrieval and reranking task.

    Args:
        encoder: its embeddings are normalised here for the similarity, retrieval and reranking tasks, and taken as
            they are for the others.
        tasks: names of `TASKS`, `TRANSFER_TASKS`, `RETRIEVAL_TASKS` or `GROUPS`, `retrieval`, folders in BEIR's layout,
            or paths of own data (see `load_tasks`), in a list or separated by commas; or what `load_tasks` returned.
        data_dir: the SentEval folder (see `sparsecse.datasets.load_pairs`), or the one of the retrieval sets.
        positive_minimum: the gold score, from 0 to 5, from which a pair is positive.
        batch_size: sentences the encoder takes at a time.
        seed: shuffles the folds of the transfer tasks; by default SentEval's.
        documents: embeds the documents of the retrieval and reranking tasks, with vectors of the same size; by default
            `encoder`.
        query_prompt: text put before every query; by default the encoder's prompt `query`, or its default prompt.
        document_prompt: text put before every document; by default the prompt `document`, `passage` or `corpus` of the
            encoder that embeds them, or its default prompt.
        progress: called with the number of sentences embedded and classifiers trained so far, and of all.

    Raises:
        InputError: as `load_tasks`, `transfer` and `retrieval`; a threshold out of range; embeddings that are not
            finite; a task whose gold scores or cosines are all the same, so that Spearman is undefined; something given
            for retrieval and reranking tasks where there are none.
    """
    positive_threshold(positive_minimum)
    found = tasks if isinstance(tasks, Tasks) else load_tasks(tasks, data_dir=data_dir)
    for_retrieval = {"documents": documents, "query_prompt": query_prompt, "document_prompt": document_prompt}
    for name, given in for_retrieval.items():
        if given is not None and not found.retrieval and not found.reranking:
            raise InputError(f"`{name}` is for retrieval and reranking, and there is none among `tasks`; leave it out.")
    if documents is not None:
        # Before hours of other work: a sentence tells the size.
        same_size(*(embed(each, ["size"], batch_size) for each in (encoder, documents)))
    sets: list[PairSet | TransferSet | OwnTask] = [*found.pairs.values(), *found.transfer.values()]
    sets += found.own.values()
    sentences = list(dict.fromkeys(sentence for each in sets for sentence in each.sentences()))
    position = {sentence: index for index, sentence in enumerate(sentences)}
    total = len(sentences) + sum(map(steps, found.transfer.values()))
    total += sum(map(retrieval_steps, found.retrieval.values())) + sum(map(reranking_steps, found.reranking.values()))
    done = 0

    def advance(count: int = 1) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    vectors = embed(encoder, sentences, batch_size, advance) if sentences else torch.empty(0, 0)

    def rows(texts: Sequence[str]) -> torch.Tensor:
        return vectors[[position[text] for text in texts]]

    def unit(texts: Sequence[str]) -> torch.Tensor:
        return F.normalize(rows(texts), dim=1)

    def search(measure: Callable[..., Any], task: RetrievalSet | RerankingSet) -> Any:
        return measure(
            task,
            encoder,
            documents,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            batch_size=batch_size,
            advance=advance,
        )

    results = {name: similarity(name, pairs, unit) for name, pairs in found.pairs.items()}
    aligned, uniform, chosen = None, None, None
    if found.pairs:
        chosen = next((name for name in _ALIGN_UNIFORM_TASKS if name in found.pairs), next(iter(found.pairs)))
        aligned, uniform = align_uniform(found.pairs[chosen], unit, positive_minimum)
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
        retrieval={name: search(retrieval, task) for name, task in found.retrieval.items()},
        reranking={name: search(reranking, task) for name, task in found.reranking.items()},
        own={name: task.measure(lambda texts: rows(texts).numpy()) for name, task in found.own.items()},
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
