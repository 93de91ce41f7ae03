"""Write the packed folder: weights, configuration, modelling file, tokenizer, sentence-transformers modules, card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from sparsecse.encoders import DTYPES, WEIGHTS_FILE, Encoder, is_stock, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.files import PROVENANCE_FILE, atomic_directory, hash_once, write_json, write_text
from sparsecse.manifest import contents, foreign, in_words, listed
from sparsecse.packing.card import CardFacts, model_card, source_license
from sparsecse.settings import choose

_PROBES = ("A short one.", "A somewhat longer sentence, with a comma, to be padded against.", "Is 42 a number?")
# Of single values; vectors of unit length have values around 0.05 at 384 dimensions.
_TOLERANCE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1, "int8": 1e-1}

_NOT_EDITED = {WEIGHTS_FILE, "tokenizer.json"}


def check_target(out: Path) -> None:
    """Raise `InputError` for a folder that a pack may not replace: none of ours, or with files that are not the pack's.

    Files of the pack that were changed since are the user's too.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"`out` {out} is a file; give a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    own = listed(out / PROVENANCE_FILE)
    if own is None:
        raise InputError(
            f"`out` {out} exists and was not written by `sparsecse pack`; give another folder or remove it yourself."
        )
    if names := foreign(out, {**own, PROVENANCE_FILE: None}):
        raise InputError(
            f"`out` {out} would be replaced, and has files that `sparsecse pack` did not write, or that were changed "
            f"since ({in_words(names)}); move them away, or give another folder."
        )


def check_pack(folder: Path) -> None:
    """Raise `InputError` where a packed folder's weights or vocabulary are not those that `pack` wrote.

    Its settings may be edited, and other folders are not checked.
    """
    own = listed(folder / PROVENANCE_FILE) or {}
    for name in own.keys() & _NOT_EDITED:
        path = folder / name
        if path.is_file() and hash_once(path) != own[name]:
            raise InputError(
                f"{path} was damaged or changed since `sparsecse pack` wrote it; delete it and pack again, or delete "
                f"{PROVENANCE_FILE} beside it if the change is yours."
            )


def model_name(source: str) -> str:
    """A model's name for others: a folder's own name, or the hub id."""
    return Path(source).resolve().name if Path(source).exists() else source


def facts_of(encoder: Encoder) -> CardFacts:
    """What the card can tell of an encoder alone, and of what it was pruned from in this process."""
    kept, parameters = encoder.model.config.layer_sizes(), count_parameters(encoder)
    origin = encoder.pruned_from()
    return CardFacts(
        model_name(origin.source),
        origin.sizes,
        kept,
        parameters,
        origin.parameters,
        encoder.settings.pooling,
        license=source_license(origin.source),
        values=kept_values(encoder),
    )


def kept_values(encoder: Encoder) -> tuple[int, int] | None:
    """Values of a sentence vector that are kept, and all that there are; None where all are kept."""
    width = encoder.settings.truncate_dim
    return None if width is None else (width, encoder.dimension)


def pack(
    encoder: Encoder, out: str | Path, facts: CardFacts | None = None, *, dtype: str = "float32"
) -> dict[str, Any]:
    """Write a packed folder, whole or not at all, after reading it back and comparing the vectors.

    An encoder whose layers are all alike and have all their heads is written as a stock checkpoint of its family, which
    loads everywhere; any other one, and every int8 one, with our modelling file.

    Args:
        out: the folder; an earlier pack there is replaced with the exports in it, anything else is refused (see
            `check_target`).
        facts: for the card and the provenance file; by default `facts_of(encoder)`.
        dtype: how weights are stored, a key of `encoders.DTYPES`.

    Returns:
        its path, format, bytes, the weights' SHA-256, and the largest difference of the vectors read back.
    """
    choose("dtype", dtype, DTYPES)
    out, facts = Path(out), facts or facts_of(encoder)
    check_target(out)
    stock = is_stock(encoder.model.config) and dtype != "int8"
    try:
        with atomic_directory(out) as folder:
            save_encoder(encoder, folder, stock=stock, dtype=dtype)
            write_text(folder / "README.md", model_card(facts, out.name, needs_code=not stock))
            files = contents(folder)
            write_json(
                folder / PROVENANCE_FILE,
                {**dataclasses.asdict(facts), "dtype": dtype, "stock": stock, "files": files},
            )
            difference = float((load_encoder(folder).encode(_PROBES) - encoder.encode(_PROBES)).abs().max())
            if not difference <= _TOLERANCE[dtype]:
                raise InputError(
                    f"The packed folder's vectors differ from the model's by {difference:.2g} (at most "
                    f"{_TOLERANCE[dtype]} is allowed in {dtype}); nothing was written to {out}."
                )
            sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
            check_target(out)  # what was put there during the work
    except OSError as error:
        raise InputError(f"`out` {out} cannot be written ({error.strerror}); nothing was left there.") from None
    return {
        "path": str(out),
        "format": encoder.model.config.original_model_type if stock else "sparsecse",
        "dtype": dtype,
        "bytes": sum(sizes.values()),
        "weights_bytes": sizes[WEIGHTS_FILE],
        "weights_sha256": files[WEIGHTS_FILE],
        "max_difference": difference,
    }


def count_parameters(model: torch.nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
