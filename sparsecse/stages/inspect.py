"""What a model folder or a run directory holds, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.files import weight_bytes
from sparsecse.packing import count_parameters
from sparsecse.sources import ModelOptions
from sparsecse.stages.options import resolve_model
from sparsecse.workdir import STAGES, Workdir


def inspect_model(options: ModelOptions) -> dict[str, Any]:
    """Family, sizes, pooling and bytes of a model; its pooling may be unknown, everything else must be readable."""
    source = resolve_model(options.name)
    # Sizes do not depend on the pooling, so a folder that does not name one can still be looked at.
    known = options.pooling is not None or (Path(source) / "modules.json").exists()
    pooling = options.pooling if known else "mean"
    encoder = load_encoder(source, pooling=pooling, max_length=options.max_length, truncate_dim=options.truncate_dim)
    config, settings = encoder.model.config, encoder.settings
    folder = Path(source)
    return {
        "model": source,
        "family": config.original_model_type,
        "pruned": config.model_type == "sparsecse" and (folder / "modeling_sparsecse.py").exists(),
        "hidden_size": config.hidden_size,
        "dimension": encoder.dimension,
        "truncate_dim": settings.truncate_dim,
        "attention_head_size": config.attention_head_size,
        "vocab_size": config.vocab_size,
        "layers": [{"heads": heads, "neurons": neurons} for heads, neurons in config.layer_sizes()],
        "parameters": count_parameters(encoder),
        "embedding_parameters": count_parameters(encoder.model.embeddings),
        "bytes_on_disk": weight_bytes(folder),
        "pooling": settings.pooling if known else None,
        "normalize": settings.normalize,
        "max_length": settings.max_length,
        "prompts": dict(settings.prompts),
        "default_prompt": settings.default_prompt,
    }


def inspect_run(workdir: Workdir) -> dict[str, Any]:
    """Each finished stage with its settings, results, age and whether it still follows from the ones before it."""
    if not Workdir.is_one(workdir.path):
        raise InputError(f"{workdir.path} is no run directory; give one, or a model, or run `sparsecse score` first.")
    stages: dict[str, Any] = {}
    for stage in STAGES:
        record = workdir.record(stage)
        if record is not None:
            stages[stage] = {
                "created": record.created,
                "seconds": record.seconds,
                "settings": dict(record.settings),
                "info": dict(record.info),
                "intact": not workdir.changed(stage),
                "stale": workdir.stale(stage),
            }
    return {"workdir": str(workdir.path), "stages": stages}
