"""`sparsecse prune`: remove the lowest-scored heads and neurons, whole layers, and unneeded tokens."""

from __future__ import annotations

from dataclasses import asdict

from sparsecse.cli import options
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.recipe import RecipeOptions, takes_recipe_options
from sparsecse.cli.session import DEFAULT_WORKDIR, data_options, model_options, session


@takes_recipe_options()
def prune(
    model: options.CutModel = "",
    *,
    cut: RecipeOptions,
    dev: options.ChoiceDev = None,
    data_dir: options.DataDir = None,
    pooling: options.Pooling = None,
    normalize: options.Normalize = None,
    max_length: options.MaxLength = None,
    prompt: options.Prompt = None,
    threads: options.Threads = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Prune the scored model; scores are read, not computed again."""
    with session(workdir, threads) as run:
        from sparsecse import stages
        from sparsecse.cli.tables import cut_tables, vocabulary_warnings

        chosen = model_options(run, model, pooling, normalize, max_length, prompt) if model else None
        pairs = data_options(dev, None, data_dir, None) if dev else None
        record, reused = stages.prune(run, cut.cut(), chosen, dev=pairs, progress=progress)
        if reused:
            note(f"{run.path} already holds this cut.")
        info = record.info
        for warning in vocabulary_warnings(info):
            note(warning)
        share = info["parameters"] / info["dense_parameters"]
        summary = f"{info['parameters']:,} of {info['dense_parameters']:,} parameters stay ({share:.1%})"
        show(json, asdict(record), *cut_tables(info), summary)
        note(f"Wrote {run.folder('prune')}; next: sparsecse finetune --data FILE, or sparsecse pack --out DIR")
