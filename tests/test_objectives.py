"""Objectives: values by hand or by a plain formula in float64, gradients by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sparsecse import objectives
from sparsecse.objectives import alignment, bootstrap, cosent, distillation, info_nce, matryoshka


def vectors(*shape: int) -> list[torch.Tensor]:
    """Random float64 tensors [shape[1:]], shape[0] of them, that take gradients."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return [tensor.clone().requires_grad_() for tensor in drawn]


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    """The plain formula on two vectors."""
    a, b = x.tolist(), y.tolist()
    product = sum(p * q for p, q in zip(a, b, strict=True))
    return product / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))


def test_alignment_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert alignment(x, y).item() == 1.0  # 0 and 2


def test_info_nce_by_hand():
    torch.manual_seed(0)
    anchors, positives, negatives = torch.randn(3, 5, 4).double().unbind()
    logits = F.cosine_similarity(anchors[:, None], torch.cat([positives, negatives])[None], dim=-1) / 0.05
    logits[:, 5:] += 2.0 * torch.eye(5)
    expected = -F.log_softmax(logits, dim=1).diagonal().mean()
    loss = info_nce(anchors, positives, negatives, temperature=0.05, hard_negative_weight=2.0)
    torch.testing.assert_close(loss, expected)


def test_info_nce_without_held_logits(monkeypatch):
    anchors, positives, negatives, queue = vectors(4, 5, 4)
    for more in ({}, {"negatives": negatives, "queue": queue, "hard_negative_weight": 2.0}, {"negatives": negatives}):
        found = []
        for held in (1000, 0):
            monkeypatch.setattr(objectives, "_HELD", held)
            loss = info_nce(anchors, positives, temperature=0.5, **more)
            taken = [anchors, positives, *(one for one in more.values() if isinstance(one, torch.Tensor))]
            found.append((loss.detach(), torch.autograd.grad(loss, taken)))
        torch.testing.assert_close(found[1], found[0])


def test_a_loss_at_several_widths_is_the_sum_over_them():
    student, teacher = vectors(2, 4, 5)
    expected = 0.0
    for width in (5, 2):
        own, wanted = ([row[:width] for row in rows] for rows in (student, teacher))
        expected += 1 - sum(cosine(s, t) for s, t in zip(own, wanted, strict=True)) / 4
        pairs = [(i, j) for i in range(4) for j in range(4)]
        expected += 10 * sum((cosine(own[i], own[j]) - cosine(wanted[i], wanted[j])) ** 2 for i, j in pairs) / 16
    assert matryoshka(distillation, (5, 2), student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_distillation_is_zero_for_the_teacher_itself():
    torch.manual_seed(0)
    vectors = torch.randn(4, 8)
    assert distillation(3 * vectors, vectors).item() == pytest.approx(0, abs=1e-6)
    opposite = distillation(-vectors, vectors)
    assert opposite.item() == pytest.approx(2, abs=1e-5)  # cosine -1, the same similarities


@pytest.mark.parametrize("held", [0, 3])
def test_a_queue_adds_negatives_for_every_anchor(held):
    anchors, positives = vectors(2, 4, 5)
    queue = torch.randn(held, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = 0.0
    for i in range(4):
        logits = [cosine(anchors[i], key) / 0.5 for key in [*positives, *queue]]
        expected += (math.log(sum(map(math.exp, logits))) - logits[i]) / 4
    assert info_nce(anchors, positives, queue=queue, temperature=0.5).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda a, p: info_nce(a, p, queue=queue, temperature=0.5), (anchors, positives))


def test_bootstrap_is_the_squared_distance_of_unit_vectors():
    predicted, target = vectors(2, 4, 5)
    expected = sum(2 - 2 * cosine(p, t) for p, t in zip(predicted, target, strict=True)) / 4
    assert bootstrap(predicted, target).item() == pytest.approx(expected, rel=1e-12)
    distance = (F.normalize(predicted, dim=-1) - F.normalize(target, dim=-1)).square().sum(dim=-1).mean()
    torch.testing.assert_close(bootstrap(predicted, target), distance)
    assert torch.autograd.gradcheck(bootstrap, (predicted, target))


def test_cosent_by_the_formula():
    x, y = vectors(2, 5, 4)
    scores = torch.tensor([3.0, 5.0, 3.0, 0.5, 4.0], dtype=torch.float64)
    total = 1.0
    for i in range(5):
        for j in range(5):
            if scores[i] > scores[j]:
                total += math.exp(20 * (cosine(x[j], y[j]) - cosine(x[i], y[i])))
    assert cosent(x, y, scores).item() == pytest.approx(math.log(total), rel=1e-12)
    assert cosent(x, y, 0.2 * scores).equal(cosent(x, y, scores))  # only the order counts
    assert torch.autograd.gradcheck(lambda a, b: cosent(a, b, scores, temperature=0.5), (x, y))


def test_cosent_of_equal_scores_is_zero_and_moves_nothing():
    x, y = vectors(2, 3, 4)
    loss = cosent(x, y, torch.full((3,), 2.0))
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (x, y)))
