"""The figures of two evaluations by kind of task, and what has to be said with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsecse.reporting.facts import Kind, Plane, Row

RETRIEVAL = {"ndcg_at_10": "nDCG@10", "recall_at_100": "recall@100", "mrr_at_10": "MRR@10"}
RERANKING = {"map_at_1000": "MAP", "mrr_at_10": "MRR@10"}
"""The measures of these tasks: key -> name; the first is the one to judge by, and tells the kind."""


@dataclass(frozen=True)
class _Kind:
    """title, measure: as `Kind`; measures: key -> name, the first tells the kind; average: key of their mean."""

    title: str
    measure: str
    count: str
    measures: Mapping[str, str]
    average: str


_RETRIEVAL_KIND = _Kind("retrieval", "nDCG@10 x100, and others", "queries", RETRIEVAL, "retrieval_average")
_KINDS = (
    _Kind("similarity", "Spearman x100 over all pairs", "pairs", {"spearman": "Spearman"}, "average"),
    _RETRIEVAL_KIND,
    _Kind("reranking", "MAP x100, and others", "queries", RERANKING, "reranking_average"),
    _Kind(
        "classification",
        "accuracy in percent by SentEval's protocol",
        "examples",
        {"accuracy": "accuracy", "f1": "F1"},
        "transfer_average",
    ),
)
_OWN = {"classification": "accuracy 8 shot", "clustering": "V-measure"}

_HOW = {
    "similarity": "`sparsecse eval --tasks sts`, or a table of graded pairs of your own",
    "retrieval": "`sparsecse eval --tasks FOLDER` with a folder in BEIR's layout, or `--tasks demo`",
    "classification": "`sparsecse eval --tasks transfer --data-dir DIR`, or a table of labelled sentences of your own",
}


def quality(info: Mapping[str, Any], documents: str = "") -> tuple[Kind, ...]:
    """Every kind of task that was measured; info: of the stage `eval`.

    documents: the model that embedded the documents of the retrieval and reranking tasks, where that was another one.
    """
    dense, pruned = info["dense"], info["pruned"]
    kinds = [kind for spec in _KINDS if (kind := _kind(spec, dense, pruned, documents))]
    if "aligned" in info:
        spec = replace(_RETRIEVAL_KIND, title="retrieval in the dense index")
        kinds += filter(None, [_kind(spec, dense, info["aligned"], "the dense model")])
    for own, measure in _OWN.items():
        tasks = {name: task for name, task in dense["tasks"].items() if "measures" in task and task["kind"] == own}
        rows: list[Row] = []
        for name, task in tasks.items():
            for number, (key, before) in enumerate(task["measures"].items()):
                after = pruned["tasks"][name]["measures"][key]
                words = key.replace("_", " ")
                label = words if number else f"{name}, {words}"
                rows.append(Row(label, before, after, count="" if number else str(task["examples"]), minor=number > 0))
        if rows:
            average = _average(f"{own}, {measure}", f"{own}_average", dense, pruned)
            kinds.append(Kind(f"{own} of your own data", "in percent", tuple(rows), average))
    return tuple(kinds)


def _kind(spec: _Kind, dense: Mapping[str, Any], pruned: Mapping[str, Any], documents: str) -> Kind | None:
    main, name = next(iter(spec.measures.items()))
    rows: list[Row] = []
    for task, before in dense["tasks"].items():
        if main not in before:
            continue
        after = pruned["tasks"][task]
        for key, label in spec.measures.items():
            if key in before:
                minor = key != main
                count = "" if minor else str(before[spec.count])
                rows.append(Row(label if minor else task, before[key], after[key], count=count, minor=minor))
    if not rows:
        return None
    by = f"; documents by {documents}" if documents and spec.count == "queries" else ""
    average = _average(f"{spec.title}, {name}", spec.average, dense, pruned)
    return Kind(spec.title, spec.measure + by, tuple(rows), average)


def _average(name: str, key: str, dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> Row | None:
    return None if dense.get(key) is None else Row(name, dense[key], pruned[key])


def plane(dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> Plane | None:
    """Alignment and uniformity, where both models have them."""
    figures = [(one["alignment"], one["uniformity"]) for one in (dense, pruned)]
    if any(figure is None for pair in figures for figure in pair):
        return None
    return Plane(dense["align_uniform_task"], dense["positive_minimum"], *figures)


def not_measured(kinds: Sequence[Kind], agreement: bool) -> list[tuple[str, str]]:
    """What no figure tells, and how to measure it."""
    titles = " ".join(kind.title for kind in kinds)
    found = [(kind, how) for kind, how in _HOW.items() if kind not in titles]
    return found if agreement else [*found, ("agreement", "`sparsecse eval --agreement FILE` with any text")]


def agreement_rows(
    found: Mapping[str, Any], reference: str = "the dense model"
) -> list[tuple[str, float | None, float]]:
    """What each figure of an agreement is, the figure, and what models without relation have by chance.

    found: `Agreement.to_json()`.
    """
    count, chance = found["neighbour_count"], found["neighbours_by_chance"]
    return [
        ("cosine of a sentence's two vectors", found["cosine"], 0.0),
        ("Spearman of the similarities in a block", found["similarity_spearman"], 0.0),
        (f"{count} nearest neighbours shared", found["neighbours"], chance),
        (f"{count} nearest, looked for among the vectors of {reference}", found["neighbours_in_reference"], chance),
    ]
