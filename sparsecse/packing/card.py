"""The model card of a packed folder, in markdown: what it is, how to load it, what it gained and cost."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import metadata_load

from sparsecse.encoders import find_file

_LICENSE = ("license", "license_name", "license_link")


def source_license(source: str) -> dict[str, str]:
    """What the card of a model, a folder or a hub id, says of its licence.

    That is `license`, with `license_name` and `license_link` where it is an unusual one. Empty where there is no card,
    or none that can be read.
    """
    path = find_file(source, "README.md")
    try:
        metadata = metadata_load(path) if path is not None else None
    except Exception:  # a broken header fails in the YAML parser's many ways; nothing but the licence is lost
        metadata = None
    return {
        name: metadata[name] for name in _LICENSE if isinstance(metadata, dict) and isinstance(metadata.get(name), str)
    }


@dataclass(frozen=True)
class CardFacts:
    """What the card tells.

    base_model: name of the dense model, with its owner where it is a hub id.
    sizes, kept: for each layer its (heads, neurons) before and after; `kept` may have the layers that stay alone.
    parameters, dense_parameters: of the whole model, embeddings included.
    scores: {task: (dense, packed)} Spearman x100, empty where nothing was evaluated.
    accuracies: {task: (dense, packed)} accuracy in percent on transfer tasks.
    ndcgs: {task: (dense, packed)} nDCG@10 x100 on retrieval tasks.
    stages: {stage: its settings}, for the record.
    license: of the dense model, as `source_license` gives it.
    tokens: of the vocabulary, after and before; None where the whole one stays.
    values: of a sentence vector, kept and in all; None where all are.
    """

    base_model: str
    sizes: Sequence[Sequence[int]]
    kept: Sequence[Sequence[int]]
    parameters: int
    dense_parameters: int
    pooling: str
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    accuracies: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ndcgs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    license: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[int, int] | None = None
    values: tuple[int, int] | None = None

    @property
    def heads(self) -> tuple[int, int]:
        """Heads of all layers, after and before."""
        return sum(heads for heads, _ in self.kept), sum(heads for heads, _ in self.sizes)

    @property
    def neurons(self) -> tuple[int, int]:
        """Neurons of all layers, after and before."""
        return sum(neurons for _, neurons in self.kept), sum(neurons for _, neurons in self.sizes)

    def removed(self) -> str:
        """What left, in words: "19% of the heads and 20% of the neurons removed"; "nothing removed"."""
        counts = {"heads": self.heads, "neurons": self.neurons, "tokens": self.tokens or (1, 1)}
        # Less than half a percent is still something.
        parts = [
            f"{max(1, round(100 * (1 - after / before)))}% of the {name}"
            for name, (after, before) in counts.items()
            if after < before
        ]
        return (
            f"{', '.join(parts[:-1])}{' and ' if parts[1:] else ''}{parts[-1]} removed" if parts else "nothing removed"
        )


_WITH_CODE = """`trust_remote_code=True` runs `modeling_sparsecse.py` of this folder. After `import sparsecse` (the pip
package `sparsecse`) the flag is not needed. `transformers.AutoModel.from_pretrained` takes the folder in these two
ways, too."""
_WITHOUT_CODE = "It is a stock checkpoint: whatever loads the base model's family loads it, with no code of ours."


def _yaml(value: str) -> str:
    """A string as YAML: as it is where that is safe, else in quotes."""
    return value if re.fullmatch(r"[A-Za-z][\w./-]*", value) else json.dumps(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def model_card(facts: CardFacts, name: str, *, needs_code: bool = True) -> str:
    """The README.md of a packed folder called `name`; needs_code: whether it loads with our modelling file."""
    heads, neurons = facts.heads, facts.neurons
    if len(facts.kept) == len(facts.sizes):
        layers = [
            [i, f"{kept[0]} of {size[0]}", f"{kept[1]} of {size[1]}"]
            for i, (kept, size) in enumerate(zip(facts.kept, facts.sizes, strict=True))
        ]
    else:
        layers = [[i, str(kept[0]), str(kept[1])] for i, kept in enumerate(facts.kept)]
    header = {"base_model": facts.base_model, **facts.license}
    tokens = "" if facts.tokens is None else f"\n- {facts.tokens[0]:,} of {facts.tokens[1]:,} tokens"
    values = "" if facts.values is None else f"; the first {facts.values[0]} of {facts.values[1]} values are kept"
    sections = [
        f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
{chr(10).join(f"{key}: {_yaml(value)}" for key, value in header.items())}
tags:
- sentence-transformers
- sentence-similarity
- sparsecse
- pruning
---

# {facts.base_model.rpartition("/")[2]}, {facts.removed()}

A structurally pruned version of `{facts.base_model}`, made with sparsecse. Attention heads and feed-forward neurons
leave the weights in the order of what they contribute to alignment and uniformity (SparseCSE, arXiv 2311.03881).

- {heads[0]} of {heads[1]} heads, {neurons[0]} of {neurons[1]} neurons{tokens}
- {facts.parameters:,} of {facts.dense_parameters:,} parameters ({facts.parameters / facts.dense_parameters:.1%})
- pooling: {facts.pooling}{values}

## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}"{", trust_remote_code=True" if needs_code else ""})
embeddings = model.encode(["A sentence.", "Another one."])
```

{_WITH_CODE if needs_code else _WITHOUT_CODE}""",
    ]
    for title, what, results in (
        ("Scores", "Spearman x100 over all pairs of a task.", facts.scores),
        ("Transfer tasks", "Accuracy in percent of logistic regression, SentEval's protocol.", facts.accuracies),
        ("Retrieval", "nDCG@10 x100 of an exact search by cosine.", facts.ndcgs),
    ):
        if results:
            rows = [[t, f"{old:.2f}", f"{new:.2f}", f"{new - old:+.2f}"] for t, (old, new) in results.items()]
            sections.append(f"## {title}\n\n{what}\n\n" + _table(["task", "dense", "this model", "change"], rows))
    sections.append("## Layers\n\n" + _table(["layer", "heads", "neurons"], layers))
    if facts.stages:
        lines = [
            f"- {stage}: " + ", ".join(f"{k} {v}" for k, v in items.items()) for stage, items in facts.stages.items()
        ]
        versions = ", ".join(f"{package} {number}" for package, number in facts.versions.items())
        sections.append("## How it was made\n\n" + "\n".join(lines) + f"\n\nVersions: {versions}.")
    return "\n\n".join(sections) + "\n"
