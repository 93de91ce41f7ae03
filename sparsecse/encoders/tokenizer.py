"""A model's tokenizer: loaded and held to what the token model and sentence-transformers expect of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import normalizers
from transformers import AutoTokenizer

from sparsecse.encoders.model_files import Known, ModelFiles, Rule, inside
from sparsecse.encoders.modeling_sparsecse import SparseCSEConfig
from sparsecse.errors import InputError
from sparsecse.files import read_json, write_json

_CONFIG_FILE = "tokenizer_config.json"
_WHOLE_FILE = "tokenizer.json"
_CHECKED: Known = {
    "model_max_length": Rule(
        lambda value: value is None or (type(value) in (int, float) and value == value), "a number of tokens"
    ),
}


def load_tokenizer(files: ModelFiles, folder: str, config: SparseCSEConfig, lower_case: bool) -> Any:
    """The transformers tokenizer in a folder of a model.

    Args:
        files: the model.
        folder: where inside it; "" for its root.
        config: the token model's, which must have a row for each token.
        lower_case: make it lower-case texts first.

    Raises:
        InputError: it cannot be read, needs code of its own, has no vocabulary or more tokens than the model, or makes
            vectors depend on their batch.
    """
    place = f"{files.source}/{folder}".rstrip("/")
    name = inside(folder, _CONFIG_FILE)
    settings = files.json(name) or {}
    files.check(name, {key: value for key, value in settings.items() if key in _CHECKED}, _CHECKED)
    if settings.get("auto_map"):
        raise InputError(
            f"{files.source}/{name} asks for code of the model's own (auto_map); sparsecse loads the tokenizers of "
            f"transformers only."
        )
    try:
        with files.unmarked(folder) as (source, subfolder):
            tokenizer: Any = AutoTokenizer.from_pretrained(source, subfolder=subfolder)
    except Exception as error:  # tokenizers raises plain Exceptions, transformers errors of many classes
        _require_vocabulary(files, folder, {"vocabulary": "vocab.txt"}, place)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{place}: its tokenizer cannot be loaded ({reason}); "
            f"copy tokenizer.json and tokenizer_config.json beside the weights."
        ) from None
    if tokenizer.is_fast:
        _require_vocabulary(files, folder, tokenizer.vocab_files_names, place)
    _check_tokens(tokenizer, config, place)
    if tokenizer.padding_side == "left" and not config.position_offset and config.rotary_bases is None:
        raise InputError(
            f"{files.source}/{name}: padding_side is left, which shifts the positions of a text by the length of "
            f"others in its batch; write right there."
        )
    if lower_case:
        _lower_case(tokenizer, place)
    return tokenizer


def _require_vocabulary(files: ModelFiles, folder: str, names: dict[str, str], place: str) -> None:
    """transformers makes up a tokenizer of special tokens alone where a folder has none of its files."""
    parts = [name for name in names.values() if name != _WHOLE_FILE]

    def there(name: str) -> bool:
        return files.find(inside(folder, name)) is not None

    if not there(_WHOLE_FILE) and not all(map(there, parts)):
        raise InputError(
            f"{place} has no vocabulary (neither {_WHOLE_FILE} nor {' with '.join(parts)}); "
            f"copy the tokenizer's files beside the weights."
        )


def _check_tokens(tokenizer: Any, config: SparseCSEConfig, place: str) -> None:
    vocabulary = tokenizer.get_vocab()
    if not vocabulary.keys() - set(tokenizer.all_special_tokens):
        raise InputError(f"{place}: the tokenizer's vocabulary is empty; copy the tokenizer's files again.")
    token, last = max(vocabulary.items(), key=lambda item: item[1])
    if last >= config.vocab_size:
        raise InputError(
            f"{place}: the tokenizer's token {token!r} has the id {last}, and the model has embeddings for "
            f"{config.vocab_size} tokens (vocab_size in config.json); take the tokenizer that belongs to the weights."
        )
    if any(tokenizer("a").get("token_type_ids", [])):
        raise InputError(
            f"{place}: the tokenizer gives a single text other token types than 0 (post_processor in "
            f"{_WHOLE_FILE}), which sparsecse does not support."
        )


def _lower_case(tokenizer: Any, place: str) -> None:
    if not tokenizer.is_fast:
        raise InputError(
            f"{place}: do_lower_case is true and {type(tokenizer).__name__} is no fast tokenizer; "
            f"save it with tokenizer.json."
        )
    backend = tokenizer.backend_tokenizer
    own: Any = backend.normalizer
    several = isinstance(own, normalizers.Sequence)
    steps = list(own) if several else [own] * (own is not None)
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def save_tokenizer(tokenizer: Any, directory: Path, max_length: int) -> None:
    """Write a tokenizer's files, with the model's length limit and the special tokens in a file of their own.

    transformers needs neither, but tools that read these files without it do (fastembed).
    """
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Else tokenizer.json would have what the last call cut and padded to.
        backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
        backend.no_padding()
    tokenizer.save_pretrained(directory)
    config = read_json(directory / _CONFIG_FILE)
    write_json(directory / _CONFIG_FILE, {**config, "model_max_length": max_length})
    tokens = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    named = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    write_json(
        directory / "special_tokens_map.json", {name: _fields(tokens.get(text), text) for name, text in named.items()}
    )


def _fields(token: Any, text: str) -> dict[str, Any]:
    switches = ("lstrip", "normalized", "rstrip", "single_word")
    return {"content": text, **{switch: bool(getattr(token, switch, False)) for switch in switches}}
