"""Runtimes without a model, for test_benchmarking; apart from it so that workers start without importing torch."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from sparsecse.benchmarking import Setup
from sparsecse.errors import InputError


class Recorder:
    """Writes down what it is asked; SPARSECSE_TEST_LOG names the file."""

    def __init__(self, setup: Setup):
        self.name = Path(setup.source).name
        self.log = Path(os.environ["SPARSECSE_TEST_LOG"])

    def encode_ids(self, token_ids):
        print("noise that must not reach the parent's output")
        with self.log.open("a") as stream:
            stream.write(json.dumps([self.name, [len(ids) for ids in token_ids]]) + "\n")


class Raises:
    def encode_ids(self, token_ids):
        raise ValueError("no such operator\nsecond line")


class Dies:
    def encode_ids(self, token_ids):
        os.kill(os.getpid(), signal.SIGKILL)


def load_recorder(setup: Setup) -> Recorder:
    return Recorder(setup)


def load_raises(setup: Setup) -> Raises:
    return Raises()


def load_dies(setup: Setup) -> Dies:
    return Dies()


def load_refuses(setup: Setup) -> None:
    raise InputError(f"{setup.source}: not for this runtime; take another one.")


def load_exits(setup: Setup) -> None:
    os._exit(3)


def load_waits_for_interrupt(setup: Setup) -> None:
    Path(os.environ["SPARSECSE_TEST_LOG"]).write_text(str(os.getpid()))
    time.sleep(600)
