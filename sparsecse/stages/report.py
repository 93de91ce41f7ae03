"""The report of a run directory: what its records hold, as one HTML file and, with matplotlib, a PNG of each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsecse import disk
from sparsecse.errors import InputError
from sparsecse.files import weight_bytes, write_text
from sparsecse.manifest import in_words
from sparsecse.reporting.curves import dev_curve
from sparsecse.reporting.facts import PERCENT, Curve, Cut, Report, Row, StageFacts
from sparsecse.reporting.notes import budget_line, cut_notes, evaluation_notes
from sparsecse.reporting.page import MARKER, page
from sparsecse.reporting.plots import FIGURES, can_draw, save_figure
from sparsecse.reporting.quality import not_measured, plane, quality
from sparsecse.scoring import Scores
from sparsecse.stages.models import dense_options
from sparsecse.stages.options import public_name, resolve_model
from sparsecse.stages.prune import load_mask
from sparsecse.stages.score import load_scores
from sparsecse.stages.train import training_summary
from sparsecse.workdir import MODEL_STAGES, STAGES, Record, Workdir

_HEAD = 1024  # bytes in which the marker of our files lies


def report_path(workdir: Workdir, out: Path | None = None) -> Path:
    """Where the report goes: `report.html` in the run directory, unless told otherwise."""
    return out or workdir.path / "report.html"


def gather_report(workdir: Workdir, curves: Sequence[Curve] = ()) -> Report:
    """What the records of a run directory tell; figures of stages that are stale or damaged are left out and named.

    curves: measured outside the run directory, as `studies.sparsity.report_curve` gives them.

    Raises:
        InputError: no finished stage.
    """
    records = {stage: record for stage in STAGES if (record := workdir.record(stage)) is not None}
    if not records:
        raise InputError(
            f"`workdir` {workdir.path} has no finished stage; name a run directory, or run `sparsecse run` first."
        )
    states = {stage: _state(workdir, stage) for stage in records}
    sound = {stage: record for stage, record in records.items() if not states[stage]}
    chain = [stage for stage in MODEL_STAGES if stage in sound]
    stage = chain[0] if chain else None
    warnings = [state for state in states.values() if state]
    for name in ("eval", "bench"):
        if name in sound and stage and f"{stage}/" not in " ".join(sound[name].inputs):
            warnings.append(f"'{name}' measured an earlier model than that of '{stage}'; run `sparsecse {name}` again.")
    pruned = sound.get("prune")
    if pruned is not None:
        warnings += cut_notes(pruned.info)
    evaluated = sound.get("eval")
    info = {} if evaluated is None else evaluated.info
    documents = {} if evaluated is None else evaluated.settings.get("documents", {})
    kinds = quality(info, documents.get("name", "")) if info else ()
    first = next(iter(records.values()))
    source = records.get("train", first) if "score" not in records and "prune" not in records else None
    return Report(
        model=public_name(source.settings["model"]["name"] if source else dense_options(workdir).name),
        stage=stage,
        stages=tuple(_stage(record, states[name]) for name, record in records.items()),
        quality=kinds,
        plane=plane(info["dense"], info["pruned"]) if info else None,
        agreement=info.get("agreement", {}),
        curves=(*_dev_curve(sound), *curves),
        cut=None if pruned is None else _cut(workdir, pruned, sound.get("score")),
        bench=sound["bench"].info if "bench" in sound else {},
        sizes=_sizes(workdir, sound, stage),
        vocabulary={} if pruned is None else pruned.info.get("vocabulary", {}),
        repair=f"{training_summary(sound['finetune'])}." if "finetune" in sound else "",
        warnings=tuple(warnings),
        missing=tuple(not_measured(kinds, "agreement" in info)),
        tasks_left_out=tuple(evaluation_notes(info["dense"])) if info else (),
    )


def check_report(out: Path) -> None:
    """Refuse a place where a file lies that `write_report` did not write."""
    if out.is_dir():
        raise InputError(f"`out` {out} is a folder; give a file.")
    for path in (out, *(_figure_path(out, name) for name in FIGURES)):
        if path.exists() and not _is_ours(path):
            raise InputError(f"{path} was not written by `sparsecse report`; move it away, or give another `out`.")


def write_report(report: Report, out: Path, *, png: bool = True) -> list[Path]:
    """Write the page and, where `png` and matplotlib is there, `<name>-<figure>.png` beside it; returns their paths.

    Figures of an earlier report that this one does not have are deleted.

    Raises:
        InputError: see `check_report`.
    """
    check_report(out)
    write_text(out, page(report))
    written = [out]
    for name, (wanted, draw) in FIGURES.items():
        path = _figure_path(out, name)
        if png and wanted(report) and can_draw():
            save_figure(report, draw, path)
            written.append(path)
        else:
            disk.remove(path)
    return written


def _figure_path(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}-{name}.png")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return MARKER.encode() in stream.read(_HEAD)


def _state(workdir: Workdir, stage: str) -> str:
    """Why the results of a stage do not count, or nothing."""
    if names := workdir.changed(stage):
        return f"'{stage}' is left out: files are missing or were changed ({in_words(names)})."
    reason = workdir.stale(stage)
    return f"{reason}; its figures are left out." if reason else ""


def _stage(record: Record, state: str) -> StageFacts:
    return StageFacts(
        record.stage,
        record.created,
        record.seconds,
        record.command,
        record.settings,
        record.inputs,
        record.outputs,
        record.versions,
        record.machine,
        state,
    )


def _cut(workdir: Workdir, record: Record, scored: Record | None) -> Cut:
    mask = load_mask(workdir)
    scores: Scores | None = None if scored is None else load_scores(workdir)
    return Cut(
        tuple(tuple(bool(stays) for stays in heads) for heads in mask.heads),
        tuple((int(neurons.sum()), len(neurons)) for neurons in mask.neurons),
        frozenset(range(len(mask.heads))) - frozenset(mask.kept_layers()),
        () if scores is None else tuple(tuple(heads.tolist()) for heads in scores.heads),
        "" if scored is None else f"{scored.settings['method']} on {scored.info['data']}",
        budget_line(record.info),
    )


def _dev_curve(sound: Mapping[str, Record]) -> list[Curve]:
    if "choose" not in sound:
        return []
    chosen, pruned = sound["choose"], sound.get("prune")
    taken = pruned is not None and "auto" in pruned.info
    return [dev_curve(chosen.info, chosen.settings["tolerance"], taken=taken)]


def _sizes(workdir: Workdir, sound: Mapping[str, Record], stage: str | None) -> tuple[Row, ...]:
    if stage is None or "prune" not in sound:
        return ()
    info = sound["prune"].info
    rows = [Row("parameters", info["dense_parameters"], info["parameters"], 0, change=PERCENT, better=-1)]
    after = weight_bytes(workdir.folder(stage) / "model")
    rows.append(Row("bytes of the weights", _dense_bytes(workdir), after, 0, change=PERCENT, better=-1))
    if "pack" in sound:
        packed = sound["pack"].info
        rows.append(Row(f"bytes of the packed folder, {packed['dtype']}", None, packed["bytes"], 0, better=-1))
    return tuple(rows)


def _dense_bytes(workdir: Workdir) -> int | None:
    """Bytes of the dense model's weights; None for one of the hub, or that is not there any more."""
    try:
        return weight_bytes(Path(resolve_model(dense_options(workdir).name)))
    except InputError:
        return None
