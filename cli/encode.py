"""`sparsecse encode`: a corpus embedded into a folder of shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecse.cli import options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, named_model, note_prompts, set_threads
from sparsecse.corpora.settings import CorpusSettings
from sparsecse.errors import InputError
from sparsecse.sources import ModelOptions
from sparsecse.workdir import Workdir

if TYPE_CHECKING:
    from sparsecse.encoders import Encoder

Source = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Text, a line a row (also .gz), a table (.tsv, .csv, .jsonl, .json, .parquet), - for standard input, a "
        "Hugging Face dataset (OWNER/NAME, OWNER/NAME:CONFIG, with @SPLIT if it has several), or demo.",
    ),
]
Out = Annotated[
    Path,
    typer.Argument(
        metavar="OUT", help="Folder of the shards: a new one, or one that an interrupted call of the same command left."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Folder, hub id, run directory, or `demo`; by default the newest model of the run directory.",
        rich_help_panel="model",
    ),
]


@takes(settings=CorpusSettings(), loading=Only(ModelOptions(), ("pooling", "normalize", "max_length", "truncate_dim")))
def encode(
    source: Source,
    out: Out,
    *,
    model: Model = "",
    settings: CorpusSettings,
    loading: ModelOptions,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Embed a corpus with the runtime into a folder of shards, a row a text, in order.

    The folder has a manifest with the model's hash, the settings and the hash of every file. An interrupted call is
    made again to go on. A changed model, setting or corpus is refused.
    """
    from sparsecse.corpora import encode_corpus
    from sparsecse.corpora.sinks import check_sink

    set_threads(settings.threads)
    if settings.sink is not None:
        check_sink(settings.sink)  # before a model is loaded
    note(f"Loading {model or workdir}")
    done = encode_corpus(_encoder(model, settings, loading, workdir), source, out, settings, progress=progress)
    manifest = done.manifest
    rate = done.encoded / done.seconds if done.encoded else None
    data = {
        "out": str(out),
        **{name: manifest[name] for name in ("model", "settings", "precision", "dimension", "rows")},
        "shards": len(manifest["shards"]),
        "blank": sum(shard["blank"] for shard in manifest["shards"]),
        "encoded": done.encoded,
        "seconds": round(done.seconds, 3),
        "rows_per_second": None if rate is None else round(rate, 1),
    }
    blank = f", {data['blank']:,} of them blank" if data["blank"] else ""
    speed = "all there already" if rate is None else f"{done.encoded:,} now, {rate:,.0f} a second"
    show(
        json,
        data,
        f"{out}: {data['rows']:,} rows of {manifest['dimension']} values ({settings.dtype}){blank}; {speed}, in "
        f"{manifest['precision']}",
    )


def _encoder(name: str, settings: CorpusSettings, loading: ModelOptions, workdir: Path) -> Encoder:
    """The model that is named, or the newest of the run directory."""
    from sparsecse.stages.models import load_model

    run = Workdir(workdir)
    if name:
        chosen = named_model(run, name, loading)
        if settings.prompt is settings.prompt_name is None:
            note_prompts(chosen)
        return chosen.load()
    if (loading.pooling, loading.normalize, loading.max_length) != (None, None, None):
        raise InputError("`pooling`, `normalize` and `max_length` are for a named `model`; the run's own has its own.")
    encoder = load_model(run, run.newest_model()[0])
    return encoder if loading.truncate_dim is None else encoder.truncated(loading.truncate_dim)
