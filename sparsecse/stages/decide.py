"""What a cut comes to before anything is written: its mask, what it was decided from, and what the record is to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, fingerprint
from sparsecse.errors import InputError
from sparsecse.files import file_hash
from sparsecse.progress import Progress
from sparsecse.pruning.costs import CostModel, closed_form
from sparsecse.pruning.ensemble import dev_fingerprint
from sparsecse.pruning.masks import Budget, Mask
from sparsecse.pruning.recipe import Recipe
from sparsecse.scoring import Scores
from sparsecse.stages.choose import choose
from sparsecse.stages.dev import NoDevError, dev_sets
from sparsecse.stages.latency import TABLE_FILE, latency_table
from sparsecse.stages.layers import TRIED_FILE, choose_layers
from sparsecse.stages.models import load_dense
from sparsecse.stages.options import DataOptions, ModelOptions
from sparsecse.stages.score import SCORES_FILE, load_scores
from sparsecse.vocabulary import Corpus
from sparsecse.workdir import Workdir


@dataclass
class Decision:
    """A cut with all its choices made.

    cut: what was asked, "auto" replaced by what it came to.
    mask: of the scored model (`cut.rounds` above 1 find another one, of the same budget).
    scores: None where only layers and the vocabulary leave. dense: the model, where it had to be loaded.
    models: cost models, where the budget needs them. dev: graded pairs, where choices need them.
    corpus: of the vocabulary. tried: the sets of layers (`layers.Tried`), where they compete.
    trained_after: a training follows, which light cuts are left to.
    not_reconstructed: why there is no reconstruction although one was asked for.
    inputs, settings: of the record.
    """

    cut: Recipe
    mask: Mask
    scores: Scores | None = None
    dense: Encoder | None = None
    models: Mapping[str, CostModel] = field(default_factory=dict)
    dev: Sequence[PairSet] = ()
    corpus: Corpus | None = None
    tried: Sequence[Mapping[str, Any]] | None = None
    trained_after: bool = False
    not_reconstructed: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def decide(
    workdir: Workdir,
    cut_: Recipe,
    model: ModelOptions | None,
    dev: DataOptions | None,
    *,
    where_possible: bool,
    trained_after: bool,
    progress: Progress,
) -> Decision:
    """Make the choices of a cut; the arguments and errors are those of `prune.prune`."""
    dense = scores = left_out = tried = corpus = None
    sets: list[PairSet] = []
    inputs: dict[str, str] = {}
    settings: dict[str, Any] = {}
    if cut_.auto_tolerance is not None:
        chosen, _ = choose(workdir, cut_.auto_tolerance, dev, progress=progress)
        cut_ = replace(cut_, sparsity=chosen.info["sparsity"], auto_tolerance=None)
        inputs["choose/curve.json"] = workdir.output_hash("choose", "curve.json")
        settings["tolerance"] = chosen.settings["tolerance"]
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
        models = cost_models(workdir, cut_, dense, progress)
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
    if cut_.reconstruct and trained_after:
        settings["trained_after"] = True
    return Decision(
        cut_, one_shot, scores, dense, models, sets, corpus, tried, trained_after, left_out, inputs, settings
    )


def cost_models(workdir: Workdir, cut_: Recipe, dense: Encoder, progress: Progress) -> dict[str, CostModel]:
    """What layers cost by every measure that has a closed form, and by the one of the budget."""
    models = closed_form(dense, cut_.average_length)
    if cut_.cost == "latency":
        precision, length = cut_.latency_precision, cut_.average_length
        models["latency"] = latency_table(workdir, dense, precision=precision, average_length=length, progress=progress)
    return models
