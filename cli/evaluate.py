"""`sparsecse eval`: Spearman on the similarity tasks, alignment and uniformity, accuracy on the transfer tasks."""

from __future__ import annotations

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
    folder and scikit-learn (the extra `transfer`).
    """
    from sparsecse import stages
    from sparsecse.cli.tables import evaluation_tables
    from sparsecse.evaluation import evaluate as measure
    from sparsecse.runtime import Runtime

    if model:
        set_threads(threads)
        chosen = named_model(Workdir(workdir), model, loading)
        note_prompts(chosen)
        encoder = chosen.load()
        result = measure(
            Runtime(encoder, precision, device=device),
            tasks,
            data_dir=reading.data_dir,
            positive_minimum=objective.positive_minimum,
            batch_size=batch_size,
            seed=seed,
            progress=progress("Evaluating"),
        ).to_json()
        results = {"model": result}
        data = result
    else:
        with session(workdir, threads) as run:
            run.newest_model()  # says what to run where there is none
            note_prompts(stages.dense_options(run))
            record, _ = stages.evaluate_run(
                run,
                tasks,
                data_dir=reading.data_dir,
                positive_minimum=objective.positive_minimum,
                batch_size=batch_size,
                precision=precision,
                seed=seed,
                device=device,
                progress=progress,
            )
        results = {"dense": record.info["dense"], record.info["stage"]: record.info["pruned"]}
        data = {**record.info["pruned"], "stage": record.info["stage"], "dense": record.info["dense"]}
    for task, reason in next(iter(results.values()))["missing"].items():
        note(f"Left out {task}: {reason}")
    show(json, data, *evaluation_tables(results))
