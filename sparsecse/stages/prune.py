"""Stages `prune` and `rewind`: one cut, in the dense model or in an earlier checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sparsecse.budgets import AVERAGE_LENGTH, COSTS, CostModel, select_by_cost
from sparsecse.datasets import PairSet
from sparsecse.encoders import Encoder, fingerprint, load_encoder
from sparsecse.errors import InputError
from sparsecse.files import file_hash, write_json
from sparsecse.masks import Budget, Mask, keep_layers, of_layers, select, select_portable
from sparsecse.packing import count_parameters
from sparsecse.removal import Limits
from sparsecse.runtime.precision import PRECISIONS
from sparsecse.scoring import Scores
from sparsecse.stages.costs import TABLE_FILE, closed_form, latency_table, reached
from sparsecse.stages.models import load_dense, load_model, save_model
from sparsecse.stages.options import DataOptions, ModelOptions, Progress, kept_step, resolve_model, silent
from sparsecse.stages.rounds import fractions, prune_in_rounds
from sparsecse.stages.score import SCORES_FILE, load_scores, score_again, score_set
from sparsecse.stages.siblings import (
    REFERENCES,
    NoDevError,
    Siblings,
    choose_reconstruction,
    choose_reference,
    choose_sparsity,
    dev_fingerprint,
    dev_sets,
)
from sparsecse.surgery import prune as cut
from sparsecse.vocabulary import Corpus, fit_vocabulary, prune_vocabulary
from sparsecse.workdir import Record, Workdir

MASK_FILE = "mask.safetensors"
VOCABULARY_FILE = "vocabulary.safetensors"


@dataclass(frozen=True)
class Cut:
    """What to remove.

    sparsity ... keep_neurons: see `masks.Budget.of`.
    reconstruct: fit the output projections again after the cut, where that is better on dev.
    auto_tolerance: in place of `sparsity`: the largest one whose dev score is within that of the best (`choose`).
    rounds, schedule: spend the budget in rounds with new scores before each; see `rounds.fractions`.
    portable: keep all heads and the same number of neurons in every layer, so that the result is a stock checkpoint.
    layers: the layers that stay; None keeps all.
    vocab: text files whose tokens stay; empty keeps the whole vocabulary. vocab_size: at most that many tokens.
    cost: of `budgets.COSTS`, what `sparsity` is a fraction of.
    align, protect: see `removal.Limits.of`.
    average_length: tokens of a sentence, for multiply-adds and latency. latency_precision: of the timed runtime.
    """

    sparsity: float | None = None
    head_sparsity: float | None = None
    neuron_sparsity: float | None = None
    keep_heads: int | None = None
    keep_neurons: int | None = None
    portable: bool = False
    layers: tuple[int, ...] | None = None
    vocab: tuple[str, ...] = ()
    vocab_size: int | None = None
    cost: str = "structures"
    align: int = 1
    protect: tuple[str, ...] = ()
    average_length: int = AVERAGE_LENGTH
    latency_precision: str = "float32"
    reconstruct: bool = False
    auto_tolerance: float | None = None
    rounds: int = 1
    schedule: str = "linear"

    def __post_init__(self) -> None:
        self._check_budget()
        if self.vocab_size is not None and not self.vocab:
            raise InputError("--vocab-size needs the corpus whose tokens stay; give --vocab FILE.")
        others = (self.head_sparsity, self.keep_heads, self.keep_neurons)
        if self.portable and (any(value is not None for value in others) or self.fraction is None):
            raise InputError("--portable takes --sparsity (or --neuron-sparsity) alone: it removes neurons, no heads.")
        fractions(self.rounds, self.schedule)
        apart = self.cost == "structures" and self.align == 1 and not self.protect and not self.vocab
        if self.rounds > 1 and (not self.needs_scores or self.portable or self.layers is not None or not apart):
            raise InputError(
                "--rounds spends --sparsity (or what is said of one kind) in rounds; leave out --budget, --align, "
                "--protect, --portable, --layers and --vocab."
            )

    def _check_budget(self) -> None:
        if self.cost not in COSTS:
            raise InputError(f"--budget '{self.cost}' is unknown; choose one of {', '.join(COSTS)}.")
        for option, value in (("--align", self.align), ("--average-length", self.average_length)):
            if value < 1:
                raise InputError(f"{option} {value} is less than 1; give a whole number above 0.")
        if self.latency_precision not in PRECISIONS:
            raise InputError(
                f"--latency-precision '{self.latency_precision}' is unknown; choose one of {', '.join(PRECISIONS)}."
            )
        others = (self.head_sparsity, self.neuron_sparsity, self.keep_heads, self.keep_neurons)
        if self.cost != "structures" and (self.sparsity is None or self.portable or any(x is not None for x in others)):
            raise InputError(
                f"--budget {self.cost} takes --sparsity alone: heads and neurons compete for it; "
                f"leave out --portable and what is said of one kind."
            )
        if self.portable and self.protect:
            raise InputError(
                "--portable keeps all layers alike, so that --protect has no place in it; drop one of them."
            )
        if not self.needs_scores and (self.align != 1 or self.protect):
            raise InputError("--align and --protect say how a budget is met, and there is none; give --sparsity.")

    @property
    def fraction(self) -> float | None:
        """The fraction of neurons that `portable` removes."""
        return self.sparsity if self.neuron_sparsity is None else self.neuron_sparsity

    @property
    def budget(self) -> dict[str, Any]:
        """Keyword arguments of `Budget.of`."""
        names = ("sparsity", "head_sparsity", "neuron_sparsity", "keep_heads", "keep_neurons")
        return {name: getattr(self, name) for name in names}

    @property
    def needs_scores(self) -> bool:
        return self.auto_tolerance is not None or any(value is not None for value in self.budget.values())

    @property
    def budget_settings(self) -> dict[str, Any]:
        """What decides the mask besides the counts that it removes, and what its cost is counted by."""
        chosen: dict[str, Any] = {}
        if self.cost != "structures":
            chosen |= {"budget": self.cost, "sparsity": self.sparsity}
        if self.cost == "latency":
            chosen["latency_precision"] = self.latency_precision
        if self.align != 1:
            chosen["align"] = self.align
        if self.protect:
            chosen["protect"] = list(self.protect)
        if self.average_length != AVERAGE_LENGTH:
            chosen["average_length"] = self.average_length
        return chosen

    def mask(
        self, scores: Scores | None, sizes: Sequence[tuple[int, int]], models: Mapping[str, CostModel] | None = None
    ) -> Mask:
        """The mask for a model of those sizes; without scores only whole layers leave.

        models: the cost model of `cost`, under that name, where it is not "structures".
        """
        layers = range(len(sizes)) if self.layers is None else self.layers
        whole = keep_layers(None, sizes, layers)
        if scores is None:
            return whole
        own = of_layers(scores, layers)
        limits = Limits.of(sizes, self.align, self.protect).of_layers(layers)
        if self.portable:
            mask = select_portable(own, self.fraction or 0.0, self.align)
        elif self.cost == "structures":
            mask = select(own, Budget.of(own.sizes(), **self.budget), limits)
        else:
            mask = select_by_cost(own, (models or {})[self.cost], self.sparsity or 0.0, limits)
        return keep_layers(mask, sizes, layers)


def choose(
    workdir: Workdir, tolerance: float, dev_data: DataOptions | None = None, *, progress: Progress = silent
) -> tuple[Record, bool]:
    """Stage `choose`: the largest sparsity that costs at most `tolerance` points on dev, without repair.

    dev_data: see `siblings.dev_sets`. The record's info holds `sparsity`, and the `curve` that it was read from.
    """
    scores = load_scores(workdir)
    dev = dev_sets(workdir, dev_data)
    inputs = {
        f"score/{SCORES_FILE}": workdir.output_hash("score", SCORES_FILE),
        "dev": dev_fingerprint(dev),
    }

    def work(folder: Path) -> Mapping[str, Any]:
        siblings = Siblings(load_dense(workdir), scores, dev)
        sparsity, curve = choose_sparsity(siblings, tolerance, progress("Looking for the sparsity"))
        write_json(folder / "curve.json", curve)
        return {"sparsity": sparsity, "curve": curve}

    return workdir.run_stage("choose", inputs, {"tolerance": tolerance}, work)


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
    if cut_.reconstruct:
        if scores is None:
            raise InputError("--reconstruct follows the scored model; run `sparsecse score` first.")
        try:
            sets = dev_sets(workdir, dev)
        except NoDevError as error:
            if not where_possible:
                raise
            cut_, left_out = replace(cut_, reconstruct=False), str(error)
        else:
            inputs["dev"] = dev_fingerprint(sets)
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
                "removed": reached(mask, used),
                "average_length": cut_.average_length,
            }
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
