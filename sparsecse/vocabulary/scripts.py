"""Which scripts a tokenizer has words of, and which of them a smaller vocabulary loses."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sparsecse.errors import InputError, meant

# A script is one of the tokenizer's from this share of all its tokens of several letters on. (MiniLM's English
# vocabulary has 0.03 % of Cyrillic.)
_COVERED = 0.005
# A corpus uses a script from this share of its tokens with letters on.
_USED = 0.01
_MOST_NAMES = 3


@functools.cache
def _script(letter: str) -> str:
    """The first word of a letter's Unicode name: Latin, Cyrillic, Arabic, Cjk, Hangul, ..."""
    name = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    return name if name == "CJK" else name.capitalize()


def _letters(tokenizer: Any) -> Iterator[tuple[int, list[str]]]:
    """(token id, its letters) of every token but the special ones."""
    backend = tokenizer.backend_tokenizer
    # Byte-level tokens spell bytes in Latin letters.
    byte_level = backend.decoder is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str())["decoder"])
    special = set(tokenizer.all_special_ids)
    for token, index in tokenizer.get_vocab().items():
        text = backend.decoder.decode([token]) if byte_level else token
        if index not in special:
            yield index, [character for character in text if character.isalpha()]


def _tokens(tokenizer: Any) -> Iterator[tuple[int, str, bool]]:
    """(token id, script of its first letter, whether it has several letters) of every token with letters."""
    for index, letters in _letters(tokenizer):
        if letters:
            yield index, _script(letters[0]), len(letters) > 1


def tokens_in(tokenizer: Any, scripts: Sequence[str]) -> set[int]:
    """The ids of all tokens whose letters are of these scripts, those without letters included.

    Args:
        scripts: first words of Unicode's letter names, in any case: latin, cyrillic, greek, arabic, cjk, hangul,
            hiragana, katakana, devanagari, thai, ...

    Raises:
        InputError: a script that no token is written in.
    """
    letters_of = list(_letters(tokenizer))
    there = {_script(letter).lower() for _, letters in letters_of for letter in letters}
    wanted = {script.lower() for script in scripts}
    if unknown := sorted(wanted - there):
        raise InputError(
            f"`vocab_scripts` {', '.join(unknown)}: the tokenizer has no letter of it; it has "
            f"{', '.join(sorted(there - {''}))}.{meant(unknown[0], there)}"
        )
    return {index for index, letters in letters_of if all(_script(letter).lower() in wanted for letter in letters)}


def lost_scripts(tokenizer: Any, counts: np.ndarray, kept: Sequence[int]) -> tuple[list[str], list[str]]:
    """The scripts that a corpus uses, and those of the tokenizer's that it does not use and whose words mostly leave.

    Single characters are not counted as words: they always stay.

    Args:
        tokenizer: the one with the full vocabulary.
        counts: occurrences of every token id in the corpus.
        kept: the token ids that stay.

    Returns:
        both lists with the most frequent script first: in the corpus, and in the vocabulary.
    """
    staying = set(kept)
    used: Counter[str] = Counter()
    words: Counter[str] = Counter()
    stay: Counter[str] = Counter()
    for index, script, is_word in _tokens(tokenizer):
        used[script] += int(counts[index])
        words[script] += is_word
        stay[script] += is_word and index in staying
    in_corpus = [script for script, count in used.most_common() if count and count >= _USED * used.total()]
    lost = [
        script
        for script, count in words.most_common()
        if count and count >= _COVERED * words.total() and script not in in_corpus and 2 * stay[script] < count
    ]
    return in_corpus, lost


def scripts_warning(used: Sequence[str], lost: Sequence[str]) -> str | None:
    """One sentence on what a cut means for text in other scripts; None where none is lost. See `lost_scripts`."""
    if not lost:
        return None
    named = list(lost[:_MOST_NAMES])
    if others := len(lost) - len(named):
        named.append(f"{others} other{'s' if others > 1 else ''}")
    return (
        f"The corpus is in {_joined(used) or 'no script'} alone, but the tokenizer also has words in {_joined(named)}, "
        f"and most of them leave: text in other languages will be split into smaller or unknown pieces, and its "
        f"vectors will change."
    )


def _joined(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])}{' and ' if names[1:] else ''}{names[-1]}" if names else ""
