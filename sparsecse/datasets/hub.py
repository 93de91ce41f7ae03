"""The same sets through Hugging Face `datasets`: first its local cache, then the hub."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from sparsecse.datasets.senteval import GradedPairs
from sparsecse.datasets.tables import parse_score


class HubSet(NamedTuple):
    """A dataset on the hub, its columns, and the factor that brings its scores to 0-5."""

    repository: str
    first: str = "sentence1"
    second: str = "sentence2"
    score: str = "score"
    factor: float = 1.0
    revision: str | None = None


# mteb/sickr-sts is not here: its one split mixes the train, trial and test pairs (9,927): another task.
# RobZamp/sick is a loading script, which `datasets` runs no more; the hub keeps its conversion on this branch.
HUB_SETS = {
    "stsb": (HubSet("sentence-transformers/stsb", factor=5.0), HubSet("mteb/stsbenchmark-sts")),
    "sickr": (
        HubSet("RobZamp/sick", "sentence_A", "sentence_B", "relatedness_score", revision="refs/convert/parquet"),
    ),
    **{f"sts{year}": (HubSet(f"mteb/sts{year}-sts"),) for year in (12, 13, 14, 15, 16)},
}

_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def from_cache(name: str, split: str) -> tuple[GradedPairs, str] | None:
    """A set from the local `datasets` cache, without the network: its pairs and where they were; None if not cached."""
    from datasets.packaged_modules.cache.cache import Cache

    for hub_set in HUB_SETS[name]:
        try:
            builder = Cache(
                dataset_name=hub_set.repository.split("/")[-1],
                repo_id=hub_set.repository,
                version="auto",
                hash="auto",
            )
            rows = builder.as_dataset(split=_HUB_SPLITS[split])
        except ValueError:  # not cached, or cached without this split
            continue
        return _graded(rows, hub_set), f"{hub_set.repository} ({split}, local datasets cache)"
    return None


def from_hub(name: str, split: str) -> tuple[GradedPairs, str] | str:
    """A set from the hub: its pairs and where they were; or, if it cannot be had, why not."""
    import datasets

    hub_set = HUB_SETS[name][0]
    if datasets.config.HF_HUB_OFFLINE:
        return "offline mode is on"
    if not _hub_answers():
        return "the hub does not answer"
    try:
        rows = datasets.load_dataset(hub_set.repository, split=_HUB_SPLITS[split], revision=hub_set.revision)
    except Exception as error:  # `datasets` passes on whatever its many storage layers raise
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
    return _graded(rows, hub_set), f"{hub_set.repository} ({split}, Hugging Face hub)"


@functools.cache
def _hub_answers() -> bool:
    """Ask once a process: `datasets` itself would retry for half a minute per set where there is no network."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import get_session

    try:
        get_session().head(ENDPOINT, timeout=5)
    except Exception:  # httpx or requests, by the version of huggingface_hub
        return False
    return True


def _graded(rows: Any, hub_set: HubSet) -> GradedPairs:
    # Rounded, so that 0.76 x 5 is the 3.8 of the SentEval file.
    scores = [
        parse_score(round(score * hub_set.factor, 4), f"{hub_set.repository}, row {number}")
        for number, score in enumerate(rows[hub_set.score], start=1)
    ]
    return GradedPairs(list(rows[hub_set.first]), list(rows[hub_set.second]), scores, None)
