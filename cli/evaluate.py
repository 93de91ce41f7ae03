"""`sparsecse eval`: tasks of every kind, own labelled data, agreement with another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, named_model, note_prompts, session, set_threads
from sparsecse.errors import InputError
from sparsecse.scoring.settings import Objective
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.workdir import Workdir

if TYPE_CHECKING:
    from rich.table import Table

    from sparsecse.evaluation import Tasks

Precision = Annotated[
    str,
    typer.Option("--precision", help="float32, bfloat16, int8 (CPU), float16 (GPU), or auto: the fastest good one."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, or cuda, cuda:0, ... for a GPU.")]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="Shuffles the folds of the transfer tasks and draws the sentences of --agreement; SentEval's is 1111.",
    ),
]
AgreementData = Annotated[
    str | None,
    typer.Option(
        "--agreement",
        help="Sentences without labels on which the model is compared with the dense one (or --reference): text (also "
        ".gz), a table with the column sentence, a pair set, demo.",
        rich_help_panel="data",
    ),
]
AgreementLimit = Annotated[
    int, typer.Option("--agreement-limit", help="Of more sentences that many are drawn.", rich_help_panel="data")
]
Reference = Annotated[
    str | None,
    typer.Option("--reference", help="Model that MODEL is compared with; loaded with the same options."),
]
_RETRIEVAL = "retrieval"
Documents = Annotated[
    str | None,
    typer.Option(
        "--documents",
        help="Model that embeds the documents, with vectors of the same size: folder, hub id, run directory, `demo`, "
        "or `dense` for that of the run directory.",
        rich_help_panel=_RETRIEVAL,
    ),
]
QueryPrompt = Annotated[
    str | None,
    typer.Option(
        "--query-prompt",
        help='Text put before every query, "" for none; by default the prompt `query` of the model.',
        rich_help_panel=_RETRIEVAL,
    ),
]
DocumentPrompt = Annotated[
    str | None,
    typer.Option(
        "--document-prompt",
        help="Text put before every document; by default the prompt `document`, `passage` or `corpus` of the model.",
        rich_help_panel=_RETRIEVAL,
    ),
]

MtebDir = Annotated[
    Path | None,
    typer.Option(
        "--mteb-dir",
        help="Folder in which the results are also written as MTEB writes its own: MODEL/REVISION/TASK.json.",
        rich_help_panel="run directory and output",
    ),
]


@takes(
    reading=Only(DataOptions(), ("data_dir",)),
    objective=Only(Objective(), ("positive_minimum",)),
    loading=ModelOptions(),
)
def evaluate(
    model: options.Model = "",
    tasks: options.Tasks = "sts",
    *,
    reading: DataOptions,
    objective: Objective,
    batch_size: options.BatchSize = 64,
    documents: Documents = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    aligned: options.Aligned = False,
    loading: ModelOptions,
    precision: Precision = "float32",
    seed: Seed = 1111,
    agreement: AgreementData = None,
    agreement_limit: AgreementLimit = 4000,
    reference: Reference = None,
    mteb_dir: MtebDir = None,
    device: Device = "cpu",
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Evaluate a model by SimCSE's protocol; without MODEL the dense and the newest model of the run directory.

    Transfer tasks (mr, cr, subj, mpqa, sst2, trec, mrpc) train logistic regression on the vectors and need a SentEval
    folder and scikit-learn (the extra `transfer`). A folder in BEIR's layout (corpus.jsonl, queries.jsonl,
    qrels/test.tsv) is a retrieval task, a table of query, positive, negative (lists of texts) a reranking task. With
    --agreement the model is also compared with the dense one on sentences without labels; `--tasks none` leaves it at
    that.
    """
    from sparsecse import stages
    from sparsecse.cli.tables import agreement_table, aligned_tables, evaluation_tables
    from sparsecse.evaluation import AgreementText, model_agreement
    from sparsecse.evaluation import evaluate as measure
    from sparsecse.packing.folder import model_name
    from sparsecse.reporting.notes import evaluation_notes
    from sparsecse.runtime import Runtime

    _check(model, tasks, agreement, reference, aligned)
    set_threads(threads)
    more: list[Table] = []
    found = _mteb_tasks(tasks, reading.data_dir, documents) if mteb_dir else None
    text = None
    if agreement:
        text = AgreementText.load(agreement, limit=agreement_limit, seed=seed, data_dir=reading.data_dir)
    if model:
        chosen = named_model(Workdir(workdir), model, loading)
        note_prompts(chosen, besides=_RETRIEVAL)
        encoder = Runtime(chosen.load(), precision, device=device)
        if mteb_dir and found:
            stages.check_mteb(mteb_dir, stages.mteb_model(model, encoder.encoder, precision), found)
        index = _documents_model(Workdir(workdir), documents, loading.truncate_dim)
        result = measure(
            encoder,
            tasks if found is None else found,
            data_dir=reading.data_dir,
            positive_minimum=objective.positive_minimum,
            batch_size=batch_size,
            seed=seed,
            documents=None if index is None else Runtime(index.load(), precision, device=device),
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            progress=progress("Evaluating"),
        ).to_json()
        results = {"model": result}
        data = result
        if mteb_dir and found:
            written = stages.write_mteb(mteb_dir, model, encoder.encoder, precision, result, found)
            note(f"Wrote MTEB's files in {written}")
        if text and reference:
            other = named_model(Workdir(workdir), reference, loading)
            note_prompts(other)
            compared = model_agreement(
                encoder,
                Runtime(other.load(), precision, device=device),
                text.sentences,
                batch_size=batch_size,
                progress=progress("Comparing"),
            )
            data["agreement"] = {**compared.to_json(), "data": text.source, "reference": reference}
    else:
        with session(workdir) as run:
            run.newest_model()  # says what to run where there is none
            note_prompts(stages.dense_options(run), besides=_RETRIEVAL)
            asked = stages.EvaluationSettings(
                tasks,
                data_dir=reading.data_dir,
                positive_minimum=objective.positive_minimum,
                batch_size=batch_size,
                precision=precision,
                seed=seed,
                device=device,
                documents=_documents_model(run, documents, loading.truncate_dim),
                query_prompt=query_prompt,
                document_prompt=document_prompt,
                truncate_dim=loading.truncate_dim,
            )
            record, _ = stages.evaluate_run(run, asked, agreement_text=text, aligned=aligned, progress=progress)
            if mteb_dir and found:
                source = stages.dense_options(run).name
                for name, loaded, label in (
                    (source, stages.load_dense(run), "dense"),
                    (f"{model_name(source)}-pruned", stages.load_model(run, record.info["stage"]), "pruned"),
                ):
                    if loading.truncate_dim is not None:
                        loaded = loaded.truncated(loading.truncate_dim)
                    written = stages.write_mteb(mteb_dir, name, loaded, precision, record.info[label], found)
                    note(f"Wrote MTEB's files in {written}")
        results = {"dense": record.info["dense"], record.info["stage"]: record.info["pruned"]}
        data = {**record.info["pruned"], "stage": record.info["stage"], "dense": record.info["dense"]}
        if text:
            data["agreement"] = record.info["agreement"]
        if aligned:
            data["aligned"] = record.info["aligned"]
            more = aligned_tables(record.info)
    for line in evaluation_notes(next(iter(results.values()))):
        note(line)
    if documents:
        data = {**data, "documents": documents}
    compared_tables = [agreement_table(data["agreement"], reference or "the dense model")] if text else []
    show(json, data, *evaluation_tables(results, documents or ""), *more, *compared_tables)


def _check(model: str, tasks: str, agreement: str | None, reference: str | None, aligned: bool) -> None:
    """Refuse options that do not go together."""
    from sparsecse.evaluation.tasks import NO_TASKS

    if model and aligned:
        raise InputError("`aligned` compares the models of a run directory; leave MODEL out, or give `documents`.")
    if model and agreement and not reference:
        raise InputError(
            "`agreement` compares a named model with another; give that one as `reference`, or leave MODEL out to "
            "compare the newest model of the run directory with its dense one."
        )
    if reference and not model:
        raise InputError("`reference` is for a named MODEL; a run directory's model is compared with its dense one.")
    if reference and not agreement:
        raise InputError("`reference` needs sentences to compare on; give them as `agreement`.")
    if tasks == NO_TASKS and not agreement:
        raise InputError(f"Nothing is measured with `tasks` {NO_TASKS}; name tasks, or give sentences as `agreement`.")


def _mteb_tasks(tasks: str, data_dir: str | None, documents: str | None) -> Tasks:
    """The data of the tasks, once it is clear that MTEB's files can be written."""
    from sparsecse.evaluation import load_tasks
    from sparsecse.evaluation.mteb import task_names

    if documents:
        raise InputError("`mteb_dir` gets the results of one model, and `documents` is another; leave one of them out.")
    found = load_tasks(tasks, data_dir=data_dir)
    task_names(found)
    return found


def _documents_model(run: Workdir, name: str | None, truncate_dim: int | None) -> ModelOptions | None:
    """The model of --documents, of the width of the other.

    `dense` is that of the run directory, unless there is a folder of this name.
    """
    if not name:
        return None
    if name == "dense" and not Path(name).exists():
        from sparsecse.stages import dense_options

        own = dense_options(run)
        return own if truncate_dim is None else replace(own, truncate_dim=truncate_dim)
    return named_model(run, name, ModelOptions(truncate_dim=truncate_dim))
