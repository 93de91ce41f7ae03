"""HTML and SVG that cannot be broken by what is put into them: text is escaped unless it is markup already."""

from __future__ import annotations

import html
import re

# What no page can show, or that would reorder the text around it: controls, bidirectional overrides, lone surrogates.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Markup(str):
    """Text that is markup already."""


def escape(value: object) -> Markup:
    """A value as text of a page: markup stays as it is, all else is escaped."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_UNSHOWN.sub("\ufffd", str(value))))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """`<name ...>children</name>`, all children and values escaped.

    attributes: `class_` is `class`, other underscores are dashes; None is left out, True has no value, and fractions
        have two digits. A child that is None is left out.
    """
    given = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {key}")
        elif value is not None:
            text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
            given.append(f' {key}="{escape(text)}"')
    return Markup(f"<{name}{''.join(given)}>{join(children)}</{name}>")


def join(parts: object) -> Markup:
    """Parts one after the other."""
    return Markup("".join(escape(part) for part in parts if part is not None))  # type: ignore[attr-defined]
