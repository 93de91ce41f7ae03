"""Stages `prune` and `rewind`: one cut, in the dense model or in an earlier checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sparsecse.encoders import Encoder, fingerprint, load_encoder
from sparsecse.errors import InputError
from sparsecse.packing import count_parameters
from sparsecse.progress import Progress, silent
from sparsecse.pruning.costs import reached
from sparsecse.pruning.ensemble import (
    REFERENCES,
    Ensemble,
    choose_reconstruction,
    choose_reference,
)
from sparsecse.pruning.iterative import prune_iteratively
from sparsecse.pruning.masks import Budget, Mask
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.surgery import prune as cut
from sparsecse.scoring import Scores
from sparsecse.stages.decide import Decision, cost_models, decide
from sparsecse.stages.models import load_dense, load_model, save_model
from sparsecse.stages.options import DataOptions, ModelOptions, kept_step, resolve_model
from sparsecse.stages.score import score_again, score_set
from sparsecse.vocabulary import fit_vocabulary, prune_vocabulary
from sparsecse.workdir import Record, Workdir

MASK_FILE = "mask.safetensors"
VOCABULARY_FILE = "vocabulary.safetensors"


def _vocabulary_progress(progress: Progress) -> Callable[[str, int, int | None], None]:
    labels = {"count": "Counting tokens", "weigh": "Weighing tokens", "measure": "Measuring the coverage"}
    updates: dict[str, Callable[[int, int], None]] = {}

    def update(stage: str, done: int, total: int | None) -> None:
        if stage not in updates:
            updates[stage] = progress(labels[stage])
        if total is not None:  # a stream does not tell how long it is
            updates[stage](done, total)

    return update


def prune(
    workdir: Workdir,
    cut_: Recipe,
    model: ModelOptions | None = None,
    *,
    dev: DataOptions | None = None,
    where_possible: bool = False,
    trained_after: bool = False,
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Remove heads and neurons by their scores, whole layers, and tokens that a corpus does not need.

    Args:
        model: the model to cut where nothing was scored, which is enough for layers and the vocabulary.
        dev: graded pairs for the choice of the sparsity and of the reconstruction; see `ensemble.dev_sets`.
        where_possible: leave out the reconstruction, with a note in the record, where there are no such pairs.
        trained_after: a repair by training follows, which a light cut is left to; see `ensemble.choose_reconstruction`.

    Raises:
        InputError: nothing to remove is named; a budget without scores; a bad budget, layer or corpus.
    """
    decided = decide(
        workdir, cut_, model, dev, where_possible=where_possible, trained_after=trained_after, progress=progress
    )

    def work(folder: Path) -> Mapping[str, Any]:
        return _work(workdir, decided, folder, progress)

    return workdir.run_stage("prune", decided.inputs, decided.settings, work)


def _work(workdir: Workdir, decided: Decision, folder: Path, progress: Progress) -> Mapping[str, Any]:
    cut_, scores, mask = decided.cut, decided.scores, decided.mask
    whole = decided.dense or load_dense(workdir)
    smaller = None
    if cut_.rounds > 1 and scores is not None:
        mask, smaller = _in_rounds(workdir, decided, whole, scores, progress)
    mask.save(folder / MASK_FILE)
    info: dict[str, Any] = {"kept": mask.kept(), "sizes": mask.sizes(), "layers": mask.kept_layers()}
    if cut_.needs_scores:
        used = decided.models or cost_models(workdir, cut_, whole, progress)
        info["budget"] = {
            "asked": cut_.budget | {"of": cut_.cost},
            "removed": reached(mask, used, of_all=cut_.layers_compete),
            "average_length": cut_.average_length,
        }
    if decided.tried is not None:
        info["layers_tried"] = decided.tried
    narrowed = whole
    if decided.corpus is not None:
        # Before the cut: tokens are weighed by the model that knows them best.
        narrowed, report = fit_vocabulary(
            whole, decided.corpus, cut_.vocab_size, progress=_vocabulary_progress(progress)
        )
        tokens = narrowed.tokenizer.convert_ids_to_tokens(list(range(report.tokens_after)))
        kept = whole.tokenizer.convert_tokens_to_ids(tokens)
        save_file({"kept": torch.tensor(kept)}, folder / VOCABULARY_FILE)
        info["vocabulary"] = report.to_json()
    smaller = smaller or cut(narrowed, mask)
    if cut_.reconstruct and scores is not None:
        ensemble = Ensemble(narrowed, scores, decided.dev)
        smaller, info["reconstruction"] = choose_reconstruction(
            ensemble, mask, smaller, progress("Reconstructing"), trained_after=decided.trained_after
        )
    elif decided.not_reconstructed is not None:
        info["reconstruction"] = {"left_out": decided.not_reconstructed}
    save_model(smaller, folder)
    return {
        **info,
        "parameters": count_parameters(smaller.model),
        "dense_parameters": count_parameters(whole.model),
    }


def _in_rounds(
    workdir: Workdir, decided: Decision, dense: Encoder, scores: Scores, progress: Progress
) -> tuple[Mask, Encoder]:
    cut_, data = decided.cut, score_set(workdir)
    reference = None
    if cut_.reconstruct:
        ensemble = Ensemble(dense, scores, decided.dev)
        reference = ensemble.encoder(choose_reference(ensemble, max(cut_.fraction or 0.0, REFERENCES[-1])))
    return prune_iteratively(
        dense,
        scores,
        Budget.of(scores.sizes(), **cut_.budget),
        cut_.rounds,
        cut_.schedule,
        lambda encoder: score_again(workdir, encoder, data),
        reference=reference,
        calibration=data,
        progress=progress("Pruning in rounds"),
    )


def load_mask(workdir: Workdir) -> Mask:
    """The mask of a run directory; a stale one is refused."""
    if reason := workdir.stale("prune"):
        raise InputError(f"{workdir.path}: {reason}.")
    return Mask.load(workdir.folder("prune") / MASK_FILE)


def rewind(workdir: Workdir, checkpoint: str) -> tuple[Record, bool]:
    """Give what is left the weights of an earlier checkpoint: a folder, a hub id or a step kept by `train`."""
    mask = load_mask(workdir)
    source = kept_step(workdir, resolve_model(checkpoint))
    pruned = load_model(workdir, "prune")
    own = pruned.settings
    earlier = load_encoder(source, pooling=own.pooling, normalize=own.normalize, max_length=own.max_length)
    inputs = {f"prune/{MASK_FILE}": workdir.output_hash("prune", MASK_FILE), "checkpoint": fingerprint(earlier)}
    vocabulary = workdir.folder("prune") / VOCABULARY_FILE
    if VOCABULARY_FILE in workdir.need("prune").outputs:
        inputs[f"prune/{VOCABULARY_FILE}"] = workdir.output_hash("prune", VOCABULARY_FILE)

    def work(folder: Path) -> Mapping[str, Any]:
        smaller = cut(earlier, mask)
        if f"prune/{VOCABULARY_FILE}" in inputs:
            smaller = prune_vocabulary(smaller, load_file(vocabulary)["kept"].tolist())
        # Pooling, prompts and tokenizer stay those of the model that was pruned.
        save_model(Encoder(smaller.model, pruned.tokenizer, own, pruned.source), folder)
        return {"kept": mask.kept(), "parameters": count_parameters(smaller.model)}

    return workdir.run_stage("rewind", inputs, {"to": checkpoint}, work)
