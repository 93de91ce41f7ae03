"""The models of a run directory: the dense one that it was made from, and those that stages leave in `model/`.

The dense model is the one that was scored or, where nothing was scored, the one that was pruned.
"""

from __future__ import annotations

from pathlib import Path

from sparsecse.encoders import WEIGHTS_FILE, Encoder, fingerprint, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.sources import ModelOptions
from sparsecse.stages.options import check_undamaged
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
            f"or start again with another `workdir`."
        )
    return encoder


def load_named(options: ModelOptions) -> Encoder:
    """A model by its name; one that a stage or `pack` left, and that was damaged since, is refused."""
    if Path(options.name).is_dir():
        check_undamaged(Path(options.name))
    return options.load()


def save_model(encoder: Encoder, folder: Path, *, stock: bool = False) -> None:
    """Write a stage's model into the folder that the stage is filling."""
    (folder / "model").mkdir()
    save_encoder(encoder, folder / "model", stock=stock)


def load_model(workdir: Workdir, stage: str) -> Encoder:
    """The model that a finished stage left; one that was damaged since is refused."""
    workdir.check(stage, "model/")
    return load_encoder(workdir.folder(stage) / "model")


def model_input(workdir: Workdir, stage: str) -> dict[str, str]:
    """A stage's model as an input of a later one: the name and the recorded hash of its weights.

    Raises:
        InputError: the model was damaged since.
    """
    workdir.check(stage, "model/")
    weights = f"model/{WEIGHTS_FILE}"
    return {f"{stage}/{weights}": workdir.output_hash(stage, weights)}
