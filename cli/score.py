"""`sparsecse score`: the contribution of every head and neuron."""

from __future__ import annotations

from dataclasses import asdict, replace

from sparsecse.cli import options
from sparsecse.cli.groups import takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, named_model, note_prompts, session
from sparsecse.scoring.settings import ScoringSettings
from sparsecse.sources import DataOptions, ModelOptions


@takes(reading=DataOptions(), scoring=ScoringSettings(), loading=ModelOptions())
def score(
    model: options.Model = "",
    data: options.ScoreData = "stsb",
    *,
    reading: DataOptions,
    method: options.Method = "taylor",
    scoring: ScoringSettings,
    loading: ModelOptions,
    threads: options.Threads = None,
    nproc: options.Processes = 1,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Score every attention head and feed-forward neuron by its contribution to alignment and uniformity.

    Sentences without gold scores will do: each is then its own positive, under another dropout mask.

    Without MODEL, the model that `sparsecse train` left in the run directory is scored.
    """
    with session(workdir, threads, nproc) as run:
        from sparsecse import stages
        from sparsecse.cli.tables import score_table

        chosen = named_model(run, model, loading)
        note_prompts(chosen)
        record, reused = stages.score(
            run,
            chosen,
            replace(reading, name=data),
            method=method,
            scoring=scoring,
            progress=progress,
        )
        scores = stages.load_scores(run)
        if reused:
            note(f"{run.path} already has these scores.")
        summary = {name: round(value, 4) for name, value in record.info.items() if isinstance(value, float)}
        file = run.folder("score") / stages.SCORES_FILE
        show(
            json,
            {**asdict(record), "file": str(file)},
            score_table(scores),
            "  ".join(f"{name} {value}" for name, value in summary.items()),
            written=file,
        )
        note(f"Wrote {file}; next: sparsecse prune --sparsity 0.2")
