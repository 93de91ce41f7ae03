"""Stage `eval`: the dense and the newest pruned model of a run directory on the same tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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

RESULTS_FILE = "results.json"


def check_aligned(tasks: Tasks, aligned: bool, documents: ModelOptions | None = None) -> None:
    """Refuse `aligned` without a retrieval task, and beside other `documents`."""
    if aligned and (documents is not None or not tasks.retrieval):
        raise InputError(
            "`aligned` takes a retrieval task among `tasks`, and no `documents`: these are the dense model's."
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """How both models of a run directory are evaluated.

    precision, device: what `Runtime` computes in, and on.
    seed: shuffles the folds of the transfer tasks.
    documents: the model that embeds the documents of the retrieval tasks for both; by default each embeds its own.
    query_prompt, document_prompt: see `evaluate`.
    truncate_dim: values kept of both models' vectors; by default as many as each keeps.
    """

    tasks: str
    data_dir: str | None = None
    positive_minimum: float = 4.0
    batch_size: int = 64
    precision: str = "float32"
    seed: int = SEED
    device: str = "cpu"
    documents: ModelOptions | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    truncate_dim: int | None = None

    @property
    def prompts(self) -> dict[str, Any]:
        return {"query_prompt": self.query_prompt, "document_prompt": self.document_prompt}

    def load(self) -> Tasks:
        return load_tasks(self.tasks, data_dir=self.data_dir)

    def index(self) -> Encoder | None:
        """The encoder of `documents`."""
        return None if self.documents is None else load_named(self.documents)

    def recorded(self, found: Tasks) -> dict[str, Any]:
        """What a record names of them; found: the tasks."""
        given = {**self.prompts, "truncate_dim": self.truncate_dim}
        return {
            "tasks": self.tasks,
            "positive_minimum": self.positive_minimum,
            "precision": self.precision,
            "device": self.device,
            **({"seed": self.seed} if found.transfer else {}),
            **({"documents": self.documents.settings()} if self.documents else {}),
            **{name: value for name, value in given.items() if value is not None},
        }

    def runtime(self, encoder: Encoder) -> Runtime:
        return Runtime(encoder, self.precision, device=self.device, truncate_dim=self.truncate_dim)

    def measure(
        self, runtime: Runtime, found: Tasks, index: Encoder | None, report: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """A model's figures, as `Evaluation.to_json` gives them; index: the encoder of `documents`."""
        return evaluate(
            runtime,
            found,
            positive_minimum=self.positive_minimum,
            batch_size=self.batch_size,
            seed=self.seed,
            documents=None if index is None else Runtime(index, self.precision, device=self.device),
            **self.prompts,
            progress=report,
        ).to_json()


def evaluate_dense(
    workdir: Workdir,
    asked: EvaluationSettings,
    model: ModelOptions | None = None,
    *,
    found: Tasks | None = None,
    index: Encoder | None = None,
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Evaluate the dense model alone; the record's info is as `Evaluation.to_json` gives it.

    `evaluate_run` takes these figures, so that they are measured once, whatever is pruned.

    Args:
        model: by default that of the run directory.
        found: the tasks, and index: the encoder of `documents`, where they are loaded.
    """
    found = found or asked.load()
    named = None if model is None else load_named(model)
    inputs = {
        "model": dense_hash(workdir) if named is None else fingerprint(named),
        "data": found.fingerprint(),
    }
    index = index or asked.index()
    if index is not None:
        inputs["documents"] = fingerprint(index)

    def work(folder: Path) -> Mapping[str, Any]:
        runtime = asked.runtime(named or load_dense(workdir))
        results = asked.measure(runtime, found, index, progress("Evaluating the dense model"))
        write_json(folder / RESULTS_FILE, results)
        return results

    return workdir.run_stage("eval-dense", inputs, asked.recorded(found), work)


def evaluate_run(
    workdir: Workdir,
    asked: EvaluationSettings,
    *,
    agreement_text: AgreementText | None = None,
    aligned: bool = False,
    progress: Progress = silent,
) -> tuple[Record, bool]:
    """Evaluate both models; the record's info holds `dense` and `pruned`, each as `Evaluation.to_json` gives it.

    agreement_text: sentences on which the newest model is compared with the dense one; the record's info then holds
        `agreement`, as `Agreement.to_json` gives it, with the `data` they are from.
    aligned: also search the dense model's vectors of the documents with the newest model's queries, as in an index that
        is not made anew; the record's info then holds `aligned`: the retrieval tasks as `RetrievalResult.to_json` gives
        them, and `retrieval_average`.

    Raises:
        InputError: `aligned` without a retrieval task, or with `documents`; a `truncate_dim` out of range.
    """
    stage, _ = workdir.newest_model()
    workdir.check(stage)  # before the dense model is measured
    found = asked.load()
    check_aligned(found, aligned, asked.documents)
    index = asked.index()
    dense = evaluate_dense(workdir, asked, found=found, index=index, progress=progress)[0]
    inputs = {
        **dense.inputs,
        **model_input(workdir, stage),
        **({"agreement": agreement_text.fingerprint()} if agreement_text else {}),
    }
    settings = {
        **asked.recorded(found),
        **({"agreement": agreement_text.source} if agreement_text else {}),
        **({"aligned": True} if aligned else {}),
    }

    def work(folder: Path) -> Mapping[str, Any]:
        embedded: list[torch.Tensor] = []
        kept = asked.runtime(load_dense(workdir)) if agreement_text or aligned else None
        if agreement_text and kept is not None:
            embedded.append(embed_text(kept, agreement_text, asked.batch_size, progress("Comparing: the dense model")))
        if not aligned:  # else its vectors of the documents are searched
            kept = None
        pruned = asked.runtime(load_model(workdir, stage))
        measured = asked.measure(pruned, found, index, progress("Evaluating the pruned model"))
        results: dict[str, Any] = {"dense": dict(dense.info), "pruned": measured}
        if agreement_text:
            report = progress("Comparing: the pruned model")
            embedded.append(embed_text(pruned, agreement_text, asked.batch_size, report))
            results["agreement"] = {**agreement(embedded[1], embedded[0]).to_json(), "data": agreement_text.source}
        if kept is not None:
            searched = {name: retrieval(task, pruned, kept, **asked.prompts) for name, task in found.retrieval.items()}
            results["aligned"] = {
                "tasks": {name: task.to_json() for name, task in searched.items()},
                "retrieval_average": sum(task.ndcg_at_10 for task in searched.values()) / len(searched),
            }
        write_json(folder / RESULTS_FILE, results)
        return {"stage": stage, **results}

    return workdir.run_stage("eval", inputs, settings, work)
