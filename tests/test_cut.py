"""`prune` beyond heads and neurons: vocabulary, layers and stock widths, alone and together, and rewinding them."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import write_checkpoint

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.pruning.recipe import Recipe
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.workdir import Workdir


@pytest.fixture
def corpus(tmp_path, sentences) -> str:
    """A file of the first two sentences only, so that other words lose their tokens."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(sentences[:2] * 5) + "\n")
    return str(path)


def test_the_vocabulary_alone_needs_no_scores(tmp_path, sentence_folder, corpus, sentences, capsys):
    run = tmp_path / "run"
    arguments = ["prune", str(sentence_folder), "--vocab", corpus, "--workdir", str(run), "--json"]
    assert main(arguments) == 0
    info = json.loads(capsys.readouterr().out)["info"]
    report = info["vocabulary"]
    assert report["tokens_after"] < report["tokens_before"] and info["parameters"] < info["dense_parameters"]
    record, _ = stages.pack(Workdir(run))
    assert record.info["format"] == "bert"  # a smaller vocabulary is still a stock checkpoint
    dense, smaller = load_encoder(sentence_folder), load_encoder(record.info["path"])
    covered = sentences[:2]
    torch.testing.assert_close(smaller.encode(covered), dense.encode(covered), atol=1e-6, rtol=1e-6)
    assert smaller.tokenizer.unk_token_id not in smaller.tokenize(["the red river"])[0]
    evaluated, _ = stages.evaluate_run(Workdir(run), stages.EvaluationSettings("demo-test"))
    assert evaluated.info["stage"] == "prune"
    assert set(stages.inspect_run(Workdir(run))["stages"]) == {"prune", "pack", "eval-dense", "eval"}


def test_everything_at_once_and_rewound(tmp_path, sentence_folder, pairs_file, corpus, sentences):
    run = Workdir(tmp_path / "run")
    stages.score(run, ModelOptions(str(sentence_folder)), DataOptions(str(pairs_file)))
    record, _ = stages.prune(run, Recipe(sparsity=0.5, layers=(0, 2), vocab=(corpus,)))
    assert record.info["layers"] == [0, 2] and tuple(record.info["kept"][1]) == (0, 0)
    pruned = load_encoder(run.folder("prune") / "model")
    assert pruned.model.config.num_hidden_layers == 2
    assert sum(heads for heads, _ in pruned.model.config.layer_sizes()) == 4
    stages.rewind(run, str(write_checkpoint(tmp_path / "earlier", "bert", seed=4)))
    rewound = load_encoder(run.folder("rewind") / "model")
    assert rewound.model.config.layer_sizes() == pruned.model.config.layer_sizes()
    assert rewound.tokenizer.get_vocab() == pruned.tokenizer.get_vocab()
    assert not torch.allclose(rewound.encode(sentences), pruned.encode(sentences), atol=1e-3)


def test_portable_widths(tmp_path, sentence_folder, pairs_file):
    run = Workdir(tmp_path / "run")
    stages.score(run, ModelOptions(str(sentence_folder)), DataOptions(str(pairs_file)))
    record, _ = stages.prune(run, Recipe(sparsity=0.25, portable=True))
    assert {tuple(kept) for kept in record.info["kept"]} == {(4, 18)}
    assert stages.pack(run)[0].info["format"] == "bert"


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"vocab_size": 10}, "`vocab_size` needs the corpus"),
        ({"portable": True}, "`portable` takes `sparsity`"),
        ({"portable": True, "sparsity": 0.2, "keep_heads": 3}, "`portable` takes `sparsity`"),
    ],
)
def test_cuts_that_contradict_themselves(cut, message):
    with pytest.raises(InputError, match=message):
        Recipe(**cut)


def test_bad_cuts(tmp_path, sentence_folder, corpus):
    run = Workdir(tmp_path / "run")
    model = ModelOptions(str(sentence_folder))
    with pytest.raises(InputError, match="has no scores"):
        stages.prune(run, Recipe(sparsity=0.2), model)
    with pytest.raises(InputError, match="Nothing says how much"):
        stages.prune(run, Recipe(), model)
    with pytest.raises(InputError, match="`layers` 0,7"):
        stages.prune(run, Recipe(layers=(0, 7)), model)
    with pytest.raises(InputError, match="is not a file"):
        stages.prune(run, Recipe(vocab=("nowhere.txt",)), model)
    with pytest.raises(InputError, match="`vocab_size`"):
        stages.prune(run, Recipe(vocab=(corpus,), vocab_size=3), model)
    assert run.record("prune") is None
