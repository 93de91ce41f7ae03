"""What is measured and minimised: alignment, InfoNCE and distillation, on sentence vectors.

Uniformity, the other half of the score's objective, is a fused kernel: `sparsecse.kernels.uniformity`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def alignment(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of positive pairs (Wang & Isola 2020, eq. 4 with alpha = 2).

    Args:
        x, y: [pairs, d] unit vectors; row i of both is one pair.
    """
    return (x - y).square().sum(dim=-1).mean()


def info_nce(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor | None = None,
    *,
    temperature: float = 0.05,
    hard_negative_weight: float = 0.0,
) -> torch.Tensor:
    """SimCSE's loss: each anchor must find its positive among the batch (Gao et al. 2021, eq. 1 and 5).

    Args:
        anchors, positives: [batch, d]; cosine similarity is taken here.
        negatives: [batch, d], one hard negative per anchor; every anchor sees all of them.
        hard_negative_weight: added to the logit of an anchor's own hard negative (SimCSE's option of that name).

    The logits are held, all of them: `kernels.row_logsumexp` does without, but is slower up to some 2,000 rows (twice
    at 64), and a batch goes through the encoder in one piece, so that it is smaller than that.
    """
    anchors = F.normalize(anchors, dim=-1)
    logits = anchors @ F.normalize(positives, dim=-1).T / temperature
    targets = torch.arange(len(anchors), device=anchors.device)
    if negatives is not None:
        hard = anchors @ F.normalize(negatives, dim=-1).T / temperature
        hard = hard + hard_negative_weight * torch.eye(len(anchors), device=anchors.device)
        logits = torch.cat([logits, hard], dim=1)
    return F.cross_entropy(logits, targets)


def distillation(student: torch.Tensor, teacher: torch.Tensor, *, similarity_weight: float = 10.0) -> torch.Tensor:
    """Distance to a teacher's vectors: 1 - cosine, plus the squared error of the in-batch similarity matrices.

    Args:
        student, teacher: [batch, d], the same sentences in the same order.
        similarity_weight: weight of the second term.
    """
    student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    cosine = (student * teacher).sum(dim=-1)
    return (1 - cosine).mean() + similarity_weight * F.mse_loss(student @ student.T, teacher @ teacher.T)
