"""How an encoder turns text into token ids, and token vectors into a sentence vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparsecse.errors import InputError


@dataclass(frozen=True)
class EncoderSettings:
    """How token vectors become the sentence vector.

    pooling: a key of `POOLING_MODES`.
    normalize: whether the vector is divided by its length.
    max_length: tokens kept of a sentence, special tokens included.
    prompts: named prefixes (E5, BGE); `default_prompt` names the one put before every sentence, or is None.
    similarity: what the model compares vectors with, as sentence-transformers names it; handed on, not used here.
    lower_case: whether the tokenizer was made to lower-case texts first (sentence-transformers' `do_lower_case`).
    truncate_dim: values that are kept of a sentence vector, from the first, after it was normalised; None for all.
    """

    pooling: str
    normalize: bool
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    lower_case: bool = False
    truncate_dim: int | None = None

    @property
    def prompt(self) -> str:
        return self.prompts[self.default_prompt] if self.default_prompt else ""

    def prompt_text(self, prompt: str | None = None, prompt_name: str | None = None) -> str:
        """The text put before every sentence: `prompt`, else the one of `prompt_name`, else the default.

        Raises:
            InputError: a name that the model does not have.
        """
        if prompt is not None:
            return prompt
        if prompt_name is None:
            return self.prompt
        if prompt_name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise InputError(f"`prompt_name`: the model has no prompt '{prompt_name}'; it has {known}.")
        return self.prompts[prompt_name]
