"""Reranking sets: each query has a list of candidates, of which some are relevant.

Two layouts are read: a table whose rows hold a query with its candidates (`query`, `positive`, `negative`), as MTEB's
reranking data has been published, and a retrieval set with `top_ranked/SPLIT.jsonl` beside its judgements (lines of
`query-id`, `corpus-ids`), which MTEB took in its place (https://github.com/embeddings-benchmark/mteb).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsecse.datasets.retrieval import SPLIT, is_retrieval_folder, load_retrieval, present
from sparsecse.datasets.sets import RerankingSet
from sparsecse.datasets.tables import read_table, table_suffix
from sparsecse.errors import InputError
from sparsecse.reading import shown


def is_reranking(path: Path) -> bool:
    """Whether `load_reranking` takes a path: a table with `query` and `positive`, or candidates of a retrieval set."""
    if _ranked(path) is not None:
        return True
    return path.is_file() and table_suffix(path) is not None and {"query", "positive"} <= set(read_table(path).columns)


def is_ranked(path: Path) -> bool:
    """Whether a path is a retrieval set with candidates, or the file of these."""
    return _ranked(path) is not None


def load_reranking(path: str | Path) -> RerankingSet:
    """Read a table of lists, a retrieval folder with `top_ranked/test.jsonl`, or that file of any split.

    In a table a row without a relevant candidate, or without another, is left out, as in MTEB. In a retrieval folder
    the candidates of queries without judgements are ignored, and so are documents without text.

    Raises:
        InputError: a column or file is missing, a cell is no text or no list of texts, a query has two lists, nothing
            can be ranked; as `load_retrieval`.
    """
    path = Path(path)
    ranked = _ranked(path)
    return _from_lists(path) if ranked is None else _from_ranked(*ranked)


def _ranked(path: Path) -> tuple[Path, Path, str] | None:
    """The retrieval folder, the file of its candidates and the split; None where a path is neither of the two."""
    file = present(path / "top_ranked" / f"{SPLIT}.jsonl")
    if file is None and path.parent.name == "top_ranked" and path.is_file():
        file = path
    if file is None or not is_retrieval_folder(file.parent.parent):
        return None
    return file.parent.parent, file, file.name.removesuffix(".gz").removesuffix(".jsonl")


def _from_lists(path: Path) -> RerankingSet:
    table = read_table(path)
    queries: dict[str, str] = {}
    candidates: dict[str, dict[str, str]] = {}
    judgements: dict[str, dict[str, int]] = {}
    columns = (table.column("positive"), table.column("negative"))
    for number, (place, query, positive, negative) in enumerate(
        zip(table.places, table.texts("query"), *columns, strict=True)
    ):
        relevant = _texts(positive, f"{path}, {place}: 'positive'")
        others = _texts(negative, f"{path}, {place}: 'negative'")
        if not relevant or not others:
            continue
        # Among equals the higher id goes first, and "-" comes after "+": a tie counts against the model, as in MTEB.
        good = {f"+{index:06}": text for index, text in enumerate(relevant)}
        name = str(number)
        queries[name] = query
        candidates[name] = good | {f"-{index:06}": text for index, text in enumerate(others)}
        judgements[name] = dict.fromkeys(good, 1)
    if not queries:
        raise InputError(f"{path} has no row with texts both in 'positive' and in 'negative'; give some.")
    return RerankingSet(queries, candidates, judgements, str(path), left_out_queries=len(table.places) - len(queries))


def _from_ranked(folder: Path, file: Path, split: str) -> RerankingSet:
    known = load_retrieval(folder, split=split)
    table = read_table(file)
    candidates: dict[str, dict[str, str]] = {}
    missing = 0
    rows = zip(table.places, table.column("query-id"), table.column("corpus-ids"), strict=True)
    for place, query, documents in rows:
        names = [str(name) for name in _list(documents, (str, int), f"{file}, {place}: 'corpus-ids'", "ids")]
        if str(query) in candidates:
            raise InputError(f"{file}, {place}: the query {query!r} has candidates on a line above; drop one.")
        if str(query) in known.queries:
            texts = {name: known.documents[name] for name in names if name in known.documents}
            candidates[str(query)] = texts
            missing += len(set(names)) - len(texts)
    candidates = {query: texts for query, texts in candidates.items() if texts}
    if not candidates:
        raise InputError(f"{file} has no candidates with text for any judged query; give files of the same set.")
    judgements = {query: known.judgements[query] for query in candidates}
    return RerankingSet(
        queries={query: known.queries[query] for query in candidates},
        candidates=candidates,
        judgements=judgements,
        source=str(file),
        left_out_queries=len(known.queries) - len(candidates),
        missing_documents=missing,
        irrelevant_queries=sum(max(grades.values()) <= 0 for grades in judgements.values()),
    )


def _texts(value: Any, where: str) -> list[str]:
    texts = [text.strip() for text in _list(value, (str,), where, "texts")]
    if "" in texts:
        raise InputError(f"{where} has a blank text; fill it in or drop it.")
    return texts


def _list(value: Any, kinds: tuple[type, ...], where: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where} is {shown(value)}; write a list of {what}.")
    for item in value:
        if not isinstance(item, kinds) or isinstance(item, bool):
            raise InputError(f"{where} holds {shown(item)}; write a list of {what}.")
    return value
