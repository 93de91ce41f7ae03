"""ModernBERT in the native encoder, against transformers' own class in float64."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_checkpoint
from test_runtime import EXTENSION, LEVELS, distance, make_encoder, padded, random_ids
from transformers import AutoModel

from sparsecse.encoders import Encoder, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.kernels import dispatch
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.surgery import prune
from sparsecse.runtime import Runtime, native, native_forward

pytestmark = pytest.mark.skipif(EXTENSION is None, reason="the extension is not built")
# The instruction sets that have float32 of their own: those above compute it as avx512 does.
FLOAT_LEVELS = LEVELS[:3]
# Windows of 4 to either side, as in tests/conftest.py, unless they say otherwise.
SHAPES: list[dict[str, Any]] = [
    {},
    {"local_attention": 1, "hidden_size": 36, "num_attention_heads": 6, "intermediate_size": 33},
    {"local_attention": 7, "hidden_size": 40, "num_attention_heads": 2, "intermediate_size": 1},
    {"local_attention": 34, "hidden_size": 128, "num_attention_heads": 2, "layer_types": ["sliding_attention"] * 3},
    {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "hidden_activation": "silu"},
    {"hidden_activation": "gelu_pytorch_tanh", "num_hidden_layers": 1},
    {"hidden_activation": "relu", "num_hidden_layers": 2, "local_attention": 500},
]


def exact_states(folder: Path, encoder: Encoder, token_ids: list[list[int]]) -> list[np.ndarray]:
    """The token vectors of transformers' own class, in float64."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    ids, mask = encoder.collate(token_ids)
    with torch.inference_mode():
        states = model(ids, attention_mask=mask).last_hidden_state
    return [state[real == 1].numpy() for state, real in zip(states, mask, strict=True)]


def far(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """The largest difference of two token vectors, by the length of the exact one."""
    lengths = [np.linalg.norm(x - y, axis=1) / np.linalg.norm(y, axis=1) for x, y in zip(found, exact, strict=True)]
    return float(np.concatenate(lengths).max())


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_equals_transformers(sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "modernbert", **{"max_position_embeddings": 150, **sizes})
    encoder = load_encoder(tmp_path, pooling="mean", normalize=False)
    token_ids = random_ids(encoder, [1, 5, 10, 70, 33, 149, 16])
    exact = exact_states(tmp_path, encoder, token_ids)
    means = np.stack([states.mean(axis=0) for states in exact])
    for level, threads in itertools.product(FLOAT_LEVELS, (1, 2)):
        monkeypatch.setenv("SPARSECSE_CPU", level)
        runtime = Runtime(encoder, "float32", threads=threads)
        assert far(runtime.hidden_states(token_ids), exact) < 1e-5
        assert far([runtime.encode_ids(token_ids)], [means]) < 1e-5
    with pytest.raises(InputError, match="a sentence has more tokens than there are positions"):
        runtime.encode_ids([[5] * 151])


def test_long_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = {"max_position_embeddings": 1700, "local_attention": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    encoder = load_encoder(write_checkpoint(tmp_path, "modernbert", **sizes), pooling="mean", normalize=False)
    token_ids = random_ids(encoder, [1601])
    exact = exact_states(tmp_path, encoder, token_ids)
    for level in FLOAT_LEVELS:
        monkeypatch.setenv("SPARSECSE_CPU", level)
        assert far(Runtime(encoder, "float32", threads=2).hidden_states(token_ids), exact) < 1e-5


def pruned(encoder: Encoder) -> Encoder:
    """Without heads here and there, all of one layer's heads, and all of another one's neurons."""
    heads = [[True, False, True, True], [False] * 4, [False, False, False, True], [True, False, True, False]]
    neurons = [[True] * 24, [True] * 7 + [False] * 17, [False] * 24, [False, True] * 12]
    return prune(encoder, Mask(tuple(map(torch.tensor, heads)), tuple(map(torch.tensor, neurons))))


def test_packed_folders(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "dense", "modernbert", num_hidden_layers=4)
    smaller = pruned(load_encoder(tmp_path / "dense", pooling="mean", normalize=True))
    (tmp_path / "packed").mkdir()
    save_encoder(smaller, tmp_path / "packed")
    token_ids = random_ids(smaller, [3, 40, 1, 12, 47])
    expected = padded(smaller, token_ids)
    assert distance(Runtime(tmp_path / "packed", "float32").encode_ids(token_ids), expected) < 1e-5
    model = AutoModel.from_pretrained(tmp_path / "packed").eval()
    ids, mask = smaller.collate(token_ids)
    with torch.inference_mode():
        states = model(ids, attention_mask=mask).last_hidden_state * mask[..., None]
    assert model in native_forward._packed
    means = torch.nn.functional.normalize(states.sum(1) / mask.sum(1, keepdim=True), dim=-1)
    assert distance(means.numpy(), expected) < 1e-5


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_norms_before_every_half(layers: int) -> None:
    # As ModernBERT has become whose first layer left, and as those of which none is left.
    encoder = make_encoder(
        "first_last_avg" if layers else "mean",
        num_hidden_layers=layers,
        norm_first=True,
        gated=True,
        rotary_bases=[100.0] * layers,
        attention_windows=[None, 3, 2][:layers],
        type_vocab_size=0,
    )
    token_ids = random_ids(encoder, [5, 1, 30, 79])
    assert distance(Runtime(encoder, "float32").encode_ids(token_ids), padded(encoder, token_ids)) < 1e-5


def test_other_precisions_are_pytorchs(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(checkpoints["modernbert"], pooling="mean", normalize=True)
    # On a processor that has them all.
    everywhere = SimpleNamespace(computes_in=lambda precision, level: True)
    monkeypatch.setattr(dispatch, "native_extension", lambda: everywhere)
    monkeypatch.setattr(dispatch, "cpu_level", lambda: 0)
    assert not native.computes_in("bfloat16", encoder.model.config) and native.computes_in("bfloat16")
    for precision in ("bfloat16", "int8"):
        with pytest.raises(InputError, match=f"`precision` {precision} has no native version for modernbert layers"):
            Runtime(encoder, precision)
