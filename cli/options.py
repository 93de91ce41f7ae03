"""Every option that more than one command takes, defined once so that it has one name and one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsecse.cli.help import METHODS_HELP
from sparsecse.errors import InputError

_MODEL = "model"
_DATA = "data"
_RUN = "run directory and output"

Model = Annotated[str, typer.Argument(help="Folder, hub id, run directory, or `demo` (the demo extra's MiniLM).")]
Workdir = Annotated[
    Path, typer.Option("--workdir", envvar="SPARSECSE_WORKDIR", help="Run directory.", rich_help_panel=_RUN)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else on standard output.", rich_help_panel=_RUN)
]
Pooling = Annotated[
    str | None,
    typer.Option(
        "--pooling",
        help="How token vectors are pooled, where the model's files do not say: mean, cls, pooler, first_last_avg.",
        rich_help_panel=_MODEL,
    ),
]
Normalize = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Unit-length vectors; by default what the model's files say.",
        rich_help_panel=_MODEL,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length", help="Tokens kept of a text; by default what the model's files say.", rich_help_panel=_MODEL
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt", help='Text put before every sentence (E5: "query: "); "" for none.', rich_help_panel=_MODEL
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Graded pairs: stsb, sickr, sts12 ... sts16, demo, or a TSV/CSV/JSONL/Parquet file.",
        rich_help_panel=_DATA,
    ),
]
ScoreData = Annotated[
    str,
    typer.Option(
        "--data",
        help="What to score on. Graded pairs: stsb, sickr, sts12 ... sts16, demo, or a TSV/CSV/JSONL/Parquet file; or "
        "sentences alone: text (also .gz), or a table with the column sentence.",
        rich_help_panel=_DATA,
    ),
]
Positives = Annotated[
    str | None,
    typer.Option(
        "--positives",
        help="What alignment brings together: gold (pairs with a high gold score) or dropout (each sentence with "
        "itself under another dropout mask); by default gold where --data has gold scores, else dropout.",
        rich_help_panel=_DATA,
    ),
]
Limit = Annotated[
    int,
    typer.Option("--limit", help="With dropout positives: the most sentences, drawn by --seed.", rich_help_panel=_DATA),
]
Split = Annotated[str | None, typer.Option("--split", help="Split of a named set.", rich_help_panel=_DATA)]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        envvar="SPARSECSE_DATA_DIR",
        help="SentEval folder: the one that holds downstream/, or downstream/ itself.",
        rich_help_panel=_DATA,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns", help="Column names of a table file, comma-separated: first,second,score.", rich_help_panel=_DATA
    ),
]
PositiveMinimum = Annotated[
    float, typer.Option("--positive-minimum", help="Gold score from which a pair is positive.", rich_help_panel=_DATA)
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Sentences of average length per forward pass.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; by default what torch takes.", rich_help_panel=_RUN)
]
Tasks = Annotated[
    str,
    typer.Option(
        "--tasks",
        help="Tasks to evaluate: a comma list (mr,subj), or a group (sts, transfer, all).",
        rich_help_panel=_DATA,
    ),
]

Dtype = Annotated[
    str,
    typer.Option("--dtype", help="How weights are stored: float32, float16, bfloat16, or int8 (floats at load)."),
]

# pruning
_PRUNE = "pruning"
Sparsity = Annotated[
    str | None,
    typer.Option(
        "--sparsity",
        help="Fraction to remove of the heads and of the neurons, or of what --budget names; or auto, the largest that "
        "costs at most --tolerance on dev.",
        metavar="FRACTION|auto",
        rich_help_panel=_PRUNE,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance",
        help="With --sparsity auto: points of Spearman x100 on dev, below the best sparsity's, that may be lost.",
        rich_help_panel=_PRUNE,
    ),
]
Reconstruct = Annotated[
    bool,
    typer.Option(
        "--reconstruct/--no-reconstruct",
        help="Fit the output projections again in closed form after the cut, where dev gains from it.",
        rich_help_panel=_PRUNE,
    ),
]
ChoiceDev = Annotated[
    str | None,
    typer.Option(
        "--dev",
        help="Graded pairs that --sparsity auto and --reconstruct choose by; by default those of the scores, and the "
        "dev sets of STS-B and SICK-R in their --data-dir.",
        rich_help_panel=_PRUNE,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        "--rounds",
        help="Rounds in which the budget is spent, with new scores (and reconstruction) between.",
        rich_help_panel=_PRUNE,
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        "--schedule", help="What each round removes: linear (alike) or cubic (most at first).", rich_help_panel=_PRUNE
    ),
]
BudgetOf = Annotated[
    str,
    typer.Option(
        "--budget",
        help="What --sparsity is a fraction of: structures (heads and neurons apart), or what the encoder's layers "
        "cost, embeddings not counted: parameters, multiply-adds, latency (timed on this machine).",
        rich_help_panel=_PRUNE,
    ),
]
Align = Annotated[
    int,
    typer.Option(
        "--align",
        help="Neurons leave in chunks, so that each layer keeps a multiple of this, or all it has; the count removed "
        "is the nearest such one.",
        rich_help_panel=_PRUNE,
    ),
]
Protect = Annotated[
    str | None,
    typer.Option(
        "--protect",
        help="Layers and heads that never leave: 0,5.3 is layer 0 and head 3 of layer 5.",
        rich_help_panel=_PRUNE,
    ),
]
AverageLength = Annotated[
    int,
    typer.Option(
        "--average-length", help="Tokens of a sentence, for multiply-adds and latency.", rich_help_panel=_PRUNE
    ),
]
LatencyPrecision = Annotated[
    str,
    typer.Option(
        "--latency-precision",
        help="Precision in which --budget latency times the layers: float32, bfloat16, int8.",
        rich_help_panel=_PRUNE,
    ),
]
HeadSparsity = Annotated[
    float | None, typer.Option("--head-sparsity", help="Fraction of the heads to remove.", rich_help_panel=_PRUNE)
]
NeuronSparsity = Annotated[
    float | None, typer.Option("--neuron-sparsity", help="Fraction of the neurons to remove.", rich_help_panel=_PRUNE)
]
KeepHeads = Annotated[
    int | None, typer.Option("--keep-heads", help="How many heads stay, over all layers.", rich_help_panel=_PRUNE)
]
KeepNeurons = Annotated[
    int | None, typer.Option("--keep-neurons", help="How many neurons stay, over all layers.", rich_help_panel=_PRUNE)
]
CutModel = Annotated[str, typer.Argument(help="Model to cut where nothing was scored, for --layers and --vocab alone.")]
Portable = Annotated[
    bool,
    typer.Option(
        "--portable",
        help="Remove neurons only, equally many in every layer: the packed folder is a stock checkpoint.",
        rich_help_panel=_PRUNE,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help="Layers that stay, from 0: 0,2,4; the others leave whole. auto: whole layers compete with heads and "
        "neurons for --sparsity, by dev score.",
        rich_help_panel=_PRUNE,
    ),
]
Vocab = Annotated[
    list[str] | None,
    typer.Option(
        "--vocab", help="Text file (also .gz) whose tokens stay; give it more than once.", rich_help_panel=_PRUNE
    ),
]
VocabSize = Annotated[
    int | None,
    typer.Option("--vocab-size", min=1, help="Keep at most that many tokens, the most useful.", rich_help_panel=_PRUNE),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help=METHODS_HELP,
        rich_help_panel="scoring",
    ),
]
GroupSize = Annotated[
    int,
    typer.Option("--group-size", help="Neurons that leave-one-out removes together.", rich_help_panel="scoring"),
]
Lambda = Annotated[
    float,
    typer.Option("--lambda", help="Weight of alignment against uniformity, 0 to 1.", rich_help_panel="scoring"),
]

# training
_TRAIN = "training"
Objective = Annotated[
    str,
    typer.Option(
        "--objective",
        help="unsup, sup, moco, byol, graded, distill, or a weighted sum: distill=1,unsup=0.1.",
        rich_help_panel=_TRAIN,
    ),
]
LearningRate = Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.", rich_help_panel=_TRAIN)]
TrainBatchSize = Annotated[
    int, typer.Option("--train-batch-size", help="Examples per training pass.", rich_help_panel=_TRAIN)
]
Accumulation = Annotated[
    int,
    typer.Option("--gradient-accumulation", help="Passes per optimiser step.", rich_help_panel=_TRAIN),
]
Epochs = Annotated[float, typer.Option("--epochs", help="Passes over the data.", rich_help_panel=_TRAIN)]
Steps = Annotated[
    int, typer.Option("--steps", help="Optimiser steps, in place of --epochs when above 0.", rich_help_panel=_TRAIN)
]
WarmupRatio = Annotated[
    float, typer.Option("--warmup-ratio", help="Part of the steps with rising rate.", rich_help_panel=_TRAIN)
]
WeightDecay = Annotated[float, typer.Option("--weight-decay", help="AdamW's weight decay.", rich_help_panel=_TRAIN)]
TrainMaxLength = Annotated[
    int, typer.Option("--train-max-length", help="Tokens kept of a training sentence.", rich_help_panel=_TRAIN)
]
Temperature = Annotated[
    float, typer.Option("--temperature", help="Temperature of InfoNCE and CoSENT.", rich_help_panel=_TRAIN)
]
Momentum = Annotated[
    float,
    typer.Option(
        "--momentum", help="What moco's and byol's momentum encoder keeps of itself at a step.", rich_help_panel=_TRAIN
    ),
]
QueueSize = Annotated[
    int, typer.Option("--queue-size", help="Earlier keys that moco has as negatives.", rich_help_panel=_TRAIN)
]
HardNegativeWeight = Annotated[
    float,
    typer.Option(
        "--hard-negative-weight", help="Added to the logit of an anchor's own hard negative.", rich_help_panel=_TRAIN
    ),
]
Dropout = Annotated[
    float | None,
    typer.Option(
        "--dropout",
        help="Dropout while training; by default 0 for distill alone, else the model's own.",
        rich_help_panel=_TRAIN,
    ),
]
MlpHead = Annotated[
    bool,
    typer.Option(
        "--mlp-head/--no-mlp-head", help="SimCSE's MLP over the vectors, in training only.", rich_help_panel=_TRAIN
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision", help="float32, bfloat16 (autocast), or auto: bfloat16 where it is fast.", rich_help_panel=_TRAIN
    ),
]
EvalEvery = Annotated[
    int, typer.Option("--eval-every", help="Steps between dev scores and checkpoints.", rich_help_panel=_TRAIN)
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        help="Dev scores without a new best after which training stops; 0: never.",
        rich_help_panel=_TRAIN,
    ),
]
Teacher = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        help="Model to distil from; given more than once, their mean. By default the dense model (`dense`) "
        "averaged with cuts of it, as many as are best on dev (train has none).",
        rich_help_panel=_TRAIN,
    ),
]
Dev = Annotated[
    str | None,
    typer.Option("--dev", help="Graded pairs whose score picks the best weights.", rich_help_panel=_TRAIN),
]


def split_list(text: str | None) -> tuple[str, ...] | None:
    """`a,b,c` as a tuple; None stays None."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise InputError(f"'{text}' names nothing; write a comma-separated list such as a,b,c.")
    return parts


def split_numbers(text: str, option: str) -> tuple[int, ...]:
    """`1,32` as whole numbers above 0."""
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"{option} {text} is not a list of whole numbers above 0 such as 1,32.")
    return numbers


def fraction_or_auto(text: str | None, option: str) -> float | str | None:
    """`0.2` as a number, `auto` as it is; None stays None."""
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} {text} is neither a fraction such as 0.2 nor auto.") from None


def layers_or_auto(text: str | None) -> tuple[int, ...] | str | None:
    """`0,2,4` as layer numbers, `auto` as it is; None stays None."""
    if text is None or text == "auto":
        return text
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"--layers {text} is neither a list of layer numbers such as 0,2,4 nor auto.") from None
