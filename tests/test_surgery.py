"""Masks and surgery: what is cut is what the gates close, in every family, whole layers included."""

from __future__ import annotations

import pytest
import torch
from conftest import write_checkpoint

from sparsecse.encoders import is_stock, load_encoder, save_encoder
from sparsecse.encoders.gates import gated
from sparsecse.errors import InputError
from sparsecse.pruning.masks import Budget, Mask, lowest, select
from sparsecse.pruning.surgery import gates_of, prune
from sparsecse.scoring import Scores, random

SIZES = [(4, 24)] * 3


def mask_without_whole_layers() -> Mask:
    """Layer 0 loses some of both, layer 1 all its heads, layer 2 all its neurons."""
    heads = [[True, False, True, True], [False] * 4, [False, False, True, False]]
    neurons = [torch.arange(24) % 3 != 0, torch.arange(24) < 5, torch.zeros(24, dtype=torch.bool)]
    return Mask(tuple(torch.tensor(h) for h in heads), tuple(neurons))


def test_the_pruned_encoder_computes_what_the_gated_one_does(encoder, sentences):
    mask = mask_without_whole_layers()
    smaller = prune(encoder, mask)
    assert smaller.model.config.layer_sizes() == [(3, 16), (0, 5), (1, 0)]
    with gated(encoder.model, gates_of(mask, encoder.model)):
        expected = encoder.encode(sentences)
    torch.testing.assert_close(smaller.encode(sentences), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, encoder.encode(sentences), atol=1e-3)


def test_pruning_twice_is_pruning_once(encoder, sentences):
    once = prune(encoder, mask_without_whole_layers())
    first = Mask(mask_without_whole_layers().heads, tuple(torch.ones(24, dtype=torch.bool) for _ in range(3)))
    half = prune(encoder, first)
    second = Mask(
        tuple(torch.ones(n, dtype=torch.bool) for n in (3, 0, 1)),
        mask_without_whole_layers().neurons,
    )
    torch.testing.assert_close(prune(half, second).encode(sentences), once.encode(sentences), atol=1e-6, rtol=1e-6)


def test_pruned_folders_load_again_with_fewer_bytes(encoder, sentences, tmp_path):
    smaller = prune(encoder, mask_without_whole_layers())
    (tmp_path / "dense").mkdir()
    (tmp_path / "small").mkdir()
    save_encoder(encoder, tmp_path / "dense")
    save_encoder(smaller, tmp_path / "small")
    torch.testing.assert_close(load_encoder(tmp_path / "small").encode(sentences), smaller.encode(sentences))
    removed = sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in smaller.parameters())
    dense, small = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("dense", "small"))
    # The header names fewer tensors, too.
    assert 4 * removed <= dense - small <= 4 * removed + 4096
    assert not is_stock(smaller.model.config)


def test_rewinding_is_the_same_cut_in_another_checkpoint(checkpoints, tmp_path, sentences):
    mask = mask_without_whole_layers()
    earlier = load_encoder(write_checkpoint(tmp_path / "earlier", "bert", seed=1), pooling="mean")
    rewound = prune(earlier, mask)
    with gated(earlier.model, gates_of(mask, earlier.model)):
        torch.testing.assert_close(rewound.encode(sentences), earlier.encode(sentences), atol=1e-5, rtol=1e-5)
    other = load_encoder(write_checkpoint(tmp_path / "other", "bert", intermediate_size=16), pooling="mean")
    with pytest.raises(InputError, match="mask was made for"):
        prune(other, mask)


def test_removing_nothing_and_everything(bert, sentences):
    nothing = select(random(bert, 0), Budget.of(SIZES, sparsity=0.0))
    assert prune(bert, nothing).encode(sentences).equal(bert.encode(sentences))
    everything = select(random(bert, 0), Budget.of(SIZES, keep_heads=0, keep_neurons=0))
    empty = prune(bert, everything)
    assert empty.model.config.layer_sizes() == [(0, 0)] * 3
    assert torch.isfinite(empty.encode(sentences)).all()


def test_the_lowest_scores_go_first_and_ties_by_position():
    marks = lowest([torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 0.5])], 3)
    assert [mark.tolist() for mark in marks] == [[False, True, False], [True, True]]
    marks = lowest([torch.ones(3), torch.ones(3)], 4)
    assert [mark.tolist() for mark in marks] == [[True, True, True], [True, False, False]]
    scores = Scores((torch.tensor([0.1, 0.9]),), (torch.tensor([5.0, 4.0, 6.0]),))
    mask = select(scores, Budget(heads=1, neurons=1))
    assert mask.kept() == [(1, 2)]
    assert mask.heads[0].tolist() == [False, True]
    assert mask.neurons[0].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sparsity": 0.2}, (2, 14)),
        ({"head_sparsity": 0.5}, (6, 0)),
        ({"sparsity": 0.1, "neuron_sparsity": 0.5}, (1, 36)),
        ({"keep_heads": 9, "sparsity": 0.5}, (3, 36)),
        ({"keep_neurons": 0}, (0, 72)),
    ],
)
def test_budgets(options, expected):
    budget = Budget.of(SIZES, **options)
    assert (budget.heads, budget.neurons) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Nothing says how much to prune"),
        ({"sparsity": 1.5}, "`sparsity` 1.5 is outside 0 to 1"),
        ({"sparsity": float("nan")}, "`sparsity` nan"),
        ({"neuron_sparsity": -0.1}, "`neuron_sparsity` -0.1"),
        ({"keep_heads": 13}, "`keep_heads` 13 is outside 0 to 12"),
        ({"keep_heads": 3, "head_sparsity": 0.1}, "exclude each other"),
    ],
)
def test_bad_budgets(options, message):
    with pytest.raises(InputError, match=message):
        Budget.of(SIZES, **options)


def test_mask_files(tmp_path):
    mask = mask_without_whole_layers()
    mask.save(tmp_path / "mask.safetensors")
    again = Mask.load(tmp_path / "mask.safetensors")
    assert again.kept() == mask.kept() and again.sizes() == mask.sizes() == SIZES
    assert all(a.equal(b) for a, b in zip(again.heads + again.neurons, mask.heads + mask.neurons, strict=True))
    (tmp_path / "mask.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not a mask"):
        Mask.load(tmp_path / "mask.safetensors")
