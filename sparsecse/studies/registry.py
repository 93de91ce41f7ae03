"""All studies by name."""

from sparsecse.studies import budgets, data, frontier, lambdas, objectives, oracle, rewind, scorers, sparsity, tasks

STUDIES = {
    module.STUDY.name: module.STUDY
    for module in (sparsity, scorers, oracle, lambdas, rewind, objectives, frontier, budgets, data, tasks)
}
