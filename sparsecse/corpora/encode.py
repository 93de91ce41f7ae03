"""A corpus embedded into a folder, shard by shard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsecse.corpora.blocks import Block, Submit, ahead, embed, read_blocks
from sparsecse.corpora.folder import Manifest, Shards, check_same, claimed
from sparsecse.corpora.settings import CorpusSettings
from sparsecse.corpora.shards import ranges_of, stored
from sparsecse.corpora.sinks import check_sink
from sparsecse.corpora.workers import spawned
from sparsecse.datasets.corpora import Corpus, open_corpus
from sparsecse.encoders import Encoder, fingerprint, load_encoder
from sparsecse.errors import InputError
from sparsecse.forking import apart
from sparsecse.processors import check_threads, default_threads
from sparsecse.progress import Progress, silent
from sparsecse.runtime import Runtime
from sparsecse.runtime.tokenization import Tokenize


@dataclass(frozen=True)
class EncodedCorpus:
    """What `encode_corpus` wrote.

    manifest: what the folder's manifest.json holds. encoded: the rows that this call computed, not those that were
    there already. seconds: how long it took, without loading and without a `sink`.
    """

    manifest: Manifest
    encoded: int
    seconds: float


def encode_corpus(
    model: Encoder | str | Path,
    source: str | Path | Iterable[str],
    out: str | Path,
    settings: CorpusSettings | None = None,
    *,
    progress: Progress = silent,
    **fields: Any,
) -> EncodedCorpus:
    """Embed a corpus with the runtime into a folder of shards, in order, in bounded memory.

    In memory are the model, two blocks of texts and two shards of vectors, however long the corpus is. A call that was
    ended, however, is made again to go on: what is finished is compared with the corpus and not computed again. A
    thread reads and tokenises the next block while one is computed, and another writes. Texts that occur more than once
    in a block are computed once.

    Args:
        model: an `Encoder`, or what `load_encoder` takes.
        source: see `datasets.corpora.open_corpus`: a file, `-`, a data set of the hub, or texts.
        out: the folder; a new one, or one that the same call began.
        settings: how; `fields` are single ones of its fields.
        progress: opens a line a shard.

    Raises:
        InputError: a source, model or setting that cannot be used; a folder of something else, or of another corpus,
            model or other settings; a process that died.
    """
    settings = replace(settings or CorpusSettings(), **fields)
    threads, out = check_threads(settings.threads), Path(out)
    if settings.sink is not None:
        check_sink(settings.sink)
    corpus = open_corpus(
        source, column=settings.column, id_column=settings.id_column, input_format=settings.input_format
    )
    encoder = model if isinstance(model, Encoder) else apart(load_encoder, model)
    prompt = encoder.settings.prompt_text(settings.prompt, settings.prompt_name)
    with claimed(out) as before:
        precision = before["precision"] if before and settings.precision == "auto" else settings.precision
        alone = settings.processes == 1
        runtime = Runtime(encoder, precision, threads if alone else None, device=settings.device)
        manifest: Manifest = {
            "model": {"name": encoder.source, "sha256": fingerprint(encoder)},
            "settings": {
                "column": settings.column,
                "id_column": settings.id_column,
                "format": settings.format,
                "dtype": settings.dtype,
                "shard_rows": settings.shard_rows,
                "prompt": prompt,
            },
            "precision": runtime.precision,
            "dimension": runtime.dimension,
            "complete": False,
            "rows": 0,
            "shards": [],
            "files": {},
        }
        if before is not None:
            check_same(out, before, manifest)
        shards = Shards(out, before or manifest, settings.id_column is not None, progress)
        if settings.sink is not None:
            shards.has_index(settings.sink)  # that no one else's file has its place
        if before is None:
            shards.write_manifest()
        tokenize = partial(Tokenize(runtime.encoder), prompt=prompt)
        blocks = ahead(read_blocks(corpus.rows, settings.shard_rows, shards.finished, tokenize))
        total = threads or default_threads(torch.get_num_threads())
        submits: contextlib.AbstractContextManager[Submit] = contextlib.nullcontext(
            lambda token_ids: partial(runtime.encode_ids, token_ids)
        )
        if not alone:
            submits = spawned(runtime, settings.processes, max(1, total // settings.processes))
        with submits as submit:
            # One more than there are processes, so that none waits for its next block.
            embedded = embed(blocks, submit, 0 if alone else settings.processes + 1)
            start = time.monotonic()
            encoded = _write(embedded, corpus, shards, settings, progress)
            seconds = time.monotonic() - start
        if settings.sink is not None:
            report = progress(f"Building an index ({settings.sink})")
            shards.index(settings.sink)
            report(1, 1)
        return EncodedCorpus(shards.manifest, encoded, seconds)


def _write(
    embedded: Iterator[tuple[Block, np.ndarray | None]],
    corpus: Corpus,
    shards: Shards,
    settings: CorpusSettings,
    progress: Progress,
) -> int:
    """Write what is not there, and finish the manifest; returns the rows that were computed."""
    known, was_complete = list(shards.manifest["shards"]), shards.manifest["complete"]
    ranges, encoded, shard, start = shards.ranges(), 0, -1, time.monotonic()
    keep = partial(stored, dtype=settings.dtype)
    with ThreadPoolExecutor(1, "sparsecse") as writer:
        writing: Future[None] | None = None
        for shard, blocks in groupby(((block.shard, block, vectors) for block, vectors in embedded), itemgetter(0)):
            if was_complete and shard == len(known):
                raise _other_input(corpus, shards, f"has more than {shards.manifest['rows']} rows")
            rate = encoded / (time.monotonic() - start) if encoded else 0.0
            report = progress(_label(shard, corpus, settings, rate))
            arrays: list[np.ndarray] = []
            ids: list[str] = []
            count = blank = 0
            digest = ""
            for _, block, vectors in blocks:
                count, blank, digest = count + block.rows, blank + block.blank, block.input
                ids += block.ids or ()
                if vectors is not None:
                    is_open = settings.dtype == "int8" and ranges is None
                    arrays.append(vectors if is_open else keep(vectors, ranges=ranges))
                report(count, max(count, _expected(shard, corpus, settings)))
            report(count, count)
            record = {"rows": count, "blank": blank, "input": digest}
            if shard < len(known) and known[shard] != record:
                first = shard * settings.shard_rows
                raise _other_input(corpus, shards, f"differs in rows {first + 1} to {first + known[shard]['rows']}")
            if not arrays:
                continue
            if writing is not None:
                writing.result()  # before there is one more copy of a shard
            rows = np.concatenate(arrays)
            if settings.dtype == "int8" and ranges is None:
                ranges = ranges_of(rows)
                rows = keep(rows, ranges=ranges)
            encoded += len(rows)
            writing = writer.submit(
                shards.write, shard, rows, ids if settings.id_column is not None else None, record, ranges
            )
        if writing is not None:
            writing.result()
    if shard + 1 < len(known):
        raise _other_input(corpus, shards, f"has no rows after {(shard + 1) * settings.shard_rows}")
    if shard < 0:
        raise InputError(f"{corpus.source} has no rows; give a corpus with texts.")
    if not was_complete:
        shards.manifest["complete"] = True
        shards.write_manifest()
    return encoded


def _other_input(corpus: Corpus, shards: Shards, how: str) -> InputError:
    return InputError(
        f"{corpus.source} is not what {shards.path} was made from: it {how}; restore it, or give another folder."
    )


def _expected(shard: int, corpus: Corpus, settings: CorpusSettings) -> int:
    """Rows of a shard, as far as one can know."""
    left = settings.shard_rows if corpus.count is None else corpus.count - shard * settings.shard_rows
    return min(left, settings.shard_rows)


def _label(shard: int, corpus: Corpus, settings: CorpusSettings, rate: float) -> str:
    of = "" if corpus.count is None else f" of {-(-corpus.count // settings.shard_rows)}"
    return f"Shard {shard + 1}{of}" + (f" ({rate:,.0f} rows a second so far)" if rate else "")
