"""SimCSE's evaluation: Spearman on the semantic similarity sets, with alignment and uniformity."""

from sparsecse.evaluation.evaluate import Evaluation, SentenceEncoder, Subset, TaskResult, evaluate, spearman
from sparsecse.evaluation.tasks import GROUPS, TASKS, load_tasks

__all__ = [
    "GROUPS",
    "TASKS",
    "Evaluation",
    "SentenceEncoder",
    "Subset",
    "TaskResult",
    "evaluate",
    "load_tasks",
    "spearman",
]
