"""`python -m sparsecse`: the command line."""

from sparsecse.cli.app import entry_point

if __name__ == "__main__":
    entry_point()
