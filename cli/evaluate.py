"""`sparsecse eval`: similarity tasks with alignment and uniformity, transfer tasks, retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, named_model, note_prompts, session, set_threads
from sparsecse.scoring.settings import Objective
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.workdir import Workdir

Precision = Annotated[
    str,
    typer.Option("--precision", help="float32, bfloat16, int8 (CPU), float16 (GPU), or auto: the fastest good one."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, or cuda, cuda:0, ... for a GPU.")]
FoldSeed = Annotated[
    int, typer.Option("--seed", min=0, help="Shuffles the folds of the transfer tasks; SentEval's is 1111.")
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
    loading: ModelOptions,
    precision: Precision = "float32",
    seed: FoldSeed = 1111,
    device: Device = "cpu",
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Evaluate a model by SimCSE's protocol; without MODEL the dense and the newest model of the run directory.

    Transfer tasks (mr, cr, subj, mpqa, sst2, trec, mrpc) train logistic regression on the vectors and need a SentEval
    folder and scikit-learn (the extra `transfer`). A folder in BEIR's layout (corpus.jsonl, queries.jsonl,
    qrels/test.tsv) is a retrieval task.
    """
    from sparsecse import stages
    from sparsecse.cli.tables import evaluation_notes, evaluation_tables
    from sparsecse.evaluation import evaluate as measure
    from sparsecse.runtime import Runtime

    if model:
        set_threads(threads)
        chosen = named_model(Workdir(workdir), model, loading)
        note_prompts(chosen, besides=_RETRIEVAL)
        runtime = Runtime(chosen.load(), precision, device=device)
        index = _documents_model(Workdir(workdir), documents)
        result = measure(
            runtime,
            tasks,
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
    else:
        with session(workdir, threads) as run:
            run.newest_model()  # says what to run where there is none
            note_prompts(stages.dense_options(run), besides=_RETRIEVAL)
            record, _ = stages.evaluate_run(
                run,
                tasks,
                data_dir=reading.data_dir,
                positive_minimum=objective.positive_minimum,
                batch_size=batch_size,
                precision=precision,
                seed=seed,
                device=device,
                documents=_documents_model(run, documents),
                query_prompt=query_prompt,
                document_prompt=document_prompt,
                progress=progress,
            )
        results = {"dense": record.info["dense"], record.info["stage"]: record.info["pruned"]}
        data = {**record.info["pruned"], "stage": record.info["stage"], "dense": record.info["dense"]}
    for line in evaluation_notes(next(iter(results.values()))):
        note(line)
    if documents:
        data = {**data, "documents": documents}
    show(json, data, *evaluation_tables(results, documents or ""))


def _documents_model(run: Workdir, name: str | None) -> ModelOptions | None:
    """The model of --documents; `dense` is that of the run directory, unless there is a folder of this name."""
    if not name:
        return None
    if name == "dense" and not Path(name).exists():
        from sparsecse.stages import dense_options

        return dense_options(run)
    return named_model(run, name, ModelOptions())
