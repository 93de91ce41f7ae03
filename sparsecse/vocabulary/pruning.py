"""The encoder with the smaller vocabulary, and the report of what that saves and costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparsecse.encoders import Encoder, SparseCSEModel
from sparsecse.errors import InputError
from sparsecse.vocabulary.choice import choose_vocabulary
from sparsecse.vocabulary.counting import Coverage, count_tokens, measure_coverage, token_ids
from sparsecse.vocabulary.displacement import displacement
from sparsecse.vocabulary.rewriting import rewrite_tokenizer
from sparsecse.vocabulary.scripts import lost_scripts, scripts_warning, tokens_in

_BYTES_PER_PARAMETER = 4  # float32
_WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class VocabularyReport:
    """What `fit_vocabulary` did.

    tokens_before, tokens_after: rows of the word embeddings.
    hidden_size: width of a row.
    corpus_lines: lines read.
    corpus_tokens: different tokens that occur in them.
    corpus_kept: share of the corpus's token occurrences whose token is kept, from 0 to 1.
    coverage: what to expect on other text, measured on the held-out lines.
    scripts_used, scripts_lost: of the corpus, and those that the tokenizer has words in and the corpus does not.
    """

    tokens_before: int
    tokens_after: int
    hidden_size: int
    corpus_lines: int
    corpus_tokens: int
    corpus_kept: float
    coverage: Coverage
    scripts_used: Sequence[str] = ()
    scripts_lost: Sequence[str] = ()

    @property
    def parameters_saved(self) -> int:
        return (self.tokens_before - self.tokens_after) * self.hidden_size

    @property
    def bytes_saved(self) -> int:
        """Bytes of the parameters saved, in float32."""
        return self.parameters_saved * _BYTES_PER_PARAMETER

    @property
    def warning(self) -> str | None:
        """A sentence on the languages that the model loses; None where it loses none that its tokenizer shows."""
        return scripts_warning(self.scripts_used, self.scripts_lost)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`."""
        own = {"parameters_saved": self.parameters_saved, "bytes_saved": self.bytes_saved, "warning": self.warning}
        return {**asdict(self), **own}


def prune_vocabulary(encoder: Encoder, kept: Sequence[int]) -> Encoder:
    """The encoder with the kept tokens only; a text that needs no other one gets the same vector.

    Args:
        encoder: left as it is.
        kept: token ids in ascending order, the padding token's among them, from `choose_vocabulary`.

    Raises:
        InputError: the tokenizer cannot be rewritten; a kept token has no row in the word embeddings; the padding token
            is not kept.
    """
    config = copy.deepcopy(encoder.model.config)
    if max(kept) >= config.vocab_size:
        raise InputError(
            f"{encoder.source}: its tokenizer has a token with id {max(kept)}, but its model knows {config.vocab_size} "
            f"tokens; the tokenizer and the weights do not belong together."
        )
    if config.pad_token_id not in kept:
        raise InputError(
            f"{encoder.source}: its padding token (pad_token_id {config.pad_token_id} in config.json) is not among the "
            f"{len(kept)} to keep; add it."
        )
    tokenizer = rewrite_tokenizer(encoder.tokenizer, kept)
    config.vocab_size = len(kept)
    # position_offset stays: it says where positions begin, whatever the padding token's id becomes.
    config.pad_token_id = kept.index(config.pad_token_id)
    state = encoder.model.state_dict()
    state[_WORD_EMBEDDINGS] = state[_WORD_EMBEDDINGS][list(kept)]
    model = SparseCSEModel(config)
    model.load_state_dict(state)
    smaller = Encoder(model, tokenizer, encoder.settings, encoder.source, copy.deepcopy(encoder.head))
    return smaller.to(encoder.device, encoder.model.dtype).train(encoder.training)


def fit_vocabulary(
    encoder: Encoder,
    lines: Iterable[str],
    size: int | None = None,
    *,
    scripts: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Encoder, VocabularyReport]:
    """Reduce an encoder's vocabulary to what a corpus needs, and measure what that means for text it has not seen.

    Where there is room for every token that occurs, all are kept and every line splits into the same pieces as before.
    Where there is not, those stay whose occurrences times `displacement` are the highest. Coverage is measured on every
    tenth line, for the vocabulary that the other nine of ten give by the same rule: an honest estimate for other text,
    slightly on the low side since the vocabulary of the result comes from all lines.

    The encoder's prompt is counted with every line, and the tokens of its other prompts are kept as well.

    Args:
        encoder: left as it is.
        lines: the sentences, read twice: a `Corpus` or a list; and once more for their number where there is
            `progress`, which takes little of the time.
        size: the most tokens to keep; by default all that occur.
        scripts: of which all tokens are kept, whether they occur or not; see `scripts.tokens_in`.
        progress: called with what is being done ("count", "weigh", "measure"), how much is done (lines, or tokens to
            weigh), and how much there is in all.

    Raises:
        InputError: as `count_tokens`, `choose_vocabulary`, `measure_coverage` and `prune_vocabulary`; `lines` can be
            read only once.
    """
    if isinstance(lines, Iterator):
        raise InputError("The corpus is an iterator, but it is read twice; give a Corpus or a list.")

    length = 0 if progress is None else sum(1 for _ in lines)

    def report_as(stage: str) -> Callable[..., None] | None:
        return None if progress is None else lambda done, total=length: progress(stage, done, total)

    tokenizer, settings = encoder.tokenizer, encoder.settings
    counts = count_tokens(tokenizer, lines, prompt=settings.prompt, progress=report_as("count"))
    total, weight = counts.total, np.ones(len(counts.total))
    prompts = token_ids(tokenizer, list(settings.prompts.values()))
    always = {encoder.model.config.pad_token_id, *(token for prompt in prompts for token in prompt)}
    if scripts:
        always |= tokens_in(tokenizer, scripts)
    kept = choose_vocabulary(tokenizer, total, always=always)
    if size is not None and size < len(kept):
        weight = displacement(encoder, total, size, always=always, progress=report_as("weigh"))
        kept = choose_vocabulary(tokenizer, total * weight, size, always=always)
    smaller = prune_vocabulary(encoder, kept)
    without_held_out = choose_vocabulary(tokenizer, counts.chosen_from * weight, size, always=always)
    coverage = measure_coverage(
        tokenizer,
        rewrite_tokenizer(tokenizer, without_held_out),
        without_held_out,
        lines,
        prompt=settings.prompt,
        progress=report_as("measure"),
    )
    used, lost = lost_scripts(tokenizer, total, kept)
    report = VocabularyReport(
        tokens_before=encoder.model.config.vocab_size,
        tokens_after=len(kept),
        hidden_size=encoder.model.config.hidden_size,
        corpus_lines=counts.lines,
        corpus_tokens=int((total > 0).sum()),
        corpus_kept=float(total[kept].sum() / total.sum()),
        coverage=coverage,
        scripts_used=used,
        scripts_lost=lost,
    )
    return smaller, report
