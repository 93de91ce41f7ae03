"""The folder of an embedded corpus: its manifest, what of it is whole, and its vectors read back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsecse import disk
from sparsecse.corpora.settings import DTYPES, FORMATS
from sparsecse.corpora.shards import RANGES_FILE, file_names, read_vectors, write_shard
from sparsecse.corpora.sinks import SINKS, Finished
from sparsecse.errors import InputError
from sparsecse.files import atomic_directory, atomic_file, file_hash, held, left_from, read_json, write_json
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
_COMPUTED = ("precision", "dimension")
_SHARD = {"rows": int, "blank": int, "input": str}

Manifest = dict[str, Any]


def _hash(file: Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    return file_hash(file) if file.is_file() else None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of embeddings; see docs/use/encode.md.

    Raises:
        InputError: there is none, or a damaged one.
    """
    path = folder / MANIFEST_FILE
    found = read_json(path)
    if not _is_sound(found):
        raise InputError(f"{path} is damaged, or no manifest of embeddings; restore it, or give another folder.")
    return found


def _is_sound(manifest: Any) -> bool:
    """Whether what a manifest says is of the right kinds and fits together."""

    def has(mapping: Any, kinds: Mapping[str, type]) -> bool:
        return isinstance(mapping, dict) and all(isinstance(mapping.get(name), kind) for name, kind in kinds.items())

    if not has(manifest, _FIELDS) or not all(has(shard, _SHARD) for shard in manifest["shards"]):
        return False
    settings, files, shards = manifest["settings"], manifest["files"], manifest["shards"]
    if settings.get("format") not in FORMATS or settings.get("dtype") not in DTYPES:
        return False
    names = {name for shard in range(len(shards)) for name in _names(settings, shard)}
    return (
        names <= files.keys()
        and manifest["rows"] == sum(shard["rows"] for shard in shards)
        and isinstance(manifest.get("indexes", {}), dict)
    )


def _names(settings: Mapping[str, Any], shard: int) -> list[str]:
    """The files of a shard, that of the vectors first."""
    ranges = [RANGES_FILE] if shard == 0 and settings["dtype"] == "int8" else []
    return [*file_names(shard, settings["format"], settings.get("id_column") is not None), *ranges]


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
    before, now = ({**one["settings"], **{name: one[name] for name in _COMPUTED}} for one in (there, wanted))
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
                if all(map(self._is_whole, _names(manifest["settings"], shard))):
                    self.finished.add(shard)
                report(shard + 1, known)

    def _is_whole(self, name: str) -> bool:
        return name in self.manifest["files"] and self.manifest["files"][name] == _hash(self.path / name)

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
        self.manifest["files"] |= {
            name: file_hash(self.path / name) for name in _names(self.manifest["settings"], shard)
        }
        if shard == len(self.manifest["shards"]):
            self.manifest["shards"].append(dict(record))
            self.manifest["rows"] += record["rows"]
        self.write_manifest()

    def has_index(self, sink: str) -> bool:
        """Whether an index is there; a folder is the user's to go on with, once it has its name.

        Raises:
            InputError: something else has its name.
        """
        made, built = SINKS[sink], self.manifest.get("indexes", {})
        path = self.path / made.name
        if not (path.exists() or path.is_symlink()):
            return False
        if made.name in built and (path.is_dir() if made.is_folder else _hash(path) == built[made.name]):
            return True
        raise InputError(
            f"{path} is not the index that `sink` {sink} wrote there, or was changed since; move it away, or delete it "
            f"to have it built."
        )

    def index(self, sink: str) -> None:
        """Build an index of the finished folder, unless it is there; the manifest names it before it takes its name."""
        if self.has_index(sink):
            return
        made = SINKS[sink]
        path = self.path / made.name
        finished = Finished(
            self.path,
            len(self.manifest["shards"]),
            self._storage,
            self._dtype,
            self.manifest["dimension"],
            self._has_ids,
        )
        with (atomic_directory if made.is_folder else atomic_file)(path) as temporary:
            made.build(finished, temporary)
            self.manifest.setdefault("indexes", {})[made.name] = None if made.is_folder else file_hash(temporary)
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
        if _hash(folder / name) != sha:
            raise InputError(f"{folder / name} is missing or damaged; run the command that wrote it again.")
    names = [file_names(shard, manifest["settings"]["format"], False)[0] for shard in range(len(manifest["shards"]))]
    arrays = [read_vectors(folder / name) for name in names]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
