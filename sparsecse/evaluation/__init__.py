"""Spearman on the similarity sets with alignment and uniformity, SentEval's transfer tasks, and retrieval."""

from sparsecse.evaluation.embedding import SentenceEncoder
from sparsecse.evaluation.evaluate import Evaluation, evaluate
from sparsecse.evaluation.retrieval import RetrievalResult, retrieval
from sparsecse.evaluation.similarity import Subset, TaskResult, spearman
from sparsecse.evaluation.tasks import GROUPS, RETRIEVAL, TASKS, TRANSFER_TASKS, Tasks, load_tasks
from sparsecse.evaluation.transfer import TransferResult, transfer

__all__ = [
    "GROUPS",
    "RETRIEVAL",
    "TASKS",
    "TRANSFER_TASKS",
    "Evaluation",
    "RetrievalResult",
    "SentenceEncoder",
    "Subset",
    "TaskResult",
    "Tasks",
    "TransferResult",
    "evaluate",
    "load_tasks",
    "retrieval",
    "spearman",
    "transfer",
]
