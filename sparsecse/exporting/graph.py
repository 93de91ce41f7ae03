"""The encoder as one traced graph with named inputs and one named output, from which both formats are converted."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sparsecse.encoders import Encoder
from sparsecse.errors import InputError

# How torch.onnx and OpenVINO say it.
_UNSUPPORTED = re.compile(r"No (?:ONNX function|conversion rule|translator)[^\n]*?((?:aten|prims)(?:::|\.)\w+)")


@dataclass(frozen=True)
class Graph:
    """A traced encoder.

    program: takes the inputs [batch, length], int64, in their order; both sizes are dynamic.
    inputs: their names, as a transformers tokenizer gives them.
    output: "last_hidden_state" [batch, length, hidden_size], or "sentence_embedding" [batch, width].
    """

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    output: str


class _Traced(nn.Module):
    """What the graph computes: token vectors, or with `pooled` sentence vectors."""

    def __init__(self, encoder: Encoder, pooled: bool):
        super().__init__()
        self.encoder, self.pooled = encoder, pooled

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        outputs = self.encoder.model(input_ids, attention_mask, token_type_ids, output_hidden_states=self.pooled)
        if not self.pooled:
            return outputs.last_hidden_state
        vectors = self.encoder.pool(outputs, attention_mask)
        width = self.encoder.settings.truncate_dim
        return vectors if width is None else vectors[:, :width]


def input_names(encoder: Encoder) -> tuple[str, ...]:
    """The graph's inputs: token types only where the tokenizer gives them, as optimum does it."""
    has_types = encoder.model.config.type_vocab_size and "token_type_ids" in encoder.tokenizer.model_input_names
    return ("input_ids", "attention_mask", *(("token_type_ids",) if has_types else ()))


def trace(encoder: Encoder, pooled: bool) -> Graph:
    """Trace an encoder for any batch and length.

    Args:
        encoder: on the CPU, in float32, evaluation mode and without gradients.
        pooled: whether pooling, normalisation and the cut to `truncate_dim` belong to the graph.

    Raises:
        InputError: the model does something that cannot be traced, or its pooling needs more than the last layer and
            is not part of the graph.
    """
    if encoder.settings.pooling == "first_last_avg" and not pooled:
        raise InputError(
            f"{encoder.source} pools with first_last_avg, which needs the first layer's token vectors too, and an "
            f"exported token model gives the last layer's only; export it with pooling inside the graph (pooled)."
        )
    names = input_names(encoder)
    ids = torch.full((2, 7), encoder.model.config.pad_token_id + 1)
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with converting(encoder, "a traced graph"):
        program = torch.export.export(
            _Traced(encoder, pooled), tuple(values[name] for name in names), dynamic_shapes=(sizes,) * len(names)
        )
    return Graph(program, names, "sentence_embedding" if pooled else "last_hidden_state")


@contextlib.contextmanager
def converting(encoder: Encoder, what: str) -> Iterator[None]:
    """Run a converter silently and turn whatever it raises into one `InputError`.

    Converters print graphs and progress bars, and stdout belongs to --json.
    """
    disabled = logging.root.manager.disable
    silence = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    except (InputError, OSError):
        raise
    except Exception as error:  # the converters raise classes of their own, and RuntimeError, TypeError, KeyError
        raise InputError(
            f"{encoder.source} cannot be converted to {what}: {_reason(error)}; "
            f"export to another format, or use the model with torch."
        ) from error
    finally:
        logging.disable(disabled)


def _reason(error: BaseException) -> str:
    """The operator that has no counterpart, where an error of the chain names one, else how the first one begins."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for link in chain:
        if found := _UNSUPPORTED.search(str(link)):
            return f"the operator {found[1]} is not supported"
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:200] if lines else type(chain[-1]).__name__
