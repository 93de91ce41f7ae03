"""What a terminal, a pipe and a log get: bars or lines, how long it will take, colours, and nothing with --quiet."""

from __future__ import annotations

import io
import time
import warnings

import pytest
from rich.console import Console

from sparsecse.cli import main, output
from sparsecse.errors import meant


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Sets the time; the display is a new one."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(output, "_display", output._Display())
    return lambda seconds: now.__setitem__(0, 1000.0 + seconds)


def screen(file: io.StringIO, **environment: str) -> Console:
    return Console(file=file, width=100, highlight=False, _environ=environment)


@pytest.mark.parametrize(
    ("file", "environment", "wanted"),
    [
        (Terminal, {}, True),
        (Terminal, {"NO_COLOR": "1"}, True),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {}, False),
        (io.StringIO, {"FORCE_COLOR": "1"}, False),  # colours in a log, but no bars
    ],
)
def test_bars_are_for_terminals(monkeypatch, clock, file, environment, wanted):
    monkeypatch.setattr(output, "err", screen(file(), **environment))
    assert output.has_screen(output.err) == wanted
    output.progress("Embedding")(2, 2)
    text = output.err.file.getvalue()
    assert ("Embedding: 2 of 2" in text) != wanted and ("0:00:00" in text) == wanted
    assert ("\x1b[3" in text) == (wanted and "NO_COLOR" not in environment)


def test_long_work_is_told_early_and_then_every_ten_seconds(monkeypatch, clock):
    monkeypatch.setattr(output, "err", screen(io.StringIO()))
    outer, inner = output.progress("Outer"), output.progress("Inner")
    for second in range(0, 41):
        clock(second)
        outer(second + 1, 1000)
        inner(second + 1, 1000)
    assert output.err.file.getvalue().splitlines() == [
        "Outer: 3 of 1000, about 17 minutes left",
        "Outer: 13 of 1000, about 16 minutes left",
        "Outer: 23 of 1000, about 16 minutes left",
        "Outer: 33 of 1000, about 16 minutes left",
    ]


def test_short_work_is_told_at_its_end_alone(monkeypatch, clock):
    monkeypatch.setattr(output, "err", screen(io.StringIO()))
    update = output.progress("Scoring")
    for second in range(9):
        clock(second)
        update(second, 8)
    assert output.err.file.getvalue() == "Scoring: 8 of 8\n"


def test_a_bar_within_a_bar_and_one_that_is_left(monkeypatch, clock):
    monkeypatch.setattr(output, "err", screen(Terminal()))
    outer = output.progress("Outer")
    outer(1, 2)
    output.progress("Inner")(3, 3)
    assert [task.description for task in output._display._bars.tasks] == ["Outer"]
    output._display.close()
    text = output.err.file.getvalue()
    assert "Inner" in text and text.endswith("\x1b[?25h")  # the cursor is back
    assert output._display._bars is None


def test_quiet_leaves_the_path(capsys, tmp_path, monkeypatch, sentence_folder, pairs_file):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    file = tmp_path / "run" / "score" / "scores.safetensors"
    scoring = ["score", sentence_folder, "--data", pairs_file, "--workdir", tmp_path / "run"]
    assert call(*scoring, "--quiet") == (0, str(file), "")
    assert call("--quiet", *scoring) == (0, str(file), "")
    cut = ["prune", "--sparsity", "0.25", "--workdir", tmp_path / "run"]
    assert call(*cut, "--quiet") == (0, str(tmp_path / "run" / "prune"), "")
    assert "parameters stay" in call(*cut)[1]  # it ends with its command
    code, out, err = call("prune", "--quiet", "--sparsity", "1.5", "--workdir", tmp_path / "run")
    assert (code, out) == (2, "") and err.startswith("Error: --sparsity 1.5")
    assert "alignment" in call("eval", sentence_folder, "--tasks", "demo-test", "--quiet")[1]


def test_a_warning_is_a_line(capsys):
    with output.command_output():
        warnings.warn("Mind the gap.", UserWarning, stacklevel=1)
    with output.command_output():
        output.be_quiet()
        warnings.warn("Mind the other gap.", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: Mind the gap.\n"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["evla"], "'eval'"),
        (["prune", "--sparsty", "0.2"], "--sparsity"),
        (["score", "{}", "--data", "demo", "--method", "tailor"], "taylor?"),
        (["score", "{}", "--data", "stbs"], "stsb?"),
        (["train", "{}", "--data", "demo", "--objective", "distil"], "distill?"),
        (["eval", "{}", "--tasks", "demo-tset"], "demo-test?"),
        (["eval", "{}", "--tasks", "demo-test", "--precision", "float23"], "float32?"),
        (["bench", "{}", "--runtimes", "pytroch"], "pytorch?"),
        (["export", "{}", "--format", "onix"], "onnx?"),
        (["study", "sparsty", "{}"], "sparsity?"),
        (["inspect", "{}", "--pooling", "maen"], "mean?"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(capsys, tmp_path, monkeypatch, sentence_folder, arguments, wanted):
    monkeypatch.chdir(tmp_path)
    assert main([argument.format(sentence_folder) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert wanted in said and "\x1b" not in said


def test_nothing_is_suggested_that_is_not_near():
    assert meant("STSB", ["stsb"]) == " Did you mean stsb?" and meant("weather", ["stsb"]) == ""
