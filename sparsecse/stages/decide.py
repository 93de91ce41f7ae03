"""What a recipe comes to on a run directory before anything is written: its mask, and what the record will say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sparsecse.encoders import Encoder, fingerprint
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import HELD_OUT, DevSet, dev_fingerprint
from sparsecse.files import file_hash, texts_hash
from sparsecse.progress import Progress
from sparsecse.pruning.costs import CostModel, closed_form
from sparsecse.pruning.masks import Budget, Mask
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.selection import select_by_recipe
from sparsecse.scoring import Scores
from sparsecse.sources import DevOptions, ModelOptions
from sparsecse.stages.choose import choose as choose_sparsity
from sparsecse.stages.dev import NoDevError, dev_sets
from sparsecse.stages.latency import TABLE_FILE, latency_table
from sparsecse.stages.layers import TRIED_FILE, choose_layers
from sparsecse.stages.models import load_dense, load_named
from sparsecse.stages.score import SCORES_FILE, load_scores
from sparsecse.stages.text import RepairText
from sparsecse.vocabulary import Corpus
from sparsecse.workdir import Workdir


@dataclass
class Decision:
    """A recipe on its way to a mask: `resolve` begins it, `cost` and `choose` complete it.

    recipe: what was asked, "auto" replaced by what it came to.
    sizes: for each layer of the dense model its (heads, neurons).
    scores: None where only layers and the vocabulary leave. dense: the model, where it had to be loaded.
    costs: cost models, where the budget needs them. dev: dev sets, where choices need them.
    text: what the reconstruction is fitted on, where that is not the dev set.
    corpus: of the vocabulary. tried: the sets of layers (`layers.Tried`), where they compete.
    auto: what the choice of the sparsity came to, where it was made.
    not_reconstructed: why there is no reconstruction although one was asked for.
    inputs, settings: of the record.
    """

    recipe: Recipe
    sizes: Sequence[tuple[int, int]]
    scores: Scores | None = None
    dense: Encoder | None = None
    costs: Mapping[str, CostModel] = field(default_factory=dict)
    dev: Sequence[DevSet] = ()
    text: list[str] = field(default_factory=list)
    corpus: Corpus | None = None
    tried: Sequence[Mapping[str, Any]] | None = None
    auto: Mapping[str, Any] | None = None
    not_reconstructed: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def mask(self) -> Mask:
        """What stays, by the scores as they are; iterative pruning finds another mask of the same budget."""
        return select_by_recipe(self.recipe, self.scores if self.recipe.needs_scores else None, self.sizes, self.costs)


def resolve(workdir: Workdir, recipe: Recipe, model: ModelOptions | None) -> Decision:
    """Find the scores, or the model where the recipe does without; refuse a recipe that removes nothing.

    Raises:
        InputError: no scores where they are needed, a model beside scores, nothing to remove.
    """
    if workdir.record("score") is not None:
        if model is not None:
            raise InputError(f"{workdir.path} already has a scored model; leave MODEL out or give another `workdir`.")
        scores = load_scores(workdir)
        decided = Decision(recipe, scores.sizes(), scores)
        decided.inputs[f"score/{SCORES_FILE}"] = workdir.output_hash("score", SCORES_FILE)
    elif model is None or recipe.needs_scores:
        raise InputError(
            f"{workdir.path} has no scores; run `sparsecse score` first (only `layers` and `vocab` can do without, "
            f"and then need the MODEL)."
        )
    else:
        dense = load_named(model)
        decided = Decision(recipe, dense.model.config.layer_sizes(), dense=dense)
        decided.inputs["model"] = fingerprint(dense)
        decided.settings["model"] = model.settings()
    if recipe.removes_nothing:
        Budget.of(decided.sizes)  # refuses, and says which options there are
    if recipe.vocab:
        decided.corpus = Corpus(recipe.vocab)
        decided.settings |= {"vocab": list(recipe.vocab), "vocab_size": recipe.vocab_size}
        if recipe.vocab_scripts:
            decided.settings["vocab_scripts"] = list(recipe.vocab_scripts)
        decided.inputs["vocab"] = "".join(file_hash(path) for path in decided.corpus.paths)
    return decided


def cost(workdir: Workdir, decided: Decision, progress: Progress) -> None:
    """Add the cost models that the budget needs; latency is measured unless the run directory has it."""
    if decided.recipe.cost == "structures":
        return
    decided.dense = load_dense(workdir)
    decided.costs = cost_models(workdir, decided.recipe, decided.dense, progress)
    if decided.recipe.cost == "latency":
        decided.inputs[f"latency/{TABLE_FILE}"] = workdir.output_hash("latency", TABLE_FILE)


def cost_models(workdir: Workdir, recipe: Recipe, dense: Encoder, progress: Progress) -> dict[str, CostModel]:
    """What layers cost by every measure that has a closed form, and by the one of the budget."""
    models = closed_form(dense, recipe.average_length)
    if recipe.cost == "latency":
        models["latency"] = latency_table(
            workdir,
            dense,
            precision=recipe.latency_precision,
            average_length=recipe.average_length,
            progress=progress,
        )
    return models


def choose(
    workdir: Workdir,
    decided: Decision,
    dev: DevOptions | None,
    text: RepairText | None,
    *,
    where_possible: bool,
    progress: Progress,
) -> None:
    """Make the choices that take dev sets: the sparsity, whether there is a reconstruction, the layers.

    Raises:
        NoDevError: there is nothing to choose by (for the reconstruction only without `where_possible`).
    """
    recipe = decided.recipe
    named, held_out = (None, text is not None) if dev is None else dev.without_held_out()
    if held_out and text is None:
        raise InputError(
            f"`dev` {HELD_OUT} is measured on held-out training sentences; give `train_data`, or a text file as `dev`."
        )
    if recipe.auto:
        chosen, _ = choose_sparsity(workdir, recipe.tolerance, named, progress=progress)
        recipe = replace(recipe, sparsity=chosen.info["sparsity"], auto=False)
        decided.auto = {"tolerance": recipe.tolerance, **chosen.info}
        decided.inputs["choose/curve.json"] = workdir.output_hash("choose", "curve.json")
        decided.settings["tolerance"] = recipe.tolerance
    if recipe.reconstruct or recipe.layers_compete:
        if decided.scores is None:
            raise InputError("`reconstruct` follows the scored model; run `sparsecse score` first.")
        held = None
        if text is not None and recipe.reconstruct:
            decided.text, held = text.load(dev=held_out)
            decided.inputs["text"] = texts_hash(decided.text)
            decided.settings["text"] = text.data.settings()
        try:
            decided.dev = dev_sets(workdir, named)
        except NoDevError as error:
            if recipe.layers_compete or (held is None and not where_possible):
                raise
            if held is None:
                recipe, decided.not_reconstructed = recipe.without_reconstruction(), str(error)
        if held is not None:
            decided.dev = [*decided.dev, held]
        if decided.dev:
            decided.inputs["dev"] = dev_fingerprint(decided.dev)
            decided.settings["tolerance"] = recipe.tolerance
    if recipe.layers_compete:
        timed = {name: value for name, value in decided.inputs.items() if name.startswith("latency/")}
        chosen, _ = choose_layers(
            workdir, recipe, decided.dev, decided.costs, timed, text=decided.text, progress=progress
        )
        recipe, decided.tried = replace(recipe, layers=tuple(chosen.info["layers"])), chosen.info["tried"]
        decided.inputs[f"layers/{TRIED_FILE}"] = workdir.output_hash("layers", TRIED_FILE)
    decided.recipe = recipe


def recorded_settings(decided: Decision, mask: Mask, *, trained_after: bool) -> dict[str, Any]:
    """The settings of the record: what was found so far, and what decides the mask and the repair."""
    recipe = decided.recipe
    settings = dict(decided.settings)
    for kind, marks in (("heads", mask.heads), ("neurons", mask.neurons)):
        settings[f"removed_{kind}"] = int((~torch.cat(marks)).sum())
    settings |= recipe.budget_settings
    if recipe.portable:
        settings["portable"] = True
    if recipe.layers is not None:
        settings["layers"] = list(recipe.layers)
    if recipe.rounds > 1:
        settings |= {"rounds": recipe.rounds, "schedule": recipe.schedule}
    if recipe.reconstruct or decided.not_reconstructed is not None:
        settings["reconstruct"] = recipe.reconstruct
    if recipe.reconstruct and recipe.within_layers != "scores":
        settings["within_layers"] = recipe.within_layers
    if recipe.reconstruct and trained_after:
        settings["trained_after"] = True
    return settings
