"""Stages `prune` and `rewind`: one cut, in the scored model or in an earlier checkpoint of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecse.encoders import Encoder, fingerprint, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.masks import Budget, Mask, select
from sparsecse.packing import count_parameters
from sparsecse.stages.options import kept_step, resolve_model
from sparsecse.stages.score import SCORES_FILE, load_dense, load_scores
from sparsecse.surgery import prune as cut
from sparsecse.workdir import Record, Workdir

MASK_FILE = "mask.safetensors"


def _save_model(encoder: Encoder, folder: Path) -> None:
    (folder / "model").mkdir()
    save_encoder(encoder, folder / "model")


def prune(
    workdir: Workdir,
    *,
    sparsity: float | None = None,
    head_sparsity: float | None = None,
    neuron_sparsity: float | None = None,
    keep_heads: int | None = None,
    keep_neurons: int | None = None,
) -> tuple[Record, bool]:
    """Remove the lowest-scored heads and neurons from the scored model; see `masks.Budget.of` for the amounts."""
    scores = load_scores(workdir)
    budget = Budget.of(
        scores.sizes(),
        sparsity=sparsity,
        head_sparsity=head_sparsity,
        neuron_sparsity=neuron_sparsity,
        keep_heads=keep_heads,
        keep_neurons=keep_neurons,
    )
    settings = {"removed_heads": budget.heads, "removed_neurons": budget.neurons}
    inputs = {f"score/{SCORES_FILE}": workdir.output_hash("score", SCORES_FILE)}

    def work(folder: Path) -> Mapping[str, Any]:
        dense = load_dense(workdir)
        mask = select(scores, budget)
        smaller = cut(dense, mask)
        mask.save(folder / MASK_FILE)
        _save_model(smaller, folder)
        return {
            "kept": mask.kept(),
            "sizes": mask.sizes(),
            "parameters": count_parameters(smaller.model),
            "dense_parameters": count_parameters(dense.model),
        }

    return workdir.run_stage("prune", inputs, settings, work)


def load_mask(workdir: Workdir) -> Mask:
    """The mask of a run directory; a stale one is refused."""
    if reason := workdir.stale("prune"):
        raise InputError(f"{workdir.path}: {reason}.")
    return Mask.load(workdir.folder("prune") / MASK_FILE)


def rewind(workdir: Workdir, checkpoint: str) -> tuple[Record, bool]:
    """Give what is left the weights of an earlier checkpoint: a folder, a hub id or a step kept by `train`."""
    mask = load_mask(workdir)
    source = kept_step(workdir, resolve_model(checkpoint))
    pruned = load_encoder(workdir.folder("prune") / "model")
    own = pruned.settings
    earlier = load_encoder(source, pooling=own.pooling, normalize=own.normalize, max_length=own.max_length)
    inputs = {f"prune/{MASK_FILE}": workdir.output_hash("prune", MASK_FILE), "checkpoint": fingerprint(earlier)}

    def work(folder: Path) -> Mapping[str, Any]:
        smaller = cut(earlier, mask)
        # Pooling, prompts and tokenizer stay those of the model that was pruned.
        _save_model(Encoder(smaller.model, pruned.tokenizer, own, pruned.source), folder)
        return {"kept": mask.kept(), "parameters": count_parameters(smaller.model)}

    return workdir.run_stage("rewind", inputs, {"to": checkpoint}, work)
