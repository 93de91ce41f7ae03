"""`sparsecse study` with the studies of benchmarks/studies added: python benchmarks/study.py NAME MODEL [options]."""

import sys

import typer
from studies import STUDIES

from sparsecse.cli.app import main
from sparsecse.cli.study import study_command

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
app.command()(study_command(STUDIES))

if __name__ == "__main__":
    sys.exit(main(commands=app, program="benchmarks/study.py"))
