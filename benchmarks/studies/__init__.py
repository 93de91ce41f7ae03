"""The studies of `sparsecse study`, and those that answer questions of this project only."""

from sparsecse.studies import registry
from sparsecse.studies.registry import StudySpec

STUDIES = {
    **registry.STUDIES,
    "budgets": StudySpec("studies.budgets", "how heads are weighed against neurons, at equal multiply-adds"),
    "data": StudySpec(
        "studies.data", "whether scores on other sets, and on --train-data without gold scores, agree (--seeds)"
    ),
    "objectives": StudySpec("studies.objectives", "other contrastive families"),
    "rewind": StudySpec("studies.rewind", "the paper's whole loop, rewound to each kept step, over seeds (--seeds)"),
    "tasks": StudySpec("studies.tasks", "each task's own best sparsity, and which of its traits go with it"),
}
