"""Stages `prune` and `rewind`: one mask, applied to the dense model or to an earlier checkpoint of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sparsecse.encoders import Encoder, fingerprint, load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import dev_name
from sparsecse.packing import count_parameters
from sparsecse.progress import Progress, silent
from sparsecse.pruning import surgery
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.pipeline import carry_out
from sparsecse.pruning.recipe import Recipe
from sparsecse.sources import DevOptions, ModelOptions
from sparsecse.stages.decide import Decision, choose, cost, cost_models, recorded_settings, resolve
from sparsecse.stages.models import load_dense, load_model, save_model
from sparsecse.stages.options import kept_step, resolve_model
from sparsecse.stages.score import score_again, score_set
from sparsecse.stages.text import RepairText
from sparsecse.vocabulary import prune_vocabulary
from sparsecse.workdir import Record, Workdir

MASK_FILE = "mask.safetensors"
VOCABULARY_FILE = "vocabulary.safetensors"


def prune(
    workdir: Workdir,
    recipe: Recipe,
    model: ModelOptions | None = None,
    *,
    dev: DevOptions | None = None,
    text: RepairText | None = None,
    where_possible: bool = False,
    trained_after: bool = False,
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Remove heads and neurons by their scores, whole layers, and tokens that a corpus does not need.

    Args:
        model: the model to prune where nothing was scored, which is enough for layers and the vocabulary.
        dev: what the sparsity, the reconstruction and the layers are chosen on; see `dev.dev_sets`.
        text: what the reconstruction is fitted on, instead of the first dev set's sentences; without `dev`, or where
            "agreement" is in it, a held-out part of the text is a dev set too.
        where_possible: leave out the reconstruction, with a note in the record, where there is nothing to choose by.
        trained_after: a repair by training follows; see `pruning.pipeline.carry_out`.

    Raises:
        InputError: nothing to remove is named; a budget without scores; a bad budget, layer or corpus.
    """
    decided = resolve(workdir, recipe, model)
    cost(workdir, decided, progress)
    choose(workdir, decided, dev, text, where_possible=where_possible, progress=progress)
    mask = decided.mask()

    def work(folder: Path) -> Mapping[str, Any]:
        return _work(workdir, decided, mask, folder, trained_after, progress)

    settings = recorded_settings(decided, mask, trained_after=trained_after)
    return workdir.run_stage("prune", decided.inputs, settings, work)


def _work(
    workdir: Workdir, decided: Decision, mask: Mask, folder: Path, trained_after: bool, progress: Progress
) -> Mapping[str, Any]:
    recipe = decided.recipe
    dense = decided.dense or load_dense(workdir)
    data = score_set(workdir) if recipe.rounds > 1 else None
    pruned = carry_out(
        recipe,
        mask,
        dense,
        decided.scores,
        dev=decided.dev,
        costs=decided.costs or (cost_models(workdir, recipe, dense, progress) if recipe.needs_scores else None),
        corpus=decided.corpus,
        rescore=None if data is None else lambda encoder: score_again(workdir, encoder, data),
        text=decided.text,
        trained_after=trained_after,
        progress=progress,
    )
    pruned.mask.save(folder / MASK_FILE)
    if pruned.kept_tokens is not None:
        save_file({"kept": pruned.kept_tokens}, folder / VOCABULARY_FILE)
    save_model(pruned.encoder, folder)
    info = dict(pruned.info)
    if decided.dev:
        info["dev"] = dev_name(decided.dev)
    if decided.auto is not None:
        info["auto"] = {name: value for name, value in decided.auto.items() if name != "curve"}
    if decided.tried is not None:
        info["layers_tried"] = decided.tried
    if decided.not_reconstructed is not None:
        info["reconstruction"] = {"left_out": decided.not_reconstructed}
    return {
        **info,
        "parameters": count_parameters(pruned.encoder),
        "dense_parameters": count_parameters(dense),
    }


def load_mask(workdir: Workdir) -> Mask:
    """The mask of a run directory; a stale or damaged one is refused."""
    workdir.check("prune", MASK_FILE)
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
    workdir.check("prune", VOCABULARY_FILE)
    if VOCABULARY_FILE in workdir.need("prune").outputs:
        inputs[f"prune/{VOCABULARY_FILE}"] = workdir.output_hash("prune", VOCABULARY_FILE)

    def work(folder: Path) -> Mapping[str, Any]:
        smaller = surgery.prune(earlier, mask)
        if f"prune/{VOCABULARY_FILE}" in inputs:
            smaller = prune_vocabulary(smaller, load_file(vocabulary)["kept"].tolist())
        # Pooling, prompts and tokenizer stay those of the pruned model, and its head where the earlier one has none.
        head = smaller.head if len(smaller.head) else pruned.head
        rewound = Encoder(smaller.model, pruned.tokenizer, own, pruned.source, head)
        save_model(rewound, folder)
        return {"kept": mask.kept(), "parameters": count_parameters(rewound)}

    return workdir.run_stage("rewind", inputs, {"to": checkpoint}, work)
