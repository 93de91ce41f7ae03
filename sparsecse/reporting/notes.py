"""What a reader must know of a cut and of an evaluation, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def budget_line(info: Mapping[str, Any]) -> str:
    """What was asked and what was removed; empty where there was no budget. info: of the stage `prune`."""
    if "budget" not in info:
        return ""
    budget = info["budget"]
    asked = dict(budget["asked"])
    kind = asked.pop("of")
    names = {"sparsity": f"{kind} removed", "keep_heads": "heads kept", "keep_neurons": "neurons kept"}
    names |= {"head_sparsity": "heads removed", "neuron_sparsity": "neurons removed"}
    wanted = [f"{value if 'keep' in name else f'{value:.1%}'} {names[name]}" for name, value in asked.items()]
    removed = dict(budget["removed"])
    seconds = removed.pop("seconds_per_pass", None)
    parts = [f"{value:.1%} of {name}" for name, value in removed.items()]
    if seconds is not None and seconds[1] > 0:
        parts.append(f"predicted {seconds[0] / seconds[1]:.2f}x as fast")
    return f"Asked: {', '.join(wanted)}. Removed from the layers: {', '.join(parts)}."


def cut_notes(info: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a cut; info: of the stage `prune`."""
    notes = []
    if warning := info.get("auto", {}).get("warning"):
        notes.append(warning)
    if reason := info.get("reconstruction", {}).get("left_out"):
        notes.append(f"Nothing was reconstructed: {reason}")
    if warning := info.get("vocabulary", {}).get("warning"):
        notes.append(f"Warning: {warning}")
    return notes


def evaluation_notes(result: Mapping[str, Any]) -> list[str]:
    """One line for each task that was left out, and about each retrieval or reranking set: prompts, what was not used.

    result: `Evaluation.to_json()`.
    """
    notes = [f"Left out {task}: {reason}" for task, reason in result["missing"].items()]
    for task, values in result["tasks"].items():
        counts = {
            "documents without text": values.get("empty_documents"),
            "judged queries without text": values.get("unknown_queries"),
            "queries without candidates of both kinds": values.get("left_out_queries"),
            "candidates without text": values.get("missing_documents"),
        }
        prompts = {"queries": values.get("query_prompt"), "documents": values.get("document_prompt")}
        if used := [f"before {what} {text!r}" for what, text in prompts.items() if text]:
            notes.append(f"Prompts of {task}: {', '.join(used)}")
        if left_out := [f"{count} {what}" for what, count in counts.items() if count]:
            notes.append(f"Left out of {task}: {', '.join(left_out)}")
        if count := values.get("unknown_documents"):
            notes.append(f"{task}: {count} judgements name documents that are not in the corpus and cannot be found")
        if count := values.get("irrelevant_queries"):
            notes.append(f"{task}: {count} queries have no relevant document and count as 0")
    return notes
