"""Retrieval sets in BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv` in one folder; the demo's.

Each file may be compressed (`corpus.jsonl.gz`). The layout and the text of a document (title, space, text) are those of
BEIR (Thakur et al. 2021, https://github.com/beir-cellar/beir), which MTEB shares.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsecse.datasets.builtin import demo_retrieval
from sparsecse.datasets.pairs import SetNotFoundError
from sparsecse.datasets.sentences import draw_sentences
from sparsecse.datasets.sets import RetrievalSet
from sparsecse.datasets.tables import Table, read_table
from sparsecse.errors import InputError
from sparsecse.reading import shown

SPLIT = "test"
_QRELS = ("query-id", "corpus-id", "score")


def is_retrieval_folder(folder: Path) -> bool:
    """Whether a folder holds `corpus.jsonl`, compressed or not."""
    return present(folder / "corpus.jsonl") is not None


def find_retrieval(data_dir: str | Path | None = None) -> dict[str, Path]:
    """The folders in BEIR's layout that belong to a data folder, by their names and in the order of these.

    They are looked for in `data_dir`, else the environment's SPARSECSE_DATA_DIR: the folder itself, those in it, those
    in its `retrieval/` and, where it is SentEval's `downstream/`, those in the `retrieval/` beside it. Of two of the
    same name the first one counts.

    Raises:
        InputError: `data_dir` is not a folder.
    """
    given = data_dir or os.environ.get("SPARSECSE_DATA_DIR")
    if not given:
        return {}
    root = Path(given).resolve()
    if not root.is_dir():
        raise InputError(f"The data folder {given} does not exist; give the folder that holds the retrieval sets.")
    places = [root, root / "retrieval"]
    if root.name == "downstream":
        places.append(root.parent / "retrieval")
    candidates = [root, *(folder for place in places if place.is_dir() for folder in sorted(place.iterdir()))]
    found: dict[str, Path] = {}
    for folder in candidates:
        if is_retrieval_folder(folder):
            found.setdefault(folder.name, folder)
    return dict(sorted(found.items()))


def locate_retrieval(path: Path) -> tuple[Path, str] | None:
    """The folder and split that a path means: a folder with `corpus.jsonl`, or a file in its `qrels/`; else None."""
    if is_retrieval_folder(path):
        return path, SPLIT
    name = path.name.removesuffix(".gz")
    if path.parent.name == "qrels" and name.endswith(".tsv") and is_retrieval_folder(path.parent.parent):
        return path.parent.parent, name.removesuffix(".tsv")
    return None


def load_retrieval(folder: str | Path, *, split: str = SPLIT) -> RetrievalSet:
    """Read a folder in BEIR's layout; its name is the folder's, followed by `-SPLIT` for any split but test.

    The text `demo` is the built-in set, `demo-retrieval`, with the splits test and dev.

    A line of `corpus.jsonl` has `_id`, `text` and maybe `title`; one of `queries.jsonl` has `_id` and `text`. The first
    line of `qrels/SPLIT.tsv` is `query-id`, `corpus-id`, `score`, separated by tabs; the scores are whole numbers, and
    above 0 is relevant. Only queries with judgements are kept.

    Raises:
        SetNotFoundError: `qrels/` has no such split.
        InputError: a file is missing or has a broken line, an id twice or two grades of one document for one query; a
            query is blank; no document has text, or no kept query has a relevant document with text.
    """
    if folder == "demo":
        with demo_retrieval() as path:
            return replace(_read(path, split, "demo-retrieval"), source=f"the built-in demo ({split})")
    folder = Path(folder)
    return _read(folder, split, folder.resolve().name)


def _read(folder: Path, split: str, name: str) -> RetrievalSet:
    corpus, queries = (_file(folder / f"{name}.jsonl") for name in ("corpus", "queries"))
    qrels = _qrels_file(folder, split)
    documents = dict(_documents(corpus))
    texts = dict(_queries(queries))
    judged = _judgements(qrels)
    judgements = {query: grades for query, grades in judged.items() if query in texts}
    filled = {name: text for name, text in documents.items() if text}
    if not filled:
        raise InputError(f"{corpus} has no document with text; restore it.")
    if not judgements:
        raise InputError(f"{qrels} judges no query of {queries.name}; give files of the same set.")
    if not any(grade > 0 for grades in judgements.values() for grade in grades.values()):
        raise InputError(f"{qrels} has no relevant document (a score above 0) for any query; restore it.")
    if not any(grade > 0 and name in filled for grades in judgements.values() for name, grade in grades.items()):
        raise InputError(f"{qrels}: no relevant document has a text in {corpus.name}; give files of the same set.")
    return RetrievalSet(
        name=name if split == SPLIT else f"{name}-{split}",
        split=split,
        documents=filled,
        queries={query: texts[query] for query in judgements},
        judgements=judgements,
        source=str(folder),
        empty_documents=len(documents) - len(filled),
        unknown_queries=len(judged) - len(judgements),
        unknown_documents=sum(name not in documents for grades in judgements.values() for name in grades),
        irrelevant_queries=sum(max(grades.values()) <= 0 for grades in judgements.values()),
    )


def draw_retrieval(task: RetrievalSet, documents: int, queries: int, seed: int = 0) -> RetrievalSet:
    """A smaller set: at most `queries`, their relevant documents all, and others up to `documents`, drawn by the seed.

    The counts of what was left out stay those of the whole set.
    """
    judgements = {query: task.judgements[query] for query in draw_sentences(list(task.queries), queries, seed)}
    relevant = {name for grades in judgements.values() for name, grade in grades.items() if grade > 0}
    others = [name for name in task.documents if name not in relevant]
    room = max(0, documents - len(relevant & task.documents.keys()))
    kept = relevant.union(draw_sentences(others, room, seed))
    return replace(
        task,
        documents={name: text for name, text in task.documents.items() if name in kept},
        queries={query: task.queries[query] for query in judgements},
        judgements=judgements,
    )


def present(path: Path) -> Path | None:
    """The file itself or, where it is not there, the compressed one (`.gz`); None where neither is."""
    return next((each for each in (path, path.with_name(f"{path.name}.gz")) if each.is_file()), None)


def _file(path: Path) -> Path:
    found = present(path)
    if found is None:
        raise InputError(f"{path} does not exist; a retrieval set has corpus.jsonl, queries.jsonl and qrels/.")
    return found


def _qrels_file(folder: Path, split: str) -> Path:
    found = present(folder / "qrels" / f"{split}.tsv")
    if found is None:
        there = sorted({path.name.removesuffix(".gz").removesuffix(".tsv") for path in folder.glob("qrels/*.tsv*")})
        raise SetNotFoundError(
            f"{folder / 'qrels'} has no {split}.tsv; the splits that it has are {', '.join(there) or 'none'}."
        )
    return found


def _documents(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each document, the text empty where there is none."""
    table = read_table(path)
    titles = table.columns.get("title", [None] * len(table.places))
    for place, name, title, text in zip(table.places, _ids(table), titles, table.column("text"), strict=True):
        for key, value in (("title", title), ("text", text)):
            if value is not None and not isinstance(value, str):
                raise InputError(f"{path}, {place}: {key!r} is {shown(value)}; write a text in quotes.")
        yield name, f"{title or ''} {text or ''}".strip()


def _queries(path: Path) -> Iterator[tuple[str, str]]:
    table = read_table(path)
    return zip(_ids(table), table.texts("text"), strict=True)


def _ids(table: Table) -> list[str]:
    """The column `_id` as texts, each one once."""
    seen: dict[str, str] = {}
    for value, place in zip(table.column("_id"), table.places, strict=True):
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise InputError(f"{table.source}, {place}: '_id' is {shown(value)}; write a text in quotes.")
        name = str(value)
        if name in seen:
            raise InputError(f"{table.source}, {place}: the _id {name!r} is also that of {seen[name]}; drop one.")
        seen[name] = place
    return list(seen)


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    table = read_table(path)
    judged: dict[str, dict[str, int]] = {}
    for place, query, document, score in zip(table.places, *(table.column(name) for name in _QRELS), strict=True):
        grade, grades = _grade(score, f"{path}, {place}"), judged.setdefault(query, {})
        if grades.setdefault(document, grade) != grade:
            raise InputError(
                f"{path}, {place}: the score of query {query!r} and document {document!r} is {grade}, and "
                f"{grades[document]} on a line above; drop one."
            )
    return judged


def _grade(text: Any, where: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.5
    if not value.is_integer():
        raise InputError(f"{where}: the score is {shown(text)}; write a whole number, above 0 for a relevant document.")
    return int(value)
