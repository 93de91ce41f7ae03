"""The model card of a packed folder, in markdown: what it is, how to load it, what it gained and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CardFacts:
    """What the card tells.

    base_model: name of the dense model; sizes, kept: for each layer its (heads, neurons) before and after.
    parameters, dense_parameters: of the whole model, embeddings included.
    scores: {task: (dense, packed)} Spearman x100, empty where nothing was evaluated.
    accuracies: {task: (dense, packed)} accuracy in percent on transfer tasks.
    stages: {stage: its settings}, for the record.
    """

    base_model: str
    sizes: Sequence[Sequence[int]]
    kept: Sequence[Sequence[int]]
    parameters: int
    dense_parameters: int
    pooling: str
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    accuracies: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


_WITH_CODE = """`trust_remote_code=True` runs `modeling_sparsecse.py` of this folder. After `import sparsecse` (the pip
package `sparsecse`) the flag is not needed. `transformers.AutoModel.from_pretrained` takes the folder in these two
ways, too."""
_WITHOUT_CODE = "It is a stock checkpoint: whatever loads the base model's family loads it, with no code of ours."


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def model_card(facts: CardFacts, name: str, *, needs_code: bool = True) -> str:
    """The README.md of a packed folder called `name`; needs_code: whether it loads with our modelling file."""
    heads = sum(heads for heads, _ in facts.kept), sum(heads for heads, _ in facts.sizes)
    neurons = sum(neurons for _, neurons in facts.kept), sum(neurons for _, neurons in facts.sizes)
    layers = [
        [i, f"{kept[0]} of {size[0]}", f"{kept[1]} of {size[1]}"]
        for i, (kept, size) in enumerate(zip(facts.kept, facts.sizes, strict=True))
    ]
    sections = [
        f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- sparsecse
- pruning
---

# {name}

A structurally pruned version of `{facts.base_model}`, made with sparsecse: the attention heads and feed-forward neurons
that contributed least to alignment and uniformity (SparseCSE, arXiv 2311.03881) have been removed from the weights.

- {heads[0]} of {heads[1]} heads, {neurons[0]} of {neurons[1]} neurons
- {facts.parameters:,} of {facts.dense_parameters:,} parameters ({facts.parameters / facts.dense_parameters:.1%})
- pooling: {facts.pooling}

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
