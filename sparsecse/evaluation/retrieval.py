"""Retrieval: how high an encoder's cosines rank the relevant documents of a collection, by BEIR's measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparsecse.datasets import RetrievalSet
from sparsecse.errors import InputError
from sparsecse.evaluation.embedding import SentenceEncoder, embed, embed_each, named_prompts
from sparsecse.evaluation.ranking import ndcg, nearest, recall, reciprocal_rank

BLOCK = 4096
"""Documents whose vectors and scores are held at a time."""

_NDCG, _RECALL, _MRR = 10, 100, 10

# As sentence-transformers' `encode_query` and `encode_document` look for them.
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class RetrievalResult:
    """Means over the queries, x100: nDCG of the first 10 documents, recall of the first 100, reciprocal rank in 10.

    `queries` and `documents` count what was searched for and in; for the other counts see `RetrievalSet`. The prompts
    are those that were put before every query and document, None where the encoder was left to itself.
    """

    ndcg_at_10: float
    recall_at_100: float
    mrr_at_10: float
    queries: int
    documents: int
    source: str
    empty_documents: int = 0
    unknown_queries: int = 0
    unknown_documents: int = 0
    irrelevant_queries: int = 0
    query_prompt: str | None = None
    document_prompt: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        return asdict(self)


def steps(task: RetrievalSet) -> int:
    """How many sentences `retrieval` embeds for a task: its distinct queries and its distinct documents."""
    return len(set(task.queries.values())) + len(set(task.documents.values()))


def retrieval(
    task: RetrievalSet,
    encoder: SentenceEncoder,
    documents: SentenceEncoder | None = None,
    *,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 64,
    block: int = BLOCK,
    advance: Callable[[int], None] = lambda count: None,
) -> RetrievalResult:
    """Rank all documents for each query by cosine, exactly, and measure the rankings as trec_eval does.

    Memory holds the vectors of the queries and of one block of documents.

    Args:
        encoder: embeds the queries, and the documents where there is no other for them.
        documents: embeds the documents.
        query_prompt: text put before every query, "" for none; by default the encoder's prompt `query`, else its
            default prompt, unless that is one for documents.
        document_prompt: text put before every document; by default the encoder's prompt `document`, `passage` or
            `corpus`, else its default prompt, unless that is the one for queries.
        block: documents at a time; the result does not depend on it.
        advance: told how many sentences each step adds, `steps(task)` in all.

    Raises:
        InputError: vectors of different sizes from the two encoders, or such that are not finite.
    """
    documents = encoder if documents is None else documents
    query_prompt, document_prompt = retrieval_prompts(encoder, documents, query_prompt, document_prompt)
    vectors = embed_each(encoder, task.queries.values(), batch_size, advance, prompt=query_prompt)

    # Documents of the same text share one vector. The longest come first, as inside `embed`.
    names: dict[str, list[str]] = {}
    for name, text in sorted(task.documents.items(), key=lambda item: len(item[1]), reverse=True):
        names.setdefault(text, []).append(name)

    def blocks() -> Iterator[tuple[list[str], torch.Tensor]]:
        distinct = list(names)
        for start in range(0, len(distinct), block):
            chunk = distinct[start : start + block]
            found = embed(documents, chunk, batch_size, advance, prompt=document_prompt)
            same_size(vectors, found)
            owners = [(name, index) for index, text in enumerate(chunk) for name in names[text]]
            for first in range(0, len(owners), block):
                ids, rows = zip(*owners[first : first + block], strict=True)
                yield list(ids), found[list(rows)]

    ranked = nearest(vectors, blocks(), task.documents, max(_NDCG, _RECALL, _MRR))
    pairs = [(ranking, task.judgements[query]) for query, ranking in zip(task.queries, ranked, strict=True)]
    return RetrievalResult(
        ndcg_at_10=100 * sum(ndcg(*pair, _NDCG) for pair in pairs) / len(pairs),
        recall_at_100=100 * sum(recall(*pair, _RECALL) for pair in pairs) / len(pairs),
        mrr_at_10=100 * sum(reciprocal_rank(*pair, _MRR) for pair in pairs) / len(pairs),
        queries=len(task.queries),
        documents=len(task.documents),
        source=task.source,
        empty_documents=task.empty_documents,
        unknown_queries=task.unknown_queries,
        unknown_documents=task.unknown_documents,
        irrelevant_queries=task.irrelevant_queries,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
    )


def same_size(queries: torch.Tensor, documents: torch.Tensor) -> None:
    """Raise `InputError` where vectors of queries and of documents differ in size."""
    if queries.shape[1] != documents.shape[1]:
        raise InputError(
            f"`documents` has vectors of {documents.shape[1]} numbers, and the model that embeds the queries of "
            f"{queries.shape[1]}; give two models of the same size of vectors."
        )


def retrieval_prompts(
    encoder: SentenceEncoder, documents: SentenceEncoder, query_prompt: str | None, document_prompt: str | None
) -> tuple[str | None, str | None]:
    """What is put before queries and before documents: what is given, else as `retrieval` says; None where nothing."""
    return (
        _prompt(encoder, query_prompt, _QUERY_PROMPTS, _DOCUMENT_PROMPTS),
        _prompt(documents, document_prompt, _DOCUMENT_PROMPTS, _QUERY_PROMPTS),
    )


def _prompt(encoder: SentenceEncoder, given: str | None, names: tuple[str, ...], others: tuple[str, ...]) -> str | None:
    """The text that is given, else the encoder's prompt of one of these names, else what it puts there itself.

    others: names of the other side's prompts; where one of them is the default, nothing is put before these texts.
    """
    if given is not None:
        return given
    prompts, default = named_prompts(encoder)
    name = next((name for name in names if name in prompts), default)
    if name in others:
        return ""
    return prompts[name] if name is not None and name in prompts else None
