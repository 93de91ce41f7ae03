"""Similarity and transfer tasks, the user's own labelled data, and agreement with another model without labels."""

from sparsecse.evaluation.agreement import Agreement, AgreementText, agreement, model_agreement
from sparsecse.evaluation.evaluate import Evaluation, SentenceEncoder, Subset, TaskResult, evaluate, spearman
from sparsecse.evaluation.labelled import Clustering, FewShot, LabelledResult
from sparsecse.evaluation.tasks import GROUPS, TASKS, TRANSFER_TASKS, Tasks, load_tasks
from sparsecse.evaluation.transfer import TransferResult, transfer

__all__ = [
    "GROUPS",
    "TASKS",
    "TRANSFER_TASKS",
    "Agreement",
    "AgreementText",
    "Clustering",
    "Evaluation",
    "FewShot",
    "LabelledResult",
    "SentenceEncoder",
    "Subset",
    "TaskResult",
    "Tasks",
    "TransferResult",
    "agreement",
    "evaluate",
    "load_tasks",
    "model_agreement",
    "spearman",
    "transfer",
]
