"""Exact nearest documents by cosine in bounded memory, and the measures of a ranking, as trec_eval defines both.

trec_eval (https://github.com/usnistgov/trec_eval, `form_res_rels.c`, `m_ndcg_cut.c`) keeps scores in single precision
and puts equal ones in descending order of the documents' ids, compared byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

# Queries at a time: with a block of a few thousand documents their scores take some 30 MB.
_QUERIES = 1024

_LOW = (1 << 32) - 1


def nearest(
    queries: torch.Tensor, blocks: Iterable[tuple[Sequence[str], torch.Tensor]], names: Iterable[str], depth: int
) -> list[list[str]]:
    """The ids of the `depth` documents nearest each query, the nearest first, or of all where there are fewer.

    Cosines are computed in double precision and rounded to single; of equal ones the higher id comes first, so that the
    result does not depend on how the documents are cut into blocks.

    Args:
        queries: [Q, d], of any length.
        blocks: (ids [n], vectors [n, d]) of all documents, each once; one block is held at a time.
        names: the ids of all documents.
    """
    ordered = sorted(names)  # by code points, which is the order of the bytes in UTF-8
    place = {name: index for index, name in enumerate(ordered)}
    queries = _unit(queries)
    best = torch.empty(len(queries), 0, dtype=torch.int64)
    for ids, vectors in blocks:
        places = torch.tensor([place[name] for name in ids])
        documents = _unit(vectors).T
        parts = []
        for start in range(0, len(queries), _QUERIES):
            rows = slice(start, start + _QUERIES)
            keys = torch.cat([best[rows], _keys(queries[rows] @ documents, places)], dim=1)
            parts.append(keys.topk(min(depth, keys.shape[1]), dim=1).values)
        best = torch.cat(parts)
    return [[ordered[index] for index in row] for row in (best & _LOW).tolist()]


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.double(), dim=1)


def _keys(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """One whole number per score and document: the score, in single precision, decides, then the higher place.

    The bits of a positive number in single precision, read as a whole number, are in the order of the numbers; those of
    a negative one are in the opposite order.
    """
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0 makes a zero of -0.0
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ascending << 32) | places


def ndcg(ranked: Sequence[str], grades: Mapping[str, int], depth: int) -> float:
    """Normalised discounted cumulative gain of the first `depth` documents, from 0 to 1; 0 without a relevant one.

    The gain is the grade, discounted by log2(rank + 1); the ideal ranking is that of all grades (Jarvelin and
    Kekalainen 2002, with trec_eval's discount).
    """
    gains = [max(0, grades.get(name, 0)) for name in ranked[:depth]]
    ideal = _discounted(sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:depth])
    return _discounted(gains) / ideal if ideal else 0.0


def recall(ranked: Sequence[str], grades: Mapping[str, int], depth: int) -> float:
    """The part of all relevant documents that is among the first `depth`; 0 without a relevant one."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranked[:depth])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], grades: Mapping[str, int], depth: int) -> float:
    """1 / the rank of the first relevant document among the first `depth`; 0 where there is none."""
    hits = (rank for rank, name in enumerate(ranked[:depth], start=1) if grades.get(name, 0) > 0)
    return 1 / next(hits, math.inf)


def average_precision(ranked: Sequence[str], grades: Mapping[str, int], depth: int) -> float:
    """The mean, over all relevant documents, of the precision at the rank of each; 0 without a relevant one.

    A document that is not among the first `depth` adds 0 (trec_eval's `map_cut`).
    """
    relevant = {name for name, grade in grades.items() if grade > 0}
    ranks = [rank for rank, name in enumerate(ranked[:depth], start=1) if name in relevant]
    return sum(found / rank for found, rank in enumerate(ranks, start=1)) / len(relevant) if relevant else 0.0


def _discounted(gains: Iterable[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
