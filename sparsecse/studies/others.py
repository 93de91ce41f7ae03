"""Other models on the plot of a study: any encoder of this library, or what sentence-transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import SentenceEncoder
from sparsecse.files import file_hash, text_hash


@dataclass(frozen=True)
class Other:
    """A model that is measured beside the pruned ones, as it is.

    name: as it is called on the plot; source: a folder or hub id.
    """

    name: str
    source: str

    @property
    def key(self) -> str:
        """The key of its cell: its name and, of a folder, the start of the hash of its weights."""
        weights = sorted(Path(self.source).rglob("*.safetensors")) if Path(self.source).is_dir() else []
        return f"with-{self.name}-{text_hash(''.join(map(file_hash, weights)))[:8]}"

    def load(self) -> Encoder | SentenceEncoder:
        """An encoder or, where this library does not know the model, a `SentenceTransformer` (static embeddings).

        Raises:
            InputError: neither of the two can load it.
        """
        try:
            return load_encoder(self.source)
        except InputError as error:
            if not (Path(self.source) / "modules.json").is_file():
                raise
            return _sentence_transformer(self.source, error)


def _sentence_transformer(source: str, refused: InputError) -> SentenceEncoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(f"{refused} Or install sentence-transformers (the extra `st`), which may load it.") from None
    try:
        model: Any = SentenceTransformer(source, device="cpu").eval()
    except Exception as error:  # whatever the modules of the folder raise
        raise InputError(f"{source} is loaded neither here nor by sentence-transformers ({error}).") from None
    return cast("SentenceEncoder", model)


def weight_size(model: Encoder | SentenceEncoder) -> int:
    """Bytes of the parameters, as they are in memory, of what `Other.load` gives."""
    module: Any = model.model if isinstance(model, Encoder) else model
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
