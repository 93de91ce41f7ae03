"""What choices are made on: dev sets of three kinds, and the dense model's figures on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch.nn.functional as F

from sparsecse.datasets import PAIR_SETS, PairSet, RetrievalSet, draw_retrieval, load_pairs, load_retrieval
from sparsecse.datasets.pairs import canonical_name
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError, meant
from sparsecse.evaluation.agreement import AgreementText, similarity_spearman
from sparsecse.evaluation.embedding import Remembered, SentenceEncoder, embed
from sparsecse.evaluation.own import is_own, pairs_at
from sparsecse.evaluation.retrieval import retrieval
from sparsecse.evaluation.similarity import spearman
from sparsecse.evaluation.tasks import retrieval_at
from sparsecse.guard import AGREEMENT, RETRIEVAL, SIMILARITY, TOLERANCE, Figures, Guard
from sparsecse.runtime import Runtime
from sparsecse.settings import split_list

HELD_OUT = "agreement"
"""The name, among dev sets, of the agreement on sentences that are held out of training."""

# A dev set is embedded at each dev score.
SENTENCES = 600
DOCUMENTS, QUERIES = 2000, 500

_BATCH = 64

DevData = PairSet | RetrievalSet | AgreementText


@dataclass(frozen=True)
class DevSet:
    """Data that gives one figure x100 of an encoder, higher is better: Spearman on graded pairs, nDCG@10 on a retrieval
    set, or on plain sentences Spearman between the encoder's similarities and the dense model's.

    name: what it is called in records.
    """

    name: str
    data: DevData

    @staticmethod
    def of(data: DevData, name: str | None = None) -> DevSet:
        """Data as a dev set; pairs must be graded, and of a large retrieval set a fixed sample is taken."""
        if isinstance(data, PairSet):
            if data.scores is None:
                raise InputError(f"{data.source} has no gold scores for `dev`; add a column 'score' from 0 to 5.")
            return DevSet(name or f"{data.name} ({data.split})", data)
        if isinstance(data, RetrievalSet):
            drawn = draw_retrieval(data, DOCUMENTS, QUERIES)
            sizes = f"{len(drawn.documents):,} documents, {len(drawn):,} queries"
            if (len(drawn.documents), len(drawn)) != (len(data.documents), len(data)):
                sizes += f", drawn with seed 0 from {len(data.documents):,} and {len(data):,}"
            return DevSet(f"{data.name} ({sizes})", drawn)
        return DevSet(f"{data.source} ({len(data.sentences)} sentences)", data)

    @property
    def kind(self) -> str:
        """What the figure measures."""
        if isinstance(self.data, PairSet):
            return SIMILARITY
        return RETRIEVAL if isinstance(self.data, RetrievalSet) else AGREEMENT

    def fingerprint(self) -> str:
        """SHA-256 of the contents, in hex."""
        return self.data.fingerprint()

    def sentences(self) -> list[str]:
        """The texts that are embedded."""
        if isinstance(self.data, PairSet):
            return self.data.sentences()
        if isinstance(self.data, RetrievalSet):
            return [*self.data.documents.values(), *self.data.queries.values()]
        return list(self.data.sentences)

    def measure(self, encoder: SentenceEncoder, dense: SentenceEncoder) -> float:
        """The figure x100 of an encoder; that of the dense model itself is 100 where it is the agreement."""
        if isinstance(self.data, PairSet):
            return spearman(encoder, self.data)
        if isinstance(self.data, RetrievalSet):
            return retrieval(self.data, encoder).ndcg_at_10
        if encoder is dense:
            return 100.0
        ours, theirs = (F.normalize(embed(one, self.data.sentences, _BATCH), dim=1) for one in (encoder, dense))
        return 100 * similarity_spearman(ours, theirs)


DevNames = str | Path | DevSet | DevData | Sequence[str | Path | DevSet | DevData]
"""Dev sets as a user gives them: names and paths, several with commas or in a list, or the data itself."""


def listed(dev: DevNames | None) -> tuple[list[str | DevSet | DevData], bool]:
    """The dev sets one by one, and whether `HELD_OUT` was among them."""
    whole = [dev] if isinstance(dev, str | Path | DevSet | DevData) else list(dev or ())
    named = [str(part) if isinstance(part, Path) else part for part in whole]
    every = [one for part in named for one in (split_list(part) if isinstance(part, str) else (part,))]
    return [one for one in every if one != HELD_OUT], HELD_OUT in every


def load_dev(dev: DevNames, data_dir: str | Path | None = None) -> list[DevSet]:
    """Load dev sets, each once.

    A name of `PAIR_SETS` is graded pairs (their dev split, where they have one). Else what `load_tasks` takes for a
    retrieval set or graded pairs is one; other files are sentences, of more than 600 some drawn.

    Raises:
        InputError: nothing there, pairs without gold scores, labelled classes, too few sentences; `HELD_OUT`, for which
            something must be in training.
    """
    every, held_out = listed(dev)
    if held_out:
        raise InputError(
            f"`dev` {HELD_OUT} is measured on held-out training sentences, and here is no training; give a text file."
        )
    sets = [one if isinstance(one, DevSet) else _load(one, data_dir) for one in every]
    return list({(one.kind, one.fingerprint()): one for one in sets}.values())


def _load(one: str | DevData, data_dir: str | Path | None) -> DevSet:
    if not isinstance(one, str):
        return DevSet.of(one)
    if canonical_name(one) is not None:
        return DevSet.of(load_pairs(one, data_dir=data_dir))
    if located := retrieval_at(one, data_dir):
        folder, split = located
        return DevSet.of(load_retrieval(folder, split=split))
    path = Path(one).expanduser()
    if load := pairs_at(path):
        return DevSet.of(load(), one)
    if not path.is_file() or is_own(path):
        raise InputError(
            f"`dev` {one} is none of graded pairs ({', '.join(PAIR_SETS)}, or a table with the columns sentence1, "
            f"sentence2, score), a folder in BEIR's layout, and a file of sentences; give one of these."
            f"{meant(one, PAIR_SETS)}"
        )
    return DevSet.of(AgreementText.load(str(path), limit=SENTENCES))


def dev_name(sets: Sequence[DevSet]) -> str:
    """The names of all dev sets."""
    return ", ".join(one.name for one in sets)


def dev_fingerprint(sets: Sequence[DevSet]) -> str:
    """A hash of all dev sets."""
    return "+".join(one.fingerprint() for one in sets)


class Dev:
    """Dev sets, and the dense model that figures are compared with.

    Args:
        sets: at least one.
        dense: the dense model. It must be as it is now when `guard` is first asked for.
        tolerance: see `Guard`.
    """

    def __init__(self, sets: Sequence[DevSet], dense: Encoder | Remembered, tolerance: float = TOLERANCE):
        self.sets, self.tolerance = list(sets), tolerance
        self.dense = dense if isinstance(dense, Remembered) else Remembered(lambda: dense, dense.settings)

    @property
    def name(self) -> str:
        """The names of all sets."""
        return dev_name(self.sets)

    @property
    def labelled(self) -> bool:
        """Whether there is a set with labels."""
        return any(one.kind != AGREEMENT for one in self.sets)

    def also(self, *sets: DevSet) -> Dev:
        """These sets and others, with the same dense model."""
        return Dev([*self.sets, *sets], self.dense, self.tolerance)

    def each(self, encoder: SentenceEncoder) -> list[float]:
        """The figure of each set."""
        if isinstance(encoder, Encoder):
            encoder = Runtime(encoder, "float32")
        figures = [one.measure(encoder, self.dense) for one in self.sets]
        self.dense.release()
        return figures

    def kinds(self, each: Sequence[float]) -> dict[str, float]:
        """The figure of each kind: the mean of those of its sets."""
        found: dict[str, list[float]] = {}
        for one, figure in zip(self.sets, each, strict=True):
            found.setdefault(one.kind, []).append(figure)
        return {kind: sum(figures) / len(figures) for kind, figures in found.items()}

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """The figure of each kind."""
        return self.kinds(self.each(encoder))

    @cached_property
    def guard(self) -> Guard:
        """The rule with the dense model's figures."""
        return Guard(self(self.dense), self.tolerance)

    def rank(self, figures: Figures) -> tuple[bool, float]:
        """See `Guard.rank`."""
        return self.guard.rank(figures)
