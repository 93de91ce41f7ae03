"""Least-squares reconstruction: the closed form itself, nearer states for every family, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch

from sparsecse.cli import main
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.pruning.exchange import least_error, lowest_error
from sparsecse.pruning.masks import Budget, Mask, keep_layers, select
from sparsecse.pruning.order import Limits
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.reconstruction import _LeastSquares, reconstruct
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import Scores, random


def distance(first: Encoder, second: Encoder, sentences: list[str]) -> float:
    return float((first.encode(sentences) - second.encode(sentences)).square().mean())


def test_the_fit_is_ridge_regression_around_the_weights():
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 3).double()
    before = copy.deepcopy(linear)
    x, wanted = torch.randn(40, 5).double() + 2, torch.randn(40, 3).double()
    with torch.no_grad():
        sums = _LeastSquares(linear)
        for part in range(0, 40, 15):
            sums.add(x[part : part + 15], wanted[part : part + 15])
        sums.fit(0.3)
    centred = x - x.mean(dim=0)
    penalty = 0.3 * centred.square().sum(dim=0).mean()

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        fit = (x @ weight.T + bias - wanted).square().sum()
        return fit + penalty * (weight - before.weight).square().sum()

    gradients = torch.autograd.grad(loss(linear.weight, linear.bias), (linear.weight, linear.bias))
    assert all(gradient.abs().max() < 1e-9 for gradient in gradients)
    assert loss(linear.weight, linear.bias) < loss(before.weight, before.bias)


def test_a_model_that_is_its_own_reference_stays_as_it_is(encoder, sentences):
    own = copy.deepcopy(encoder)
    reconstruct(own, encoder, encoder.tokenize(sentences))
    for name, tensor in encoder.model.state_dict().items():
        torch.testing.assert_close(own.model.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)


def test_vectors_come_nearer_for_every_family(encoder, sentences):
    scores = random(encoder, 0)
    pruned = prune(encoder, select(scores, Budget.of(scores.sizes(), sparsity=0.5)))
    before = distance(pruned, encoder, sentences)
    reconstruct(pruned, encoder, encoder.tokenize(sentences), strength=0.01)
    assert distance(pruned, encoder, sentences) < 0.7 * before
    assert not pruned.training


def test_layers_that_left_and_layers_that_lost_all(bert, sentences):
    sizes = bert.model.config.layer_sizes()
    mask = keep_layers(None, sizes, [0, 2])
    pruned = prune(bert, mask)
    before = distance(pruned, bert, sentences)
    reconstruct(pruned, bert, bert.tokenize(sentences), layers=mask.kept_layers(), strength=0.01)
    assert distance(pruned, bert, sentences) < before

    heads = [torch.zeros_like(x) if i == 1 else x for i, x in enumerate(keep_layers(None, sizes, [0, 1, 2]).heads)]
    neurons = [torch.zeros_like(x) if i == 1 else x for i, x in enumerate(keep_layers(None, sizes, [0, 1, 2]).neurons)]
    emptied = prune(bert, type(mask)(tuple(heads), tuple(neurons)))
    before = distance(emptied, bert, sentences)
    reconstruct(emptied, bert, bert.tokenize(sentences), strength=0.01)
    assert distance(emptied, bert, sentences) < before


def test_without_biases_nothing_is_left_to_fit_of_a_half_that_lost_all(checkpoints, sentences):
    dense = load_encoder(checkpoints["modernbert"], pooling="mean", normalize=True)
    heads, neurons = [torch.ones(4, dtype=torch.bool)] * 3, [torch.ones(24, dtype=torch.bool)] * 3
    heads[1], neurons[2], neurons[0] = ~heads[1], ~neurons[2], torch.arange(24) < 12
    pruned = prune(dense, Mask(tuple(heads), tuple(neurons)))
    names = set(pruned.model.state_dict())
    before = distance(pruned, dense, sentences)
    reconstruct(pruned, dense, dense.tokenize(sentences), strength=0.01)
    assert distance(pruned, dense, sentences) < before and set(pruned.model.state_dict()) == names
    assert not any("bias" in name or "layer.2.output" in name or "layer.1.attention" in name for name in names)


def test_the_batches_do_not_matter(bert, sentences):
    scores = random(bert, 1)
    cut = select(scores, Budget.of(scores.sizes(), sparsity=0.5))
    vectors = []
    for batch_size in (1, 3, 256):
        pruned = prune(bert, cut)
        reconstruct(pruned, bert, bert.tokenize(sentences), batch_size=batch_size)
        vectors.append(pruned.encode(sentences))
    torch.testing.assert_close(vectors[0], vectors[2], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(vectors[1], vectors[2], atol=1e-4, rtol=1e-3)


def test_it_reports_every_half_layer(bert, sentences):
    seen = []
    reconstruct(
        copy.deepcopy(bert), bert, bert.tokenize(sentences), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "not above 0"),
        ({"token_ids": []}, "no calibration sentence"),
        ({"layers": [0, 1]}, "hidden size and layers must fit"),
        ({"layers": [0, 1, 5]}, "hidden size and layers must fit"),
    ],
)
def test_what_it_refuses(bert, sentences, changes, message):
    arguments = {"token_ids": bert.tokenize(sentences), **changes}
    with pytest.raises(InputError, match=message):
        reconstruct(copy.deepcopy(bert), bert, **arguments)


@pytest.mark.parametrize("size", [1, 3])
def test_what_leaves_is_what_the_rest_makes_up_for_best(size):
    """Against the greedy search that refits the rest for every candidate."""
    torch.manual_seed(size)
    groups, keep = 8, 3
    mixing = torch.randn(groups * size, groups * size).double()
    x, weight = torch.randn(60, groups * size).double() @ mixing, torch.randn(4, groups * size).double()
    hessian = x.T @ x + torch.eye(groups * size).double()

    def error(gone: list[int]) -> float:
        out = torch.tensor([size * group + i for group in gone for i in range(size)])
        rest = torch.tensor([i for i in range(groups * size) if i not in out.tolist()])
        change = torch.zeros_like(weight)
        change[:, out] = -weight[:, out]
        # The change of the rest at which d tr(change H change^T) / d change is 0.
        change[:, rest] = torch.linalg.solve(hessian[rest][:, rest], hessian[rest][:, out] @ weight[:, out].T).T
        return float((change @ hessian @ change.T).trace())

    fixed = torch.zeros(groups, dtype=torch.bool)
    fixed[2] = True
    gone: list[int] = []
    while len(gone) < groups - keep:
        gone.append(min((group for group in range(groups) if group not in (2, *gone)), key=lambda g: error([*gone, g])))
    stays = lowest_error(weight, hessian, keep, fixed)
    assert set((~stays).nonzero().flatten().tolist()) == set(gone) and 2 not in gone


def test_the_least_error_within_layers(encoder, sentences):
    ids, distances = encoder.tokenize(sentences), {"scores": 0.0, "error": 0.0}
    for seed in range(3):
        scores = random(encoder, seed)
        mask = select(scores, Budget.of(scores.sizes(), sparsity=0.5))
        other = least_error(mask, encoder, ids, Limits.of(scores.sizes(), protect=["0.1"]))
        assert other.kept() == mask.kept() and (other.heads[0][1] or not mask.heads[0].any())
        for name, one in (("scores", mask), ("error", other)):
            small = prune(encoder, one)
            reconstruct(small, encoder, ids, strength=0.01)
            distances[name] += distance(small, encoder, sentences)
    assert distances["error"] < distances["scores"]


def test_the_choice_within_layers_is_one_of_the_recipe(run, sentence_folder, pairs_file, pairs):
    assert (
        main(["prune", "--sparsity", "0.5", "--reconstruct", "--within-layers", "error", "--workdir", str(run.path)])
        == 0
    )
    record = run.need("prune")
    assert record.settings["within_layers"] == "error"
    by_scores = select(
        scores := Scores.load(run.folder("score") / "scores.safetensors"), Budget.of(scores.sizes(), sparsity=0.5)
    )
    mask = Mask.load(run.folder("prune") / "mask.safetensors")
    assert mask.kept() == by_scores.kept()
    taken = record.info["reconstruction"]["strength"] is not None
    assert taken == ("within_layers" in record.info["reconstruction"])
    with pytest.raises(InputError, match="within_layers"):
        Recipe(sparsity=0.5, within_layers="error")
