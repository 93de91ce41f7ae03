"""The stages of a run directory: each reads what earlier ones left, writes its own folder, and records both."""

from sparsecse.stages.bench import bench_models, bench_run
from sparsecse.stages.check import CheckData, check_model
from sparsecse.stages.choose import choose
from sparsecse.stages.evaluate import EvaluationSettings, evaluate_dense, evaluate_run
from sparsecse.stages.inspect import inspect_model, inspect_run
from sparsecse.stages.models import dense_hash, dense_options, load_dense, load_model
from sparsecse.stages.mteb import check_mteb, mteb_model, write_mteb
from sparsecse.stages.options import resolve_model
from sparsecse.stages.pack import newest_folder, pack
from sparsecse.stages.pipeline import Plan, run
from sparsecse.stages.prune import MASK_FILE, load_mask, prune, rewind
from sparsecse.stages.report import check_report, gather_report, report_path, write_report
from sparsecse.stages.score import SCORES_FILE, load_scores, score
from sparsecse.stages.train import finetune, train_dense, training_summary

__all__ = [
    "MASK_FILE",
    "SCORES_FILE",
    "CheckData",
    "EvaluationSettings",
    "Plan",
    "bench_models",
    "bench_run",
    "check_model",
    "check_mteb",
    "check_report",
    "choose",
    "dense_hash",
    "dense_options",
    "evaluate_dense",
    "evaluate_run",
    "finetune",
    "gather_report",
    "inspect_model",
    "inspect_run",
    "load_dense",
    "load_mask",
    "load_model",
    "load_scores",
    "mteb_model",
    "newest_folder",
    "pack",
    "prune",
    "report_path",
    "resolve_model",
    "rewind",
    "run",
    "score",
    "train_dense",
    "training_summary",
    "write_mteb",
    "write_report",
]
