"""The run directory: one folder per stage, written whole, with a record of what it was made from and with.

    sparsecse-run/
        score/     record.json  scores.safetensors
        prune/     record.json  mask.safetensors  model/
        rewind/    record.json  model/
        finetune/  record.json  model/  history.json
        ...

A record names the stage's inputs by content hash, its settings and its outputs. A stage whose record agrees with what
is asked for is not run again; one whose inputs have changed since is stale, and says what to run. What a later stage
reads is compared with its record first, and only what a record names is replaced or deleted.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparsecse import disk
from sparsecse.benchmarking.machine import machine, versions
from sparsecse.errors import InputError
from sparsecse.files import atomic_directory, discard, hash_once, held, left_from, read_json, text_hash, write_json
from sparsecse.manifest import contents, foreign, in_words

MODEL_STAGES = ("finetune", "rewind", "prune")
"""Stages that end with a smaller model, the last in the chain first."""

STAGES = (
    *("train", "score", "latency", "choose", "layers", "prune", "rewind", "finetune"),
    *("eval-dense", "eval", "pack", "bench"),
)
"""Every stage, and the name of its folder."""

# Of the stages that have none of their own.
_COMMANDS = {**dict.fromkeys(("latency", "choose", "layers"), "prune"), "eval-dense": "eval"}
_RECORD = "record.json"
_RETIRED = ".retired"


@functools.cache
def package_versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return versions(("tokenizers", "numpy", "scipy"))


@dataclass(frozen=True)
class Record:
    """What a finished stage was made from and what it left.

    inputs: name -> content hash; settings: what was asked for; info: results worth showing; outputs: file -> SHA-256.
    machine: what it ran on, see `benchmarking.machine`. command: the command line, empty where it ran from Python.
    """

    stage: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    outputs: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=package_versions)
    created: str = ""
    seconds: float = 0.0
    machine: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


def identity(inputs: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """A hash of inputs and settings: two runs of a stage with the same identity give the same result."""
    text = json.dumps([dict(inputs), dict(settings)], sort_keys=True, default=str)
    return text_hash(text)


def _is_whole(record: Record, stage: str) -> bool:
    """Whether a record is of that stage and its fields are what they should be."""
    mappings = (record.inputs, record.settings, record.info, record.outputs)
    return record.stage == stage and all(isinstance(mapping, dict) for mapping in mappings)


def check_recorded(path: Path) -> None:
    """Raise `InputError` for a folder inside a stage whose files there were damaged since; see `Workdir.changed`."""
    whole = path.resolve()
    for folder in whole.parents[:3]:
        if folder.name.removesuffix(_RETIRED) in STAGES and (folder / _RECORD).is_file():
            Workdir(folder.parent).check(folder.name, f"{whole.relative_to(folder).as_posix()}/")
            return


class Workdir:
    """One run directory; nothing is created before the first stage writes.

    command: the command line that works in it, for the records.
    """

    def __init__(self, path: Path | str, command: str = ""):
        self.path = Path(path)
        self.command = command
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"`workdir` {self.path} is a file; give a folder.")

    def folder(self, stage: str) -> Path:
        return self.path / stage

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a folder is a run directory."""
        return any((path / stage / _RECORD).exists() for stage in ("train", "score", "prune"))

    def record(self, stage: str) -> Record | None:
        """The record of a finished stage, or None."""
        path = self.folder(stage) / _RECORD
        if not path.exists():
            return None
        try:
            record = Record(**read_json(path))
        except (InputError, TypeError):
            record = None
        if record is None or not _is_whole(record, stage.removesuffix(_RETIRED)):
            raise InputError(
                f"{path} is damaged, or not a record of this version; delete {path.parent} to run the stage again, or "
                f"move it away if it is yours."
            )
        return record

    def need(self, stage: str) -> Record:
        """The record of a stage that must have been run."""
        record = self.record(stage)
        if record is None:
            raise InputError(f"{self.path} has no finished '{stage}' stage; run `sparsecse {stage}` first.")
        return record

    def changed(self, stage: str, part: str = "") -> list[str]:
        """The files of a finished stage that are missing or do not have the contents that the record names.

        Each is read once a process. part: how their paths begin: all, a folder's (with a slash at its end) or one.
        """
        folder, outputs = self.folder(stage), self.need(stage).outputs
        return [
            name
            for name, sha in outputs.items()
            if name.startswith(part) and not ((folder / name).is_file() and hash_once(folder / name) == sha)
        ]

    def check(self, stage: str, part: str = "") -> None:
        """Raise `InputError` for a stage that is not finished, or has a file that was damaged since; see `changed`."""
        if names := self.changed(stage, part):
            raise InputError(
                f"{self.folder(stage)} was damaged or changed since '{stage}' wrote it ({in_words(names)}); restore "
                f"it, or run `sparsecse {_COMMANDS.get(stage, stage)}` again."
            )

    def check_folders(self) -> None:
        """Raise `InputError` where something lies in a stage's place that is not a stage's folder."""
        for name in (*STAGES, *(stage + _RETIRED for stage in MODEL_STAGES)):
            folder = self.folder(name)
            if (folder.exists() or folder.is_symlink()) and not (folder / _RECORD).is_file():
                raise InputError(
                    f"{folder} was not written by sparsecse (it has no {_RECORD}), and its place is that of a stage; "
                    f"move it away, or give another `workdir`."
                )

    def _check_own(self, name: str) -> None:
        """Raise `InputError` where a stage's folder, which is to be replaced, has files that are not the stage's."""
        record = self.record(name)
        names = [] if record is None else foreign(self.folder(name), dict.fromkeys((*record.outputs, _RECORD)))
        if names:
            raise InputError(
                f"{self.folder(name)} would be replaced, and has files that sparsecse did not write "
                f"({in_words(names)}); move them away, or give another `workdir`."
            )

    @contextlib.contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the directory for one process; a second one is refused with a sentence instead of racing.

        wait: until another process has let it go.

        Raises:
            InputError: another process holds it, it cannot be written, or see `check_folders`.
        """
        self.check_folders()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"`workdir` {self.path} cannot be written ({error.strerror}); give another one.") from None
        with held(self.path, wait=wait) as alone:
            if alone is False:
                raise InputError(
                    f"{self.path} is in use by another sparsecse process; wait for it or give another `workdir`."
                )
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """Delete half-written folders of killed runs; where a stage's own folder is gone they are kept, to be safe."""
        for folder in self.path.glob(".*.tmp*"):
            name = left_from(folder)
            if name and name.removesuffix(_RETIRED) in (*STAGES, "packed") and self.folder(name).exists():
                disk.remove(folder)

    def run_stage(
        self,
        stage: str,
        inputs: Mapping[str, str],
        settings: Mapping[str, Any],
        work: Callable[[Path], Mapping[str, Any]],
        *,
        force: bool = False,
    ) -> tuple[Record, bool]:
        """Run a stage unless a finished one has the same inputs and settings and intact files.

        Args:
            work: fills the folder that it is given and returns the record's `info`; the folder takes the stage's
                place only when it returns.
            force: run it even where a finished one is as wanted.

        Returns:
            the stage's record, and whether it was there already.

        Raises:
            InputError: files that no stage wrote lie where they would be replaced; nothing is run then.
        """
        wanted = identity(inputs, settings)
        before = self.record(stage)
        if (
            not force
            and before is not None
            and identity(before.inputs, before.settings) == wanted
            and not self.changed(stage)
        ):
            return before, True
        self.check_folders()
        self._check_own(stage)
        start = time.monotonic()
        with atomic_directory(self.folder(stage)) as folder:
            info = dict(work(folder))
            outputs = contents(folder)
            record = Record(
                stage,
                dict(inputs),
                json.loads(json.dumps(dict(settings))),
                info,
                outputs,
                created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - start, 2),
                machine=machine(),
                command=self.command,
            )
            write_json(folder / _RECORD, asdict(record))
            self._check_own(stage)  # what was put there during the work
        self._remove_leftovers()
        return record, False

    def adopt(self, stage: str, source: Workdir) -> None:
        """Take a finished stage of another run directory as one's own, as a copy, unless this one has the same.

        Raises:
            InputError: the other one has not finished the stage, or it was damaged since; or see `run_stage`.
        """
        source.check(stage)
        theirs, own = source.need(stage), self.record(stage)
        if own == theirs and not self.changed(stage):
            return
        self.check_folders()
        self._check_own(stage)
        with atomic_directory(self.folder(stage)) as folder:
            shutil.copytree(source.folder(stage), folder, dirs_exist_ok=True)

    def partial(self, stage: str, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> Path:
        """A folder for what an interrupted stage resumes from; it belongs to exactly these inputs and settings."""
        folder = self.path / f".{stage}-{identity(inputs, settings)[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_partials(self, stage: str) -> None:
        """Remove what interrupted runs of a stage left, once it has been finished."""
        for folder in self.path.glob(f".{stage}-*"):
            if re.fullmatch(rf"\.{stage}-[0-9a-f]{{12}}", folder.name):
                disk.remove(folder)

    def retire(self, stage: str) -> None:
        """Move a finished stage out of the chain, to `<stage>.retired` beside it; an older one there is replaced."""
        self.check_folders()
        aside = stage + _RETIRED
        if self.record(stage) is None:
            return
        if self.record(aside) is not None:
            self._check_own(aside)
            discard(self.folder(aside))
        disk.rename(self.folder(stage), self.folder(aside))

    def output_hash(self, stage: str, name: str) -> str:
        """The recorded hash of one file of a finished stage."""
        return self.need(stage).outputs[name]

    def stale(self, stage: str) -> str | None:
        """Why a finished stage no longer follows from the stages before it, or None."""
        record = self.need(stage)
        for name, sha in record.inputs.items():
            source, _, file = name.partition("/")
            if not file:
                continue  # an input from outside the run directory
            current = self.record(source)
            if current is None or current.outputs.get(file) != sha or self.stale(source) is not None:
                return f"'{stage}' was made from another '{source}'; run `sparsecse {stage}` again"
        return None

    def newest_model(self) -> tuple[str, list[str]]:
        """The last stage in the chain finetune, rewind, prune that follows from the others, and why later ones do not.

        Raises:
            InputError: nothing has been pruned yet, or everything is stale.
        """
        reasons: list[str] = []
        for stage in MODEL_STAGES:
            if self.record(stage) is None:
                continue
            reason = self.stale(stage)
            if reason is None:
                return stage, reasons
            reasons.append(reason)
        if reasons:
            raise InputError(f"{self.path}: {reasons[-1]}.")
        raise InputError(f"{self.path} has no pruned model; run `sparsecse prune` first.")
