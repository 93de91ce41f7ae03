"""The objective over a whole set of vectors: its value, and its gradient with respect to each vector.

Beyond the set's vectors two matrices of their size are in memory, the unit vectors and the gradient. All else is worked
through some rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from sparsecse.errors import InputError
from sparsecse.kernels import uniformity, uniformity_value_and_grad
from sparsecse.scoring.settings import Objective

# Numbers of the rows that are worked on at a time: 1 MB in float32.
_AT_ONCE = 2**18

_Parts = tuple[torch.Tensor, torch.Tensor]


def objective_value(
    unit: torch.Tensor, positives: torch.Tensor, objective: Objective, *, views: bool = False
) -> dict[str, float]:
    """Alignment, uniformity and L ("objective") of unit vectors [N, d] with positive pairs as rows [P, 2].

    With widths, the means over the vectors cut to each and brought to unit length again.

    views: each positive pair is one sentence twice, which then is no pair of the uniformity.

    Raises:
        InputError: a width above d.
    """
    parts = []
    for width in _widths(unit, objective):
        x = _cut(unit, width)
        squares = _squared_distances(x, positives)
        parts.append(_parts(uniformity(x, t=objective.temperature), squares, len(unit), objective, views))
    return _values(parts, objective)


def upstream_gradient(
    vectors: torch.Tensor, positives: torch.Tensor, objective: Objective, *, views: bool = False
) -> tuple[torch.Tensor, dict[str, float]]:
    """dL/df(x) of every sentence for the objective over the whole set, and the values of its parts.

    With widths one more matrix of each width is in memory, and its gradient.

    Args:
        vectors: [N, d], not necessarily of unit length.
        positives: [P, 2] rows of positive pairs.
        views: see `objective_value`.

    Returns:
        gradient [N, d], and what `objective_value` returns.
    """
    vectors = vectors.detach()
    unit = torch.empty_like(vectors)
    for rows in _some_rows(vectors):
        unit[rows] = F.normalize(vectors[rows], dim=-1)
    widths, weight = _widths(unit, objective), objective.alignment_weight
    gradient = None if widths == (None,) else torch.zeros_like(unit)
    parts: list[_Parts] = []
    for width in reversed(widths):
        x = _cut(unit, width)
        value, own = uniformity_value_and_grad(x, objective.temperature)
        # Autograd goes as far as single numbers: the uniformity, and each positive pair's squared distance.
        value, squares = value.requires_grad_(), _squared_distances(x, positives).requires_grad_()
        align, uniform = _parts(value, squares, len(x), objective, views)
        loss = weight * (align / len(widths)) + (1 - weight) * (uniform / len(widths))
        of_value, of_squares = torch.autograd.grad(loss, (value, squares))
        own.mul_(of_value)
        _add_of_pairs(own, x, positives, of_squares)
        if gradient is None:
            gradient = own
        else:
            for rows in _some_rows(unit):
                gradient[rows, :width] += _before_unit_length(unit[rows, :width], own[rows])
        parts.insert(0, (align.detach(), uniform.detach()))
    assert gradient is not None
    for rows in _some_rows(vectors):
        gradient[rows] = _before_unit_length(vectors[rows], gradient[rows])
    return gradient, _values(parts, objective)


def _widths(unit: torch.Tensor, objective: Objective) -> tuple[int | None, ...]:
    """The widths of an objective; None is the vectors as they are."""
    widths = objective.matryoshka_dims
    if widths and max(widths) > unit.shape[1]:
        raise InputError(
            f"`matryoshka_dims` has {max(widths)}, and the model's vectors have {unit.shape[1]} values; "
            "give widths up to that."
        )
    return widths or (None,)


def _cut(unit: torch.Tensor, width: int | None) -> torch.Tensor:
    return unit if width is None else F.normalize(unit[:, :width], dim=-1)


def _parts(uniform: torch.Tensor, squares: torch.Tensor, count: int, objective: Objective, views: bool) -> _Parts:
    """Alignment and uniformity, from the uniformity over all pairs of N vectors and those [P] of positive pairs."""
    if views:
        uniform = _between_sentences(uniform, squares, count, objective.temperature)
    return squares.mean(), uniform


def _values(parts: Sequence[_Parts], objective: Objective) -> dict[str, float]:
    align, uniform = (torch.stack(kind).mean() for kind in zip(*parts, strict=True))
    loss = objective.alignment_weight * align + (1 - objective.alignment_weight) * uniform
    return {"alignment": align.item(), "uniformity": uniform.item(), "objective": loss.item()}


def _between_sentences(uniform: torch.Tensor, squares: torch.Tensor, count: int, temperature: float) -> torch.Tensor:
    """The uniformity without the pairs of a sentence with itself, from the one over all pairs of N views.

    squares: [N / 2], squared distances of the two views of each sentence.

    Raises:
        InputError: a temperature at which the difference is lost in the rounding of the whole.
    """
    twins = (-temperature * squares.double()).exp().sum()
    others = uniform.double().exp() * (count * (count - 1)) - 2 * twins
    if not others.item() > 1e-4 * twins.item():
        raise InputError(
            f"`temperature` {temperature:g} leaves nothing to pairs of distinct sentences beside the views of each; "
            f"give a lower one."
        )
    return (others / (count * (count - 2))).log().to(uniform.dtype)


def _squared_distances(x: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """[P] of rows [P, 2] of vectors [N, d]."""
    some = pairs.split(_step(x.shape[1]))
    return torch.cat([(x[part[:, 0]] - x[part[:, 1]]).square().sum(dim=-1) for part in some])


def _add_of_pairs(gradient: torch.Tensor, x: torch.Tensor, pairs: torch.Tensor, slopes: torch.Tensor) -> None:
    """Add to the gradient [N, d] what the squared distances of pairs [P, 2] of rows have, times their slopes [P]."""
    step = _step(x.shape[1])
    for side in (1, 0):
        owners, order = pairs[:, side].sort(stable=True)
        # A row's pairs stay together and are summed before they are added: the same numbers, whatever the step.
        ends = torch.searchsorted(owners, owners[step - 1 :: step].contiguous(), right=True)
        for chosen in order.tensor_split(ends.unique_consecutive().cpu()):
            own, other = pairs[chosen, side], pairs[chosen, 1 - side]
            each = slopes[chosen, None] * (2 * (x[own] - x[other]))
            rows, place = own.unique_consecutive(return_inverse=True)
            gradient[rows] += x.new_zeros(len(rows), x.shape[1]).index_put_((place,), each, accumulate=True)


def _before_unit_length(vectors: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of vectors [rows, d] from that of them at unit length."""
    leaf = vectors.detach().requires_grad_()
    return torch.autograd.grad(F.normalize(leaf, dim=-1), leaf, gradient)[0]


def _some_rows(matrix: torch.Tensor) -> Iterator[slice]:
    step = _step(matrix.shape[1])
    return (slice(start, start + step) for start in range(0, len(matrix), step))


def _step(width: int) -> int:
    return max(1, _AT_ONCE // width)
