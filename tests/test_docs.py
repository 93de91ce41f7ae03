"""The pages of docs/use do what they say: their commands and Python snippets run, on a tiny model and offline."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import sparsecse
from sparsecse.cli import main
from sparsecse.encoders import load_encoder

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "use"
_BLOCK = re.compile(r"^```(\w+)( no-test)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, whether it runs here, its text, and where it is."""

    language: str
    runs: bool
    text: str
    place: str


def blocks(path: Path) -> list[Block]:
    """The page's blocks of Python and shell, in their order."""
    page = path.read_text()
    found = []
    for match in _BLOCK.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2] is None, match[3], f"{path.name}:{line}"))
    return found


@pytest.fixture(scope="module")
def run_folder(sentence_folder, tmp_path_factory):
    """A folder with a run directory in it: scored, pruned unevenly and packed as `packed`, by the command line."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["score", str(sentence_folder), "--data", "demo", "--method", "random"]) == 0
        assert main(["prune", "--sparsity", "0.4"]) == 0
        assert main(["pack", "--out", "packed"]) == 0
    config = json.loads((folder / "packed" / "config.json").read_text())
    assert config["model_type"] == "sparsecse" and config["per_layer_config"]
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_caches(tmp_path_factory):
    """Modelling files and data sets are cached per user otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache / "modules"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")
        yield


def command(block: Block, capsys) -> str:
    """Run a block of `sparsecse` commands; returns what they print."""
    capsys.readouterr()
    lines = block.text.strip().splitlines()
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "sparsecse", block.place
        code = main(arguments)
        assert code == 0, f"{block.place}: {line}\n{capsys.readouterr().err}"
    output = capsys.readouterr()
    return output.out + output.err


def run_page(name: str, capsys, model: str = "packed") -> tuple[dict[str, Any], str]:
    """Run a page's blocks in order, the Python ones in one namespace.

    Wherever a block leaves `sentences` and `vectors` in it, these must be what our encoder computes.

    Returns:
        the namespace and everything printed.
    """
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    printed, checked = [], 0
    for block in blocks(PAGES / name):
        if block.language == "python":
            code = compile(block.text, block.place, "exec")
            if not block.runs:
                continue
            exec(code, namespace)
            printed.append(capsys.readouterr().out)
            assert printed[-1] or "assert " in block.text or "vectors" in block.text or "tuned" in block.text, (
                block.place
            )
            if "vectors" in namespace:
                expected = load_encoder(model).encode(namespace["sentences"])
                np.testing.assert_allclose(np.asarray(namespace["vectors"]), expected.numpy(), atol=1e-5)
                checked += 1
        elif block.language == "bash" and block.runs and block.text.startswith("sparsecse "):
            printed.append(command(block, capsys))
    assert checked or name in ("bench.md", "hub.md", "mteb.md", "report.md"), name
    return namespace, "".join(printed)


@pytest.fixture
def here(run_folder, monkeypatch):
    """The folder that pages run in, as the working directory."""
    monkeypatch.chdir(run_folder)
    return run_folder


def test_transformers(here, capsys):
    pytest.importorskip("accelerate")  # device_map
    _, printed = run_page("transformers.md", capsys)
    assert "torch.Size([2, 32])" in printed
    assert float(re.search(r"smallest cosine of a token vector: (\S+)", printed)[1]) > 0.9


def test_sentence_transformers(here, capsys):
    pytest.importorskip("accelerate")  # the trainer
    pages, _ = run_page("sentence-transformers.md", capsys)
    expected = load_encoder("packed", prompt="query: ").encode(pages["sentences"])
    np.testing.assert_allclose(pages["queries"], expected.numpy(), atol=1e-5)
    assert np.abs(pages["tuned"] - pages["vectors"]).max() > 1e-5
    np.testing.assert_allclose(load_encoder("tuned").encode(pages["sentences"]).numpy(), pages["tuned"], atol=1e-5)
    assert (here / "tuned" / "modeling_sparsecse.py").is_file()


@pytest.mark.usefixtures("converted_once")
def test_onnx(here, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    _, printed = run_page("onnx.md", capsys)
    assert (here / "packed" / "onnx" / "model.onnx").is_file()
    assert "(2, 32)" in printed and float(re.search(r"smallest cosine to float32: (\S+)", printed)[1]) > 0.98


@pytest.mark.usefixtures("converted_once")
def test_openvino(here, capsys):
    pytest.importorskip("openvino")
    _, printed = run_page("openvino.md", capsys)
    for name in ("openvino_model", "openvino_model_pooled", "openvino_model_bfloat16_pooled"):
        assert (here / "packed" / "openvino" / f"{name}.xml").is_file()
    assert "largest difference without the hint" in printed


@pytest.mark.nightly  # six processes of five runtimes; `test_benchmarking` compares them by default
def test_bench(here, capsys):
    pytest.importorskip("onnxruntime")
    _, printed = run_page("bench.md", capsys)
    assert "Skipped pytorch int8, onnxruntime bfloat16" in printed
    assert re.search(r"^pytorch bfloat16 \d+ sentences/s, cosine 0\.99", printed, re.MULTILINE)


def test_report(here, capsys):
    _, printed = run_page("report.md", capsys)
    assert "parameters" in printed and "sparsecse eval" in (here / "sparsecse-run" / "report.html").read_text()


def test_runtime(here, capsys):
    pages, printed = run_page("runtime.md", capsys)
    assert "because:" in printed and "float32, as asked for" in printed
    # int8, if that was taken, on a tiny random model.
    assert (pages["rough"] * pages["vectors"]).sum(-1).min() > 0.95


def test_encode(here, capsys):
    _, printed = run_page("encode.md", capsys)
    assert re.search(r"^vectors: [\d,]+ rows of 32 values \(float32\)", printed, re.MULTILINE)


def test_stock(here, capsys):
    run_page("stock.md", capsys, model="portable")
    config = json.loads((here / "portable" / "config.json").read_text())
    assert config["model_type"] == "bert" and config["intermediate_size"] == 19 and "auto_map" not in config
    assert not (here / "portable" / "modeling_sparsecse.py").exists()


def test_hub(here, capsys):
    pages, printed = run_page("hub.md", capsys)
    assert "Nothing was uploaded; add --upload to do it." in printed
    for file in pages["facts"]["files"]:
        assert f"{file['path']} {file['bytes']}" in printed


def spearman(pairs: dict[str, list[Any]]) -> float:
    encoder = load_encoder("packed")
    cosine = (encoder.encode(pairs["sentence1"]) * encoder.encode(pairs["sentence2"])).sum(-1)
    return float(spearmanr(cosine.numpy(), pairs["score"]).statistic)


@pytest.mark.filterwarnings("ignore")
def test_mteb(here, capsys, monkeypatch):
    from datasets import Dataset, DatasetDict

    pytest.importorskip("mteb")
    pages, printed = run_page("mteb.md", capsys)
    rows = Dataset.from_csv("my-pairs/test.csv", cache_dir="csv-cache").to_dict()
    assert pages["score"] == pytest.approx(spearman(rows), abs=1e-6)
    assert f"{pages['score']:.3f}" in printed

    # The page's command, with local rows for the data of MTEB's own task.
    local = {**rows, "score": [0.0, 1.0, 5.0, 2.0]}
    monkeypatch.setattr(
        "mteb.abstasks.abstask.load_dataset", lambda **options: DatasetDict(test=Dataset.from_dict(local))
    )
    (block,) = (b for b in blocks(PAGES / "mteb.md") if b.language == "bash" and b.runs)
    python, option, script = shlex.split(block.text)
    assert (python, option) == ("python", "-c")
    exec(compile(script, block.place, "exec"), {})
    assert float(capsys.readouterr().out.splitlines()[-1]) == pytest.approx(spearman(local), abs=1e-6)

    # What the page warns of: mteb's cache takes another folder's model for the same one, unless it gets a name.
    import mteb
    from sentence_transformers import SentenceTransformer

    def pearson(model: Any, cache: Any) -> float:
        task = pages["MyPairs"]()
        task.dataset, task.data_loaded = DatasetDict(test=Dataset.from_dict(rows)), True
        return mteb.evaluate(model, task, cache=cache).task_results[0].scores["test"][0]["cosine_pearson"]

    other = SentenceTransformer("packed", trust_remote_code=True)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    cache = mteb.ResultCache("shared")
    first, right = pearson(pages["model"], cache), pearson(other, None)
    assert abs(first - right) > 1e-3
    assert pearson(other, cache) == pytest.approx(first, abs=1e-6)
    other.model_card_data.model_name = "me/packed"
    assert pearson(other, cache) == pytest.approx(right, abs=1e-6)


def test_every_page_is_linked_and_its_links_resolve():
    index = PAGES / "index.md"
    pages = set(PAGES.glob("*.md"))
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
    linked = {PAGES / target for target in re.findall(r"\]\(([^)#:]+)\)", index.read_text())}
    assert pages - {index} <= linked


def test_links_of_all_pages_resolve():
    """What `mkdocs build --strict` checks too, but for links to files outside docs/ as GitHub shows them."""
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_has_every_public_name():
    paths = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    places = {path.rpartition(".")[2]: path.rpartition(".")[0] for path in paths}
    assert set(sparsecse.__all__) <= set(places)
    for name, module in places.items():
        value = getattr(import_module(module), name)
        assert name not in sparsecse.__all__ or value is getattr(sparsecse, name), name


def test_the_readme_runs(sentence_folder, sentences, tmp_path, monkeypatch):
    sets = tmp_path / "senteval" / "downstream" / "STS" / "STSBenchmark"
    sets.mkdir(parents=True)
    rows = [f"g\tf\ty\t{i}\t{5 * (i % 2)}\t{one}\t{two}" for i, (one, two) in enumerate(pairwise(sentences))]
    (sets / "sts-dev.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "sentences.txt").write_text("\n".join(sentences))
    shutil.copytree(sentence_folder, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSECSE_DATA_DIR", str(tmp_path / "senteval"))
    found = [block for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert len(found) == 2
    expected = ["my-model", "my-model-20"]
    for block, folder in zip(found, expected, strict=True):
        namespace: dict[str, Any] = {}
        exec(compile(block.text, block.place, "exec"), namespace)
        wanted = load_encoder(folder).encode(["A sentence.", "Another one."])
        np.testing.assert_allclose(namespace["vectors"], wanted.numpy(), atol=0.05)  # int8, where that was taken
    assert sum(heads for heads, _ in load_encoder("my-model-20").model.config.layer_sizes()) == 10  # of 12
