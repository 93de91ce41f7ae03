"""The whole recipe in memory: score, prune, repair, without a run directory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsecse.datasets import PairSet
from sparsecse.datasets.pairs import dev_pairs
from sparsecse.datasets.views import views_of
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import Dev, DevNames, DevSet, listed, load_dev
from sparsecse.progress import Progress, bars, silent
from sparsecse.pruning import surgery
from sparsecse.pruning.costs import closed_form
from sparsecse.pruning.ensemble import Ensemble, choose_sparsity, nothing_leaves
from sparsecse.pruning.layers import best_layers, search_layers
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.pipeline import carry_out
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.selection import select_by_recipe
from sparsecse.scoring import Scores, ScoringSettings, resolved_precision, scoring_method
from sparsecse.scoring.data import scored_set
from sparsecse.sources import DataOptions
from sparsecse.training import Example, StepReport, TrainingResult, TrainingSettings
from sparsecse.training import train as run_training
from sparsecse.training.examples import training_data
from sparsecse.training.held_out import hold_out, trained_on
from sparsecse.vocabulary import Corpus

Data = str | Path | PairSet | Sequence[str]


def _named(data: str | Path, data_dir: str | Path | None) -> DataOptions:
    return DataOptions(str(data), data_dir=None if data_dir is None else str(data_dir))


def _pairs(data: Data, scoring: ScoringSettings, data_dir: str | Path | None) -> PairSet:
    if isinstance(data, PairSet):
        return data
    if isinstance(data, (str, Path)):
        return scored_set(_named(data, data_dir), scoring)
    return views_of(
        list(dict.fromkeys(data)), "sentences", limit=scoring.limit, dropout=scoring.dropout, seed=scoring.seed
    )


def _graded(data: Data, data_dir: str | Path | None) -> PairSet | None:
    """The gold scores of the data, whatever it is scored by."""
    if isinstance(data, (str, Path)):
        return _named(data, data_dir).graded()
    return data if isinstance(data, PairSet) and data.scores is not None else None


def _sentences(data: Data, data_dir: str | Path | None) -> list[str]:
    if isinstance(data, PairSet):
        return list(dict.fromkeys(data.sentences()))  # dropout views have each twice
    if isinstance(data, (str, Path)):
        examples, _ = training_data(_named(data, data_dir), set())
        return [sentence for (sentence,) in examples]
    return list(dict.fromkeys(data))


def score(
    encoder: Encoder,
    data: Data = "stsb",
    *,
    method: str = "taylor",
    settings: ScoringSettings | None = None,
    data_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score every attention head and feed-forward neuron by its contribution to alignment and uniformity.

    The paper's score (An, Zhang, Song, arXiv 2311.03881) is E|dL/dg| over sentences, of one gate g per structure.

    Args:
        encoder: the dense model; left as it is.
        data: graded pairs, or sentences alone, which then are their own positives under another dropout mask: a named
            set ("stsb", "sickr", "sts12" ... "sts16", "demo"), a file, a `PairSet`, or a list of sentences.
        method: a key of `sparsecse.scoring.METHODS`.
        settings: the objective, seed, precision and batch size; by default the paper's.
        data_dir: the SentEval folder in which a named set is looked for.
        progress: called with (done, in all).

    Returns:
        for each layer one score a head, [heads], and one a neuron, [neurons]; higher is more useful.

    Raises:
        InputError: data that cannot be read, an unknown method.
    """
    chosen, settings = scoring_method(method), settings or ScoringSettings()
    if "precision" in chosen.uses:
        settings = replace(settings, precision=resolved_precision(encoder, settings.precision))
    return chosen.score(encoder, _pairs(data, settings, data_dir), settings, progress)


def prune(encoder: Encoder, by: Mask | Scores, sparsity: float | None = None, **recipe: Any) -> Encoder:
    """Remove heads and neurons from the weights, without repair.

    Args:
        encoder: the model that was scored; left as it is.
        by: a `Mask` of what stays, or `Scores`, of which the lowest leave.
        sparsity: with scores: the fraction of the heads and of the neurons that leave, 0 to 1 (1 excluded).
        recipe: with scores: other fields of `sparsecse.pruning.recipe.Recipe` that need no choice on dev data.

    Returns:
        a smaller encoder; its tokenizer and settings are shared.

    Raises:
        InputError: a mask or scores of a model of other sizes; a sparsity out of range.
    """
    if isinstance(by, Mask):
        if sparsity is not None or recipe:
            raise InputError("A Mask says itself what stays; leave sparsity and the rest out, or give Scores.")
        return surgery.prune(encoder, by)
    wanted = Recipe(sparsity=sparsity, **recipe)
    if wanted.auto or wanted.layers_compete or wanted.reconstruct or wanted.rounds > 1:
        raise InputError("prune makes no choice on dev data; use compress for sparsity auto, layers auto, reconstruct "
                         "and rounds.")  # fmt: skip
    costs = closed_form(encoder, wanted.average_length)
    if wanted.cost != "structures" and wanted.cost not in costs:
        raise InputError(f"cost '{wanted.cost}' is measured by the stage `prune` of a run directory; use another one.")
    return surgery.prune(encoder, select_by_recipe(wanted, by, by.sizes(), costs))


def distill(
    student: Encoder,
    teachers: Encoder | Sequence[Encoder],
    sentences: Data,
    *,
    settings: TrainingSettings | None = None,
    dev: DevNames | None = None,
    dense: Encoder | None = None,
    progress: Callable[[StepReport], None] | None = None,
    teacher_progress: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Train an encoder, in place, towards the vectors of one or several others.

    Args:
        student: the pruned model; it ends with the weights that are best on dev, those before included.
        teachers: the dense model, or several models whose unit vectors are averaged; the student's hidden size.
        sentences: training text, without labels: a list, a file, or a named set.
        settings: by default those of `sparsecse finetune`, one pass over the sentences.
        dev: what picks the weights: see `compress`. By default the agreement on held-out sentences.
        dense: the model that dev figures are compared with; by default the first teacher.
        progress, teacher_progress: called after every step, and while the teachers embed the sentences.

    Raises:
        InputError: no sentence; a teacher of another hidden size.
    """
    settings = settings or TrainingSettings()
    reference = dense or (teachers if isinstance(teachers, Encoder) else teachers[0])
    named, held_out = listed(dev)
    judge = Dev(load_dev(named), reference, settings.tolerance)
    examples: Sequence[Example] = [(sentence,) for sentence in _sentences(sentences, None)]
    if held_out or not judge.sets:
        examples, held = hold_out(examples, settings.seed)
        judge = judge if held is None else judge.also(held)
    return run_training(
        student,
        examples,
        settings,
        teacher=teachers,
        dev=judge if judge.sets else None,
        progress=progress,
        teacher_progress=teacher_progress,
    )


def _by_steps(update: Callable[[int, int], None]) -> Callable[[StepReport], None]:
    return lambda report: update(report.step, report.steps)


def compress(
    model: Encoder | str | Path,
    sparsity: float | str | None = 0.2,
    *,
    data: Data = "stsb",
    train_data: Data | None = None,
    data_dir: str | Path | None = None,
    dev: DevNames | None = None,
    steps: int | None = None,
    method: str = "taylor",
    scoring: ScoringSettings | None = None,
    scores: Scores | None = None,
    training: TrainingSettings | None = None,
    repair: bool = True,
    show_progress_bar: bool = False,
    progress: Progress = silent,
    step_progress: Callable[[StepReport], None] | None = None,
    load_options: dict[str, Any] | None = None,
    **recipe: Any,
) -> Encoder:
    """A smaller encoder: scored, pruned and repaired in memory, as `sparsecse run` does it.

    What can be chosen is chosen on `dev`, by the rule of `sparsecse.guard.Guard`; without it, and with sentences alone
    as `data`, by agreement with the dense model. The reconstruction is fitted on the text that the repair trains on.

    Args:
        model: an `Encoder` (left as it is), or what `load_encoder` takes; "demo" is the demo extra's MiniLM.
        sparsity: the fraction of the heads and of the neurons that leave. The file shrinks by less, since embeddings
            stay: by 9 % for MiniLM at 0.2. "auto" chooses it on dev; None where
            `recipe` says how much.
        data: what to score on; see `score`.
        train_data: text for the repair, no labels; by default the sentences of `data`.
        data_dir: the SentEval folder in which named sets are looked for.
        dev: what the choices are made on: names of graded pairs, and paths of graded pairs, of retrieval sets in BEIR's
            layout or of text (agreement with the dense model), several with commas or in a list, or the data itself;
            "agreement" is that on training sentences which are held out. By default the graded pairs of `data`, and the
            dev sets of STS-B and SICK-R in `data_dir`; for the weights also "agreement".
        steps: optimiser steps of the repair; by default one pass over `train_data`.
        method, scoring: see `score`.
        scores: those of the model, taken before, in place of scoring it; `score` gives them. One serves all sparsities.
        training: all settings of the repair, in place of the defaults, `tolerance` included; `steps` counts over its
            `max_steps`.
        repair: False leaves the training out.
        show_progress_bar: show a bar for each part of the work, in the place of `progress` and `step_progress`.
        progress: opens a progress line by label; see `sparsecse.progress`. step_progress: called after every step.
        load_options: options of `load_encoder`, such as {"pooling": "mean"}.
        recipe: other fields of `sparsecse.pruning.recipe.Recipe`, such as tolerance, layers, vocab.

    Returns:
        the smaller encoder; `encode` embeds with it, `sparsecse.Runtime` faster, `sparsecse.pack` writes it.

    Raises:
        InputError: a model or data that cannot be read, a recipe that contradicts itself.
    """
    if show_progress_bar:
        progress, step_progress = bars, _by_steps(bars("Fine-tuning"))
    scoring = scoring or ScoringSettings()
    dense = model if isinstance(model, Encoder) else load_encoder(model, **(load_options or {}))
    if steps is not None and steps < 1:
        raise InputError(f"steps {steps} is less than 1; give a whole number above 0, or repair=False.")
    wanted = Recipe(**{"sparsity": sparsity, "reconstruct": True, **recipe})
    pairs = _pairs(data, scoring, data_dir)
    named, held_out = listed(dev)
    if named:
        sets = load_dev(named, data_dir)
    else:
        beside = data_dir or os.environ.get("SPARSECSE_DATA_DIR")
        sets = [DevSet.of(one) for one in dev_pairs(_graded(data, data_dir), beside)]
    if not sets and (wanted.auto or wanted.layers_compete):
        raise InputError(f"{pairs.source} has no gold scores for sparsity auto and layers auto to choose by.")
    settings = training or TrainingSettings(tolerance=wanted.tolerance)
    if steps is not None:
        settings = replace(settings, max_steps=steps)
    examples: list[Example] = [(text,) for text in _sentences(data if train_data is None else train_data, data_dir)]
    held = None
    if held_out or dev is None:
        examples, held = hold_out(examples, settings.seed)
    seen = trained_on(examples, settings)
    chosen_by = [*sets, *([] if held is None else [held])]
    if not chosen_by:
        wanted = wanted.without_reconstruction()
    if scores is None:
        scores = score(dense, pairs, method=method, settings=scoring, progress=progress("Scoring"))
    if wanted.auto:
        ensemble = Ensemble(dense, scores, Dev(sets, dense, wanted.tolerance))
        chosen, _ = choose_sparsity(ensemble, progress("Looking for the sparsity"))
        if not chosen:
            warnings.warn(nothing_leaves(ensemble.dev), stacklevel=2)
        wanted = replace(wanted, sparsity=chosen, auto=False)
    costs = closed_form(dense, wanted.average_length)
    if wanted.cost not in ("structures", *costs):
        raise InputError(f"cost '{wanted.cost}' is measured by the stage `prune` of a run directory; use another one.")
    if wanted.layers_compete:
        ensemble = Ensemble(dense, scores, Dev(chosen_by, dense, wanted.tolerance), seen)
        wanted = replace(wanted, layers=best_layers(search_layers(ensemble, wanted, costs, progress), ensemble.dev))
    carried_out = carry_out(
        wanted,
        select_by_recipe(wanted, scores, scores.sizes(), costs),
        dense,
        scores,
        dev=chosen_by,
        corpus=Corpus(wanted.vocab) if wanted.vocab else None,
        rescore=lambda encoder: score(encoder, pairs, method=method, settings=scoring),
        text=seen,
        trained_after=repair,
        progress=progress,
    )
    if warning := carried_out.info.get("vocabulary", {}).get("warning"):
        warnings.warn(warning, stacklevel=2)
    pruned = carried_out.encoder
    if repair:
        distill(
            pruned,
            dense,
            [text for (text,) in examples],
            settings=settings,
            dev=chosen_by if named or not held_out else held,
            progress=step_progress,
            teacher_progress=progress("Embedding with the teacher"),
        )
    return pruned
