"""The table of malformed folders: what is done to a sound one, and the sentence that must come of it."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from folders.build import HIDDEN
from folders.rows import CONFIG, MODEL, MODULE, TOKENIZER, WEIGHTS

MODULES, POOL, DENSE, BIN, INDEX = (
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "pytorch_model.bin",
    "model.safetensors.index.json",
)
WORDS, QUERY = "embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.query.weight"
CODE = "executed"
DEEP = "[" * 100_000


@dataclass(frozen=True)
class Malformed:
    """A folder and the refusal of it.

    files: file -> what to do with it, as in `build.change`.
    said: a regular expression that the sentence contains after the folder's path; None where it must load.
    base: which sound folder it is made of.
    """

    name: str
    files: Mapping[str, Any]
    said: str | None
    base: str = "bert"


class Exploit:
    """What runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (CODE,)


def tensors(**changes: Any) -> Callable[[Path], None]:
    """Puts tensors into a safetensors file, by names with `__` for dots; None takes one out."""

    def write(path: Path) -> None:
        state = load_file(path)
        for name, value in changes.items():
            state[name.replace("__", ".")] = value
        save_file({name: value for name, value in state.items() if value is not None}, path)

    return write


def edited(name: str, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = load_file(path)
        changed = edit(state.pop(name))
        save_file(state if changed is None else {**state, name: changed.contiguous()}, path)

    return write


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def pickled(content: Any = None, *, protocol: bool = True, compress: bool = False) -> Callable[[Path], None]:
    """Writes a file for torch.load: `content`, or else the tensors of the folder's safetensors file."""

    def write(path: Path) -> None:
        whole = path.with_name(WEIGHTS)
        value = load_file(whole) if content is None else content
        if protocol:
            torch.save(value, path)
        else:
            path.write_bytes(pickle.dumps(value))
        if compress:
            with zipfile.ZipFile(path) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, part in parts.items():
                    archive.writestr(name, part)
        whole.unlink()

    return write


def link(target: str) -> Callable[[Path], None]:
    """Puts a link in the place of a file or folder, which moves to `target`, where that is not there yet."""

    def write(path: Path) -> None:
        to = path.parent / target
        if not to.exists():
            path.rename(to)
        path.symlink_to(target)

    return write


def pipe(path: Path) -> None:
    """A file that nobody writes to: reading it never ends."""
    path.unlink()
    os.mkfifo(path)


def sharded(name: Any) -> dict[str, Any]:
    """An index whose tensors all lie in one file, which is the whole one under another name."""

    def index(path: Path) -> None:
        names = load_file(path.with_name(WEIGHTS))
        path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, name)}))
        path.with_name(WEIGHTS).rename(path.with_name("model-00001-of-00001.safetensors"))

    return {INDEX: index}


def config(base: str = "bert", /, **values: Any) -> list[Malformed]:
    """One row per value of config.json; each is refused by its name."""
    return [
        Malformed(
            f"{key} {value!r:.20} ({base})", {CONFIG: {key: value}}, rf"(?s)(?=.*config\.json)(?=.*\b{key}\b)", base
        )
        for key, listed in values.items()
        for value in listed
    ]


NO_NUMBERS = (None, "16", -1, 0, 1.5, True, [], {}, 10**12, 10**400)
SIZES = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "max_position_embeddings"), (None, "16", 10**12)),
    **dict.fromkeys(("num_hidden_layers", "vocab_size"), NO_NUMBERS),
}

MALFORMED = (
    # config.json: what it is.
    Malformed("a list", {CONFIG: "[]"}, r"/config\.json holds a list"),
    Malformed("a number", {CONFIG: "3"}, r"/config\.json holds a int"),
    Malformed("empty", {CONFIG: ""}, r"/config\.json is not valid JSON"),
    Malformed("no UTF-8", {CONFIG: b"\xff\xfe{}"}, r"/config\.json is not UTF-8"),
    Malformed("deep", {CONFIG: DEEP}, r"/config\.json has too many levels"),
    Malformed("deep inside", {CONFIG: '{"a":' + DEEP}, r"/config\.json has too many levels"),
    Malformed("a folder", {CONFIG: lambda path: (path.unlink(), path.mkdir())}, r"/config\.json is no"),
    Malformed("a pipe", {CONFIG: pipe}, r"/config\.json is no"),
    Malformed("a link to itself", {CONFIG: lambda path: (path.unlink(), path.symlink_to(path))}, r"config\.json"),
    # config.json: its values.
    *config(**SIZES),
    *config(
        num_hidden_layers=(3, 10**9),
        hidden_size=(17, 32),
        intermediate_size=(23,),
        vocab_size=(5, 10**9),
        max_position_embeddings=(2, 47, 49),
        num_attention_heads=(None, -1, 0, 3),
        type_vocab_size=(None, 0, 3, 10**9),
        layer_norm_eps=(None, "x", -1e-12, float("nan"), float("inf"), True, []),
        hidden_act=(None, "nonsense", 5, [], {}),
        hidden_dropout_prob=(None, "x", -0.1, 1.5, float("nan"), []),
        pad_token_id=("x", -1, 10**6, 1.5, []),
        model_type=(None, 5, [], {}),
        is_decoder=("x", []),
        auto_map=(["AutoModel"], "AutoModel"),
    ),
    Malformed("unknown to transformers", {CONFIG: {"id2label": 5, "torch_dtype": "x", "dtype": []}}, r"/config\.json"),
    Malformed("dtype in words", {CONFIG: {"dtype": "x"}}, r"/config\.json"),
    *config("distilbert", dim=(None, "16", 17, 10**12), n_layers=(10**9, -1), n_heads=(0, 3), hidden_dim=(5, None)),
    *config("distilbert", hidden_size=("x",), activation=("nonsense",), vocab_size=(10**12,)),
    *config("mpnet", relative_attention_num_buckets=(None, 0, -1, "x", 10**12, 8), hidden_size=(10**12,)),
    *config("mpnet", max_position_embeddings=(2, 10**12), layer_norm_eps=(-1,)),
    *config("modernbert", num_attention_heads=(16, 3), intermediate_size=(25,), norm_bias=("x",), norm_eps=(-1,)),
    *config("modernbert", local_attention=(-1, "x"), layer_types=("x", ["full_attention"], [5, 6])),
    *config("qwen3", num_key_value_heads=(0, 1, 3, 4, "x"), head_dim=(0, 8, "x"), rms_norm_eps=(-1,)),
    *config("qwen3", rope_parameters=({"rope_type": "default", "rope_theta": 0},), attention_bias=("x",)),
    *config("gemma3_text", query_pre_attn_scalar=(5,), attn_logit_softcapping=(5.0,), sliding_window=(-1, "x")),
    *config("modernbert", rope_parameters=({"full_attention": {"rope_type": "default", "rope_theta": 0}},)),
    # Weights.
    Malformed("truncated", {WEIGHTS: half}, r"/model\.safetensors cannot be read"),
    Malformed("empty weights", {WEIGHTS: b""}, r"/model\.safetensors cannot be read"),
    Malformed("weights of text", {WEIGHTS: "version https://git-lfs.github.com/spec/v1\n"}, r"/model\.safetensors"),
    Malformed("no weights", {WEIGHTS: None}, r"no weights"),
    Malformed("weights: a pipe", {WEIGHTS: pipe}, r"/model\.safetensors is no"),
    Malformed("a link to weights", {WEIGHTS: link("elsewhere")}, None),
    Malformed("no query", {WEIGHTS: edited(QUERY, lambda t: None)}, r"encoder\.layer\.1\.attention\.self\.query"),
    Malformed("no word embeddings", {WEIGHTS: edited(WORDS, lambda t: None)}, "word_embeddings"),
    Malformed("query of another shape", {WEIGHTS: edited(QUERY, lambda t: t[:4])}, rf"{QUERY}.*\[16, 16\].*\[4, 16\]"),
    Malformed("a flat query", {WEIGHTS: edited(QUERY, torch.flatten)}, rf"{QUERY}.*\[16, 16\].*\[256\]"),
    Malformed("flat embeddings", {WEIGHTS: edited(WORDS, torch.flatten)}, rf"{WORDS}"),
    Malformed("integers", {WEIGHTS: edited(QUERY, torch.Tensor.long)}, rf"{QUERY}.*int64"),
    Malformed("bytes", {WEIGHTS: edited(QUERY, lambda t: t.to(torch.int8))}, rf"{QUERY}.*int8"),
    Malformed("doubles", {WEIGHTS: edited(QUERY, torch.Tensor.double)}, None),
    Malformed("integers beside", {WEIGHTS: tensors(embeddings__position_ids=torch.arange(4))}, None),
    Malformed("a pickle", {BIN: pickled()}, None),
    Malformed("a pickle with code", {BIN: pickled({"a": Exploit()})}, r"/pytorch_model\.bin"),
    Malformed("a plain pickle with code", {BIN: pickled(Exploit(), protocol=False)}, r"/pytorch_model\.bin"),
    Malformed("a pickled list", {BIN: pickled([1, 2])}, r"/pytorch_model\.bin"),
    Malformed("a pickle of numbers", {BIN: pickled({WORDS: 5, 3: torch.ones(1)})}, r"/pytorch_model\.bin"),
    Malformed("an empty pickle", {WEIGHTS: None, BIN: b""}, r"/pytorch_model\.bin"),
    Malformed("a pickle of text", {WEIGHTS: None, BIN: "nothing"}, r"/pytorch_model\.bin"),
    Malformed(
        "one number for a trillion",
        {
            BIN: pickled({WORDS: torch.zeros(1).expand(10**6, 10**6)}),
            CONFIG: {"vocab_size": 10**6, "hidden_size": 10**6},
        },
        r"/pytorch_model\.bin",
    ),
    Malformed("a compressed pickle", {BIN: pickled(compress=True)}, r"/pytorch_model\.bin"),
    Malformed("shards", sharded("model-00001-of-00001.safetensors"), None),
    Malformed("shards that are not there", sharded("model-00002-of-00001.safetensors"), r"model-00002-of-00001"),
    Malformed("shards above", sharded("../model/model-00001-of-00001.safetensors"), r"index\.json.*\.\./model"),
    Malformed("shards elsewhere", sharded("/etc/passwd"), r"index\.json.*/etc/passwd"),
    Malformed("shards: a number", sharded(5), r"index\.json"),
    Malformed("index: a list", {INDEX: "[]", WEIGHTS: None}, r"index\.json"),
    Malformed("index: empty", {INDEX: "{}", WEIGHTS: None}, r"index\.json"),
    Malformed("index: no map", {INDEX: {"weight_map": []}, WEIGHTS: None}, r"index\.json"),
    Malformed("index: deep", {INDEX: DEEP, WEIGHTS: None}, r"index\.json"),
    # modules.json.
    *(
        Malformed(f"modules: {content:.20}", {MODULES: content}, r"/modules\.json")
        for content in (
            *("{}", '"x"', "null", "[]", "5", "", "[5]", "[null]", '["x"]', "[[]]", "[{}]", '[{"path": ""}]', DEEP),
            '[{"type": "sentence_transformers.models.Transformer"}]',
            '[{"type": null, "path": ""}]',
            '[{"type": "sentence_transformers.models.Transformer", "path": null}]',
            '[{"type": "sentence_transformers.models.Transformer", "path": 5}]',
            '[{"type": "sentence_transformers.models.Transformer", "path": "../../outside"}]',
            '[{"type": "sentence_transformers.models.Transformer", "path": "/etc"}]',
            '[{"type": "sentence_transformers.models.Transformer", "path": "C:\\\\x"}]',
            '[{"type": "sentence_transformers.models.Transformer", "path": "a\\u0000b"}]',
        )
    ),
    Malformed(
        "a long path",
        {MODULES: json.dumps([{"type": "sentence_transformers.models.Transformer", "path": "x" * 5000}])},
        r"x\.\.\. cannot be read \(File name too long\)",
    ),
    Malformed(
        "a linked module", {"1_Pooling": link("../outside")}, r"/modules\.json gives the path '1_Pooling', which leaves"
    ),
    Malformed("a module linked inside", {"1_Pooling": link("own")}, None),
    # Modules.
    Malformed("pooling []", {POOL: "[]"}, r"/1_Pooling/config\.json holds a list"),
    Malformed("pooling null", {POOL: "null"}, r"/1_Pooling/config\.json"),
    Malformed("pooling mode {}", {POOL: {"pooling_mode": {}}}, r"/1_Pooling/config\.json"),
    Malformed("dense: wide", {DENSE: {"in_features": 10**12}}, r"2_Dense"),
    Malformed("dense: shape", {"2_Dense/model.safetensors": tensors(linear__weight=torch.ones(4, HIDDEN))}, r"2_Dense"),
    Malformed("dense: truncated", {"2_Dense/model.safetensors": half}, r"2_Dense/model\.safetensors"),
    Malformed(
        "dense: integers",
        {"2_Dense/model.safetensors": tensors(linear__weight=torch.ones(HIDDEN, HIDDEN).long())},
        r"2_Dense",
    ),
    Malformed(
        "dense: no number",
        {"2_Dense/model.safetensors": tensors(linear__weight=torch.full((HIDDEN, HIDDEN), torch.nan))},
        r"2_Dense",
    ),
    Malformed("dense: code", {"2_Dense/pytorch_model.bin": pickled(Exploit())}, r"2_Dense/pytorch_model\.bin"),
    Malformed("dense: a list", {"2_Dense/pytorch_model.bin": pickled([])}, r"2_Dense/pytorch_model\.bin"),
    Malformed("dense: numbers", {"2_Dense/pytorch_model.bin": pickled({"linear.weight": 3})}, r"2_Dense"),
    Malformed(
        "dense: one number for a trillion",
        {
            "2_Dense/pytorch_model.bin": pickled(
                {
                    "linear.weight": torch.zeros(1).expand(10**6, 10**6),
                    "linear.bias": torch.zeros(1).expand(10**6),
                }
            ),
            DENSE: {"in_features": 10**6, "out_features": 10**6},
        },
        r"2_Dense",
    ),
    Malformed("dense: activation []", {DENSE: {"activation_function": []}}, r"/2_Dense/config\.json"),
    Malformed("module: a list", {MODULE: "[1]"}, rf"/{MODULE} holds a list"),
    Malformed("module: lower case", {MODULE: {"do_lower_case": "yes"}}, rf"/{MODULE}.*do_lower_case"),
    Malformed("module: long", {MODULE: {"max_seq_length": 10**400}}, rf"/{MODULE}.*max_seq_length"),
    *(
        Malformed(f"{key} {value!r}", {MODEL: {key: value}}, rf"/{MODEL}.*{key[:7]}")
        for key, value in (
            *(("prompts", value) for value in ([1], "x", 5, {"query": 5}, {"query": []})),
            *(("default_prompt_name", value) for value in (5, [], {}, "x")),
            *(("similarity_fn_name", value) for value in (5, [], {}, "x")),
            *(("truncate_dim", value) for value in (0, -1, 1.5, "8", [], 10**12)),
        )
    ),
    # Tokenizers.
    *(
        Malformed(f"tokenizer {content:.20}", {"tokenizer.json": content}, "tokenizer")
        for content in ("{}", "[]", "null", "", '{"version": "1.0", "model": {}}', DEEP)
    ),
    Malformed("tokenizer truncated", {"tokenizer.json": half}, "tokenizer"),
    Malformed("tokenizer: a pipe", {"tokenizer.json": pipe}, r"tokenizer\.json is no"),
    *(Malformed(f"{TOKENIZER} {content:.20}", {TOKENIZER: content}, TOKENIZER) for content in ("[]", "5", "", DEEP)),
    *(
        Malformed(f"{key} {value!r:.20}", {TOKENIZER: {key: value}}, "tokenizer")
        for key, value in (
            *(("model_max_length", value) for value in ("x", -1, [], float("nan"), True)),
            *(("pad_token", value) for value in (5, [], "nothing")),
            ("padding_side", "up"),
            ("tokenizer_class", 5),
            ("added_tokens_decoder", []),
            ("added_tokens_decoder", {"5": 5}),
        )
    ),
    # A pruned pack's own configuration.
    *config("pack", **dict.fromkeys(SIZES, (None, 3, 10**9))),
    *config(
        "pack", key_value_heads=(5, [[0, 0, 0]], [["0", 0, 0], [0]], [[0, 2, 2], [0]], [[1, 1, 1], [0]], [[0], [0]])
    ),
    *config("pack", key_value_heads=([[0, 0, 1], [0]],), causal=("x", True), norm=("x",), embedding_norm=(0, False)),
    *config("pack", embedding_scale=(-1, "x"), norm_outputs=("x",)),
    *config("pack", query_key_norm=("x",)),
    *config(
        "pack",
        num_hidden_layers=(1,),
        intermediate_size=(0,),
        attention_head_size=(None, 0, 3, 10**9),
        position_offset=(None, "x", -1, 10**12, 1.5),
        relative_attention_num_buckets=(None, -1, "x", 10**12, 8),
        kept_heads=(5, "x", {}, [[0]], [[0], [0], [0]], [["a"], ["b"]], [[0, 0], [9]], [None, None]),
        original_model_type=(None, "x", 5, []),
        **dict.fromkeys(("norm_first", "gated"), (None, "x")),
        **dict.fromkeys(("norm_bias", "attention_bias", "feed_forward_bias"), ("x", False)),
        rotary_bases=(5, [], ["x", "x"], [0, 0], [1e4], [1e4, 1e4]),
        attention_windows=(5, [-1, 0], ["x", None], [1]),
        weight_storage=("int4", 5, [], "int8"),
        has_pooler=("x", [], False),
        layer_norm_eps=(-1, "x"),
        hidden_act=("nonsense",),
        per_layer_config=(
            *(5, "x", [], [1]),
            {"0": 5},
            {"0": {"num_attention_heads": -1}},
            {"0": {"num_attention_heads": "x"}},
            {"0": {"num_attention_heads": None}},
            {"0": {"num_attention_heads": 10**12}},
            {"0": {"intermediate_size": 1.5}},
            {"0": {"intermediate_size": 10**12}},
            {"0": {"something": 5}},
            {"2": {"num_attention_heads": 1}},
            {"-1": {"num_attention_heads": 1}},
            {"x": {"num_attention_heads": 1}},
            {str(i): {"num_attention_heads": 1} for i in range(100)},
        ),
    ),
    Malformed(
        "neurons of another layer",
        {CONFIG: {"per_layer_config": {"0": {"num_attention_heads": 3}, "1": {"num_attention_heads": 1}}}},
        r"/config\.json: intermediate_size of layer 0 is 24, .*\[20, 16\]",
        "pack",
    ),
    Malformed("no position left", {CONFIG: {"position_offset": 48}}, r"/config\.json: .*begin at 48", "pack"),
)
