"""Runtimes without a model, for test_benchmarking; apart from it so that workers start without importing torch."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from sparsecse.benchmarking import Setup
from sparsecse.errors import InputError

HIDDEN_SIZE = 16


class Recorder:
    """Writes down what it is asked; SPARSECSE_TEST_LOG names the file."""

    def __init__(self, setup: Setup):
        self.name = Path(setup.source).name
        self.log = Path(os.environ["SPARSECSE_TEST_LOG"])

    def encode_ids(self, token_ids):
        print("noise that must not reach the parent's output")
        with self.log.open("a") as stream:
            stream.write(json.dumps([self.name, [len(ids) for ids in token_ids]]) + "\n")
        return np.ones((len(token_ids), HIDDEN_SIZE), np.float32)


class Raises:
    def encode_ids(self, token_ids):
        raise ValueError("no such operator\nsecond line")


class Dies:
    def encode_ids(self, token_ids):
        os.kill(os.getpid(), signal.SIGKILL)


class Wrong:
    def encode_ids(self, token_ids):
        return np.full((len(token_ids), HIDDEN_SIZE), np.nan, np.float32)


class ByLength:
    """A vector that tells how long the sentence was and how many were in its batch."""

    def encode_ids(self, token_ids):
        vectors = np.zeros((len(token_ids), HIDDEN_SIZE), np.float32)
        vectors[:, 0], vectors[:, 1] = [len(ids) for ids in token_ids], len(token_ids)
        return vectors


def load_recorder(setup: Setup) -> Recorder:
    return Recorder(setup)


def load_raises(setup: Setup) -> Raises:
    return Raises()


def load_dies(setup: Setup) -> Dies:
    return Dies()


def load_wrong(setup: Setup) -> Wrong:
    return Wrong()


def load_by_length(setup: Setup) -> ByLength:
    return ByLength()


def load_refuses(setup: Setup) -> None:
    raise InputError(f"{setup.source}: not for this runtime; take another one.")


def convert_refuses(encoder, precision, sentences, folder: Path) -> Path:
    raise InputError(f"{encoder.source}: cannot be converted; take another one.")


def load_exits(setup: Setup) -> None:
    os._exit(3)


def load_waits_for_interrupt(setup: Setup) -> None:
    Path(os.environ["SPARSECSE_TEST_LOG"]).write_text(str(os.getpid()))
    time.sleep(600)
