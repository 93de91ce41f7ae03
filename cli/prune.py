"""`sparsecse prune`: remove the lowest-scored heads and neurons."""

from __future__ import annotations

from dataclasses import asdict

from sparsecse.cli import options
from sparsecse.cli.output import note, show
from sparsecse.cli.session import DEFAULT_WORKDIR, session


def prune(
    sparsity: options.Sparsity = None,
    head_sparsity: options.HeadSparsity = None,
    neuron_sparsity: options.NeuronSparsity = None,
    keep_heads: options.KeepHeads = None,
    keep_neurons: options.KeepNeurons = None,
    workdir: options.Workdir = DEFAULT_WORKDIR,
    json: options.Json = False,
) -> None:
    """Remove the lowest-scored heads and neurons of the scored model; scores are read, not computed again."""
    with session(workdir) as run:
        from sparsecse import stages
        from sparsecse.reports import mask_table

        record, reused = stages.prune(
            run,
            sparsity=sparsity,
            head_sparsity=head_sparsity,
            neuron_sparsity=neuron_sparsity,
            keep_heads=keep_heads,
            keep_neurons=keep_neurons,
        )
        if reused:
            note(f"{run.path} already holds this cut.")
        info = record.info
        share = info["parameters"] / info["dense_parameters"]
        show(
            json,
            asdict(record),
            mask_table(info),
            f"{info['parameters']:,} of {info['dense_parameters']:,} parameters stay ({share:.1%})",
        )
        note(f"Wrote {run.folder('prune')}; next: sparsecse finetune --data FILE, or sparsecse pack --out DIR")
