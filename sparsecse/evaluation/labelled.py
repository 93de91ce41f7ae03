"""Classification from few examples and clustering on the user's own labelled sentences, by MTEB's protocol."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsecse.datasets.tables import read_table, table_suffix
from sparsecse.errors import InputError
from sparsecse.evaluation.classification import require
from sparsecse.files import text_hash

SEED = 42  # MTEB's
SHOTS = (8, 16)  # training examples of a class; MTEB's default is the first
DRAWS = 10

_MAX_ITERATIONS = 100
_CLUSTERING_BATCH = 500


@dataclass(frozen=True)
class Labelled:
    """Sentences with a class each, by its name; `source` says where they were read from."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> list[str]:
        """The distinct labels, sorted."""
        return sorted(set(self.labels))


@dataclass(frozen=True)
class LabelledResult:
    """Figures in percent by name, the one to judge by first, and the sentences tested.

    `runs` has, for each figure, its value in each run; the figure is their mean.
    """

    kind: str
    runs: dict[str, tuple[float, ...]]
    examples: int
    classes: int
    source: str

    @property
    def measures(self) -> dict[str, float]:
        """The mean over the runs of each figure."""
        return {name: float(np.mean(values)) for name, values in self.runs.items()}

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; `std` has the standard deviation of each figure over the runs."""
        return {
            "kind": self.kind,
            "measures": self.measures,
            "std": {name: float(np.std(values)) for name, values in self.runs.items()},
            "examples": self.examples,
            "classes": self.classes,
            "source": self.source,
        }


@dataclass(frozen=True)
class FewShot:
    """Classification: logistic regression on a few examples of each class, tested on all of `test`.

    MTEB's protocol (Muennighoff et al. 2023): `DRAWS` times, 8 training sentences of each class are drawn (all of a
    class that has fewer), scikit-learn's logistic regression is trained on their vectors with at most 100 iterations,
    and the accuracies are averaged. The rows that MTEB draws with its seed are drawn here. Beside its 8 examples, 16.
    """

    kind = "classification"

    train: Labelled
    test: Labelled
    seed: int = SEED

    def draws(self, shots: int) -> list[list[int]]:
        """Rows of `train` in each draw. As in MTEB, a draw shuffles the order that the one before it left."""
        order = list(range(len(self.train)))
        found = []
        for _ in range(DRAWS):
            np.random.RandomState(self.seed).shuffle(order)
            counts: Counter[str] = Counter()
            rows = []
            for row in order:
                label = self.train.labels[row]
                if counts[label] < shots:
                    rows.append(row)
                    counts[label] += 1
            found.append(rows)
        return found

    def sentences(self) -> list[str]:
        """The distinct sentences that are drawn or tested."""
        drawn = sorted({row for shots in SHOTS for rows in self.draws(shots) for row in rows})
        return list(dict.fromkeys([*(self.train.texts[row] for row in drawn), *self.test.texts]))

    def fingerprint(self) -> str:
        """SHA-256 of the contents and the seed, in hex."""
        return _digest(self.train, self.test, self.seed)

    def measure(self, rows: Callable[[Sequence[str]], np.ndarray]) -> LabelledResult:
        """Accuracy and macro F1 in percent with 8 and with 16 examples of a class.

        Args:
            rows: sentences to their vectors [N, d]; they are taken as they come.
        """
        require()
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import f1_score
        from threadpoolctl import threadpool_limits

        tested, wanted = rows(self.test.texts), np.array(self.test.labels)
        runs: dict[str, tuple[float, ...]] = {}
        with threadpool_limits(1), warnings.catch_warnings():
            # The protocol stops after 100 iterations, finished or not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for shots in SHOTS:
                accuracies, f1s = [], []
                for drawn in self.draws(shots):
                    model = LogisticRegression(max_iter=_MAX_ITERATIONS, random_state=self.seed)
                    model.fit(rows([self.train.texts[row] for row in drawn]), [self.train.labels[row] for row in drawn])
                    predicted = model.predict(tested)
                    accuracies.append(100 * float((predicted == wanted).mean()))
                    f1s.append(100 * float(f1_score(wanted, predicted, average="macro")))
                runs[f"accuracy_{shots}_shot"], runs[f"f1_{shots}_shot"] = tuple(accuracies), tuple(f1s)
        return LabelledResult(self.kind, runs, len(self.test), len(self.train.classes), self.test.source)


@dataclass(frozen=True)
class Clustering:
    """Clustering: mini-batch k-means with as many clusters as there are classes, against the classes.

    The settings of MTEB's tasks that cluster a whole set (batches of 500, k-means++ from one start). Of `DRAWS` runs
    with other starts the first has MTEB's seed; their mean depends less on the start than one run does.
    """

    kind = "clustering"

    data: Labelled
    seed: int = SEED

    def sentences(self) -> list[str]:
        """The distinct sentences."""
        return list(dict.fromkeys(self.data.texts))

    def fingerprint(self) -> str:
        """SHA-256 of the contents and the seed, in hex."""
        return _digest(self.data, self.data, self.seed)

    def measure(self, rows: Callable[[Sequence[str]], np.ndarray]) -> LabelledResult:
        """V-measure in percent (Rosenberg and Hirschberg 2007): the harmonic mean of homogeneity and completeness.

        Args:
            rows: sentences to their vectors [N, d]; they are taken as they come.
        """
        require()
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.metrics import v_measure_score
        from threadpoolctl import threadpool_limits

        vectors, classes = rows(self.data.texts), self.data.classes
        values = []
        with threadpool_limits(1):
            for run in range(DRAWS):
                model = MiniBatchKMeans(
                    n_clusters=len(classes), batch_size=_CLUSTERING_BATCH, n_init="auto", random_state=self.seed + run
                )
                values.append(100 * float(v_measure_score(self.data.labels, model.fit(vectors).labels_)))
        runs = {"v_measure": tuple(values)}
        return LabelledResult(self.kind, runs, len(self.data), len(classes), self.data.source)


def classification_at(path: Path) -> Callable[[], FewShot] | None:
    """What loads a folder with train.* and test.*, or a file like intents.train.tsv with intents.test.tsv beside it."""
    files = _split_files(path)
    if files is None:
        return None
    train_file, test_file = files

    def load() -> FewShot:
        require()
        return FewShot(load_labelled(train_file), load_labelled(test_file))

    return load


def clustering_at(path: Path) -> Callable[[], Clustering] | None:
    """What loads a single table with a column `label`."""
    if not (path.is_file() and table_suffix(path)) or "label" not in read_table(path).columns:
        return None

    def load() -> Clustering:
        require()
        return Clustering(load_labelled(path))

    return load


def load_labelled(path: Path) -> Labelled:
    """Read a table with a column `text` (or `sentence`) and a column `label`, of words or whole numbers.

    Raises:
        InputError: a missing column, a blank cell, a label of another kind, fewer than two classes.
    """
    table = read_table(path)
    column = "sentence" if "sentence" in table.columns and "text" not in table.columns else "text"
    texts = table.texts(column)
    labels = []
    for value, place in zip(table.column("label"), table.places, strict=True):
        if not isinstance(value, (str, int)) or not str(value).strip():
            raise InputError(f"{path}, {place}, column 'label' is {value!r}; give a class's name or number.")
        labels.append(str(value).strip())
    found = Labelled(texts, tuple(labels), str(path))
    if len(found.classes) < 2:
        raise InputError(f"{path} has the one class {labels[0]!r}; give sentences of two or more.")
    return found


def _split_files(path: Path) -> tuple[Path, Path] | None:
    """The train and the test file, or None where the path does not have both."""
    if path.is_dir():
        train, test = ([file for file in _tables(path) if _is_split(file, "", name)] for name in ("train", "test"))
    elif path.is_file() and table_suffix(path):
        stem = next((path.name.split(f".{name}.")[0] for name in ("train", "test") if f".{name}." in path.name), None)
        if stem is None:
            return None
        train, test = (
            [file for file in _tables(path.parent) if _is_split(file, f"{stem}.", name)] for name in ("train", "test")
        )
    else:
        return None
    for files in (train, test):
        if len(files) > 1:
            raise InputError(f"{files[0]} and {files[1].name} are two files of one split; remove one.")
    return (train[0], test[0]) if train and test else None


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and table_suffix(file))


def _is_split(file: Path, stem: str, name: str) -> bool:
    """Whether a table is called `<stem><name>` and a suffix."""
    return file.name.lower().removesuffix(".gz") == f"{stem}{name}".lower() + (table_suffix(file) or "")


def _digest(first: Labelled, second: Labelled, seed: int) -> str:
    return text_hash(json.dumps([first.texts, first.labels, second.texts, second.labels, seed]))
