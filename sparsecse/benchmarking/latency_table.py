"""What heads and neurons cost in time on this machine: a table measured with the runtime, and what it predicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsecse.encoders import Encoder, SparseCSEConfig, SparseCSEModel
from sparsecse.errors import InputError
from sparsecse.files import read_json, write_json
from sparsecse.runtime import Runtime

SENTENCES = 64
"""Sentences of one timed pass."""

LENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.8)
"""Their lengths, in turn, as parts of the average: a long tail to the right, as sentences have."""

_PARTS = (1 / 16, 1 / 4, 1 / 2, 3 / 4, 1)
_REPEATS = 7

Timer = Callable[[Runtime, Sequence[Sequence[int]]], float]
"""Embeds these token ids once and says how many seconds it took."""


@dataclass(frozen=True)
class LatencyTable:
    """Seconds that the parts of one layer add to a pass over the sentences; a cost model for `budgets`.

    heads, head_seconds: at some counts of heads, ascending from 0, the time of a layer's attention.
    neurons, neuron_seconds: at some counts of neurons, ascending from 0, the time of a layer's feed-forward part.
    rest_seconds: what a pass of the dense model takes beyond that: embeddings, LayerNorms, pooling.
    conditions: what was timed, for the record.
    """

    heads: tuple[int, ...]
    head_seconds: tuple[float, ...]
    neurons: tuple[int, ...]
    neuron_seconds: tuple[float, ...]
    rest_seconds: float
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def cost(self, layer_sizes: Sequence[tuple[int, int]]) -> float:
        """Seconds of layers with these (heads, neurons), linear between the measured counts."""
        heads, neurons = zip(*layer_sizes, strict=True) if layer_sizes else ((), ())
        attention = np.interp(heads, self.heads, self.head_seconds).sum()
        return float(attention + np.interp(neurons, self.neurons, self.neuron_seconds).sum())

    def save(self, path: Path) -> None:
        """Write the fields as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read what `save` wrote; another file raises `InputError`."""
        content = read_json(path)
        try:
            lists = {name: tuple(content[name]) for name in ("heads", "head_seconds", "neurons", "neuron_seconds")}
            return cls(**lists, rest_seconds=content["rest_seconds"], conditions=content["conditions"])
        except (KeyError, TypeError):
            raise InputError(
                f"{path} is no latency table of this version; delete {path.parent} and prune again."
            ) from None


def measure_latency(
    encoder: Encoder,
    *,
    average_length: int,
    precision: str = "float32",
    threads: int | None = None,
    repeats: int = _REPEATS,
    timer: Timer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Time encoders of this one's shape whose layers are all alike, at several counts of heads and of neurons.

    Their layers have random weights, which take as long as trained ones. One pass embeds `SENTENCES` sentences of
    `LENGTHS` times `average_length` tokens. In every repeat each encoder is timed once, and the least time of each
    counts: what else runs on the machine only ever adds. A layer's attention with h heads takes what the encoder with
    h heads takes beyond the one without any, divided by the layers; the same for neurons. As no time can fall when a
    head or neuron is added, a time above one of a larger count is lowered to it.

    Args:
        encoder: its layers' largest numbers of heads and neurons bound the table.
        timer: by default, the clock around `Runtime.encode_ids`.
        progress: called with the passes made so far and all that there will be.

    Raises:
        InputError: a precision that does not exist, or not on this machine.
    """
    timer = timer or _seconds
    sizes = encoder.model.config.layer_sizes()
    most_heads, most_neurons = (max((size[kind] for size in sizes), default=0) for kind in (0, 1))
    heads, neurons = _points(most_heads), _points(most_neurons)
    shapes = sorted({(count, most_neurons) for count in heads} | {(most_heads, count) for count in neurons})
    token_ids = _sentences(encoder, average_length)
    runtimes = {shape: Runtime(_alike(encoder, *shape), precision, threads) for shape in shapes}
    seconds: dict[tuple[int, int], float] = {}
    total, done = (repeats + 1) * len(shapes), 0
    for repeat in range(repeats + 1):
        for shape, runtime in runtimes.items():
            taken = timer(runtime, token_ids)
            if repeat:  # the first pass warms up
                seconds[shape] = min(taken, seconds.get(shape, taken))
            done += 1
            if progress is not None:
                progress(done, total)
    layers = max(len(sizes), 1)
    head_seconds = _rising([(seconds[count, most_neurons] - seconds[0, most_neurons]) / layers for count in heads])
    neuron_seconds = _rising([(seconds[most_heads, count] - seconds[most_heads, 0]) / layers for count in neurons])
    parts = layers * (head_seconds[-1] + neuron_seconds[-1])
    return LatencyTable(
        heads,
        head_seconds,
        neurons,
        neuron_seconds,
        max(seconds[most_heads, most_neurons] - parts, 0.0),
        {
            "precision": runtimes[shapes[-1]].precision,
            "threads": runtimes[shapes[-1]].threads,
            "layers": len(sizes),
            "sentences": len(token_ids),
            "tokens": sum(map(len, token_ids)),
            "repeats": repeats,
        },
    )


def _seconds(runtime: Runtime, token_ids: Sequence[Sequence[int]]) -> float:
    start = time.perf_counter()
    runtime.encode_ids(token_ids)
    return time.perf_counter() - start


def _points(most: int) -> tuple[int, ...]:
    """0, the smallest part, where the fixed costs show, and the larger ones up to all."""
    return tuple(sorted({0, *(max(1, round(part * most)) for part in _PARTS if most)}))


def _rising(values: Sequence[float]) -> tuple[float, ...]:
    lowered = np.minimum.accumulate(np.asarray(values)[::-1])[::-1]
    return tuple(float(value) for value in np.maximum(lowered, 0.0))


def _sentences(encoder: Encoder, average_length: int) -> list[list[int]]:
    config = encoder.model.config
    limit = encoder.settings.max_length
    lengths = [min(max(round(LENGTHS[i % len(LENGTHS)] * average_length), 1), limit) for i in range(SENTENCES)]
    # Any token takes as long as another, but some families do not count positions of padding.
    tokens = np.delete(np.arange(config.vocab_size), config.pad_token_id)
    random = np.random.default_rng(0)
    return [random.choice(tokens, length).tolist() for length in lengths]


def _alike(encoder: Encoder, heads: int, neurons: int) -> Encoder:
    """An encoder of the same shape with random layers that all have so many heads and neurons."""
    config = encoder.model.config
    values = config.to_dict()
    layers = config.num_hidden_layers
    # The embeddings are shared, so that as few as the configuration allows are made in their place.
    values |= {"vocab_size": config.pad_token_id + 1, "has_pooler": False}
    values["per_layer_config"] = {
        str(i): {"num_attention_heads": heads, "intermediate_size": neurons} for i in range(layers)
    }
    values["kept_heads"] = [list(range(heads))] * layers if config.relative_attention_num_buckets else None
    if config.key_value_heads is not None:  # those of the layer with the most of them
        values["key_value_heads"] = [max(config.key_value_heads, key=len)[:heads]] * layers
    with torch.random.fork_rng(devices=[]):
        model = SparseCSEModel(SparseCSEConfig(**values))
    model.embeddings = encoder.model.embeddings
    model.config.vocab_size = config.vocab_size
    model.to(device=encoder.device, dtype=encoder.model.dtype)  # type: ignore[call-arg]
    settings = replace(encoder.settings, pooling="mean")
    return Encoder(model, encoder.tokenizer, settings, encoder.source).eval()
