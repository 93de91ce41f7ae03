"""The report of a run: its figures are those of the records, it loads nothing, and no name can break it."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.errors import InputError
from sparsecse.reporting.facts import Cut, Kind, Report, Row, StageFacts
from sparsecse.reporting.page import page
from sparsecse.studies.sparsity import report_curve
from sparsecse.workdir import Workdir

HOSTILE = "</title><script>alert('x')</script>\x00\u202e\ud800\"><img src=x onerror=alert(1)>"
_EMPTY = ("meta", "img", "br")


class Page(HTMLParser):
    """The page's tags with their attributes, and its text by the tag around it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory, sentence_folder, pairs, sentences):
    """A finished run of a tiny model, with what `sparsecse run` printed."""
    folder = tmp_path_factory.mktemp("report")
    rows = [f"{a}\t{b}\t{s}" for a, b, s in zip(pairs.first, pairs.second, pairs.scores, strict=True)]
    (folder / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n")
    (folder / "text.txt").write_text("\n".join(sentences))
    options = ["--data", "pairs.tsv", "--train-data", "text.txt", "--sparsity", "auto", "--tolerance", "60"]
    options += ["--no-finetune", "--no-bench", "--tasks", "pairs.tsv,demo-retrieval"]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(io.StringIO()):
        patch.chdir(folder)
        patch.setattr("sparsecse.cli.output.out._width", 80)
        assert main(["run", str(sentence_folder), *options]) == 0
    return Workdir(folder / "sparsecse-run"), out.getvalue()


@pytest.fixture
def run_directory(made, tmp_path):
    shutil.copytree(made[0].path, tmp_path / "run")
    return Workdir(tmp_path / "run")


def test_run_ends_with_a_table_that_names_the_report(made):
    workdir, out = made
    lines = out.splitlines()
    last = lines[lines.index("Before and after") :]
    assert max(map(len, last)) <= 80
    assert last[-1] == "Report: sparsecse-run/report.html" and last[-2] == "Packed into sparsecse-run/packed"
    info = workdir.need("eval").info
    dense, pruned = info["dense"]["average"], info["pruned"]["average"]
    row = next(line.split() for line in last if line.startswith("similarity"))
    assert row[-3:] == [f"{dense:.2f}", f"{pruned:.2f}", f"{pruned - dense:+.2f}"]
    assert (workdir.path / "report.html").is_file()


def test_the_page_has_the_figures_of_the_records(made):
    workdir, _ = made
    found = Page((workdir.path / "report.html").read_text(encoding="utf-8"))
    rows = {row[0]: row[1:] for row in found.rows}
    info = workdir.need("eval").info
    for task, key in (("pairs.tsv", "spearman"), ("demo-retrieval", "ndcg_at_10")):
        dense, pruned = (info[label]["tasks"][task][key] for label in ("dense", "pruned"))
        figures = [f"{dense:.2f}", f"{pruned:.2f}", f"{pruned - dense:+.2f}"]
        assert rows[task][-3:] == [text.replace("-", "\u2212") for text in figures]
    mask = stages.load_mask(workdir)
    heads = [re.fullmatch(r"layer (\d+), head (\d+), score .*: (stays|removed)", text) for text in found.all("title")]
    told = {(int(one[1]), int(one[2])): one[3] == "stays" for one in heads if one}
    assert told == {(i, j): bool(stays) for i, row in enumerate(mask.heads) for j, stays in enumerate(row)}
    assert not all(told.values())
    kept = [f"{int(row.sum())} of {len(row)}" for row in mask.neurons]
    assert [row[2] for row in found.rows if len(row) == 3 and row[0].isdigit()] == kept
    curve = workdir.need("choose").info["curve"]
    assert rows["0.0%"] == [f"{curve[0]['dev']['similarity']:.2f}".replace("-", "\u2212")]
    (command,) = (text for text in found.all("code") if text.startswith("sparsecse run "))
    assert "--sparsity auto --tolerance 60" in command
    assert workdir.need("score").outputs["scores.safetensors"] in found.all("code")
    text = " ".join(data for _, data in found.texts)
    assert "Not measured: " in text and "sparsecse bench" in text and "sparsecse eval --tasks transfer" in text
    assert workdir.need("score").machine["cpu"] in text


def test_the_page_loads_nothing(made):
    found = Page((made[0].path / "report.html").read_text(encoding="utf-8"))
    assert not {name for name, _ in found.tags} & {"script", "link", "img", "iframe", "object", "image", "use", "base"}
    for _, attributes in found.tags:
        for name, value in attributes.items():
            assert name == "xmlns" or "://" not in (value or "")
            assert name not in ("src", "srcset", "style") and not name.startswith("on")
            assert name != "href" or (value or "").startswith("#")
    assert not re.search(r"url\(|@import|://", "".join(found.all("style")))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert {attributes["href"] for name, attributes in found.tags if name == "a"} == {f"#{one}" for one in ids}
    images = [attributes for name, attributes in found.tags if name == "svg"]
    assert len(images) >= 6 and all(one["role"] == "img" for one in images)


def hostile() -> Report:
    """A report whose every name comes from someone who wishes us ill."""
    row = Row(HOSTILE, 80.0, 70.0, count=HOSTILE)
    stage = StageFacts("score", HOSTILE, 1.0, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, {}, {}, {"cpu": HOSTILE})
    cut = Cut(((True, False),), ((3, 4),), scores=((0.5, 0.1),), method=HOSTILE, asked=HOSTILE)
    return Report(
        HOSTILE + "x" * 300,
        "prune",
        (stage,),
        quality=(Kind("similarity", HOSTILE, (row,)),),
        cut=cut,
        warnings=(HOSTILE, f"`{HOSTILE}`"),
        tasks_left_out=(HOSTILE,),
    )


def test_names_cannot_break_the_page():
    text = page(hostile())
    found = Page(text.encode("utf-8").decode("utf-8"))  # a lone surrogate could not be written
    assert not {name for name, _ in found.tags} & {"script", "img"}
    assert all(not name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert found.all("h1")[0].startswith("</title><script>alert('x')</script>\ufffd\ufffd\ufffd\"><img")


def test_only_our_own_files_are_replaced(run_directory, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out.html"
    arguments = ["report", "--workdir", str(run_directory.path), "--out", str(out), "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path in told["figures"]] == [
        f"out-{name}.png" for name in ("quality", "plane", "curve", "heads", "neurons")
    ]
    assert {row["name"] for row in told["summary"]} >= {"similarity, Spearman", "retrieval, nDCG@10", "parameters"}
    assert "classification" in told["not_measured"]
    first = out.read_bytes()
    assert main([*arguments, "--no-png"]) == 0 and out.read_bytes() == first
    assert not list(tmp_path.glob("*.png"))  # those of an earlier state would tell of another run
    picture = tmp_path / "out-heads.png"
    picture.write_bytes(b"mine")
    assert main(arguments) == 2 and picture.read_bytes() == b"mine"
    picture.unlink()
    out.write_text("<p>mine")
    assert main(arguments) == 2 and out.read_text() == "<p>mine"
    assert "was not written by `sparsecse report`" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--workdir", "nowhere"]) == 2 and not Path("nowhere").exists()
    assert "has no finished stage" in capsys.readouterr().err


def test_stale_and_damaged_figures_are_left_out(run_directory):
    path = run_directory.folder("eval") / "results.json"
    before = path.read_text()
    path.write_text(before + " ")
    found = stages.gather_report(run_directory)
    assert not found.quality and "'eval' is left out" in found.warnings[0]
    path.write_text(before)
    assert stages.gather_report(run_directory).quality
    record = run_directory.folder("prune") / "record.json"
    content = json.loads(record.read_text())
    content["outputs"]["model/model.safetensors"] = "0" * 64
    record.write_text(json.dumps(content))
    found = stages.gather_report(run_directory)
    assert found.cut is None and not found.quality and len(found.warnings) == 3


def test_the_curve_of_a_study(tmp_path):
    def cell(sparsity: float, repair: str, mean: float) -> dict[str, object]:
        change = {"difference": mean - 80, "low": mean - 81, "high": mean - 79}
        figures = {"mean": mean, "dev": mean, "tasks": {"sts12": mean}, "alignment": 0.2, "uniformity": -3.0}
        return {"sparsity": sparsity, "repair": repair, "speedup": 1.0, "seconds": 1.0, **figures, "change": change}

    cells = {"0": cell(0.0, "none", 80.0), "0.1": cell(0.1, "none", 80.5), "0.5": cell(0.5, "none", 78.0)}
    content = {"study": "sparsity", "model_hash": "abc", "results": cells, "date": "2026-11-27"}
    path = tmp_path / "sparsity.json"
    path.write_text(json.dumps(content))
    found = report_curve(tmp_path, "abc")
    assert found.lines[0].points == ((10.0, 0.5, -0.5, 1.5), (50.0, -2.0, -3.0, -1.0))
    assert found.rows[0][:3] == ["10%", "no repair", "80.50"]
    with pytest.raises(InputError, match="measured another model"):
        report_curve(path, "another")
    path.write_text(json.dumps({**content, "study": "oracle"}))
    with pytest.raises(InputError, match="is the study oracle"):
        report_curve(path, "abc")


_MEASURE = """<script>document.getElementById("f").onload = event => {
  const page = event.target.contentDocument, root = page.documentElement
  const colour = event.target.contentWindow.getComputedStyle(page.body).backgroundColor
  document.title = ["found", root.scrollWidth, root.clientWidth, colour].join(" ")
}</script>"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_the_page_fits_the_screen(made, tmp_path, width, scheme):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    for number, text in enumerate([(made[0].path / "report.html").read_text(encoding="utf-8"), page(hostile())]):
        # In a frame, since windows have a least width.
        frame = f'<iframe id="f" width="{width}" height="900" style="border:0" srcdoc="{html.escape(text)}"></iframe>'
        path = tmp_path / f"{number}.html"
        path.write_text(f'<html style="color-scheme:light dark"><title></title>{frame}{_MEASURE}', encoding="utf-8")
        settings = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", settings]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        found = re.search(r"<title>found (\d+) (\d+) rgb\((\d+)", dom)
        assert found is not None and int(found[2]) == width
        assert int(found[1]) <= width
        assert (int(found[3]) < 60) == (scheme == "dark")
