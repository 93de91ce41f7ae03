"""What data becomes: graded pairs, triplets, the labelled sentences of a transfer task, retrieval, reranking sets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import chain

from sparsecse.errors import InputError

_HASHED_AT_ONCE = 4096


def _digest(*columns: tuple[object, ...] | None) -> str:
    """SHA-256 of the columns as JSON, which is never whole in memory."""
    digest = hashlib.sha256(b"[")
    for number, column in enumerate(columns):
        digest.update(b", " if number else b"")
        if column is None:
            digest.update(b"null")
            continue
        digest.update(b"[")
        for start in range(0, len(column), _HASHED_AT_ONCE):
            some = json.dumps(column[start : start + _HASHED_AT_ONCE])[1:-1]
            digest.update(f"{', ' if start else ''}{some}".encode())
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()


def positive_threshold(minimum: float) -> float:
    """Return `minimum` if it is a gold score (0 to 5), else raise `InputError`."""
    if not 0 <= minimum <= 5:
        raise InputError(f"The minimum score of a positive pair is {minimum}; give a number from 0 to 5.")
    return minimum


@dataclass(frozen=True)
class PairSet:
    """Pairs of sentences, graded by people where `scores` is present.

    `first` and `second` have one sentence a pair; `scores` is the gold similarity from 0 to 5 (SICK: 1 to 5);
    `subsets` names the part of the set that a pair belongs to (STS12's MSRpar); `source` says where it was read from.
    """

    name: str
    split: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...] | None
    subsets: tuple[str, ...] | None
    source: str

    def __len__(self) -> int:
        return len(self.first)

    def sentences(self) -> list[str]:
        """The distinct sentences, in the order of their first occurrence (a pair's first before its second)."""
        return list(dict.fromkeys(chain.from_iterable(zip(self.first, self.second, strict=True))))

    def positives(self, minimum: float = 4.0) -> list[tuple[int, int]]:
        """Pairs with a gold score of at least `minimum`, as positions in `sentences()`.

        Raises:
            InputError: the set has no gold scores, or no pair reaches `minimum`.
        """
        positive_threshold(minimum)
        if self.scores is None:
            raise InputError(
                f"{self.source} has no gold scores, so no positive pairs; add a column 'score' from 0 to 5."
            )
        position = {sentence: index for index, sentence in enumerate(self.sentences())}
        pairs = [
            (position[a], position[b])
            for a, b, score in zip(self.first, self.second, self.scores, strict=True)
            if score >= minimum
        ]
        if not pairs:
            raise InputError(
                f"{self.source} has no pair with a gold score of at least {minimum:g} (the highest is "
                f"{max(self.scores):g}, on a scale from 0 to 5); lower the minimum or rescale the scores."
            )
        return pairs

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hex; the same for the same pairs wherever they were read from."""
        return _digest(self.first, self.second, self.scores, self.subsets)


@dataclass(frozen=True)
class TripletSet:
    """Anchors with a positive each and, where `negatives` is present, a hard negative each (supervised SimCSE)."""

    name: str
    anchors: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...] | None
    source: str

    def __len__(self) -> int:
        return len(self.anchors)

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hex."""
        return _digest(self.anchors, self.positives, self.negatives)


@dataclass(frozen=True)
class LabelledSplit:
    """Sentences (with `second`, pairs of sentences) and their classes, as positions in `TransferSet.classes`."""

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class TransferSet:
    """A classification task: one split `all`, or `train` and `test`, or `train`, `dev` and `test`.

    `classes` names the labels 0, 1, ...; `source` says where it was read from.
    """

    name: str
    splits: dict[str, LabelledSplit]
    classes: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits.values())

    def sentences(self) -> list[str]:
        """The distinct sentences of all splits, in the order of their first occurrence."""
        columns = (column for split in self.splits.values() for column in (split.first, split.second or ()))
        return list(dict.fromkeys(chain.from_iterable(columns)))

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hex; the same for the same examples wherever they were read from."""
        columns = [column for split in self.splits.values() for column in (split.first, split.second, split.labels)]
        return _digest(tuple(self.splits), *columns)


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, the documents to be searched, and which of them people judged relevant to which query.

    `documents` and `queries` hold texts by id, and of the queries only those that were judged. `judgements` holds the
    grades by query id and document id; above 0 is relevant. `source` says where it was read from. What was left out, or
    cannot be found, is counted:

    - `empty_documents`: documents without any text. They are not in `documents`.
    - `unknown_queries`: judged queries whose text is missing. They are not in `judgements`.
    - `unknown_documents`: judgements of the remaining queries that name a document whose text is missing from the
      corpus altogether. They stay in `judgements`: the ideal ranking has them, as trec_eval's has.
    - `irrelevant_queries`: queries all of whose judgements are 0 or less. They stay, and count as 0 in every mean.
    """

    name: str
    split: str
    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    source: str
    empty_documents: int = 0
    unknown_queries: int = 0
    unknown_documents: int = 0
    irrelevant_queries: int = 0

    def __len__(self) -> int:
        return len(self.queries)

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hex; the same for the same texts and judgements wherever they were read from."""
        columns = (self.documents, self.queries, self.judgements)
        return _digest(*(tuple(column.items()) for column in columns))


@dataclass(frozen=True)
class RerankingSet:
    """Queries, each with candidates to be ranked, and which of these people judged relevant.

    `queries` holds texts by id, `candidates` each query's texts by the candidate's id, at least one, and `judgements`
    the grades by query id and document id; above 0 is relevant. `source` says where it was read from. Counted are:

    - `left_out_queries`: without a relevant candidate or without another, or, judged queries, without candidates.
    - `missing_documents`: candidates that are not in the corpus or have no text. They are not in `candidates`.
    - `irrelevant_queries`: queries all of whose judgements are 0 or less. They stay, and count as 0 in every mean.
    """

    queries: dict[str, str]
    candidates: dict[str, dict[str, str]]
    judgements: dict[str, dict[str, int]]
    source: str
    left_out_queries: int = 0
    missing_documents: int = 0
    irrelevant_queries: int = 0

    def __len__(self) -> int:
        return len(self.queries)

    def texts(self) -> list[str]:
        """The distinct texts of all candidates, in the order of their first occurrence."""
        return list(dict.fromkeys(text for texts in self.candidates.values() for text in texts.values()))

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hex; the same for the same texts and judgements wherever they were read from."""
        columns = (self.queries, self.candidates, self.judgements)
        return _digest(*(tuple(column.items()) for column in columns))
