"""The Typer application: its commands, and how every error becomes one sentence and an exit code."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from inspect import Parameter
from inspect import signature as inspect_signature
from typing import Annotated, Any

import typer

from sparsecse.cli import (
    bench,
    check,
    doctor,
    encode,
    evaluate,
    export,
    finetune,
    inspect,
    pack,
    prune,
    push,
    report,
    rewind,
    run,
    score,
    study,
    sweep,
    train,
)
from sparsecse.cli.groups import OPTIONS, UsageError
from sparsecse.cli.help import LookedUp
from sparsecse.cli.options import Quiet
from sparsecse.cli.output import (
    be_quiet,
    command_output,
    complain,
    discard_output,
    open_closed_streams,
    writing_output,
)
from sparsecse.cli.session import COMMAND, DEBUG, command_line
from sparsecse.distributed import follow, follows, leading
from sparsecse.errors import InputError, as_options, one_line
from sparsecse.files import meant_by
from sparsecse.version import __version__

_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM


def _with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the option that every command has."""

    @functools.wraps(command)
    def may_be_quiet(*, quiet: bool, **given: Any) -> None:
        if quiet:
            be_quiet()
        command(**given)

    signature = inspect_signature(command, eval_str=True)
    own = Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    parameters = [*signature.parameters.values(), own]
    may_be_quiet.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return may_be_quiet


app = typer.Typer(
    name="sparsecse",
    help="Make a sentence-embedding encoder smaller: score its heads and neurons, prune, rewind, fine-tune, pack.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, name in (
    (run.run, "run"),
    (train.train, "train"),
    (score.score, "score"),
    (prune.prune, "prune"),
    (rewind.rewind, "rewind"),
    (finetune.finetune, "finetune"),
    (pack.pack, "pack"),
    (evaluate.evaluate, "eval"),
    (encode.encode, "encode"),
    (bench.bench, "bench"),
    (check.check, "check"),
    (report.report, "report"),
    (inspect.inspect, "inspect"),
    (doctor.doctor, "doctor"),
    (export.export, "export"),
    (push.push, "push"),
    (study.study, "study"),
    (sweep.sweep, "sweep"),
):
    app.command(name, cls=LookedUp)(_with_quiet(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sparsecse {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", envvar=DEBUG, help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    if quiet:
        be_quiet()
    if debug:
        os.environ[DEBUG] = "1"


def _parameter_options() -> dict[str, str]:
    """The option of each parameter that a message of the library can name."""
    commands: Any = typer.main.get_command(app)
    own = {
        parameter.name.rstrip("_"): parameter.opts[0]
        for command in commands.commands.values()
        for parameter in command.params
        if parameter.opts[0].startswith("--")
    }
    return {"precisions": "--precision", "layers_compete": "--layers auto", **own, **OPTIONS}


def _quiet_libraries() -> None:
    """Keep the libraries' own bars and notices off the terminal; what users need to know we say ourselves."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")


def main(arguments: Sequence[str] | None = None, *, commands: typer.Typer = app, program: str = "sparsecse") -> int:
    """Run the command line; returns 0, 1 (check or cell failed), 2 (bad usage or input), 130 (Ctrl-C) or 143 (TERM).

    Of the processes that torchrun or accelerate starts, the first one runs it, and the others compute with it.
    """
    _quiet_libraries()
    if follows():
        return follow()
    try:
        with command_output():
            return _answer(commands, arguments, program)
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our output is gone (`| head`); there is nobody left to tell. click and rich would exit with 1.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        discard_output()
        return 0


def _answer(commands: typer.Typer, arguments: Sequence[str] | None, program: str) -> int:
    try:
        return _call(commands, arguments, program)
    except UsageError as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        if os.environ.get(DEBUG):
            raise
        complain(f"Error: {_sentence(error)}")
        discard_output()
        return 2


def _call(commands: typer.Typer, arguments: Sequence[str] | None, program: str) -> int:
    COMMAND.set(command_line(program, sys.argv[1:] if arguments is None else arguments))
    try:
        with leading():
            result = commands(args=arguments, prog_name=program, standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except typer.Exit as exit_:
        code = exit_.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except _TerminatedError:
        code = _TERMINATED
    if code in (_INTERRUPTED, _TERMINATED):
        complain("Interrupted; the same command goes on where it stopped.")
    with writing_output():
        pass  # what is still buffered
    return code


def _sentence(error: InputError | OSError) -> str:
    if isinstance(error, InputError):
        return as_options(str(error), _parameter_options())
    known = isinstance(error.filename, str | os.PathLike)
    place = meant_by(error.filename) if known else "Standard output or a file"
    reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    return one_line(f"{place} cannot be read or written ({reason}); see to it and run the command again.")


class _TerminatedError(BaseException):
    """SIGTERM arrived: what runs is left in order, as after Ctrl-C."""


def _stop(number: int, _: object) -> None:
    """Leave what runs in order at the first signal; the next one ends the process at once, and loses nothing either."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt if number == signal.SIGINT else _TerminatedError


def entry_point() -> None:
    """What the installed `sparsecse` script calls."""
    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) != signal.SIG_IGN:  # as under nohup, and in a shell's background
            signal.signal(each, _stop)
    open_closed_streams()
    sys.exit(main())
