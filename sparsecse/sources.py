"""Models and data sets as they are asked for: by name, with what loading them takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sparsecse.settings import documented, setting, split_list

if TYPE_CHECKING:
    from sparsecse.datasets import PairSet
    from sparsecse.encoders import Encoder
    from sparsecse.evaluation.dev import DevSet

# The command line makes its options of these classes, so that what they load is imported when it is loaded.


@documented
@dataclass(frozen=True)
class ModelOptions:
    """A model by name, and what its folder does not say; see `encoders.load_encoder`."""

    name: str = ""
    pooling: str | None = setting(
        None,
        "How token vectors are pooled, where the model's files do not say: mean, cls, pooler, first_last_avg, max, "
        "mean_sqrt_len_tokens, weightedmean, lasttoken.",
    )
    normalize: bool | None = setting(None, "Unit-length vectors; by default what the model's files say.")
    max_length: int | None = setting(None, "Tokens kept of a text; by default what the model's files say.")
    prompt: str | None = setting(None, 'Text put before every sentence (E5: "query: "); "" for none.')
    truncate_dim: int | None = setting(
        None,
        "Values kept of each vector, from the first (Matryoshka); by default what the model's files say, else all.",
    )

    def load(self) -> Encoder:
        from sparsecse.encoders import load_encoder

        values = asdict(self)
        return load_encoder(values.pop("name"), **values)

    def unused_prompts(self) -> tuple[str, ...]:
        """Names of the model's own prompts where none of them is used and nobody said which."""
        from sparsecse.encoders import unused_prompts

        return () if self.prompt is not None else unused_prompts(self.name)

    def settings(self) -> dict[str, Any]:
        return asdict(self)


@documented
@dataclass(frozen=True)
class DataOptions:
    """A data set by name, file, hub id or folder; see `datasets.load_pairs`."""

    name: str = ""
    split: str | None = setting(None, "Split of a named set or a hub dataset.")
    data_dir: str | None = setting(
        None, "SentEval folder: the one that holds downstream/, or downstream/ itself.", envvar="SPARSECSE_DATA_DIR"
    )
    columns: tuple[str, ...] | None = setting(
        None, "Column names of a table, comma-separated: first,second,score.", parse=split_list
    )

    def pairs(self) -> PairSet:
        from sparsecse.datasets import load_pairs

        return load_pairs(self.name, split=self.split, data_dir=self.data_dir, columns=self.columns)

    def graded(self) -> PairSet | None:
        """The pairs where they have gold scores, else None; see `datasets.graded_pairs`."""
        from sparsecse.datasets import graded_pairs

        return graded_pairs(self.name, split=self.split, data_dir=self.data_dir, columns=self.columns)

    def settings(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class DevOptions:
    """Dev sets by names and paths; see `evaluation.dev.load_dev`."""

    names: tuple[str, ...]
    data_dir: str | None = None

    def load(self) -> list[DevSet]:
        from sparsecse.evaluation.dev import load_dev

        return load_dev(self.names, self.data_dir)

    def without_held_out(self) -> tuple[DevOptions | None, bool]:
        """The sets to load, None where there are none, and whether training sentences are to be held out."""
        from sparsecse.evaluation.dev import HELD_OUT

        names = tuple(name for name in self.names if name != HELD_OUT)
        return DevOptions(names, self.data_dir) if names else None, HELD_OUT in self.names
