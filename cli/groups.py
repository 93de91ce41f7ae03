"""Groups of options that several commands take, written into the signature that Typer reads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints


def takes(name: str, group: type[Any], **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put the fields of a dataclass, as options, in the place of one keyword-only parameter of a command.

    The command is called with an instance of the dataclass in that parameter. Typer reads a command's options from its
    signature, so that this writes one with them in it.

    Args:
        name: the parameter.
        group: a dataclass whose fields are annotated with options.
        defaults: this command's own, by the names of the fields.
    """
    annotations = get_type_hints(group, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, field.default),
            annotation=annotations[field.name],
        )
        for field in fields(group)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            values = {parameter.name: given.pop(parameter.name) for parameter in shared}
            command(**{name: group(**values)}, **given)

        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += shared if parameter.name == name else [parameter]
        with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_options

    return decorate
