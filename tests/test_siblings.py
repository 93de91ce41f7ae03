"""Choices on dev: the sparsity, the teachers, the reconstruction; and the stages that make them."""

from __future__ import annotations

import pytest
import torch

from sparsecse import stages
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.masks import Budget, select
from sparsecse.scoring import contributions
from sparsecse.stages import Cut, DataOptions, ModelOptions
from sparsecse.stages.siblings import (
    GRID,
    Siblings,
    choose_reconstruction,
    choose_sparsity,
    choose_teachers,
    within_tolerance,
)
from sparsecse.surgery import prune
from sparsecse.training import TrainingSettings
from sparsecse.workdir import Workdir


@pytest.fixture
def siblings(sentence_folder, pairs) -> Siblings:
    encoder = load_encoder(sentence_folder)
    return Siblings(encoder, contributions(encoder, pairs), [pairs])


def curve(*means: float, other: tuple[float, ...] | None = None) -> list[dict]:
    other = other or means
    return [
        {"sparsity": i / 10, "mean": mean, "dev": {"a": mean, "b": second}}
        for i, (mean, second) in enumerate(zip(means, other, strict=True))
    ]


def test_the_rule_of_auto():
    assert within_tolerance(curve(80.0, 80.5, 80.45, 80.3, 79.0), 0.0) == 0.1
    assert within_tolerance(curve(80.0, 80.5, 80.45, 80.3, 79.0), 0.1) == 0.2
    assert within_tolerance(curve(80.0, 80.5, 80.45, 80.3, 79.0), 0.3) == 0.3
    # The second set falls by more than 0.5 from 20 % on.
    assert within_tolerance(curve(80.0, 80.5, 80.45, 80.3, 79.0, other=(70.0, 69.6, 69.4, 69.0, 60.0)), 0.3) == 0.1
    assert within_tolerance(curve(80.0, 79.0), 0.3) == 0.0


def test_auto_takes_a_point_of_its_curve(siblings):
    sparsity, measured = choose_sparsity(siblings, 0.5)
    assert sparsity in GRID
    assert measured[0]["sparsity"] == 0 and measured[0]["mean"] == pytest.approx(siblings.dev_scores(0.0)[0])
    best = max(point["mean"] for point in measured if point["mean"] >= measured[0]["mean"] - 0.5)
    assert next(p["mean"] for p in measured if p["sparsity"] == sparsity) >= best - 0.5
    with pytest.raises(InputError, match="tolerance"):
        choose_sparsity(siblings, -1.0)


def test_dev_scores_are_those_of_the_mean_of_unit_vectors(siblings, pairs):
    class Mean:
        def encode(self, sentences, *, batch_size):
            parts = [siblings.encoder(sparsity).encode(sentences) for sparsity in (0.0, 0.4)]
            return sum(torch.nn.functional.normalize(part, dim=-1) for part in parts)

    assert siblings.dev_scores(0.0, 0.4)[0] == pytest.approx(spearman(Mean(), pairs), abs=0.2)


def test_the_teachers_are_the_best_chain(siblings):
    chosen, tried = choose_teachers(siblings)
    assert chosen[0] == 0.0
    assert list(tried) == ["0", "0+0.2", "0+0.2+0.4", "0+0.2+0.4+0.6"]
    assert tried["+".join(f"{x:g}" for x in chosen)] == max(tried.values())


def test_reconstruction_is_taken_only_where_dev_gains(siblings, pairs):
    mask = select(siblings.scores, Budget.of(siblings.scores.sizes(), sparsity=0.5))
    cut = prune(siblings.dense, mask)
    before = {name: tensor.clone() for name, tensor in cut.model.state_dict().items()}
    chosen, info = choose_reconstruction(siblings, mask, cut)
    assert all(torch.equal(before[name], tensor) for name, tensor in cut.model.state_dict().items())
    assert info["dev"] == pytest.approx(spearman(chosen, pairs), abs=0.2)
    if info["strength"] is None:
        assert chosen is cut and info["dev"] == info["dev_before"]
    else:
        assert info["dev"] > info["dev_before"]


@pytest.fixture
def run(tmp_path, sentence_folder, pairs_file) -> Workdir:
    workdir = Workdir(tmp_path / "run")
    stages.score(workdir, ModelOptions(str(sentence_folder)), DataOptions(str(pairs_file)))
    return workdir


def test_choose_is_a_stage_that_is_not_run_twice(run):
    record, reused = stages.choose(run, 0.5)
    assert not reused and record.info["sparsity"] in GRID
    assert (run.folder("choose") / "curve.json").exists()
    assert stages.choose(run, 0.5)[1] and not stages.choose(run, 0.6)[1]


def test_prune_reconstructs_and_records_it(run):
    plain, _ = stages.prune(run, Cut(sparsity=0.5))
    record, reused = stages.prune(run, Cut(sparsity=0.5, reconstruct=True))
    assert not reused and "reconstruction" not in plain.info
    assert record.settings["reconstruct"] is True
    assert {"dev", "dev_before", "reference_sparsity", "strength"} == set(record.info["reconstruction"])
    assert record.info["kept"] == plain.info["kept"]
    assert stages.prune(run, Cut(sparsity=0.5, reconstruct=True))[1]
    with pytest.raises(InputError, match="--reconstruct"):
        Cut(layers=(0, 1), reconstruct=True)


def test_the_repair_learns_from_the_model_and_its_cuts(run, tmp_path, sentences):
    text = tmp_path / "sentences.txt"
    text.write_text("\n".join(sentences))
    settings = TrainingSettings(batch_size=4, max_steps=2, eval_every=1)
    stages.prune(run, Cut(sparsity=0.5))
    record, _ = stages.finetune(run, DataOptions(str(text)), settings)
    assert record.info["teachers"][0] == 0.0
    assert "score/scores.safetensors" in record.inputs
    alone, reused = stages.finetune(run, DataOptions(str(text)), settings, teachers=[ModelOptions("dense")])
    assert not reused and "teachers" not in alone.info
