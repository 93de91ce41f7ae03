"""Choices on dev: the sparsity, the teachers, the reconstruction; and the stages that make them."""

from __future__ import annotations

import pytest
import torch

from sparsecse import stages
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.evaluation.dev import HELD_OUT
from sparsecse.pruning.ensemble import (
    GRID,
    Ensemble,
    choose_reconstruction,
    choose_teachers,
)
from sparsecse.pruning.iterative import fractions, prune_iteratively
from sparsecse.pruning.masks import Budget, select
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.reconstruction import reconstruct
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import contributions
from sparsecse.sources import DataOptions, DevOptions, ModelOptions
from sparsecse.stages.text import RepairText
from sparsecse.training import TrainingSettings
from sparsecse.workdir import Workdir


def test_dev_scores_are_those_of_the_mean_of_unit_vectors(ensemble, pairs):
    class Mean:
        def encode(self, sentences, *, batch_size):
            parts = [ensemble.encoder(sparsity).encode(sentences) for sparsity in (0.0, 0.4)]
            return sum(torch.nn.functional.normalize(part, dim=-1) for part in parts)

    assert ensemble.figures(0.0, 0.4)["similarity"] == pytest.approx(spearman(Mean(), pairs), abs=0.2)


def test_the_teachers_are_the_best_chain(ensemble):
    chosen, tried = choose_teachers(ensemble)
    assert chosen[0] == 0.0
    assert list(tried) == ["0", "0+0.2", "0+0.2+0.4", "0+0.2+0.4+0.6"]
    best = max(figures["similarity"] for figures in tried.values())
    assert tried["+".join(f"{x:g}" for x in chosen)] == {"similarity": best}


def test_reconstruction_is_taken_only_where_dev_gains(ensemble, pairs):
    mask = select(ensemble.scores, Budget.of(ensemble.scores.sizes(), sparsity=0.5))
    cut = prune(ensemble.dense, mask)
    before = {name: tensor.clone() for name, tensor in cut.model.state_dict().items()}
    chosen, info = choose_reconstruction(ensemble, mask, cut)
    assert all(torch.equal(before[name], tensor) for name, tensor in cut.model.state_dict().items())
    assert info["dev"]["similarity"] == pytest.approx(spearman(chosen, pairs), abs=0.2)
    if info["strength"] is None:
        assert chosen is cut and info["dev"] == info["dev_before"]
    else:
        assert info["dev"]["similarity"] > info["dev_before"]["similarity"]


@pytest.mark.parametrize(("loss", "left"), [(1000.0, True), (-1000.0, False)])
def test_a_light_cut_is_left_to_the_training(ensemble, monkeypatch, loss, left):
    monkeypatch.setattr("sparsecse.pruning.ensemble.LIGHT_LOSS", loss)
    monkeypatch.setattr("sparsecse.pruning.ensemble.LEAST_GAIN", -1000.0)  # any reconstruction would be taken
    mask = select(ensemble.scores, Budget.of(ensemble.scores.sizes(), sparsity=0.5))
    cut = prune(ensemble.dense, mask)
    chosen, info = choose_reconstruction(ensemble, mask, cut, trained_after=True)
    assert (chosen is cut) == left and (info["strength"] is None) == left
    assert choose_reconstruction(ensemble, mask, cut)[1]["strength"] is not None


def test_text_leads_to_the_dense_model_and_is_fitted_on_even_before_training(ensemble, monkeypatch):
    monkeypatch.setattr("sparsecse.pruning.ensemble.CALIBRATION_TOKENS", 60)
    monkeypatch.setattr("sparsecse.pruning.ensemble.CALIBRATION_LENGTH", 5)
    text = [f"the {animal} on the hill and the {animal}" for animal in ("cat", "dog", "bird") for _ in range(10)]
    on_text = Ensemble(ensemble.dense, ensemble.scores, ensemble.dev, text)
    ids = on_text.calibration
    assert all(len(one) == 5 for one in ids) and len(ids) == 12 and len({tuple(one) for one in ids}) == 3
    own = {len(one) for one in ensemble.calibration}
    assert max(own) <= 5 and sorted(map(tuple, ensemble.calibration)) != sorted(map(tuple, ids))
    mask = select(ensemble.scores, Budget.of(ensemble.scores.sizes(), sparsity=0.5))
    monkeypatch.setattr("sparsecse.pruning.ensemble.LEAST_GAIN", -1000.0)
    monkeypatch.setattr("sparsecse.pruning.ensemble.LIGHT_LOSS", 1000.0)
    cut = prune(ensemble.dense, mask)
    fitted, info = choose_reconstruction(on_text, mask, cut, trained_after=True)
    assert info["reference_sparsity"] == 0.0 and info["strength"] in (0.01, 0.1)
    by_hand = cut.copy()
    reconstruct(by_hand, ensemble.dense, ids, layers=mask.kept_layers(), strength=info["strength"])
    assert all(torch.equal(x, y) for x, y in zip(fitted.model.parameters(), by_hand.model.parameters(), strict=True))


def test_choose_is_a_stage_that_is_not_run_twice(run):
    record, reused = stages.choose(run, 0.5)
    assert not reused and record.info["sparsity"] in GRID
    assert (run.folder("choose") / "curve.json").exists()
    assert stages.choose(run, 0.5)[1] and not stages.choose(run, 0.6)[1]


def test_prune_reconstructs_and_records_it(run):
    plain, _ = stages.prune(run, Recipe(sparsity=0.5))
    record, reused = stages.prune(run, Recipe(sparsity=0.5, reconstruct=True))
    assert not reused and "reconstruction" not in plain.info
    assert record.settings["reconstruct"] is True
    assert {"dev", "dev_before", "reference_sparsity", "strength"} == set(record.info["reconstruction"])
    assert record.info["kept"] == plain.info["kept"]
    assert stages.prune(run, Recipe(sparsity=0.5, reconstruct=True))[1]


def test_prune_fits_on_text_and_chooses_on_what_it_holds_out(run, pairs_file, tmp_path):
    words = ("cat", "dog", "mat", "hill", "house", "river")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the {a} and the {b} {c}\n" for a in words for b in words for c in words))
    recipe = Recipe(sparsity=0.5, reconstruct=True)
    record, _ = stages.prune(run, recipe, text=RepairText(DataOptions(str(text))))
    assert set(record.info["reconstruction"]["dev"]) == {"similarity", "agreement"}
    assert record.settings["text"]["name"] == str(text) and "text" in record.inputs
    for names, wanted in (((HELD_OUT,), {"similarity", "agreement"}), ((str(pairs_file),), {"similarity"})):
        again, reused = stages.prune(run, recipe, dev=DevOptions(names), text=RepairText(DataOptions(str(text))))
        assert reused == (HELD_OUT in names) and set(again.info["reconstruction"]["dev"]) == wanted
    with pytest.raises(InputError, match="give `train_data`"):
        stages.prune(run, recipe, dev=DevOptions((HELD_OUT,)))


def test_reconstruction_needs_scores(tmp_path, sentence_folder):
    with pytest.raises(InputError, match="`reconstruct`"):
        stages.prune(
            Workdir(tmp_path / "unscored"), Recipe(layers=(0, 1), reconstruct=True), ModelOptions(str(sentence_folder))
        )


def test_auto_prunes_what_the_curve_allows(run):
    record, reused = stages.prune(run, Recipe(sparsity="auto", tolerance=0.5))
    chosen = run.need("choose").info["sparsity"]
    assert not reused and record.settings["tolerance"] == 0.5
    assert record.settings["removed_neurons"] == round(chosen * sum(neurons for _, neurons in record.info["sizes"]))
    assert stages.prune(run, Recipe(sparsity="auto", tolerance=0.5))[1]
    assert run.newest_model() == ("prune", [])
    stages.choose(run, 0.7)
    if run.need("choose").outputs["curve.json"] != record.inputs["choose/curve.json"]:
        assert run.stale("prune")


@pytest.mark.parametrize("reconstructing", [False, True])
def test_rounds_spend_the_same_budget(run, reconstructing):
    once, _ = stages.prune(run, Recipe(sparsity=0.5))
    record, reused = stages.prune(run, Recipe(sparsity=0.5, rounds=3, schedule="cubic", reconstruct=reconstructing))
    assert not reused and (record.settings["rounds"], record.settings["schedule"]) == (3, "cubic")
    for kind in (0, 1):
        assert sum(kept[kind] for kept in record.info["kept"]) == sum(kept[kind] for kept in once.info["kept"])
    model = load_encoder(run.folder("prune") / "model")
    assert [list(x) for x in model.model.config.layer_sizes()] == [list(x) for x in record.info["kept"]]
    if not reconstructing:
        # The mask alone, applied to the dense model, is the model.
        again = prune(stages.load_dense(run), stages.load_mask(run))
        for name, tensor in again.model.state_dict().items():
            assert torch.equal(model.model.state_dict()[name], tensor)


def test_one_round_more_scores_what_is_left(run, pairs):
    scores = stages.load_scores(run)
    dense = stages.load_dense(run)
    mask, encoder = prune_iteratively(
        dense, scores, Budget(4, 20), 2, "linear", lambda own: contributions(own, pairs, precision="float32")
    )
    half = select(scores, Budget(2, 10))
    rest = contributions(prune(dense, half), pairs, precision="float32")
    left = select(rest, Budget(2, 10))
    assert encoder.model.config.layer_sizes() == left.kept() == mask.kept()
    assert [int(x.sum()) for x in mask.neurons] == [int(x.sum()) for x in left.neurons]


@pytest.mark.parametrize(
    ("rounds", "schedule", "expected"),
    [(1, "cubic", [1.0]), (4, "linear", [0.25, 0.5, 0.75, 1.0]), (2, "cubic", [0.875, 1.0])],
)
def test_schedules(rounds, schedule, expected):
    assert fractions(rounds, schedule) == pytest.approx(expected)


@pytest.mark.parametrize(
    "bad",
    [
        {"sparsity": 0.5, "rounds": 0},
        {"sparsity": 0.5, "rounds": 2, "schedule": "sudden"},
        {"sparsity": 0.5, "rounds": 2, "align": 4},
        {"layers": (0, 1), "rounds": 2},
    ],
)
def test_rounds_that_cannot_be(bad):
    with pytest.raises(InputError, match=r"`rounds`|`schedule`"):
        Recipe(**bad)


def test_the_repair_learns_from_the_model_or_from_its_cuts_too(run, tmp_path, sentences):
    text = tmp_path / "sentences.txt"
    text.write_text("\n".join(sentences))
    settings = TrainingSettings(batch_size=4, max_steps=2, eval_every=1)
    stages.prune(run, Recipe(sparsity=0.5))
    record, _ = stages.finetune(run, DataOptions(str(text)), settings, teachers=[ModelOptions("cuts")])
    assert record.info["teachers"][0] == 0.0
    assert "score/scores.safetensors" in record.inputs
    alone, reused = stages.finetune(run, DataOptions(str(text)), settings)
    assert not reused and "teachers" not in alone.info
    _, reused = stages.finetune(run, DataOptions(str(text)), settings, teachers=[ModelOptions("dense")])
    assert reused
