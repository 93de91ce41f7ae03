"""The one exception that a user's mistake raises: a sentence that says what, where and how to mend."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

_PARAMETER = re.compile(r"`([a-z_]+)`")
# What ends a line or steers a terminal, by what stands for it.
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class InputError(ValueError):
    """Bad usage or bad input.

    The message is one sentence that names the file or parameter, what was found there and how to mend it. Parameters
    stand in backticks, by their names in the library. The command line puts its options in their places, prints the
    message and exits with 2; library users can catch it as a `ValueError`. Control characters, which names in data may
    hold, are written as escapes.
    """

    def __init__(self, message: str = ""):
        super().__init__(one_line(message))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters that the message names, in its order."""
        return tuple(_PARAMETER.findall(str(self)))


def one_line(text: str) -> str:
    """A text with escapes in the place of control characters and line ends."""
    return text.translate(_CONTROLS)


def as_options(text: str, options: Mapping[str, str]) -> str:
    """A text with the option in the place of each parameter in backticks that has one."""
    return _PARAMETER.sub(lambda match: options.get(match[1], match[0]), text)


def meant(name: str, known: Iterable[str]) -> str:
    """` Did you mean stsb?`, to end a message about an unknown name with; "" where none of the known ones is near."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""
