"""`sparsecse prune`: remove the lowest-scored heads and neurons, whole layers, and unneeded tokens."""

from __future__ import annotations

from dataclasses import asdict

from sparsecse.cli import options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, named_data, named_dev, named_model, session
from sparsecse.pruning.recipe import Recipe
from sparsecse.sources import DataOptions, ModelOptions


@takes(pruning=Recipe(), reading=Only(DataOptions(), ("data_dir",)), loading=ModelOptions())
def prune(
    model: options.CutModel = "",
    *,
    pruning: Recipe,
    train_data: options.TrainData = None,
    dev: options.Dev = None,
    reading: DataOptions,
    loading: ModelOptions,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Prune the scored model; scores are read, not computed again."""
    with session(workdir, threads) as run:
        from sparsecse import stages
        from sparsecse.cli.tables import cut_tables
        from sparsecse.reporting.notes import cut_notes
        from sparsecse.stages.text import RepairText

        chosen = named_model(run, model, loading) if model else None
        text = named_data(train_data, reading)
        record, reused = stages.prune(
            run,
            pruning,
            chosen,
            dev=named_dev(dev, reading),
            text=None if text is None else RepairText(text),
            progress=progress,
        )
        if reused:
            note(f"{run.path} already holds this cut.")
        info = record.info
        for line in cut_notes(info):
            note(line)
        share = info["parameters"] / info["dense_parameters"]
        summary = f"{info['parameters']:,} of {info['dense_parameters']:,} parameters stay ({share:.1%})"
        show(json, asdict(record), *cut_tables(info), summary, written=run.folder("prune"))
        note(f"Wrote {run.folder('prune')}; next: sparsecse finetune --data FILE, or sparsecse pack --out DIR")
