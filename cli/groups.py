"""Settings dataclasses as options: written into the signature that Typer reads, with the defaults of an instance."""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Protocol, get_type_hints

import typer

from sparsecse.errors import InputError, as_options
from sparsecse.settings import Setting

# Typer brings its own copy of click in newer versions; this is the base of its usage errors in all of them.
UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

_PANELS = {"loading": "model", "reading": "data"}
OPTIONS: dict[str, str] = {}
"""The option of each settings field of all commands; of two fields of one name, the one that is spelled like it."""


@dataclass(frozen=True)
class Only:
    """Settings of which a command takes some fields alone."""

    defaults: Any
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Option:
    """A settings field as an option.

    path: the names of the fields that lead to it, its own last. spellings: the first one is its name everywhere.
    """

    path: tuple[str, ...]
    setting: Setting
    kind: Any
    default: Any
    panel: str

    @property
    def spellings(self) -> list[str]:
        return (self.setting.option or "--" + self.path[-1].replace("_", "-")).split(",")

    @property
    def name(self) -> str:
        """The parameter of the command."""
        name = self.spellings[0].removeprefix("--").replace("-", "_")
        return f"{name}_" if keyword.iskeyword(name) else name

    def parameter(self, taken: Collection[str], options: Mapping[str, str]) -> inspect.Parameter:
        """What Typer reads. taken: spellings that are other options' own; options: for the names in the help."""
        first, *others = self.spellings
        spellings = [first, *(other for other in others if other not in taken)]
        kind, default = self.kind, self.default
        if bool in (kind, *getattr(kind, "__args__", ())):
            spellings = [f"{first}/--no-{first.removeprefix('--')}"]
        elif self.setting.parse is not None:
            default = self.setting.text(default)
            kind = str | None if default is None else str
        elif isinstance(default, tuple):
            kind, default = list[str] | None, list(default) or None
        option = typer.Option(
            *spellings,
            help=as_options(self.setting.help, options),
            rich_help_panel=self.panel,
            metavar=self.setting.metavar,
            envvar=self.setting.envvar,
        )
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )

    def value(self, given: Any) -> Any:
        """What the field gets for what Typer gives."""
        if self.setting.parse is not None:
            return self.default if given is None else self.setting.parse(given)
        return tuple(given or ()) if isinstance(self.default, tuple) else given


def _options(defaults: Any, panel: str, path: tuple[str, ...] = ()) -> Iterator[_Option]:
    names = None
    if isinstance(defaults, Only):
        defaults, names = defaults.defaults, defaults.names
    kinds = get_type_hints(type(defaults))
    for field in fields(defaults):
        value = getattr(defaults, field.name)
        if "setting" in field.metadata and (names is None or field.name in names):
            yield _Option((*path, field.name), field.metadata["setting"], kinds[field.name], value, panel)
        elif is_dataclass(value):
            yield from _options(value, panel, (*path, field.name))


def _build(defaults: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    """The settings with other values, by the paths of their fields."""
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in {path[0] for path in values if len(path) > 1}:
        inner = {path[1:]: value for path, value in values.items() if path[0] == name}
        own[name] = _build(getattr(defaults, name), inner)
    return replace(defaults, **own)


class WithOptions(Protocol):
    """A command that takes options; `settle` makes its settings of them: {parameter: value} to {parameter: value}."""

    settle: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, **given: Any) -> None: ...


def takes(**groups: Any) -> Callable[[Callable[..., Any]], WithOptions]:
    """Put the fields of settings, as options, in the place of keyword-only parameters of a command.

    The command is called with the settings that the options make. Where two settings have the same option (`--seed`),
    the command has it once and both get its value. An `InputError` of theirs names the options.

    Args:
        groups: for each parameter the settings whose values are this command's defaults, or `Only` some of them.
    """
    found = {name: list(_options(defaults, _PANELS.get(name, name))) for name, defaults in groups.items()}
    every = [option for options in found.values() for option in options]
    spelled = {option.path[-1]: option.spellings[0] for option in reversed(every)}
    for option in every:
        name, first = option.path[-1], option.spellings[0]
        if name not in OPTIONS or option.setting.option is None:
            OPTIONS[name] = first
    taken = {option.spellings[0] for option in every}
    shared = {option.name: option.parameter(taken, spelled) for option in reversed(every)}

    def decorate(command: Callable[..., Any]) -> WithOptions:
        def settle(given: dict[str, Any]) -> dict[str, Any]:
            texts = {name: given.pop(name) for name in shared}
            for name, options in found.items():
                defaults = groups[name].defaults if isinstance(groups[name], Only) else groups[name]
                try:
                    given[name] = _build(defaults, {one.path: one.value(texts[one.name]) for one in options})
                except InputError as error:
                    own = {one.path[-1]: one.spellings[0] for one in options}
                    raise InputError(as_options(str(error), own)) from None
            return given

        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            command(**settle(given))

        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        left = dict(shared)
        for parameter in signature.parameters.values():
            if parameter.name not in groups:
                parameters.append(parameter)
                continue
            parameters += [left.pop(one.name) for one in found[parameter.name] if one.name in left]
        made: Any = with_options
        made.__signature__ = signature.replace(parameters=parameters)
        made.settle = settle
        return made

    return decorate
