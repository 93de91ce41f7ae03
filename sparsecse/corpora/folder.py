"""The folder of an embedded corpus: its manifest, what of it is whole, and its vectors read back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsecse import disk
from sparsecse.corpora.shards import RANGES_FILE, file_names, read_vectors, write_shard
from sparsecse.corpora.sinks import SINKS, Finished
from sparsecse.errors import InputError
from sparsecse.files import atomic_file, file_hash, held, left_from, read_json, write_json
from sparsecse.manifest import foreign, in_words
from sparsecse.progress import Progress, silent

MANIFEST_FILE = "manifest.json"
_OURS = re.compile(
    r"manifest\.json|ranges\.npy|vectors-\d{5,}\.(npy|parquet|arrow)|ids-\d{5,}\.jsonl|index\.(faiss|usearch|lancedb)"
)
_FIELDS = {
    "model": dict,
    "settings": dict,
    "precision": str,
    "dimension": int,
    "complete": bool,
    "rows": int,
    "shards": list,
    "files": dict,
}

Manifest = dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of embeddings; see docs/use/encode.md.

    Raises:
        InputError: there is none, or a damaged one.
    """
    path = folder / MANIFEST_FILE
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in _FIELDS.items()):
        raise InputError(f"{path} is damaged, or no manifest of embeddings; restore it, or give another folder.")
    return found


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[Manifest | None]:
    """A folder held by this process, made where there is none, without what a killed run left; and its manifest.

    Raises:
        InputError: a file; a folder of other things; one that another process holds.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, and embeddings are a folder; give another one.")
    path.mkdir(parents=True, exist_ok=True)
    with held(path) as alone:
        if alone is False:
            raise InputError(f"{path} is being written by another process; wait for it, or give another folder.")
        for file in path.iterdir():
            if _OURS.fullmatch(left_from(file) or ""):
                disk.remove(file)
        if (path / MANIFEST_FILE).exists():
            yield read_manifest(path)
            return
        if names := foreign(path, {}):
            raise InputError(
                f"{path} has files and no {MANIFEST_FILE} of embeddings ({in_words(names)}); give a new folder."
            )
        yield None


def check_same(path: Path, there: Manifest, wanted: Manifest) -> None:
    """Raise `InputError` where a folder was begun with another model or other settings."""
    mend = "give another folder, or delete this one to begin again."
    if there["model"].get("sha256") != wanted["model"]["sha256"]:
        raise InputError(
            f"{path} holds vectors of another model ({there['model'].get('name')}), or of one loaded with other "
            f"options; {mend}"
        )
    before = {**there["settings"], "precision": there["precision"]}
    now = {**wanted["settings"], "precision": wanted["precision"]}
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(f"{path} was begun with `{name}` {before.get(name)}, and now it is {value}; {mend}")


class Shards:
    """The shards of a claimed folder.

    Attributes:
        manifest: what is written beside them.
        finished: the shards whose files are what the manifest says.
    """

    def __init__(self, path: Path, manifest: Manifest, has_ids: bool, progress: Progress = silent):
        self.path, self.manifest = path, manifest
        self._storage, self._dtype = manifest["settings"]["format"], manifest["settings"]["dtype"]
        self._has_ids = has_ids
        known = len(manifest["shards"])
        self.finished = set()
        if known:
            report = progress("Checking the shards that are there")
            for shard in range(known):
                if all(map(self._is_whole, self._names(shard))):
                    self.finished.add(shard)
                report(shard + 1, known)

    def _names(self, shard: int) -> list[str]:
        ranges = [RANGES_FILE] if shard == 0 and self._dtype == "int8" else []
        return [*file_names(shard, self._storage, self._has_ids), *ranges]

    def _is_whole(self, name: str) -> bool:
        file = self.path / name
        return file.is_file() and self.manifest["files"].get(name) == file_hash(file)

    def ranges(self) -> np.ndarray | None:
        """The ranges of int8, where the first shard is finished."""
        return np.load(self.path / RANGES_FILE) if self._dtype == "int8" and 0 in self.finished else None

    def write(
        self,
        shard: int,
        vectors: np.ndarray,
        ids: Sequence[str] | None,
        record: Mapping[str, Any],
        ranges: np.ndarray | None,
    ) -> None:
        """Write a shard's files and then name them in the manifest; shards come in their order.

        ranges: of int8, which stand beside the first shard.
        """
        if shard == 0 and ranges is not None:
            with atomic_file(self.path / RANGES_FILE) as temporary, temporary.open("wb") as stream:
                np.save(stream, ranges, allow_pickle=False)
        write_shard(self.path, shard, self._storage, vectors, ids)
        self.manifest["files"] |= {name: file_hash(self.path / name) for name in self._names(shard)}
        if shard == len(self.manifest["shards"]):
            self.manifest["shards"].append(dict(record))
            self.manifest["rows"] += record["rows"]
        self.write_manifest()

    def index(self, sink: str) -> None:
        """Build an index of the finished folder and name it in the manifest, unless it is there."""
        name, built = SINKS[sink].name, self.manifest.setdefault("indexes", {})
        path = self.path / name
        # A folder is the user's to go on with, once it has its name.
        if name in built and path.exists() and (path.is_dir() or built[name] == file_hash(path)):
            return
        finished = Finished(
            self.path,
            len(self.manifest["shards"]),
            self._storage,
            self._dtype,
            self.manifest["dimension"],
            self._has_ids,
        )
        SINKS[sink].build(finished, path)
        built[name] = None if path.is_dir() else file_hash(path)
        self.write_manifest()

    def write_manifest(self) -> None:
        write_json(self.path / MANIFEST_FILE, self.manifest)


def load_embeddings(folder: str | Path) -> np.ndarray:
    """The vectors that `encode_corpus` wrote, all shards as one array, as they are stored.

    Args:
        folder: the folder; every file is compared with its hash in the manifest first.

    Returns:
        [rows, dimension] of the folder's dtype, [rows, bytes] where it is binary; a single npy shard is mapped into
        memory and read when it is used.

    Raises:
        InputError: no such folder, an unfinished one, a file that is missing or was changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        raise InputError(f"{folder} is unfinished; run the command that wrote it again, which goes on.")
    for name, sha in manifest["files"].items():
        if not (folder / name).is_file() or file_hash(folder / name) != sha:
            raise InputError(f"{folder / name} is missing or damaged; run the command that wrote it again.")
    names = [file_names(shard, manifest["settings"]["format"], False)[0] for shard in range(len(manifest["shards"]))]
    arrays = [read_vectors(folder / name) for name in names]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
