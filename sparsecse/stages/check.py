"""The check before a model is deployed: what its rules need is measured, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsecse.checking import (
    MAX_BYTES,
    MAX_DROP,
    MAX_PARAMETERS,
    MIN_AGREEMENT,
    MIN_SPEEDUP,
    MINIMUM,
    Measured,
    Rules,
    Verdict,
    judge,
    least_rounds,
    ratio_interval,
    resolved,
)
from sparsecse.datasets import load_sentences
from sparsecse.errors import InputError
from sparsecse.evaluation import AgreementText, Tasks, evaluate, load_tasks, model_agreement
from sparsecse.files import loaded_bytes
from sparsecse.packing import count_parameters
from sparsecse.progress import Progress, silent
from sparsecse.runtime import Runtime
from sparsecse.settings import at_least
from sparsecse.sources import ModelOptions
from sparsecse.stages.bench import bench_models
from sparsecse.stages.options import resolve_model


@dataclass(frozen=True)
class CheckData:
    """What rules are measured on, each by name; what no rule needs is not read.

    tasks: see `load_tasks`. agreement: sentences without labels. timed, sentences: what is embedded for the speed, and
    how many of it.
    """

    tasks: str = ""
    agreement: str | None = None
    timed: str = "demo"
    sentences: int = 256
    data_dir: str | None = None


def check_model(
    model: ModelOptions,
    rules: Rules,
    *,
    baseline: ModelOptions | None = None,
    data: CheckData,
    batch_size: int = 64,
    rounds: int = 15,
    precision: str = "float32",
    baseline_precision: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> tuple[list[Verdict], dict[str, Any]]:
    """Measure a model, and its baseline where a rule compares the two, and judge every rule.

    Args:
        baseline: what drops, agreement and speed are relative to; loaded with the same options.
        batch_size: sentences an encoder takes at a time, in the timing too.
        rounds: timings of each of the two models, in turn.
        precision: what the model computes in. baseline_precision: what its baseline does; by default the same.
        threads: processor threads of the timing; by default torch's number, within `processors.available`.

    Returns:
        the verdicts, and how the speed was measured: `sentences`, `threads`, `batch_size`, `rounds`, `precision` and
        `baseline_precision`; empty where it was not.

    Raises:
        InputError: no rule, or one that lacks what it needs; a task that is missing from a group; what `evaluate`,
            `agreement` and `benchmark` refuse.
    """
    baseline_precision = baseline_precision or precision
    given = rules.each()
    kinds = {rule.kind for rule in given}
    _check_complete(kinds, baseline is not None, data)
    model = replace(model, name=resolve_model(model.name))
    if baseline is not None:
        baseline = replace(baseline, name=resolve_model(baseline.name))
        if Path(baseline.name).resolve() == Path(model.name).resolve():
            raise InputError(f"`baseline` {baseline.name} is the model itself; name the one that it was made from.")

    # All data before any model, and both models before any work: what is wrong is said at once.
    found, text = Tasks(), None
    timed: Sequence[str] = ()
    measured = Measured(bytes=_size(model.name) if MAX_BYTES in kinds else None)
    if kinds & {MINIMUM, MAX_DROP}:
        found = _tasks(data)
        given = resolved(given, found.kinds(), lambda name: found.find(name, data.data_dir))
    if MIN_AGREEMENT in kinds and data.agreement is not None:
        text = AgreementText.load(data.agreement, data_dir=data.data_dir)
    if MIN_SPEEDUP in kinds:
        timed = _timed(data, rounds)
    ours = Runtime(model.load(), precision) if kinds - {MAX_BYTES, MIN_SPEEDUP} else None
    theirs = None
    if baseline is not None and kinds & {MAX_DROP, MIN_AGREEMENT}:
        theirs = Runtime(baseline.load(), baseline_precision)

    def figures(runtime: Runtime, kinds: set[str], label: str) -> dict[str, float]:
        tasks = {task for rule in given if rule.kind in kinds for task in rule.tasks}
        if not tasks:
            return {}
        report = progress(f"Evaluating the {label}")
        return evaluate(runtime, found.only(tasks), batch_size=batch_size, progress=report).figures()

    if ours is not None:
        parameters = count_parameters(ours.encoder) if MAX_PARAMETERS in kinds else None
        measured = replace(measured, parameters=parameters, tasks=figures(ours, {MINIMUM, MAX_DROP}, "model"))
    if ours is not None and theirs is not None:
        measured = replace(measured, baseline=figures(theirs, {MAX_DROP}, "baseline"))
        if text is not None:
            report = progress("Comparing")
            compared = model_agreement(ours, theirs, text.sentences, batch_size=batch_size, progress=report)
            measured = replace(measured, agreement=compared.similarity_spearman)
    timing: dict[str, Any] = {}
    if baseline is not None and timed:
        batch_size = min(batch_size, len(timed))
        precisions = {"baseline": baseline_precision, "model": precision}
        settings = {"batch_size": batch_size, "rounds": rounds, "precision": precision}
        timings = bench_models(
            {"baseline": baseline, "model": model},
            timed,
            batch_sizes=(batch_size,),
            orders=("given",),
            rounds=rounds,
            threads=threads,
            precisions=precisions,
            progress=progress,
        )
        before, after = (row["round_seconds"] for row in timings["rows"])
        measured = replace(measured, speedup=ratio_interval(before, after))
        settings["baseline_precision"] = baseline_precision
        timing = {"sentences": len(timed), "threads": timings["machine"]["threads"], **settings}
    return judge(given, measured), timing


def _check_complete(kinds: set[str], baseline: bool, data: CheckData) -> None:
    """Refuse rules that lack what they are measured on, and none at all."""
    if not kinds:
        raise InputError(
            "There is no rule to check; give one of `minimum`, `max_drop`, `min_agreement`, `max_bytes`, "
            "`max_parameters` and `min_speedup`."
        )
    for kind, parameter in ((MAX_DROP, "max_drop"), (MIN_AGREEMENT, "min_agreement"), (MIN_SPEEDUP, "min_speedup")):
        if kind in kinds and not baseline:
            raise InputError(f"`{parameter}` compares with another model; give that one as `baseline`.")
    for kind, parameter in ((MINIMUM, "minimum"), (MAX_DROP, "max_drop")):
        if kind in kinds and not data.tasks:
            raise InputError(f"`{parameter}` is measured on tasks; name them in `tasks`.")
    if MIN_AGREEMENT in kinds and data.agreement is None:
        raise InputError("`min_agreement` is measured on sentences; give them as `agreement`.")


def _size(name: str) -> int:
    size = loaded_bytes(Path(name))
    if not size:
        raise InputError(f"`max_bytes`: {name} is no folder with a model's files; give the packed folder.")
    return size


def _tasks(data: CheckData) -> Tasks:
    """The data of all tasks; a check does not pass over one that is not there."""
    found = load_tasks(data.tasks, data_dir=data.data_dir)
    for name, reason in found.missing.items():
        raise InputError(f"`tasks`: {name} is not there ({reason.rstrip('.')}); name the tasks that are.")
    return found


def _timed(data: CheckData, rounds: int) -> Sequence[str]:
    at_least("rounds", rounds, least_rounds())
    return load_sentences(data.timed, data_dir=data.data_dir)[: data.sentences]
