"""Similarity, transfer, retrieval and reranking tasks, own labelled data, and agreement with another model."""

from sparsecse.evaluation.agreement import Agreement, AgreementText, agreement, model_agreement
from sparsecse.evaluation.embedding import SentenceEncoder
from sparsecse.evaluation.evaluate import Evaluation, evaluate
from sparsecse.evaluation.labelled import Clustering, FewShot, LabelledResult
from sparsecse.evaluation.reranking import RerankingResult, reranking
from sparsecse.evaluation.retrieval import RetrievalResult, retrieval
from sparsecse.evaluation.similarity import Subset, TaskResult, spearman
from sparsecse.evaluation.tasks import GROUPS, RETRIEVAL, RETRIEVAL_TASKS, TASKS, TRANSFER_TASKS, Tasks, load_tasks
from sparsecse.evaluation.transfer import TransferResult, transfer

__all__ = [
    "GROUPS",
    "RETRIEVAL",
    "RETRIEVAL_TASKS",
    "TASKS",
    "TRANSFER_TASKS",
    "Agreement",
    "AgreementText",
    "Clustering",
    "Evaluation",
    "FewShot",
    "LabelledResult",
    "RerankingResult",
    "RetrievalResult",
    "SentenceEncoder",
    "Subset",
    "TaskResult",
    "Tasks",
    "TransferResult",
    "agreement",
    "evaluate",
    "load_tasks",
    "model_agreement",
    "reranking",
    "retrieval",
    "spearman",
    "transfer",
]
