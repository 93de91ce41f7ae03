"""What is measured and minimised: alignment, contrast, bootstrapping, grading and distillation, on sentence vectors.

Uniformity, the other half of the score's objective, is a fused kernel: `sparsecse.kernels.uniformity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from sparsecse.kernels import row_logsumexp

# Logits that are held. `kernels.row_logsumexp` does without them, and is slower up to some 2,000 rows (twice at 64).
_HELD = 2048**2


def matryoshka(loss: Callable[..., torch.Tensor], widths: Sequence[int], *vectors: torch.Tensor) -> torch.Tensor:
    """The sum over widths of a loss of the vectors' first values (Kusupati et al. 2022, eq. 1 with weights of 1).

    Args:
        loss: takes the vectors, cut, and has to normalise them itself where it wants unit vectors.
        widths: values kept of each vector, from 1 to d.
        vectors: [rows, d] each.
    """
    return torch.stack([loss(*(one[:, :width] for one in vectors)) for width in widths]).sum()


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
    queue: torch.Tensor | None = None,
    temperature: float = 0.05,
    hard_negative_weight: float = 0.0,
) -> torch.Tensor:
    """SimCSE's loss: each anchor must find its positive among the batch (Gao et al. 2021, eq. 1 and 5).

    Args:
        anchors, positives: [batch, d]; cosine similarity is taken here.
        negatives: [batch, d], one hard negative per anchor; every anchor sees all of them.
        queue: [any number, d], more negatives for every anchor, of any norm (MoCo, He et al. 2020, eq. 1).
        hard_negative_weight: added to the logit of an anchor's own hard negative (SimCSE's option of that name).
    """
    anchors, positives = F.normalize(anchors, dim=-1), F.normalize(positives, dim=-1)
    hard = None if negatives is None else F.normalize(negatives, dim=-1)
    queued = [] if queue is None else [F.normalize(queue, dim=-1)]
    candidates = torch.cat([positives, *([] if hard is None else [hard]), *queued])
    if len(anchors) * len(candidates) > _HELD:
        scores = row_logsumexp(anchors, candidates, 1 / temperature)
        if hard is not None and hard_negative_weight:
            own = (anchors * hard).sum(dim=-1) / temperature
            scores = scores + torch.log1p(math.expm1(hard_negative_weight) * (own - scores).exp())
        return (scores - (anchors * positives).sum(dim=-1) / temperature).mean()
    logits = anchors @ candidates.T / temperature
    if hard is not None and hard_negative_weight:
        logits.diagonal(len(anchors)).add_(hard_negative_weight)
    return F.cross_entropy(logits, torch.arange(len(anchors), device=anchors.device))


def bootstrap(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """BYOL's loss, 2 - 2 cosine: the squared distance of the unit vectors (Grill et al. 2020, eq. 2).

    Args:
        predicted, target: [batch, d], what is predicted of a view and what the other view has; mean over the batch.
    """
    return 2 - 2 * F.cosine_similarity(predicted, target, dim=-1).mean()


def cosent(x: torch.Tensor, y: torch.Tensor, scores: torch.Tensor, *, temperature: float = 0.05) -> torch.Tensor:
    """CoSENT's loss: a pair with a higher gold score must have the higher cosine (Su 2022).

    log(1 + sum of exp((cos_j - cos_i) / temperature) over all i, j with score_i > score_j), which is zero where no two
    scores differ. Only the order of the scores counts, not their scale.

    Args:
        x, y: [pairs, d]; row i of both is one pair.
        scores: [pairs], gold similarities.
    """
    cosine = F.cosine_similarity(x, y, dim=-1) / temperature
    excess = (cosine[None, :] - cosine[:, None])[scores[:, None] > scores[None, :]]
    return torch.logsumexp(F.pad(excess, (1, 0)), dim=0)  # the padding's 0 is the 1 in the logarithm


def distillation(student: torch.Tensor, teacher: torch.Tensor, *, similarity_weight: float = 10.0) -> torch.Tensor:
    """Distance to a teacher's vectors: 1 - cosine, plus the squared error of the in-batch similarity matrices.

    Args:
        student, teacher: [batch, d], the same sentences in the same order.
        similarity_weight: weight of the second term.
    """
    student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    cosine = (student * teacher).sum(dim=-1)
    return (1 - cosine).mean() + similarity_weight * F.mse_loss(student @ student.T, teacher @ teacher.T)
