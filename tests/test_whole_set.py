"""The gradient of the whole set's objective: autograd's, in bounded memory, whatever is worked on at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sparsecse.errors import InputError
from sparsecse.kernels import uniformity
from sparsecse.scoring import Objective, objective_value, whole_set
from sparsecse.scoring.whole_set import upstream_gradient

COUNT, DIMENSION = 60, 16


def by_autograd(vectors: torch.Tensor, positives: torch.Tensor, objective: Objective, views: bool) -> torch.Tensor:
    leaf = vectors.double().requires_grad_()
    unit, losses = F.normalize(leaf, dim=-1), []
    for width in objective.matryoshka_dims or (DIMENSION,):
        x = F.normalize(unit[:, :width], dim=-1)
        align = (x[positives[:, 0]] - x[positives[:, 1]]).square().sum(dim=-1).mean()
        uniform = uniformity(x, objective.temperature)
        if views:
            kernel = (-objective.temperature * torch.cdist(x, x).square()).exp()
            apart = torch.ones(COUNT, COUNT, dtype=torch.bool).fill_diagonal_(False)
            apart[positives[:, 0], positives[:, 1]] = apart[positives[:, 1], positives[:, 0]] = False
            uniform = kernel[apart].mean().log()
        losses.append(objective.alignment_weight * align + (1 - objective.alignment_weight) * uniform)
    return torch.autograd.grad(torch.stack(losses).mean(), leaf)[0]


def drawn(views: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(COUNT, DIMENSION, generator=generator)
    if views:
        half = torch.arange(COUNT // 2)
        return vectors, torch.stack([half, half + COUNT // 2], dim=1)
    positives = torch.randint(COUNT, (40, 2), generator=generator)
    positives[:12, 1] = 7  # one sentence in many pairs
    return vectors, positives


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("objective", [Objective(0.3), Objective(0.3, matryoshka_dims=(5, DIMENSION))])
def test_the_gradient_is_autograds_and_the_same_whatever_is_worked_on_at_a_time(monkeypatch, objective, views):
    vectors, positives = drawn(views)
    whole, values = upstream_gradient(vectors, positives, objective, views=views)
    torch.testing.assert_close(whole.double(), by_autograd(vectors, positives, objective, views), rtol=1e-4, atol=1e-7)
    assert values == objective_value(F.normalize(vectors, dim=-1), positives, objective, views=views)
    monkeypatch.setattr(whole_set, "_AT_ONCE", 3 * DIMENSION)
    apart, again = upstream_gradient(vectors, positives, objective, views=views)
    assert torch.equal(apart, whole) and again == values


def test_a_temperature_at_which_only_two_views_of_a_sentence_count_is_refused():
    vectors, positives = drawn(views=True)
    vectors[COUNT // 2 :] = vectors[: COUNT // 2] + 1e-4 * vectors[COUNT // 2 :]
    with pytest.raises(InputError, match="`temperature` 20 leaves nothing to pairs of distinct sentences"):
        upstream_gradient(vectors, positives, Objective(temperature=20), views=True)
    found, _ = upstream_gradient(vectors, positives, Objective(0.3), views=True)
    wanted = by_autograd(vectors, positives, Objective(0.3), views=True)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-7)


class Large(TorchDispatchMode):
    """Counts the results of the size of all vectors, or larger, that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple) else (found,):
            if isinstance(one, torch.Tensor) and one.untyped_storage().nbytes() >= COUNT * DIMENSION * 4:
                self.seen.add(one.untyped_storage().data_ptr())
        return found


def test_two_matrices_beside_the_vectors(monkeypatch):
    vectors, positives = drawn(views=False)
    monkeypatch.setattr(whole_set, "_AT_ONCE", 3 * DIMENSION)
    with Large() as large:
        upstream_gradient(vectors, positives, Objective())
    assert len(large.seen - {vectors.untyped_storage().data_ptr()}) == 2
