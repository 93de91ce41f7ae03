"""Training examples of a data set, as the objective takes them."""

from __future__ import annotations

from sparsecse.datasets import PAIR_SETS, load_pairs, load_sentences, load_triplets
from sparsecse.datasets.pairs import canonical_name
from sparsecse.errors import InputError
from sparsecse.sources import DataOptions
from sparsecse.training.losses import Example


def training_data(data: DataOptions, objectives: set[str]) -> tuple[list[Example], list[float] | None]:
    """Examples for training, and their gold scores where the objective takes them.

    Graded pairs (of a named set the train split, where it has one) for "graded", pairs or triplets for "sup", else
    sentences.
    """
    if "graded" in objectives:
        split = data.split
        name = canonical_name(data.name)
        # The dev split, which is load_pairs' default, is the one that picks the best weights.
        if split is None and name is not None and "train" in PAIR_SETS[name]:
            split = "train"
        pairs = load_pairs(data.name, columns=data.columns, split=split, data_dir=data.data_dir)
        if pairs.scores is None:
            raise InputError(f"{pairs.source} has no gold scores for `objective` graded; add a column 'score'.")
        return list(zip(pairs.first, pairs.second, strict=True)), list(pairs.scores)
    if "sup" in objectives:
        triplets = load_triplets(data.name, columns=data.columns, split=data.split, data_dir=data.data_dir)
        columns = [triplets.anchors, triplets.positives]
        if triplets.negatives is not None:
            columns.append(triplets.negatives)
        return list(zip(*columns, strict=True)), None
    sentences = load_sentences(data.name, columns=data.columns, split=data.split, data_dir=data.data_dir)
    return [(sentence,) for sentence in sentences], None
