"""A malformed folder is refused with one sentence that names the file: no traceback, no hang, no unbounded memory."""

from __future__ import annotations

import shutil
import signal

import pytest
import torch
from folders.build import Row, build, change
from folders.malformed import CODE, MALFORMED, Malformed
from folders.rows import CLS, DENSE, GEMMA, MEAN, MODERN, NORMALIZE, QWEN

from sparsecse.cli import main
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.packing import pack
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.surgery import prune

TEXTS = ["the cat sat", "a dog"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Sound folders by their names; the pack is of an MPNet that has lost a head and a neuron."""
    root = tmp_path_factory.mktemp("sound")
    rows = (
        Row("bert", parts=(CLS, DENSE, NORMALIZE)),
        Row("distilbert", "distilbert"),
        Row("mpnet", "mpnet", parts=(MEAN, NORMALIZE)),
        Row("modernbert", "modernbert", sizes=MODERN),
        Row("qwen3", "qwen3", sizes=QWEN),
        Row("gemma3_text", "gemma3_text", sizes=GEMMA),
    )
    folders = {row.name: build(row, root / row.name) for row in rows}
    heads = (torch.tensor([True, False, True, True]), torch.tensor([True, False, False, False]))
    mask = Mask(heads, tuple(torch.arange(24) < kept for kept in (20, 24)))
    pack(prune(load_encoder(folders["mpnet"]), mask), root / "pack")
    return {**folders, "pack": root / "pack"}


@pytest.fixture(scope="module")
def vectors(sound):
    return load_encoder(sound["bert"]).encode(TEXTS)


@pytest.fixture(autouse=True)
def no_hang():
    """What would wait for a pipe, or build a billion layers, fails instead."""

    def fail(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def made(row: Malformed, sound, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sound[row.base], folder)
    for name, wanted in row.files.items():
        change(folder / name, wanted)
    return folder


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("row", MALFORMED, ids=lambda row: row.name)
def test_a_malformed_folder(row: Malformed, sound, vectors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(row, sound, tmp_path)
    if row.said is None:
        assert torch.equal(load_encoder(folder).encode(TEXTS), vectors)
        return
    with pytest.raises(InputError, match=row.said) as refusal:
        load_encoder(folder)
    said = str(refusal.value)
    assert str(folder) in said and "\n" not in said and len(said) < 2 * len(str(folder)) + 400
    assert not (tmp_path / CODE).exists()


NAMES = ("deep", "num_hidden_layers 1000000000 (bert)", "a pickle with code")


@pytest.mark.parametrize("command", [["inspect"], ["score", "--data", "demo"]], ids=lambda command: command[0])
def test_commands_refuse_it(command, sound, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for row in MALFORMED:
        if row.name in NAMES:
            folder = made(row, sound, tmp_path / row.name)
            assert main([command[0], str(folder), *command[1:]]) == 2
            out, err = capsys.readouterr()
            assert out == "" and err.startswith("Error: ") and err.count("\n") == 1 and str(folder) in err
