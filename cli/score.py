"""`sparsecse score`: the contribution of every head and neuron."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, data_options, model_options, note_prompts, session

Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Of the passes over data: float32, bfloat16, or auto: bfloat16 where the CPU is fast in it. leave-one-out "
        "computes in float32.",
        rich_help_panel="scoring",
    ),
]
ViewDropout = Annotated[
    float | None,
    typer.Option(
        "--dropout",
        help="Probability for dropout positives; by default the model's own, or 0.1 where that is 0.",
        rich_help_panel="data",
    ),
]


def score(
    model: options.Model = "",
    data: options.ScoreData = "stsb",
    split: options.Split = None,
    data_dir: options.DataDir = None,
    columns: options.Columns = None,
    positive_minimum: options.PositiveMinimum = 4.0,
    positives: options.Positives = None,
    dropout: ViewDropout = None,
    limit: options.Limit = 3000,
    method: options.Method = "taylor",
    lambda_: options.Lambda = 0.5,
    group_size: options.GroupSize = 64,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    precision: Precision = "auto",
    pooling: options.Pooling = None,
    normalize: options.Normalize = None,
    max_length: options.MaxLength = None,
    prompt: options.Prompt = None,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Score every attention head and feed-forward neuron by its contribution to alignment and uniformity.

    Sentences without gold scores will do: each is then its own positive, under another dropout mask.

    Without MODEL, the model that `sparsecse train` left in the run directory is scored.
    """
    with session(workdir, threads) as run:
        from sparsecse import stages
        from sparsecse.cli.tables import score_table
        from sparsecse.scoring import Objective, ScoringSettings

        chosen = model_options(run, model, pooling, normalize, max_length, prompt)
        note_prompts(chosen)
        record, reused = stages.score(
            run,
            chosen,
            data_options(data, split, data_dir, columns),
            method=method,
            scoring=ScoringSettings(
                Objective(lambda_, positive_minimum=positive_minimum),
                seed=seed,
                batch_size=batch_size,
                precision=precision,
                group_size=group_size,
                positives=positives,
                dropout=dropout,
                limit=limit,
            ),
            progress=progress,
        )
        scores = stages.load_scores(run)
        if reused:
            note(f"{run.path} already has these scores.")
        summary = {name: round(value, 4) for name, value in record.info.items() if isinstance(value, float)}
        show(
            json,
            {**asdict(record), "file": str(run.folder("score") / stages.SCORES_FILE)},
            score_table(scores),
            "  ".join(f"{name} {value}" for name, value in summary.items()),
        )
        note(f"Wrote {run.folder('score') / stages.SCORES_FILE}; next: sparsecse prune --sparsity 0.2")
