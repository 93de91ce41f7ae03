"""Reranking: how high an encoder's cosines put the relevant ones among the candidates of a query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sparsecse.datasets import RerankingSet
from sparsecse.evaluation.embedding import SentenceEncoder, embed, embed_each
from sparsecse.evaluation.ranking import average_precision, nearest, reciprocal_rank
from sparsecse.evaluation.retrieval import retrieval_prompts, same_size

_MAP, _MRR = 1000, 10


@dataclass(frozen=True)
class RerankingResult:
    """Means over the queries, x100: average precision of the first 1,000 candidates, reciprocal rank in 10.

    `candidates` counts those of all queries; for the other counts see `RerankingSet`. The prompts are those that were
    put before every query and candidate, None where the encoder was left to itself.
    """

    map_at_1000: float
    mrr_at_10: float
    queries: int
    candidates: int
    source: str
    left_out_queries: int = 0
    missing_documents: int = 0
    irrelevant_queries: int = 0
    query_prompt: str | None = None
    document_prompt: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        return asdict(self)


def steps(task: RerankingSet) -> int:
    """How many sentences `reranking` embeds for a task: its distinct queries and its distinct candidates."""
    return len(set(task.queries.values())) + len(set(task.texts()))


def reranking(
    task: RerankingSet,
    encoder: SentenceEncoder,
    documents: SentenceEncoder | None = None,
    *,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda count: None,
) -> RerankingResult:
    """Rank each query's candidates by cosine and measure the rankings as trec_eval does, ties included.

    Memory holds the vectors of all distinct queries and candidates.

    Args:
        encoder: embeds the queries, and the candidates where there is no other for them.
        documents: embeds the candidates.
        query_prompt, document_prompt: texts put before every query and every candidate; the defaults are `retrieval`'s.
        advance: told how many sentences each step adds, `steps(task)` in all.

    Raises:
        InputError: vectors of different sizes from the two encoders, or such that are not finite.
    """
    documents = encoder if documents is None else documents
    query_prompt, document_prompt = retrieval_prompts(encoder, documents, query_prompt, document_prompt)
    queries = embed_each(encoder, task.queries.values(), batch_size, advance, prompt=query_prompt)
    texts = task.texts()
    row = {text: index for index, text in enumerate(texts)}
    candidates = embed(documents, texts, batch_size, advance, prompt=document_prompt)
    same_size(queries, candidates)
    precisions, reciprocals = [], []
    for query, vector in zip(task.queries, queries, strict=True):
        names = list(task.candidates[query])
        vectors = candidates[[row[each] for each in task.candidates[query].values()]]
        ranked = nearest(vector[None], [(names, vectors)], names, _MAP)[0]
        precisions.append(average_precision(ranked, task.judgements[query], _MAP))
        reciprocals.append(reciprocal_rank(ranked, task.judgements[query], _MRR))
    return RerankingResult(
        map_at_1000=100 * sum(precisions) / len(precisions),
        mrr_at_10=100 * sum(reciprocals) / len(reciprocals),
        queries=len(task.queries),
        candidates=sum(map(len, task.candidates.values())),
        source=task.source,
        left_out_queries=task.left_out_queries,
        missing_documents=task.missing_documents,
        irrelevant_queries=task.irrelevant_queries,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
    )
