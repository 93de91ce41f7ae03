"""Stage `eval`: the dense and the newest pruned model of a run directory on the same tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecse.encoders import Encoder, fingerprint
from sparsecse.errors import InputError
from sparsecse.evaluation import AgreementText, Tasks, agreement, evaluate, load_tasks
from sparsecse.evaluation.agreement import embed_text
from sparsecse.evaluation.retrieval import retrieval
from sparsecse.evaluation.transfer import SEED
from sparsecse.files import write_json
from sparsecse.progress import Progress, silent
from sparsecse.runtime import Runtime
from sparsecse.sources import ModelOptions
from sparsecse.stages.models import dense_hash, load_dense, load_model, load_named, model_input
from sparsecse.workdir import Record, Workdir


def check_aligned(tasks: Tasks, aligned: bool, documents: ModelOptions | None = None) -> None:
    """Refuse `aligned` without a retrieval task, and beside other `documents`."""
    if aligned and (documents is not None or not tasks.retrieval):
        raise InputError(
            "`aligned` takes a retrieval task among `tasks`, and no `documents`: these are the dense model's."
        )


def evaluate_run(
    workdir: Workdir,
    tasks: str,
    *,
    data_dir: str | None = None,
    positive_minimum: float = 4.0,
    batch_size: int = 64,
    precision: str = "float32",
    seed: int = SEED,
    device: str = "cpu",
    documents: ModelOptions | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    agreement_text: AgreementText | None = None,
    aligned: bool = False,
    truncate_dim: int | None = None,
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Evaluate both models; the record's info holds `dense` and `pruned`, each as `Evaluation.to_json` gives it.

    precision, device: what `Runtime` computes in, and on.
    seed: shuffles the folds of the transfer tasks.
    documents: the model that embeds the documents of the retrieval tasks for both; by default each embeds its own.
    query_prompt, document_prompt: see `evaluate`.
    agreement_text: sentences on which the newest model is compared with the dense one; the record's info then holds
        `agreement`, as `Agreement.to_json` gives it, with the `data` they are from.
    aligned: also search the dense model's vectors of the documents with the newest model's queries, as in an index that
        is not made anew; the record's info then holds `aligned`: the retrieval tasks as `RetrievalResult.to_json` gives
        them, and `retrieval_average`.
    truncate_dim: values kept of both models' vectors; by default as many as each keeps.

    Raises:
        InputError: `aligned` without a retrieval task, or with `documents`; a `truncate_dim` out of range.
    """
    stage, _ = workdir.newest_model()
    found = load_tasks(tasks, data_dir=data_dir)
    check_aligned(found, aligned, documents)
    inputs = {
        "model": dense_hash(workdir),
        **model_input(workdir, stage),
        "data": found.fingerprint(),
        **({"agreement": agreement_text.fingerprint()} if agreement_text else {}),
    }
    prompts = {"query_prompt": query_prompt, "document_prompt": document_prompt}
    settings: dict[str, Any] = {
        "tasks": tasks,
        "positive_minimum": positive_minimum,
        "precision": precision,
        "device": device,
        **({"seed": seed} if found.transfer else {}),
        **({"agreement": agreement_text.source} if agreement_text else {}),
        **({"aligned": True} if aligned else {}),
        **{name: given for name, given in {**prompts, "truncate_dim": truncate_dim}.items() if given is not None},
    }
    index: Encoder | None = None
    if documents is not None:
        index = load_named(documents)
        inputs["documents"] = fingerprint(index)
        settings["documents"] = documents.settings()

    def work(folder: Path) -> Mapping[str, Any]:
        results: dict[str, Any] = {}
        vectors = []
        models: dict[str, Runtime] = {}
        indexer = None if index is None else Runtime(index, precision, device=device)
        for label, load in (
            ("dense", lambda: load_dense(workdir)),
            ("pruned", lambda: load_model(workdir, stage)),
        ):
            encoder = Runtime(load(), precision, device=device, truncate_dim=truncate_dim)
            if aligned:  # else the dense model need not stay in memory
                models[label] = encoder
            results[label] = evaluate(
                encoder,
                found,
                positive_minimum=positive_minimum,
                batch_size=batch_size,
                seed=seed,
                documents=indexer,
                **prompts,
                progress=progress(f"Evaluating the {label} model"),
            ).to_json()
            if agreement_text:
                report = progress(f"Comparing: the {label} model")
                vectors.append(embed_text(encoder, agreement_text, batch_size, report))
        if agreement_text:
            dense, pruned = vectors
            results["agreement"] = {**agreement(pruned, dense).to_json(), "data": agreement_text.source}
        if aligned:
            both = models["pruned"], models["dense"]
            searched = {
                name: retrieval(task, *both, query_prompt=query_prompt, document_prompt=document_prompt)
                for name, task in found.retrieval.items()
            }
            results["aligned"] = {
                "tasks": {name: task.to_json() for name, task in searched.items()},
                "retrieval_average": sum(task.ndcg_at_10 for task in searched.values()) / len(searched),
            }
        write_json(folder / "results.json", results)
        return {"stage": stage, **results}

    return workdir.run_stage("eval", inputs, settings, work)
