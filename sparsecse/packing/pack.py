"""Write the packed folder: weights, configuration, modelling file, tokenizer, sentence-transformers modules, card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from sparsecse.encoders import WEIGHTS_FILE, Encoder, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.files import atomic_directory, file_hash, write_json, write_text
from sparsecse.packing.card import CardFacts, model_card

PROVENANCE_FILE = "sparsecse.json"

_PROBES = ("A short one.", "A somewhat longer sentence, with a comma, to be padded against.", "Is 42 a number?")
_TOLERANCE = 1e-5


def _check_target(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / PROVENANCE_FILE).exists():
        raise InputError(
            f"--out {out} exists and was not written by `sparsecse pack`; give another folder or remove it yourself."
        )


def pack(encoder: Encoder, out: Path, facts: CardFacts) -> dict[str, Any]:
    """Write a packed folder, whole or not at all, after reading it back and comparing the vectors.

    Args:
        out: the folder; an earlier pack there is replaced, anything else is refused.
        facts: for the card and the provenance file.

    Returns:
        its path, bytes, the weights' SHA-256, and the largest difference of the vectors read back.
    """
    _check_target(out)
    try:
        with atomic_directory(out) as folder:
            save_encoder(encoder, folder)
            write_text(folder / "README.md", model_card(facts, out.name))
            write_json(folder / PROVENANCE_FILE, dataclasses.asdict(facts))
            written = load_encoder(folder)
            difference = float((written.encode(_PROBES) - encoder.encode(_PROBES)).abs().max())
            if not difference <= _TOLERANCE:
                raise InputError(
                    f"The packed folder's vectors differ from the model's by {difference:.2g} (at most {_TOLERANCE} is "
                    f"allowed); nothing was written to {out}."
                )
            sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
            weights = file_hash(folder / WEIGHTS_FILE)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); nothing was left there.") from None
    return {
        "path": str(out),
        "bytes": sum(sizes.values()),
        "weights_bytes": sizes[WEIGHTS_FILE],
        "weights_sha256": weights,
        "max_difference": difference,
    }


def count_parameters(model: torch.nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
