"""An exported model against the torch model it was made from, on sentences of mixed lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.exporting.graph import input_names

Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""Maps the graph's inputs, [batch, length] each, to its output."""

TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-2, "int8": 0.1}
"""By precision: for float32 the largest absolute difference of an element of the unit vectors, else of 1 - cosine."""

_PARAGRAPH = (
    "The old lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote the weather in his book; "
    "on clear nights he could see the ships far out at sea, and on foggy ones he only heard their horns. "
)
_SENTENCES = (
    "Hello.",
    "A man is playing a guitar.",
    "Stocks fell sharply on Monday after the central bank raised its interest rates for the third time this year.",
    _PARAGRAPH,
    _PARAGRAPH * 20,  # cut to the encoder's length limit: every position is used
)


@dataclass(frozen=True)
class Difference:
    """Over all sentences: the largest absolute difference of the unit vectors' elements, and their smallest cosine."""

    maximum: float
    cosine_minimum: float


def compare(encoder: Encoder, run: Run, pooled: bool) -> Difference:
    """Run the exported model on one padded batch and on each sentence alone, and compare the unit sentence vectors.

    Args:
        encoder: the torch model, on the CPU, in float32 and evaluation mode.
        run: the exported model.
        pooled: whether it returns sentence vectors; else its token vectors are pooled here.
    """
    token_ids = encoder.tokenize(_SENTENCES)
    differences, cosines = [], []
    for rows in (token_ids, *([ids] for ids in token_ids)):
        input_ids, mask = encoder.collate(rows)
        values = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(input_ids)}
        output = torch.from_numpy(run({name: values[name].numpy() for name in input_names(encoder)})).float()
        with torch.inference_mode():
            expected = F.normalize(encoder(input_ids, mask)[:, : encoder.width()], dim=-1)
            found = F.normalize(output if pooled else _pool(encoder, output, mask), dim=-1)
        if found.shape != expected.shape:
            raise InputError(
                f"The exported {encoder.source} returns {list(found.shape)} instead of {list(expected.shape)}."
            )
        differences.append((found - expected).abs().max())
        cosines.append((found.double() * expected.double()).sum(dim=-1).min())
    return Difference(float(torch.stack(differences).max()), float(torch.stack(cosines).min()))


def _pool(encoder: Encoder, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    pooler = encoder.model.pooler
    outputs = BaseModelOutputWithPooling(
        last_hidden_state=hidden, pooler_output=None if pooler is None else pooler(hidden[:, 0])
    )
    return encoder.pool(outputs, mask)[:, : encoder.width()]


def check(difference: Difference, precision: str, tolerance: float, what: str) -> None:
    """Raise `InputError` where the difference, or its cosine below float32, is above the tolerance, or not a number."""
    found = difference.maximum if precision == "float32" else 1 - difference.cosine_minimum
    if not found <= tolerance:
        kind = "largest difference" if precision == "float32" else "largest 1 - cosine"
        raise InputError(
            f"{what} does not compute what the torch model does: {kind} of its sentence vectors {found:.2g}, "
            f"tolerance {tolerance:.2g}; nothing was kept, so raise the tolerance or export in a higher precision."
        )
