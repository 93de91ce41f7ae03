"""The sentences that a run compares its models on, without labels: those that its repair does not train on."""

from __future__ import annotations

from sparsecse.datasets import draw_sentences
from sparsecse.evaluation.agreement import BLOCK, AgreementText, least_sentences
from sparsecse.sources import DataOptions
from sparsecse.stages.score import score_set
from sparsecse.training import TrainingSettings
from sparsecse.training.examples import training_data
from sparsecse.training.held_out import hold_out, trained_on
from sparsecse.workdir import Workdir

RUN_LIMIT = 1000  # sentences: embedding them takes a small part of the time of the other stages


def run_text(
    workdir: Workdir, data: DataOptions, training: TrainingSettings | None, *, held_out: bool = False
) -> AgreementText | None:
    """At most `RUN_LIMIT` sentences for the agreement of a run's models, or None where there are too few.

    They are those of the training data that no step of the repair takes, and that do not pick its weights; where these
    are fewer than a block of the similarities, or nothing is repaired, those that the scores were taken on.

    data, training: of the repair. held_out: whether it held out sentences to pick its weights (`held_out.hold_out`).
    """
    untouched = _untouched(data, training, held_out) if training else []
    if len(untouched) >= BLOCK:
        return AgreementText(draw_sentences(untouched, RUN_LIMIT), f"{data.name}, not trained on")
    scored = score_set(workdir)
    sentences = list(dict.fromkeys(scored.sentences()))
    if len(sentences) < least_sentences():
        return None
    return AgreementText(draw_sentences(sentences, RUN_LIMIT), f"{scored.source}, scored on")


def _untouched(data: DataOptions, training: TrainingSettings, held_out: bool) -> list[str]:
    examples, _ = training_data(data, set(training.objective))
    if held_out:
        examples, _ = hold_out(examples, training.seed)
    seen = set(trained_on(examples, training))
    return [text for text in dict.fromkeys(text for example in examples for text in example) if text not in seen]
