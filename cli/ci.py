"""What continuous integration reads and writes: a file of rules, JUnit XML, GitHub's annotations and summary."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sparsecse.checking import Verdict
from sparsecse.errors import InputError, meant
from sparsecse.files import read_toml, write_text
from sparsecse.reading import shown, whole_text

_SUITE = "sparsecse check"


def read_options(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The values of a TOML file, as the texts that the command line would have.

    A list is one option with commas; a table (`[min]`) has a NAME=VALUE for each of its keys.

    Args:
        names: the options that it may hold, without dashes.

    Raises:
        InputError: no TOML, an unknown key, or a value of another kind.
    """
    content = read_toml(path)
    for name in content:
        if name not in names:
            raise InputError(
                f"{path} has the key '{name}', which is no option; it can have {', '.join(names)}.{meant(name, names)}"
            )
    return {name: _texts(path, name, value) for name, value in content.items()}


def _texts(path: Path, name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={_text(path, f'{name}.{key}', each)}" for key, each in value.items()]
    if isinstance(value, list):
        return [",".join(_text(path, name, each) for each in value)]
    return [_text(path, name, value)]


def _text(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise InputError(f"{path}: {name} is {shown(value)}; give a text, a number, true or false.")
    return str(value)


def check_junit(path: Path) -> None:
    """Refuse to replace what is there, unless `write_junit` wrote it."""
    if path.is_dir():
        raise InputError(f"`junit` {path} is a folder; give a file.")
    if path.exists() and f'<testsuites name="{_SUITE}"' not in whole_text(path)[:200]:
        raise InputError(f"`junit` {path} was not written by `sparsecse check`; move it away, or give another file.")


def write_junit(path: Path, verdicts: Sequence[Verdict]) -> None:
    """JUnit XML with one test case a rule, written whole or not at all."""
    counts = {"tests": str(len(verdicts)), "failures": str(sum(not one.holds for one in verdicts)), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": _SUITE, **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _SUITE, **counts})
    for one in verdicts:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "sparsecse.check", "name": one.rule.name})
        if not one.holds:
            ElementTree.SubElement(case, "failure", {"message": one.sentence, "type": one.rule.kind})
        else:
            ElementTree.SubElement(case, "system-out").text = one.sentence
    ElementTree.indent(root)
    try:
        write_text(
            path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
        )
    except OSError as error:
        raise InputError(f"`junit` {path} cannot be written ({error.strerror}); give another file.") from None


def error_commands(verdicts: Sequence[Verdict]) -> list[str]:
    """GitHub's workflow command for each rule that does not hold."""
    return [
        f"::error title={_escaped(f'{_SUITE}: {one.rule.name}', ':,')}::{_escaped(one.sentence)}"
        for one in verdicts
        if not one.holds
    ]


def _escaped(text: str, also: str = "") -> str:
    return "".join(f"%{ord(sign):02X}" if sign in f"%\r\n{also}" else sign for sign in text)


def summary(model: str, verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a table in Markdown."""
    rows = [(one.rule.name, one.found, one.asked, "yes" if one.holds else "**no**") for one in verdicts]
    cells = [("rule", "found", "asked", "holds"), ("---",) * 4, *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([f"### {_SUITE} {model}", "", *lines, "", ""])


def on_github() -> bool:
    """Whether this is a step of a GitHub workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def append_summary(text: str) -> None:
    """Add to the step's summary, where GitHub names a file for it."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
