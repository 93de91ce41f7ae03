"""Stage `pack`: the newest model of a run directory -> a folder to publish or serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsecse.encoders import WEIGHTS_FILE, Encoder
from sparsecse.files import file_hash
from sparsecse.packing import (
    CardFacts,
    check_pack,
    check_target,
    count_parameters,
    kept_values,
    source_license,
)
from sparsecse.packing import pack as write_pack
from sparsecse.stages.models import dense_options, load_model, model_input
from sparsecse.stages.options import public_name, resolve_model
from sparsecse.workdir import MODEL_STAGES, Record, Workdir, package_versions


def newest_folder(workdir: Workdir) -> Path:
    """The folder that `pack` last wrote if it is of the newest model, else that model's folder in the run directory.

    Raises:
        InputError: its weights were damaged since.
    """
    stage, _ = workdir.newest_model()
    packed = workdir.record("pack")
    if packed is not None and workdir.stale("pack") is None and Path(packed.info["path"]).is_dir():
        check_pack(Path(packed.info["path"]))
        return Path(packed.info["path"])
    workdir.check(stage, "model/")
    return workdir.folder(stage) / "model"


def _target(workdir: Workdir, out: Path | None) -> Path:
    return (out or workdir.path / "packed").absolute()


def check_out(workdir: Workdir, out: Path | None) -> None:
    """Refuse a folder that a pack could not be written to; what this run directory's own pack holds is left to it."""
    target, packed = _target(workdir, out), workdir.record("pack")
    if packed is None or packed.info["path"] != str(target):
        check_target(target)


def _facts(workdir: Workdir, stage: str, encoder: Encoder, own_width: int) -> CardFacts:
    """own_width: that of the stage's model, at which it was evaluated unless the record says another one."""
    pruned = workdir.need("prune")
    chain = [name for name in ("score", *reversed(MODEL_STAGES)) if workdir.record(name) and not workdir.stale(name)]
    stages = {name: dict(workdir.need(name).settings) for name in chain[: chain.index(stage) + 1]}
    evaluated = workdir.record("eval")
    scores, accuracies, ndcgs = {}, {}, {}
    measured = own_width if evaluated is None else evaluated.settings.get("truncate_dim", own_width)
    if evaluated is not None and workdir.stale("eval") is None and measured == encoder.width():
        dense, packed = evaluated.info["dense"]["tasks"], evaluated.info["pruned"]["tasks"]
        scores, accuracies, ndcgs = (
            # Of a task that is a path the name alone: cards are published.
            {Path(task).name: (dense[task][key], packed[task][key]) for task in packed if key in packed[task]}
            for key in ("spearman", "accuracy", "ndcg_at_10")
        )
        if "documents" in evaluated.inputs:
            ndcgs = {}  # the pruned model embedded the queries alone
    name = dense_options(workdir).name
    vocabulary = pruned.info.get("vocabulary")
    return CardFacts(
        base_model=public_name(name),
        sizes=pruned.info["sizes"],
        kept=pruned.info["kept"],
        parameters=count_parameters(encoder),
        dense_parameters=pruned.info["dense_parameters"],
        pooling=encoder.settings.pooling,
        scores=scores,
        accuracies=accuracies,
        ndcgs=ndcgs,
        stages=stages,
        versions=package_versions(),
        license=source_license(resolve_model(name)),
        tokens=vocabulary and (vocabulary["tokens_after"], vocabulary["tokens_before"]),
        values=kept_values(encoder),
    )


def pack(
    workdir: Workdir, out: Path | None = None, *, dtype: str = "float32", truncate_dim: int | None = None
) -> tuple[Record, bool]:
    """Pack the newest of finetune, rewind and prune; one whose inputs have changed since is passed over.

    An up-to-date pack that is still intact is not written again.

    truncate_dim: values that the packed model keeps of each vector; by default as many as the dense model. The card has
        the scores of `eval` where that measured vectors of this width.
    """
    stage, _ = workdir.newest_model()
    target = _target(workdir, out)
    inputs = model_input(workdir, stage)
    evaluated = workdir.record("eval")
    if evaluated is not None and workdir.stale("eval") is None:
        inputs["eval/results.json"] = evaluated.outputs["results.json"]

    def work(_: Path) -> Mapping[str, Any]:
        own = load_model(workdir, stage)
        encoder = own if truncate_dim is None else own.truncated(truncate_dim)
        facts = _facts(workdir, stage, encoder, own.width())
        return {"stage": stage, **write_pack(encoder, target, facts, dtype=dtype)}

    before = workdir.record("pack")
    written = target / WEIGHTS_FILE
    intact = before is not None and written.exists() and file_hash(written) == before.info["weights_sha256"]
    settings = {"out": str(target), "dtype": dtype, "truncate_dim": truncate_dim}
    return workdir.run_stage("pack", inputs, settings, work, force=not intact)
