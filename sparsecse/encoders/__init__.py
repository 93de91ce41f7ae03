"""Load, run and save sentence encoders; the one place that knows model families."""

from sparsecse.encoders.checkpoints import (
    DTYPES,
    is_stock,
    load_encoder,
    save_encoder,
    unused_prompts,
)
from sparsecse.encoders.demo import named_source
from sparsecse.encoders.encoder import Encoder, Origin, PackedBatch
from sparsecse.encoders.families import FAMILIES
from sparsecse.encoders.fingerprint import fingerprint
from sparsecse.encoders.model_files import find_file
from sparsecse.encoders.modeling_sparsecse import SparseCSEConfig, SparseCSEModel
from sparsecse.encoders.pooling import POOLING_MODES
from sparsecse.encoders.settings import EncoderSettings
from sparsecse.encoders.stored import WEIGHTS_FILE

__all__ = [
    "DTYPES",
    "FAMILIES",
    "POOLING_MODES",
    "WEIGHTS_FILE",
    "Encoder",
    "EncoderSettings",
    "Origin",
    "PackedBatch",
    "SparseCSEConfig",
    "SparseCSEModel",
    "find_file",
    "fingerprint",
    "is_stock",
    "load_encoder",
    "named_source",
    "save_encoder",
    "unused_prompts",
]
