"""The check before a deployment: each rule fails for its own reason alone, and CI systems read what it writes."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from conftest import WORDS
from packaging.requirements import Requirement
from rich.console import Console
from test_retrieval import write

from sparsecse import checking, stages
from sparsecse.checking import Interval, Measured, Rule, Rules, judge, parse_size, ratio_interval
from sparsecse.cli import ci, main
from sparsecse.cli.tables import check_table
from sparsecse.encoders import Encoder, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.files import loaded_bytes
from sparsecse.sources import ModelOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SENTENCES = [f"the {a} {b}" for a, b in product(WORDS[2:8], WORDS[10:15])]
PAGE = Path(__file__).parents[1] / "docs" / "use" / "ci.md"


class Clock:
    """Stands for the processes of a benchmark, and makes the baseline so many times as slow, round by round."""

    ratios = (1.5,) * 15
    timed: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()

    def __init__(self, runtime: str, loader: str, setup: object):
        self.runtime, self.setup, self.peak_rss_mb, self._round = runtime, setup, None, 0
        Clock.timed += (Path(setup.source).name,)
        Clock.precisions += (setup.precision,)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def load(self, token_ids):
        self._count = len(token_ids)

    def wait_loaded(self):
        pass

    def vectors(self, batch_size, order):
        return np.ones((self._count, 32), np.float32)

    def time(self, batch_size, order):
        self._round += 1
        own = 1.0 if Path(self.setup.source).name == "packed" else self.ratios[self._round - 1]
        return [own] * -(-self._count // batch_size)


@pytest.fixture(scope="module")
def here(sentence_folder, tmp_path_factory) -> Path:
    """A folder with the model `packed`, the one it was made from as `dense`, and data that each is perfect on."""
    folder = tmp_path_factory.mktemp("check")
    shutil.copytree(sentence_folder, folder / "dense")
    dense, packed = load_encoder(sentence_folder), load_encoder(sentence_folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in packed.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter) if parameter.numel() > 1 else 0
    (folder / "packed").mkdir()
    save_encoder(packed, folder / "packed", stock=True)
    for name, encoder in (("dense", dense), ("packed", packed)):
        judged_by(encoder, folder / f"by-{name}")
    (folder / "sentences.txt").write_text("\n".join(SENTENCES))
    return folder


def judged_by(encoder: Encoder, folder: Path) -> None:
    """Graded pairs and a retrieval set on which an encoder gets 100."""
    vectors = encoder.encode(SENTENCES)
    cosines = vectors @ vectors.T
    folder.mkdir()
    rows = [(SENTENCES[i], SENTENCES[-1 - i], 5 * max(float(cosines[i, -1 - i]), 0)) for i in range(15)]
    table = "\n".join(f"{one}\t{two}\t{score:.6f}" for one, two, score in rows)
    (folder / "pairs.tsv").write_text(f"sentence1\tsentence2\tscore\n{table}\n")
    nearest = (cosines[:10, 10:]).argmax(dim=1)
    write(
        folder / "found",
        {f"d{i}": ("", text) for i, text in enumerate(SENTENCES[10:])},
        {f"q{i}": text for i, text in enumerate(SENTENCES[:10])},
        [(f"q{i}", f"d{int(best)}", 1) for i, best in enumerate(nearest)],
    )


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def failed(self) -> list[str]:
        found = json.loads(self.out)["rules"]
        return [f"{one['rule']} {one['name'] or ''}".strip() for one in found if not one["holds"]]


@pytest.fixture
def call(here, capsys, monkeypatch):
    monkeypatch.chdir(here)
    for name in ("SPARSECSE_DATA_DIR", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    # By module: the packages have functions of the same names.
    monkeypatch.setattr(import_module("sparsecse.benchmarking.benchmark"), "Worker", Clock)
    monkeypatch.setattr(Clock, "timed", ())
    monkeypatch.setattr(Clock, "precisions", ())

    def run(*arguments: object) -> Outcome:
        code = main(["check", *map(str, arguments)])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def options(pairs: str = "packed", found: str = "packed") -> list[str]:
    """Rules that all hold for `packed`, on data that these models are perfect on."""
    return [
        *("packed", "--baseline", "dense", "--tasks", f"by-{pairs}/pairs.tsv,./by-{found}/found"),
        *(
            "--max-drop",
            "similarity=0.3",
            "--max-drop",
            "retrieval=0.5",
            "--min",
            f"similarity=50,./by-{found}/found=20",
        ),
        *("--max-bytes", "10MB", "--max-parameters", "100000"),
        *("--min-agreement", "0.5", "--agreement", "sentences.txt"),
        *("--min-speedup", "1.3", "--data", "sentences.txt", "--threads", "1", "--json"),
    ]


def test_all_rules_hold(call):
    found = call(*options())
    assert (found.code, found.failed) == (0, []), found.err
    content = json.loads(found.out)
    timing = {"sentences": 30, "threads": 1, "batch_size": 30, "rounds": 15, "precision": "float32"}
    timing["baseline_precision"] = "float32"
    assert content["holds"] and content["timing"] == timing
    by_name = {f"{one['rule']} {one['name']}": one for one in content["rules"]}
    assert by_name["max-drop similarity"]["model"] == pytest.approx(100)
    assert by_name["max-drop similarity"]["baseline"] < 99.9
    assert by_name["min-speedup None"]["figure"] == pytest.approx(1.5)
    assert Clock.timed == ("dense", "packed")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (options(pairs="dense"), "max-drop similarity"),
        (options(found="dense"), "max-drop retrieval"),
        ([*options(), "--max-bytes", "10kB"], "max-bytes"),
        ([*options(), "--min-speedup", "1.5"], "min-speedup"),
    ],
)
def test_one_rule_fails_alone(call, given, wanted):
    found = call(*given)
    assert (found.code, found.failed) == (1, [wanted]), found.err


def test_the_other_rules_fail_too(call):
    lost = ["--min", "similarity=100.1,./by-packed/found=100.1", "--max-parameters", "999", "--min-agreement", "0.9999"]
    wanted = ["min similarity", "min ./by-packed/found", "min-agreement", "max-parameters"]
    assert call(*options(), *lost).failed == wanted


def test_a_speedup_that_is_not_sure_does_not_hold(call, monkeypatch):
    rules = ["packed", "--baseline", "dense", "--data", "sentences.txt", "--min-speedup", "1.3"]
    monkeypatch.setattr(Clock, "ratios", (1.2, 1.5) * 7 + (1.5,))
    assert call(*rules).code == 1
    monkeypatch.setattr(Clock, "ratios", (0.1, *(1.5,) * 13, 90.0))  # two disturbed rounds
    found = call(*rules)
    assert found.code == 0 and "15 rounds in turn" in found.err
    assert call(*rules, "--rounds", "5").code == 2


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--precision", "int8", "--baseline-precision", "float32"], ("float32", "int8")),
        (["--precision", "bfloat16"], ("bfloat16", "bfloat16")),
    ],
)
def test_each_model_is_timed_in_its_own_precision(call, options, wanted):
    rules = ["packed", "--baseline", "dense", "--data", "sentences.txt", "--min-speedup", "1.3", "--json"]
    found = call(*rules, *options)
    assert found.code == 0 and (Clock.timed, Clock.precisions) == (("dense", "packed"), wanted)
    timing = json.loads(found.out)["timing"]
    assert (timing["baseline_precision"], timing["precision"]) == wanted
    assert call(*rules, "--baseline-precision", "int7").code == 2


def test_the_interval_is_that_of_the_median():
    assert ratio_interval([1, 2, 3, 4, 5, 6], [1] * 6) == Interval(3.5, 1, 6)  # 1 - 2 / 64 = 0.969
    assert ratio_interval(range(1, 16), [1] * 15) == Interval(8, 4, 12)  # Conover: ranks 4 and 12
    with pytest.raises(InputError, match="at least 6"):
        ratio_interval([1] * 5, [1] * 5)
    inside = 0
    random = np.random.default_rng(0)
    for _ in range(400):
        found = ratio_interval(random.lognormal(size=11), np.ones(11))
        inside += found.low < 1 < found.high
    assert 0.95 <= inside / 400 <= 1


def test_nothing_is_computed_that_no_rule_needs(call, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    common = ["packed", "--baseline", "dense", "--tasks", "by-dense/pairs.tsv,by-dense/found", "--agreement", "absent"]
    monkeypatch.setattr("sparsecse.stages.check.bench_models", refuse)
    monkeypatch.setattr(import_module("sparsecse.evaluation.evaluate"), "retrieval", refuse)
    loads = []
    monkeypatch.setattr(ModelOptions, "load", lambda self: loads.append(self.name) or load_encoder(self.name))
    assert call(*common, "--min", "similarity=0").code == 0 and loads == ["packed"]
    monkeypatch.setattr("sparsecse.stages.check.load_tasks", refuse)
    assert call(*common, "--max-bytes", "1GB").code == 0 and loads == ["packed"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "There is no rule to check; give one of --min, --max-drop, "),
        (["--max-drop", "similarity=1"], "--max-drop compares with another model; give that one as --baseline"),
        (["--min-speedup", "2"], "--min-speedup compares"),
        (["--min-agreement", "0.9", "--baseline", "dense"], "give them as --agreement"),
        (["--min-agreement", "97"], "--min-agreement 97 is above 1"),
        (["--max-bytes", "1MB", "--baseline", "./packed"], "is the model itself"),
        (["--min", "stsb=82"], "--min is measured on tasks; name them in --tasks"),
        (["--min", "stsb=82", "--tasks", "demo"], "demo-test (similarity), demo-retrieval (retrieval); name one, or"),
        (["--min", "clustering=82", "--tasks", "demo-test"], "--min clustering is no task or kind"),
        (["--min", "similarity=80", "--tasks", "demo-tst"], "Did you mean demo-test"),
        (["--min", "similarity"], "--min 'similarity' is no bound"),
        (["--min", "similarity=nan"], "is no bound"),
        (["--max-drop", "similarity=-1"], "is below 0"),
        (["--max-bytes", "60 pounds"], "--max-bytes '60 pounds' is no size"),
        (["--max-bytes", "1_.5"], "is no size"),
        (["--max-bytes", "9" * 400], "is no size"),
        (["--max-parameters", "0"], "--max-parameters 0 bounds nothing"),
        (["--rules", "absent.toml"], "absent.toml does not exist"),
        (["--max-bytes", "1MB", "--junit", "sentences.txt"], "sentences.txt was not written by `sparsecse check`"),
    ],
)
def test_bad_input_is_one_sentence(call, given, says):
    found = call("packed", *given)
    assert found.code == 2 and found.out == "" and found.err.count("\n") == 1 and says in found.err


def test_a_task_of_a_group_that_is_missing_is_no_pass(call, monkeypatch):
    tasks = replace(stages.check.load_tasks("demo"), missing={"sts12": "It is not there."})
    monkeypatch.setattr("sparsecse.stages.check.load_tasks", lambda *_, **__: tasks)
    found = call("packed", "--tasks", "demo,sts", "--min", "similarity=-100")
    assert found.code == 2 and "--tasks: sts12 is not there (It is not there)" in found.err


@pytest.mark.parametrize(
    ("text", "size"), [("60MB", 60_000_000), ("57MiB", 57 << 20), ("1234", 1234), ("1.5 kb", 1500), ("2G", 2 * 10**9)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_what_is_loaded_is_counted(tmp_path):
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "onnx").mkdir()
    for name in ("config.json", "model.safetensors", "vocab.txt", "modeling_sparsecse.py", "2_Dense/pytorch_model.bin"):
        (tmp_path / name).write_text("1234")
    for name in ("README.md", "pytorch_model.bin", "onnx/model.onnx", "sparsecse.json"):
        (tmp_path / name).write_text("not loaded")
    assert loaded_bytes(tmp_path) == 20 and loaded_bytes(tmp_path / "nowhere") is None


def test_figures_are_told_from_bounds_that_they_miss():
    rules = [Rule("min", 82.0, "stsb", ("stsb-test",)), Rule("max-drop", 0.3, "stsb", ("stsb-test",))]
    lost, kept = judge(rules, Measured(tasks={"stsb-test": 81.9996}, baseline={"stsb-test": 82.2996}))
    assert (lost.holds, lost.found, kept.holds) == (False, "81.9996", True)


RULES = """
baseline = "dense"
tasks = ["by-dense/pairs.tsv", "by-packed/found"]
max-bytes = 100
rounds = 7
[min]
similarity = 101
retrieval = 99
"""


def test_rules_in_a_file(call, here):
    (here / "check.toml").write_text(RULES)
    assert call("packed", "--rules", "check.toml", "--json").failed == ["min similarity", "max-bytes"]
    found = call("packed", "--min", "similarity=0", "--rules", "check.toml", "--max-bytes", "1MB", "--json")
    assert found.failed == [] and len(json.loads(found.out)["rules"]) == 3
    for text, says in (
        ("minimum = 3", "has the key 'minimum', which is no option; it can have baseline, "),
        ("rules = 'more.toml'", "has the key 'rules'"),
        ("threads = [{a = 1}]", "threads is {'a': 1}; give a text"),
        ("threads = 1.5\nmax-bytes = 9", "--threads"),
        ("= 3", "is not valid TOML"),
    ):
        (here / "check.toml").write_text(text)
        found = call("packed", "--rules", "check.toml")
        assert found.code == 2 and says in found.err, text


def test_junit(call, here):
    for bound, failures in (("1", 1), ("1MB", 0)):  # ours is replaced
        call("packed", "--max-bytes", bound, "--max-parameters", "100000", "--junit", "out/check.xml")
        suite = ElementTree.parse(here / "out" / "check.xml").getroot().find("testsuite")
        assert (suite.get("tests"), suite.get("failures")) == ("2", str(failures))
        assert [case.get("name") for case in suite] == ["max-bytes", "max-parameters"]
        assert len(suite.findall("testcase/failure")) == failures
    assert [path.name for path in (here / "out").iterdir()] == ["check.xml"]


def test_on_github(call, here, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    rules = ["packed", "--max-bytes", "1", "--max-parameters", "100000"]
    assert "::error" not in call(*rules).out and not (here / "summary.md").exists()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (here / "summary.md").write_text("Before.\n\n")
    found = call(*rules)
    (line,) = (line for line in found.out.splitlines() if line.startswith("::error"))
    assert line.startswith("::error title=sparsecse check%3A max-bytes::The size of the loaded files, in bytes, is ")
    text = (here / "summary.md").read_text()
    assert text.startswith("Before.\n\n### sparsecse check packed\n\n| rule |") and "| at most 1 | **no** |" in text
    found = call(*rules, "--json")
    assert json.loads(found.out)["holds"] is False and "::error title=" in found.err


def test_annotations_are_escaped():
    (verdict,) = judge([Rule("min", 50, "a,b:\nc%", ("t",))], Measured(tasks={"t": 1.0}))
    assert ci.error_commands([verdict]) == [
        "::error title=sparsecse check%3A min a%2Cb%3A%0Ac%25::a,b:%0Ac%25 x100 is 1.00; it must be at least 50."
    ]


def test_the_table_fits_80_columns():
    rules = [*Rules(("./some/where/a-long-collection=50",), ("similarity=0.3",), 0.97, 60_000_000_000, 9, 1.3).each()]
    rules = [replace(rule, tasks=("t",)) for rule in rules]
    measured = Measured({"t": 81.0}, {"t": 182.0}, 0.5, 59_000_000_000, 8, Interval(12.345, 11.234, 13.456))
    stream = io.StringIO()
    Console(file=stream, width=80, soft_wrap=True).print(check_table(judge(rules, measured)))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in stream.getvalue()
    assert {rule.kind for rule in rules} == set(checking._JUDGES)
    assert "101.00 (182.00 to 81.00)" in stream.getvalue() and "11.23 to 13.46 (12.35)" in stream.getvalue()


def test_the_workflow_of_the_documentation(call, here, tmp_path, monkeypatch):
    """With a copy as the baseline, and a set of the name stsb that the model is perfect on, all its rules hold."""
    found = dict(re.findall(r"^```(toml|yaml)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    steps = yaml.safe_load(found["yaml"])["jobs"]["check"]["steps"]
    installed = [
        Requirement(argument)
        for line in "\n".join(step.get("run", "") for step in steps).splitlines()
        if line.startswith("pip install ")
        for argument in line.split(" --")[0].split()[2:]
    ]
    assert [one.name for one in installed] == ["torch", "sparsecse"]
    extras = tomllib.loads((PAGE.parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(one.extras <= set(extras) for one in installed[1:])
    (command,) = (step["run"] for step in steps if step.get("run", "").startswith("sparsecse check "))
    arguments = shlex.split(command)[2:]
    for name in ("packed", "sentences.txt"):
        (shutil.copytree if (here / name).is_dir() else shutil.copy)(here / name, tmp_path / name)
    shutil.copytree(here / "packed", tmp_path / "twin")
    shutil.copytree(here / "by-packed" / "found", tmp_path / "my-collection")
    benchmark = tmp_path / "data" / "downstream" / "STS" / "STSBenchmark"
    benchmark.mkdir(parents=True)
    pairs = [line.split("\t") for line in (here / "by-packed" / "pairs.tsv").read_text().splitlines()[1:]]
    rows = [f"g\tf\ty\t{i}\t{score}\t{one}\t{two}" for i, (one, two, score) in enumerate(pairs)]
    (benchmark / "sts-test.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "check.toml").write_text(found["toml"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSECSE_DATA_DIR", str(tmp_path / "data"))
    done = call(*arguments, "--baseline", "twin", "--sentences", "8")
    assert done.code == 0, done.err
    suite = ElementTree.parse(tmp_path / "check.xml").getroot().find("testsuite")
    assert [case.get("name") for case in suite] == [
        *("min stsb", "max-drop similarity", "max-drop retrieval", "min-agreement", "max-bytes", "min-speedup")
    ]
