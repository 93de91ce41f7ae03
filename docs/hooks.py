"""What mkdocs needs to read the pages as GitHub does.

Pages may link to files of the repository outside docs/ (`../README.md`). On the site such a link leads to GitHub, and
an image is copied beside the pages. A block that the tests leave out begins with a language and `no-test`, of which
mkdocs knows the language alone.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)[^)#\s]*)(#[^)\s]*)?\)")
NO_TEST = re.compile(r"^(```\w+) no-test$", re.MULTILINE)

log = logging.getLogger("mkdocs.hooks")


def outside(page: str, target: str) -> str | None:
    """The path in the repository that a page's link leads to; None where that is in docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path == "docs" or path.startswith("docs/") else path


def on_files(files: Any, config: Any) -> Any:
    """Adds the images outside docs/ that pages show."""
    for page in files.documentation_pages():
        for image, _, target, _ in LINK.findall(page.content_string):
            path = outside(page.src_uri, target)
            if image and path and (ROOT / path).is_file() and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links that leave docs/, and drops the tests' mark from blocks."""

    def turned(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        path = outside(page.file.src_uri, target)
        if path is None:
            return link[0]
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
            return link[0]
        if image:
            return f"![{text}]({posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or '.')})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{text}]({config.repo_url}/{kind}/main/{path}{anchor})"

    return NO_TEST.sub(r"\1", LINK.sub(turned, markdown))
