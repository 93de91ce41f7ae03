"""Stages `prune` and `rewind`: one cut, in the dense model or in an earlier checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sparsecse.budgets import CostModel
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, fingerprint, load_encoder
from sparsecse.errors import InputError
from sparsecse.files import file_hash
from sparsecse.masks import Budget, Mask
from sparsecse.packing import count_parameters
from sparsecse.scoring import Scores
from sparsecse.stages.choose import choose
from sparsecse.stages.costs import TABLE_FILE, closed_form, latency_table, reached
from sparsecse.stages.cut import Cut
from sparsecse.stages.layers import TRIED_FILE, choose_layers
from sparsecse.stages.models import load_dense, load_model, save_model
from sparsecse.stages.options import DataOptions, ModelOptions, Progress, kept_step, resolve_model, silent
from sparsecse.stages.rounds import prune_in_rounds
from sparsecse.stages.score import SCORES_FILE, load_scores, score_again, score_set
from sparsecse.stages.siblings import (
    REFERENCES,
    NoDevError,
    Siblings,
    choose_reconstruction,
    choose_reference,
    dev_fingerprint,
    dev_sets,
)
from sparsecse.surgery import prune as cut
from sparsecse.vocabulary import Corpus, fit_vocabulary, prune_vocabulary
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
    cut_: Cut,
    model: ModelOptions | None = None,
    *,
    dev: DataOptions | None = None,
    where_possible: bool = False,
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Remove heads and neurons by their scores, whole layers, and tokens that a corpus does not need.

    Args:
        model: the model to cut where nothing was scored, which is enough for layers and the vocabulary.
        dev: graded pairs for the choice of the sparsity and of the reconstruction; see `siblings.dev_sets`.
        where_possible: leave out the reconstruction, with a note in the record, where there are no such pairs.

    Raises:
        InputError: nothing to remove is named; a budget without scores; a bad budget, layer or corpus.
    """
    dense = scores = left_out = None
    sets: list[PairSet] = []
    inputs: dict[str, str] = {}
    settings: dict[str, Any] = {}
    if cut_.auto_tolerance is not None:
        chosen, _ = choose(workdir, cut_.auto_tolerance, dev, progress=progress)
        cut_ = replace(cut_, sparsity=chosen.info["sparsity"], auto_tolerance=None)
        inputs["choose/curve.json"] = workdir.output_hash("choose", "curve.json")
        settings["tolerance"] = chosen.settings["tolerance"]
    tried = None
    if workdir.record("score") is not None:
        if model is not None:
            raise InputError(f"{workdir.path} already has a scored model; leave MODEL out or give another --workdir.")
        scores = load_scores(workdir)
        sizes = scores.sizes()
        inputs[f"score/{SCORES_FILE}"] = workdir.output_hash("score", SCORES_FILE)
    elif model is None or cut_.needs_scores:
        raise InputError(
            f"{workdir.path} has no scores; run `sparsecse score` first (only --layers and --vocab can do without, "
            f"and then need the MODEL)."
        )
    else:
        dense = model.load()
        sizes = dense.model.config.layer_sizes()
        inputs["model"] = fingerprint(dense)
        settings["model"] = model.settings()
    if not cut_.needs_scores and cut_.layers is None and not cut_.vocab:
        Budget.of(sizes)  # refuses, and says which options there are
    models: dict[str, CostModel] = {}
    if cut_.cost != "structures":
        dense = load_dense(workdir)
        models = _cost_models(workdir, cut_, dense, progress)
        if cut_.cost == "latency":
            inputs[f"latency/{TABLE_FILE}"] = workdir.output_hash("latency", TABLE_FILE)
    if cut_.reconstruct or cut_.layers_compete:
        if scores is None:
            raise InputError("--reconstruct follows the scored model; run `sparsecse score` first.")
        try:
            sets = dev_sets(workdir, dev)
        except NoDevError as error:
            if not where_possible or cut_.layers_compete:
                raise
            cut_, left_out = replace(cut_, reconstruct=False), str(error)
        else:
            inputs["dev"] = dev_fingerprint(sets)
    if cut_.layers_compete:
        timed = {name: value for name, value in inputs.items() if name.startswith("latency/")}
        chosen, _ = choose_layers(workdir, cut_, sets, models, timed, progress=progress)
        cut_, tried = replace(cut_, layers=tuple(chosen.info["layers"])), chosen.info["tried"]
        inputs[f"layers/{TRIED_FILE}"] = workdir.output_hash("layers", TRIED_FILE)
    one_shot = cut_.mask(scores if cut_.needs_scores else None, sizes, models)
    for kind, marks in (("heads", one_shot.heads), ("neurons", one_shot.neurons)):
        settings[f"removed_{kind}"] = int((~torch.cat(marks)).sum())
    settings |= cut_.budget_settings
    if cut_.portable:
        settings["portable"] = True
    if cut_.layers is not None:
        settings["layers"] = list(cut_.layers)
    if cut_.vocab:
        corpus = Corpus(cut_.vocab)
        settings |= {"vocab": list(cut_.vocab), "vocab_size": cut_.vocab_size}
        inputs["vocab"] = "".join(file_hash(path) for path in corpus.paths)
    if cut_.rounds > 1:
        settings |= {"rounds": cut_.rounds, "schedule": cut_.schedule}
    if cut_.reconstruct or left_out is not None:
        settings["reconstruct"] = cut_.reconstruct

    def work(folder: Path) -> Mapping[str, Any]:
        whole = dense or load_dense(workdir)
        mask, smaller = one_shot, None
        if cut_.rounds > 1 and scores is not None:
            mask, smaller = _in_rounds(workdir, cut_, whole, scores, sets, progress)
        mask.save(folder / MASK_FILE)
        info: dict[str, Any] = {"kept": mask.kept(), "sizes": mask.sizes(), "layers": mask.kept_layers()}
        if cut_.needs_scores:
            used = models or _cost_models(workdir, cut_, whole, progress)
            info["budget"] = {
                "asked": {name: value for name, value in cut_.budget.items() if value is not None} | {"of": cut_.cost},
                "removed": reached(mask, used, of_all=cut_.layers_compete),
                "average_length": cut_.average_length,
            }
        if tried is not None:
            info["layers_tried"] = tried
        narrowed = whole
        if cut_.vocab:
            # Before the cut: tokens are weighed by the model that knows them best.
            narrowed, report = fit_vocabulary(whole, corpus, cut_.vocab_size, progress=_vocabulary_progress(progress))
            tokens = narrowed.tokenizer.convert_ids_to_tokens(list(range(report.tokens_after)))
            kept = whole.tokenizer.convert_tokens_to_ids(tokens)
            save_file({"kept": torch.tensor(kept)}, folder / VOCABULARY_FILE)
            info["vocabulary"] = report.to_json()
        smaller = smaller or cut(narrowed, mask)
        if cut_.reconstruct and scores is not None:
            siblings = Siblings(narrowed, scores, sets)
            smaller, info["reconstruction"] = choose_reconstruction(siblings, mask, smaller, progress("Reconstructing"))
        elif left_out is not None:
            info["reconstruction"] = {"left_out": left_out}
        save_model(smaller, folder)
        return {
            **info,
            "parameters": count_parameters(smaller.model),
            "dense_parameters": count_parameters(whole.model),
        }

    return workdir.run_stage("prune", inputs, settings, work)


def _in_rounds(
    workdir: Workdir, cut_: Cut, dense: Encoder, scores: Scores, dev: Sequence[PairSet], progress: Progress
) -> tuple[Mask, Encoder]:
    data = score_set(workdir)
    reference = None
    if cut_.reconstruct:
        siblings = Siblings(dense, scores, dev)
        reference = siblings.encoder(choose_reference(siblings, max(cut_.fraction or 0.0, REFERENCES[-1])))
    return prune_in_rounds(
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


def _cost_models(workdir: Workdir, cut_: Cut, dense: Encoder, progress: Progress) -> dict[str, CostModel]:
    models = closed_form(dense, cut_.average_length)
    if cut_.cost == "latency":
        precision, length = cut_.latency_precision, cut_.average_length
        models["latency"] = latency_table(workdir, dense, precision=precision, average_length=length, progress=progress)
    return models


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
