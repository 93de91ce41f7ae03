"""Spearman on the similarity sets with alignment and uniformity, and SentEval's transfer tasks."""

from sparsecse.evaluation.evaluate import Evaluation, SentenceEncoder, Subset, TaskResult, evaluate, spearman
from sparsecse.evaluation.tasks import GROUPS, TASKS, TRANSFER_TASKS, Tasks, load_tasks
from sparsecse.evaluation.transfer import TransferResult, transfer

__all__ = [
    "GROUPS",
    "TASKS",
    "TRANSFER_TASKS",
    "Evaluation",
    "SentenceEncoder",
    "Subset",
    "TaskResult",
    "Tasks",
    "TransferResult",
    "evaluate",
    "load_tasks",
    "spearman",
    "transfer",
]
