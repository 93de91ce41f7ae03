"""What every study works on: the model, dev pairs, test tasks and sentences, and how its cells measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sparsecse.datasets import PairSet, RetrievalSet
from sparsecse.encoders import Encoder, fingerprint
from sparsecse.errors import InputError
from sparsecse.evaluation import SentenceEncoder, retrieval, spearman
from sparsecse.evaluation.dev import Dev, DevSet
from sparsecse.evaluation.embedding import embed
from sparsecse.files import text_hash
from sparsecse.kernels import uniformity
from sparsecse.kernels.dispatch import fast_bfloat16
from sparsecse.objectives import alignment
from sparsecse.pruning.ensemble import Ensemble, choose_reconstruction
from sparsecse.pruning.masks import Budget, Mask, select
from sparsecse.pruning.surgery import prune
from sparsecse.runtime import Runtime, native
from sparsecse.scoring import (
    Objective,
    Scores,
    ScoringSettings,
    Structure,
    leave_one_out,
    objective_value,
    scoring_method,
)
from sparsecse.studies.intervals import paired_interval
from sparsecse.studies.others import Other
from sparsecse.training import TrainingResult, TrainingSettings, train


@dataclass(frozen=True)
class StudySettings:
    """What a study may be told; each takes what it needs, and has defaults of its own for what is None.

    sparsities: fractions of heads and neurons removed. methods: scoring methods. seeds: how many seeds.
    training: the repair of each cell, or None for no repair. others: models that the study frontier measures too.
    """

    sparsities: tuple[float, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: int | None = None
    training: TrainingSettings | None = None
    others: tuple[Other, ...] = ()


@dataclass
class Setup:
    """One model with its data.

    dense: the encoder that is pruned; name: as the user calls it.
    score_pairs: the graded pairs for scores and choices; tasks: {name: pairs} for the results, never for choices.
    sentences: for the repair.
    cosines: folder where the cosines of cells are kept for paired intervals.
    data_dir: the SentEval folder in which other sets to score on are looked for.
    retrieval: {name: set} that the study frontier measures too.
    """

    name: str
    dense: Encoder
    score_pairs: PairSet
    tasks: Mapping[str, PairSet]
    sentences: Sequence[str]
    cosines: Path
    settings: StudySettings = field(default_factory=StudySettings)
    progress: Callable[[str], Callable[[int, int], None]] = lambda label: lambda done, total: None
    data_dir: str | None = None
    retrieval: Mapping[str, RetrievalSet] = field(default_factory=dict)
    _scores: dict[tuple[Any, ...], Scores] = field(default_factory=dict, init=False)

    def identity(self) -> dict[str, Any]:
        """What must be the same for cells to belong together."""
        tasks = "".join(pairs.fingerprint() for pairs in self.tasks.values())
        training = self.settings.training
        return {
            "model": self.name,
            "model_hash": fingerprint(self.dense),
            "data": self.score_pairs.fingerprint(),
            "tasks": text_hash(tasks)[:16],
            **({"retrieval": self._retrieval_hash()} if self.retrieval else {}),
            "precision": self.precision,
            "training": None if training is None else {**asdict(training), "seed": None},
            "sentences": text_hash("\n".join(self.sentences))[:16] if training else None,
        }

    def _retrieval_hash(self) -> str:
        return text_hash("".join(each.fingerprint() for each in self.retrieval.values()))[:16]

    @cached_property
    def precision(self) -> str:
        """What vectors are measured in: bfloat16 where the processor is fast in it, which moves a mean by some 0.01."""
        model = self.dense.model
        could = native.obstacle(model) is None and native.computes_in("bfloat16", model.config) and fast_bfloat16()
        return "bfloat16" if could else "float32"

    # -- scores and cuts

    def scores(self, method: str = "taylor", *, seed: int = 0, weight: float = 0.5) -> Scores:
        """The model's scores; taken once."""
        key = (method, seed, weight)
        if key not in self._scores:
            if method == "reversed":
                plain = self.scores("taylor", weight=weight)
                scores = Scores(tuple(-x for x in plain.heads), tuple(-x for x in plain.neurons))
            else:
                scores = self.score_model(self.dense, method, seed=seed, weight=weight)
            self._scores[key] = scores
        return self._scores[key]

    def score_model(
        self,
        encoder: Encoder,
        method: str = "taylor",
        *,
        seed: int = 0,
        weight: float = 0.5,
        pairs: PairSet | None = None,
    ) -> Scores:
        """Scores of any encoder on the study's pairs, or on others."""
        settings = ScoringSettings(objective=Objective(weight), seed=seed)
        found = pairs or self.score_pairs
        return scoring_method(method).score(encoder, found, settings, self.progress(f"Scoring by {method}"))

    def leave_one_out(self, structures: Sequence[Structure]) -> list[dict[str, Any]]:
        """What truly happens when each structure is removed alone, as JSON."""
        done = self.progress("Removing one at a time")
        return [
            asdict(row) for row in leave_one_out(self.dense, self.score_pairs, Objective(), structures, progress=done)
        ]

    def mask(self, scores: Scores, sparsity: float) -> Mask:
        """The paper's mask: that fraction of heads and of neurons."""
        return select(scores, Budget.of(scores.sizes(), sparsity=sparsity))

    def cut(self, scores: Scores, sparsity: float, encoder: Encoder | None = None) -> Encoder:
        """An encoder (by default the dense one) without the lowest-scored structures; at 0 itself."""
        encoder = encoder or self.dense
        return prune(encoder, self.mask(scores, sparsity)) if sparsity else encoder

    @cached_property
    def ensemble(self) -> Ensemble:
        """The cuts by the paper's scores, and what is chosen by, with the tolerance of the training."""
        training = self.settings.training or TrainingSettings()
        dev = Dev([DevSet.of(self.score_pairs)], self.dense, training.tolerance)
        return Ensemble(self.dense, self.scores(), dev, self.sentences if self.settings.training else ())

    @staticmethod
    def runtime(model: Encoder | SentenceEncoder, precision: str) -> SentenceEncoder:
        """What computes a model's vectors: the runtime for encoders, any other model itself."""
        return Runtime(model, precision) if isinstance(model, Encoder) else model

    def dev(self, encoder: Encoder | SentenceEncoder) -> float:
        """Spearman x100 on the pairs that choices are made on."""
        return spearman(self.runtime(encoder, self.precision), self.score_pairs)

    def repaired(self, encoder: Encoder, *, seed: int = 0) -> TrainingResult:
        """Repair an encoder in place with the study's training settings."""
        training = self.settings.training
        if training is None:
            raise InputError("This study repairs what it prunes; give `max_steps` above 0 and `train_data`.")
        return train(
            encoder,
            [(sentence,) for sentence in self.sentences],
            TrainingSettings(**{**asdict(training), "seed": seed}),
            teacher=self.dense,
            dev=self.ensemble.dev,
        )

    def repaired_cut(self, mask: Mask) -> Encoder:
        """The dense model cut by a mask and repaired as `run` does it: reconstructed where that helps, then trained."""
        encoder, _ = choose_reconstruction(self.ensemble, mask, prune(self.dense, mask), trained_after=True)
        self.repaired(encoder)
        return encoder

    def objective(self, encoder: Encoder) -> float:
        """L of the scores, over the pairs that are scored."""
        objective = Objective()
        vectors = torch.as_tensor(Runtime(encoder, "float32").encode(self.score_pairs.sentences())).float()
        positives = torch.tensor(self.score_pairs.positives(objective.positive_minimum))
        return objective_value(F.normalize(vectors, dim=-1), positives, objective)["objective"]

    # -- measurements

    @cached_property
    def _golds(self) -> dict[str, np.ndarray]:
        return {task: np.asarray(pairs.scores, dtype=np.float64) for task, pairs in self.tasks.items()}

    def measure(self, encoder: Encoder | SentenceEncoder, key: str) -> dict[str, Any]:
        """Spearman x100 of every task, their mean, dev, alignment and uniformity; the cosines are kept under `key`."""
        sentences = list(dict.fromkeys(sentence for pairs in self.tasks.values() for sentence in pairs.sentences()))
        vectors = F.normalize(embed(self.runtime(encoder, self.precision), sentences, 64), dim=-1)
        table = _Known(sentences, vectors)
        found = {task: spearman(table, pairs) for task, pairs in self.tasks.items()}
        cosines: dict[str, Any] = {
            task: (table.rows(pairs.first) * table.rows(pairs.second)).sum(dim=1).numpy()
            for task, pairs in self.tasks.items()
        }
        self.cosines.mkdir(parents=True, exist_ok=True)
        np.savez(self.cosines / f"{key.replace('/', '_')}.npz", **cosines)
        # On the task with the most pairs scored as positive; the same for every cell.
        positives = {task: pairs.positives() for task, pairs in self.tasks.items()}
        task = max(positives, key=lambda name: len(positives[name]))
        own = table.rows(self.tasks[task].sentences())
        rows = torch.tensor(positives[task])
        return {
            "tasks": found,
            "mean": sum(found.values()) / len(found),
            "dev": self.dev(encoder),
            "alignment": float(alignment(own[rows[:, 0]], own[rows[:, 1]])),
            "uniformity": float(uniformity(own, t=2.0)),
        }

    def kept_cosines(self, key: str) -> Mapping[str, np.ndarray]:
        """{task: [pairs]} of a measured cell."""
        return np.load(self.cosines / f"{key.replace('/', '_')}.npz")

    def interval(self, key: str | Sequence[str], other: str) -> dict[str, float]:
        """The difference in mean Spearman of two measured cells, with its interval over pairs.

        key: one cell, or those of several seeds; then it is their mean's, with its interval over pairs and seeds.
        """
        keys = [key] if isinstance(key, str) else key
        return paired_interval(self._golds, [self.kept_cosines(one) for one in keys], self.kept_cosines(other))

    def speedup(self, encoder: Encoder, *, repeats: int = 7) -> float:
        """How many times faster than the dense model an encoder embeds 256 sentences in float32, timed in turn."""
        sentences = list(self.sentences[:256]) or self.score_pairs.sentences()[:256]
        ids = self.dense.tokenize(sentences)
        runtimes = [Runtime(each, "float32") for each in (self.dense, encoder)]
        best = [float("inf")] * 2
        for _ in range(repeats):
            for which, runtime in enumerate(runtimes):
                start = time.perf_counter()
                runtime.encode_ids(ids)
                best[which] = min(best[which], time.perf_counter() - start)
        return best[0] / best[1]

    def text_speed(self, model: Encoder | SentenceEncoder, *, repeats: int = 7) -> dict[str, float]:
        """Sentences a second in float32, tokenization included, and that as a multiple of the dense model's.

        Both models embed the same 256 texts in turn; of each the best of the repeats counts.
        """
        sentences = list(self.sentences[:256]) or self.score_pairs.sentences()[:256]
        runtimes = [self.runtime(each, "float32") for each in (self.dense, model)]
        best = [float("inf")] * 2
        for _ in range(repeats):
            for which, runtime in enumerate(runtimes):
                start = time.perf_counter()
                runtime.encode(sentences, batch_size=64)
                best[which] = min(best[which], time.perf_counter() - start)
        return {"sentences_per_second": len(sentences) / best[1], "text_speedup": best[0] / best[1]}

    def found(self, model: Encoder | SentenceEncoder) -> dict[str, float]:
        """nDCG@10 x100 of every retrieval set; the model's own prompts are used."""
        runtime = self.runtime(model, self.precision)
        return {name: retrieval(task, runtime).ndcg_at_10 for name, task in self.retrieval.items()}


class _Known:
    """An encoder of sentences whose vectors are there already."""

    def __init__(self, sentences: Sequence[str], vectors: torch.Tensor):
        self._row = {sentence: row for row, sentence in enumerate(sentences)}
        self._vectors = vectors

    def rows(self, sentences: Sequence[str]) -> torch.Tensor:
        return self._vectors[[self._row[sentence] for sentence in sentences]]

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor:
        return self.rows(sentences)
