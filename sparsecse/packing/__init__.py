"""The packed folder: a smaller checkpoint that transformers and sentence-transformers load."""

from sparsecse.packing.card import CardFacts, model_card, source_license
from sparsecse.packing.folder import (
    PROVENANCE_FILE,
    check_pack,
    check_target,
    count_parameters,
    kept_values,
    model_name,
    pack,
)
from sparsecse.packing.publish import publication, push

__all__ = [
    "PROVENANCE_FILE",
    "CardFacts",
    "check_pack",
    "check_target",
    "count_parameters",
    "kept_values",
    "model_card",
    "model_name",
    "pack",
    "publication",
    "push",
    "source_license",
]
