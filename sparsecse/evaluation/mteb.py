"""What was measured in the shape of MTEB's result files (https://github.com/embeddings-benchmark/mteb, 2.26).

A file holds the fields of its `TaskResult`, and `model_meta.json` those of its `ModelMeta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsecse.datasets.tables import table_suffix
from sparsecse.errors import InputError
from sparsecse.evaluation.tasks import TASKS, Tasks

# Named as MTEB's where the pairs are MTEB's too. Its SICK-R also has the pairs for training and development.
_NAMES = {**{f"sts{year}": f"STS{year}" for year in (12, 13, 14, 15, 16)}, "stsb-test": "STSBenchmark"}

_ENGLISH = ["eng-Latn"]

# The figure to judge by of each kind of task, as ours is called, and the figures of a file: MTEB's name -> ours.
_FIGURES: dict[str, dict[str, str]] = {
    "spearman": {"cosine_spearman": "spearman"},
    "accuracy": {"accuracy": "accuracy"},
    "ndcg_at_10": {name: name for name in ("ndcg_at_10", "recall_at_100", "mrr_at_10")},
    "map_at_1000": {name: name for name in ("map_at_1000", "mrr_at_10")},
    "accuracy_8_shot": {"accuracy": "accuracy_8_shot", "f1": "f1_8_shot"},
    "v_measure": {"v_measure": "v_measure"},
}


@dataclass(frozen=True)
class MtebModel:
    """A model as the files name it.

    name: `organization/model`, as on the hub; revision: what tells its weights from others of that name.
    """

    name: str
    revision: str
    parameters: int
    dimension: int
    max_length: int

    @property
    def folder(self) -> Path:
        """Where MTEB puts the files of the model, below the folder of all results."""
        return Path(self.name.replace("/", "__").replace(" ", "_")) / self.revision

    def to_json(self) -> dict[str, Any]:
        """The content of `model_meta.json`; what is not known is null."""
        unknown = (
            "loader release_date languages n_active_parameters_override n_embedding_parameters memory_usage_mb license "
            "open_weights public_training_code public_training_data reference use_instructions training_datasets "
            "adapted_from superseded_by citation contacts experiment_kwargs output_dtypes extra_requirements_groups"
        )
        return {
            **dict.fromkeys(unknown.split()),
            "name": self.name,
            "revision": self.revision,
            "n_parameters": self.parameters,
            "embed_dim": self.dimension,
            "max_tokens": self.max_length,
            "framework": ["Sentence Transformers", "PyTorch"],
            "similarity_fn_name": "cosine",
            "modalities": ["text"],
            "model_type": ["dense"],
            "is_cross_encoder": False,
            "loader_kwargs": {},
        }


def task_names(tasks: Tasks) -> dict[str, str]:
    """What each task is called in the files: as in MTEB, else as here; a task of own files as its file or folder.

    Raises:
        InputError: two tasks would have one name.
    """
    names: dict[str, str] = {}
    for task in tasks.fingerprints():
        own = task in tasks.own or task in tasks.reranking or (task in tasks.pairs and task not in TASKS)
        name = _own_name(Path(task)) if own else _NAMES.get(task, task)
        if name in names.values():
            other = next(known for known in names if names[known] == name)
            raise InputError(
                f"The results of {other} and {task} would both be {name}.json; rename one or leave it out."
            )
        names[task] = name
    return names


def mteb_results(result: Mapping[str, Any], tasks: Tasks) -> dict[str, dict[str, Any]]:
    """The contents of the files, by the task's name in them; scores are from 0 to 1.

    `dataset_revision` is the hash of the data, `mteb_version` null, since MTEB did not measure, and so is
    `evaluation_time`, since tasks share their embeddings.

    Args:
        result: `Evaluation.to_json()`.
        tasks: the data that was measured on.

    Raises:
        InputError: as `task_names`.
    """
    revisions = tasks.fingerprints()
    return {
        name: {
            "dataset_revision": revisions[task],
            "task_name": name,
            "mteb_version": None,
            "scores": {
                _split(task, tasks): [
                    {
                        **_scores(result["tasks"][task]),
                        "hf_subset": "default",
                        "languages": _ENGLISH if task in TASKS or task in tasks.transfer else [],
                    }
                ]
            },
            "evaluation_time": None,
            "kg_co2_emissions": None,
            "date": None,
            "evaluation_phases": None,
        }
        for task, name in task_names(tasks).items()
    }


def _own_name(path: Path) -> str:
    if path.parent.name == "top_ranked":
        return f"{path.parent.parent.resolve().name}-{_stem(path)}"
    return _stem(path) if table_suffix(path) else path.resolve().name


def _stem(path: Path) -> str:
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return name[: -len(table_suffix(path) or "")]


def _split(task: str, tasks: Tasks) -> str:
    if task in TASKS:
        return TASKS[task][1]
    return tasks.retrieval[task].split if task in tasks.retrieval else "test"


def _scores(task: Mapping[str, Any]) -> dict[str, float]:
    values = task.get("measures", task)
    main, figures = next((main, figures) for main, figures in _FIGURES.items() if main in values)
    return {
        "main_score": round(values[main] / 100, 6),
        **{name: round(values[ours] / 100, 6) for name, ours in figures.items()},
    }
