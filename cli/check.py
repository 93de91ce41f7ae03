"""`sparsecse check`: whether a model may be deployed, by rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparsecse.checking import Rules
from sparsecse.cli import ci, options
from sparsecse.cli.groups import Only, takes
from sparsecse.cli.output import note, progress, show
from sparsecse.cli.session import note_prompts, set_threads
from sparsecse.errors import InputError
from sparsecse.sources import DataOptions, ModelOptions

_TABLES = ("min", "max-drop")
_NOT_IN_FILE = ("rules", "help")


def _read_rules(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of the file the defaults of the other options; those of its tables are merged by name."""
    if path is None:
        return None
    parameters = {
        option.removeprefix("--"): parameter.name
        for parameter in context.command.params
        for option in parameter.opts
        if option.startswith("--") and option.removeprefix("--") not in _NOT_IN_FILE
    }
    given = ci.read_options(path, list(parameters))
    context.meta[__name__] = {name: tuple(given.pop(name, ())) for name in _TABLES}
    for name, texts in given.items():
        if len(texts) != 1:
            raise InputError(f"{path}: {name} is not one value; write it as in `sparsecse check --{name}`.")
    context.default_map = {parameters[name]: texts[0] for name, texts in given.items()}
    return path


Pack = Annotated[
    str, typer.Argument(help="Model to check: a packed folder, another folder, a hub id, a run directory.")
]
Baseline = Annotated[
    str | None,
    typer.Option("--baseline", help="Model to compare with, loaded with the same options; the dense one, say."),
]
RulesFile = Annotated[
    Path | None,
    typer.Option(
        "--rules",
        is_eager=True,
        callback=_read_rules,
        help="TOML file with any of these options, by their names without dashes; min and max-drop are tables there. "
        "Options on the command line win. Paths are as on the command line.",
        rich_help_panel="rules",
    ),
]
Agreement = Annotated[
    str | None,
    typer.Option(
        "--agreement",
        help="Sentences without labels for --min-agreement: text (also .gz), a table with the column sentence, a pair "
        "set, demo; of more than 4000 some are drawn.",
        rich_help_panel="data",
    ),
]
Rounds = Annotated[int, typer.Option("--rounds", help="Timings of each of the two models for --min-speedup, in turn.")]
Precision = Annotated[
    str, typer.Option("--precision", help="What the model computes in, in every rule: float32, bfloat16, int8.")
]
BaselinePrecision = Annotated[
    str | None,
    typer.Option("--baseline-precision", help="What the baseline computes in; by default that of --precision."),
]
Junit = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        help="JUnit XML to write, a test case for each rule.",
        rich_help_panel="run directory and output",
    ),
]


@takes(rules=Rules(), reading=Only(DataOptions(), ("data_dir",)), loading=ModelOptions())
def check(
    context: typer.Context,
    pack: Pack,
    baseline: Baseline = None,
    rules_file: RulesFile = None,
    *,
    rules: Rules,
    tasks: options.Tasks = "",
    agreement: Agreement = None,
    data: options.TimedData = "demo",
    sentences: options.Count = 256,
    reading: DataOptions,
    batch_size: options.BatchSize = 32,
    rounds: Rounds = 15,
    precision: Precision = "float32",
    baseline_precision: BaselinePrecision = None,
    loading: ModelOptions,
    threads: options.Threads = None,
    junit: Junit = None,
    json: options.Json = False,
) -> None:
    """Check a model against rules before it is deployed; exits with 1 where one does not hold.

    Only what the rules need is measured. In a GitHub workflow each rule that does not hold is an annotation too, and
    the table is added to the summary.
    """
    from sparsecse import stages
    from sparsecse.cli.tables import check_table

    if rules_file is not None:
        minimum, max_drop = (context.meta[__name__][name] for name in _TABLES)
        rules = replace(rules, minimum=minimum + rules.minimum, max_drop=max_drop + rules.max_drop)
    if junit is not None:
        ci.check_junit(junit)
    set_threads(threads)
    model = replace(loading, name=stages.resolve_model(pack))
    note_prompts(model, besides="retrieval")
    verdicts, timing = stages.check_model(
        model,
        rules,
        baseline=None if baseline is None else replace(loading, name=baseline),
        data=stages.CheckData(tasks, agreement, data, sentences, reading.data_dir),
        batch_size=batch_size,
        rounds=rounds,
        precision=precision,
        baseline_precision=baseline_precision,
        threads=threads,
        progress=progress,
    )
    if timing:
        facts = (
            "{sentences} sentences, batches of {batch_size}, {rounds} rounds in turn, threads {threads}, "
            "{precision} against {baseline_precision}"
        )
        note("Timed: " + facts.format(**timing))
    if junit is not None:
        ci.write_junit(junit, verdicts)
    holds = all(one.holds for one in verdicts)
    found = {"model": pack, "baseline": baseline, "holds": holds, "rules": [one.to_json() for one in verdicts]}
    show(json, {**found, "timing": timing or None}, check_table(verdicts))
    if ci.on_github():
        ci.append_summary(ci.summary(pack, verdicts))
        for line in ci.error_commands(verdicts):
            # GitHub reads both streams, and standard output may hold nothing beside JSON.
            typer.echo(line, err=json)
    if not holds:
        raise typer.Exit(1)
