"""How far a model agrees with a reference model on sentences without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from sparsecse.datasets import draw_sentences, load_sentences
from sparsecse.errors import InputError
from sparsecse.evaluation.embedding import SentenceEncoder, embed
from sparsecse.files import texts_hash
from sparsecse.settings import at_least

NEIGHBOURS = 10
BLOCK = 256  # sentences whose similarities are ranked together
LIMIT = 4000  # sentences of a file that are compared, if nobody says otherwise

_CELLS = 1 << 24  # cosines held at a time in the search: 64 MiB


@dataclass(frozen=True)
class AgreementText:
    """The distinct sentences that two models are compared on, and where they are from."""

    sentences: Sequence[str]
    source: str

    @staticmethod
    def load(
        name_or_path: str, *, limit: int = LIMIT, seed: int = 0, data_dir: str | Path | None = None
    ) -> AgreementText:
        """The sentences of a text file, table or named set, as `load_sentences`; of more than `limit`, some drawn.

        Raises:
            InputError: as `load_sentences`; too few sentences.
        """
        at_least("agreement_limit", limit, least_sentences())
        sentences = draw_sentences(load_sentences(name_or_path, data_dir=data_dir), limit, seed)
        check_count(len(sentences))
        return AgreementText(sentences, name_or_path)

    def fingerprint(self) -> str:
        """SHA-256 of the sentences, in hex."""
        return texts_hash(self.sentences)


@dataclass(frozen=True)
class Agreement:
    """What `agreement` measured, each figure at most 1 and equal to 1 where the two models are the same.

    Attributes:
        sentences: how many were compared.
        cosine: mean over the sentences of the cosine between their two vectors; None where the dimensions differ.
        similarity_spearman: Spearman's rank correlation between one model's cosines of all pairs in a block and the
            other's, averaged over the blocks.
        neighbours: the part of a sentence's nearest neighbours that both models name, averaged over the sentences.
        neighbours_in_reference: the same where the model's vector looks for its neighbours among the reference's
            vectors; None where the dimensions differ.
        neighbour_count: how many neighbours were looked for.
    """

    sentences: int
    cosine: float | None
    similarity_spearman: float
    neighbours: float
    neighbours_in_reference: float | None
    neighbour_count: int = NEIGHBOURS

    @property
    def neighbours_by_chance(self) -> float:
        """What models that have nothing to do with each other share of their neighbours, on average."""
        return self.neighbour_count / (self.sentences - 1)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        return {**vars(self), "neighbours_by_chance": self.neighbours_by_chance}


def agreement(
    vectors: torch.Tensor | np.ndarray,
    reference: torch.Tensor | np.ndarray,
    *,
    neighbours: int = NEIGHBOURS,
    block: int = BLOCK,
    seed: int = 0,
) -> Agreement:
    """Compare a model's vectors with a reference model's vectors of the same distinct sentences.

    `cosine` and `neighbours_in_reference` tell whether the model can take the reference's place where the
    reference's vectors are already stored; `similarity_spearman` and `neighbours` whether it orders sentences alike,
    whatever its coordinates. The search is exact and takes 64 MiB beside the vectors.

    Args:
        vectors: [N, d] of the model; normalised here.
        reference: [N, e] of the reference model, row by row of the same sentences.
        neighbours: how many nearest neighbours of a sentence are compared, the sentence itself left out.
        block: sentences whose similarities are ranked together: those of N // block shuffled blocks of about the same
            size, at least this one, or of all sentences where there are fewer.
        seed: shuffles the sentences before they are cut into blocks.

    Raises:
        InputError: not two matrices with one row a sentence; a vector that is not finite; fewer sentences than twice
            the neighbours and one; all cosines of a block the same, so that Spearman is undefined.
    """
    at_least("neighbours", neighbours, 1)
    at_least("block", block, 3)
    ours, theirs = _unit(vectors, "vectors"), _unit(reference, "reference")
    if len(ours) != len(theirs):
        raise InputError(
            f"`vectors` has {len(ours)} rows and `reference` has {len(theirs)}; give one row a sentence in both."
        )
    check_count(len(ours), neighbours)
    own, wanted = nearest(ours, ours, neighbours), nearest(theirs, theirs, neighbours)
    same_space = ours.shape[1] == theirs.shape[1]
    return Agreement(
        sentences=len(ours),
        cosine=float((ours.double() * theirs.double()).sum(dim=1).mean()) if same_space else None,
        similarity_spearman=similarity_spearman(ours, theirs, block, seed),
        neighbours=_shared(own, wanted),
        neighbours_in_reference=_shared(nearest(ours, theirs, neighbours), wanted) if same_space else None,
        neighbour_count=neighbours,
    )


def model_agreement(
    encoder: SentenceEncoder,
    reference: SentenceEncoder,
    sentences: Sequence[str],
    *,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Embed sentences with two models and compare their vectors; see `agreement`.

    Args:
        sentences: text without labels; a sentence that occurs more than once is counted once.
        batch_size: sentences an encoder takes at a time.
        progress: called with the number of sentences embedded so far by both models, and of all.

    Raises:
        InputError: as `agreement`.
    """
    distinct = list(dict.fromkeys(sentences))
    check_count(len(distinct))
    advance = _counting(2 * len(distinct), progress)
    ours, theirs = (embed(one, distinct, batch_size, advance) for one in (encoder, reference))
    return agreement(ours, theirs, seed=seed)


def embed_text(
    encoder: SentenceEncoder,
    text: AgreementText,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """A model's vectors [N, d] of a text, for `agreement`; `progress` is called with the sentences done, and all."""
    return embed(encoder, list(text.sentences), batch_size, _counting(len(text.sentences), progress))


def least_sentences(neighbours: int = NEIGHBOURS) -> int:
    """The fewest sentences that `agreement` takes: of fewer, a large part of the neighbours is shared by chance."""
    return 2 * neighbours + 1


def check_count(sentences: int, neighbours: int = NEIGHBOURS) -> None:
    """Refuse too few distinct sentences."""
    if sentences < least_sentences(neighbours):
        raise InputError(
            f"Agreement on the {neighbours} nearest neighbours needs at least {least_sentences(neighbours)} different "
            f"sentences, and there are {sentences}; give more text."
        )


def nearest(queries: torch.Tensor, keys: torch.Tensor, count: int, *, rows: int | None = None) -> torch.Tensor:
    """The rows [N, count] of the keys with the largest products with each query, the query's own row left out.

    Args:
        queries, keys: [N, d], row by row of the same sentences.
        rows: queries searched at a time; by default as many as keep the products within 64 MiB.
    """
    step = rows or max(1, _CELLS // len(keys))
    found = []
    for start in range(0, len(queries), step):
        products = queries[start : start + step] @ keys.T
        own = torch.arange(len(products))
        products[own, start + own] = -math.inf
        found.append(products.topk(count, dim=1).indices)
    return torch.cat(found)


def _counting(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """What adds up counts and tells the sum, of the total, to `progress`."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return advance


def _unit(vectors: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    matrix = torch.as_tensor(vectors).detach().to("cpu", torch.float32)
    if matrix.dim() != 2:
        raise InputError(f"`{name}` has the shape {list(matrix.shape)}; give one row a sentence.")
    if not bool(matrix.isfinite().all()):
        raise InputError(f"`{name}` has numbers that are not finite; check the model's weights.")
    return F.normalize(matrix, dim=1)


def _shared(first: torch.Tensor, second: torch.Tensor) -> float:
    """The mean part of each row's members [N, count] that the other's row has too."""
    common = (first[:, :, None] == second[:, None, :]).sum()
    return float(common) / first.numel()


def similarity_spearman(ours: torch.Tensor, theirs: torch.Tensor, block: int = BLOCK, seed: int = 0) -> float:
    """`Agreement.similarity_spearman` of two models' unit vectors [N, d] and [N, e] of the same sentences."""
    order = torch.randperm(len(ours), generator=torch.Generator().manual_seed(seed))
    correlations = []
    for rows in order.tensor_split(max(1, len(order) // block)):
        first, second = torch.triu_indices(len(rows), len(rows), offset=1)
        cosines = []
        for vectors in (ours[rows].double(), theirs[rows].double()):
            similarities = (vectors @ vectors.T)[first, second]
            if bool((similarities == similarities[0]).all()):
                raise InputError(
                    f"The cosines of all pairs of {len(rows)} sentences are {float(similarities[0]):.4g}; give a model "
                    "that tells sentences apart."
                )
            cosines.append(similarities.numpy())
        correlations.append(float(spearmanr(*cosines).statistic))
    return sum(correlations) / len(correlations)
