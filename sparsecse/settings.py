"""Settings said once: a field holds its default, its help and its option, for library and command line alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from sparsecse.errors import InputError, meant


@dataclass(frozen=True)
class Setting:
    """What a settings field says of itself.

    help: one sentence or two; settings are named in backticks, and the command line puts their options there.
    option: how the command line spells it, other spellings after commas; by default the field's name.
    parse: from the option's text to the field's value, where that is not a plain type.
    text: from the field's value to the option's text, where there is a `parse`.
    metavar: stands for the value in the help. envvar: gives the value where the option is left out.
    """

    help: str
    option: str | None = None
    parse: Callable[[str], Any] | None = None
    text: Callable[[Any], str | None] = lambda value: None if value is None else str(value)
    metavar: str | None = None
    envvar: str | None = None


def setting(default: Any, help: str, option: str | None = None, **how: Any) -> Any:
    """A dataclass field that is a setting; see `Setting`. Without `option` its name gives the spelling."""
    return field(default=default, metadata={"setting": Setting(help, option, **how)})


_Class = TypeVar("_Class", bound=type)


def documented(settings: _Class) -> _Class:
    """A dataclass whose docstring also lists its settings, each with its help."""
    lines = [f"    {one.name}: {one.metadata['setting'].help}" for one in fields(settings) if "setting" in one.metadata]
    settings.__doc__ = f"{inspect.cleandoc(settings.__doc__ or '')}\n\nAttributes:\n" + "\n".join(lines)
    return settings


def split_list(text: str) -> tuple[str, ...]:
    """`a,b,c` as a tuple."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise InputError(f"'{text}' names nothing; write a comma-separated list such as a,b,c.")
    return parts


def split_numbers(name: str, text: str) -> tuple[int, ...]:
    """`1,32` as whole numbers above 0; `name` is the setting's, for the message."""
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"`{name}` {text} is not a list of whole numbers above 0 such as 1,32.")
    return numbers


def widths_setting(help: str) -> Any:
    """The field `matryoshka_dims`, of scoring and of training; see `checked_widths`."""
    return setting(
        (),
        help,
        parse=lambda text: split_numbers("matryoshka_dims", text),
        text=lambda widths: ",".join(map(str, widths)) or None,
        metavar="WIDTHS",
    )


def checked_widths(widths: Iterable[int]) -> tuple[int, ...]:
    """`matryoshka_dims` as a tuple of different whole numbers above 0; refused otherwise."""
    found = tuple(widths)
    for holds, wanted in (
        (all(width >= 1 for width in found), "whole numbers above 0"),
        (len(set(found)) == len(found), "different widths"),
    ):
        if not holds:
            raise InputError(f"`matryoshka_dims` {found} is not a list of {wanted}.")
    return found


def choose(name: str, value: str, known: Any) -> None:
    """Refuse a word that is not one of those that a setting can have."""
    if value not in known:
        raise InputError(f"`{name}` '{value}' is unknown; choose one of {', '.join(known)}.{meant(value, known)}")


def check_fraction(name: str, fraction: float) -> None:
    """Refuse a fraction to remove that is outside 0 to 1 (1 excluded), NaN too."""
    if not 0 <= fraction < 1:
        raise InputError(f"`{name}` {fraction:g} is outside 0 to 1 (1 excluded): it is the fraction that is removed.")


def at_least(name: str, value: Any, least: int) -> None:
    """Refuse a number below the least that makes sense."""
    if value < least:
        raise InputError(f"`{name}` {value} is less than {least}; give a whole number of at least {least}.")
