"""`sparsecse prune`: remove the lowest-scored heads and neurons, whole layers, and unneeded tokens."""

from __future__ import annotations

from dataclasses import asdict

from sparsecse.cli import options
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import DEFAULT_WORKDIR, model_options, session


def prune(
    model: options.CutModel = "",
    sparsity: options.Sparsity = None,
    head_sparsity: options.HeadSparsity = None,
    neuron_sparsity: options.NeuronSparsity = None,
    keep_heads: options.KeepHeads = None,
    keep_neurons: options.KeepNeurons = None,
    portable: options.Portable = False,
    layers: options.Layers = None,
    vocab: options.Vocab = None,
    vocab_size: options.VocabSize = None,
    pooling: options.Pooling = None,
    normalize: options.Normalize = None,
    max_length: options.MaxLength = None,
    prompt: options.Prompt = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Cut the scored model; scores are read, not computed again."""
    with session(workdir) as run:
        from sparsecse import stages
        from sparsecse.reports import mask_table, vocabulary_table

        cut = stages.Cut(
            sparsity,
            head_sparsity,
            neuron_sparsity,
            keep_heads,
            keep_neurons,
            portable,
            options.split_layers(layers),
            tuple(vocab or ()),
            vocab_size,
        )
        chosen = model_options(run, model, pooling, normalize, max_length, prompt) if model else None
        record, reused = stages.prune(run, cut, chosen, progress=progress)
        if reused:
            note(f"{run.path} already holds this cut.")
        info = record.info
        share = info["parameters"] / info["dense_parameters"]
        tables = [mask_table(info)]
        if "vocabulary" in info:
            tables.append(vocabulary_table(info["vocabulary"]))
        summary = f"{info['parameters']:,} of {info['dense_parameters']:,} parameters stay ({share:.1%})"
        show(json, asdict(record), *tables, summary)
        note(f"Wrote {run.folder('prune')}; next: sparsecse finetune --data FILE, or sparsecse pack --out DIR")
