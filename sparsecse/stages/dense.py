"""The dense model of a run directory: the one that was scored or, where nothing was scored, the one that was pruned."""

from __future__ import annotations

from sparsecse.encoders import Encoder, fingerprint
from sparsecse.errors import InputError
from sparsecse.stages.options import ModelOptions
from sparsecse.workdir import Record, Workdir


def dense_record(workdir: Workdir) -> Record:
    """The record that names the dense model, in `settings["model"]` and `inputs["model"]`."""
    record = workdir.record("score") or workdir.record("prune")
    if record is None:
        raise InputError(f"{workdir.path} has no scored or pruned model; run `sparsecse score` first.")
    return record


def dense_options(workdir: Workdir) -> ModelOptions:
    """The dense model with the options it was loaded with."""
    return ModelOptions(**dense_record(workdir).settings["model"])


def dense_hash(workdir: Workdir) -> str:
    """The fingerprint of the dense model."""
    return dense_record(workdir).inputs["model"]


def load_dense(workdir: Workdir) -> Encoder:
    """The dense model, loaded again and checked to be the same."""
    options = dense_options(workdir)
    encoder = options.load()
    if fingerprint(encoder) != dense_hash(workdir):
        raise InputError(
            f"{options.name} is not the model that {workdir.path} was made from any more; restore it, "
            f"or start again with another --workdir."
        )
    return encoder
