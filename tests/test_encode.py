"""`encode` of an Encoder and of a Runtime: the same arguments, with sentence-transformers' names and meanings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import sparsecse
from sparsecse.encoders import Encoder
from sparsecse.errors import InputError
from sparsecse.runtime import Runtime

PROMPTS = {"query": "the old ", "passage": ""}


@pytest.fixture(params=["Encoder", "Runtime"])
def embedder(request: pytest.FixtureRequest, bert: Encoder):
    bert.settings = replace(bert.settings, prompts=PROMPTS)
    return bert if request.param == "Encoder" else Runtime(bert, "float32")


def array(vectors) -> np.ndarray:
    return vectors if isinstance(vectors, np.ndarray) else vectors.numpy()


@pytest.mark.parametrize("collect", [tuple, np.array, lambda x: np.array(x, dtype=object), iter, "Series"])
def test_sentences_of_any_sequence(embedder, sentences, collect):
    if collect == "Series":
        pandas = pytest.importorskip("pandas")
        given = pandas.Series(sentences, index=range(10, 10 + len(sentences)))
    else:
        given = collect(sentences)
    assert np.array_equal(array(embedder.encode(given)), array(embedder.encode(sentences)))


def test_a_string_is_one_sentence(embedder, sentences):
    whole = array(embedder.encode(sentences[:1]))
    assert np.array_equal(array(embedder.encode(sentences[0])), whole[0])
    assert np.array_equal(array(embedder.encode(np.str_(sentences[0]))), whole[0])
    assert array(embedder.encode([])).shape == (0, whole.shape[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a cat", None], r"Sentence 1 is a NoneType \(None\), not a string"),
        (["a cat", "\ud800"], "Sentence 1 .* has half of a surrogate pair"),
        (["a cat", "a dog", float("nan")], r"Sentence 2 is a float \(nan\)"),
        ([["a", "b"]], "Sentence 0 is a list"),
        ({"a cat": 1}, "`sentences` is a dict; give a string, or strings in a list"),
        ({"a cat"}, "`sentences` is a set"),
        (b"a cat", "`sentences` is a bytes"),
        (None, "`sentences` is a NoneType"),
        (np.array([["a", "b"]]), "`sentences` is a ndarray of 2 dimensions"),
    ],
)
def test_what_is_not_sentences(embedder, given, message):
    with pytest.raises(InputError, match=message):
        embedder.encode(given)


def test_prompts(embedder, sentences):
    by_hand = array(embedder.encode([f"the old {sentence}" for sentence in sentences]))
    plain = array(embedder.encode(sentences))
    assert not np.allclose(by_hand, plain, atol=1e-3)
    assert np.array_equal(array(embedder.encode(sentences, prompt_name="query")), by_hand)
    assert np.array_equal(array(embedder.encode(sentences, prompt="the old ")), by_hand)
    assert np.array_equal(array(embedder.encode(sentences, prompt_name="passage")), plain)
    assert np.array_equal(array(embedder.encode(sentences, prompt="", prompt_name="query")), plain)
    with pytest.raises(InputError, match="`prompt_name`: the model has no prompt 'doc'; it has query, passage"):
        embedder.encode(sentences, prompt_name="doc")


def test_a_default_prompt_can_be_left_out(bert, sentences):
    plain = bert.encode(sentences)
    bert.settings = replace(bert.settings, prompts=PROMPTS, default_prompt="query")
    for embedder in (bert, Runtime(bert, "float32")):
        assert not np.allclose(array(embedder.encode(sentences)), plain, atol=1e-3)
        assert np.allclose(array(embedder.encode(sentences, prompt="")), plain, atol=1e-6)


def test_results_are_of_the_type_that_was_asked_for(embedder, sentences):
    own, other = (np.ndarray, torch.Tensor) if isinstance(embedder, Runtime) else (torch.Tensor, np.ndarray)
    wanted = {"convert_to_numpy": True} if other is np.ndarray else {"convert_to_tensor": True}
    assert type(embedder.encode(sentences)) is own
    assert type(embedder.encode(sentences, **wanted)) is other
    assert type(embedder.encode(sentences[0], **wanted)) is other
    assert type(embedder.encode(sentences, convert_to_numpy=True, convert_to_tensor=True)) is torch.Tensor


def test_truncated_and_normalized(embedder, sentences):
    vectors = array(embedder.encode(sentences))
    cut = array(embedder.encode(sentences, truncate_dim=5))
    assert np.array_equal(cut, vectors[:, :5])
    unit = array(embedder.encode(sentences, truncate_dim=5, normalize_embeddings=True))
    assert np.allclose(unit, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    assert array(embedder.encode(sentences[0], truncate_dim=5)).shape == (5,)
    for wrong in (0, vectors.shape[1] + 1):
        with pytest.raises(InputError, match=f"`truncate_dim` {wrong} is outside 1 to {vectors.shape[1]}"):
            embedder.encode(sentences, truncate_dim=wrong)


def test_a_model_that_keeps_a_part_of_its_vectors(sentence_folder, sentences):
    peer = SentenceTransformer(str(sentence_folder), device="cpu", truncate_dim=8)
    wanted = peer.encode(sentences)
    whole = sparsecse.load_encoder(sentence_folder)
    part = sparsecse.load_encoder(sentence_folder, truncate_dim=8)
    runtime = Runtime(sentence_folder, "float32", truncate_dim=8)
    given = Runtime(whole, "float32", truncate_dim=8)
    assert whole.width() == 32 and part.width() == runtime.dimension == given.dimension == 8
    ids = whole.tokenize(sentences)
    for vectors in (
        part.encode(sentences),
        part.encode_ids(ids),
        runtime.encode(sentences),
        runtime.encode_ids(ids),
        given.encode(sentences),
        sparsecse.accelerate(peer, "float32").encode(sentences),
    ):
        assert np.allclose(array(vectors), wanted, atol=1e-5)
    wider, all_of_it = peer.encode(sentences, truncate_dim=20), array(whole.encode(sentences))
    for embedder in (part, runtime):  # a call's own width is one of the whole vector
        assert np.allclose(array(embedder.encode(sentences, truncate_dim=20)), wider, atol=1e-5)
        assert np.allclose(array(embedder.encode_ids(ids, truncate_dim=32)), all_of_it, atol=1e-5)
    for wrong in (0, 33):
        for load in (sparsecse.load_encoder, Runtime):
            with pytest.raises(InputError, match=f"`truncate_dim` {wrong} is outside 1 to 32"):
                load(sentence_folder, truncate_dim=wrong)


def test_batch_size_has_an_effect_on_the_steps_alone(embedder, sentences):
    steps: list[tuple[int, int]] = []
    whole = array(embedder.encode(sentences))
    small = array(embedder.encode(sentences, batch_size=2, progress=lambda done, total: steps.append((done, total))))
    assert np.allclose(small, whole, atol=1e-6)
    assert len(steps) > 2 and steps[-1] == (len(sentences), len(sentences))
    assert steps == sorted(steps)
    with pytest.raises(InputError, match="`batch_size` 0 is less than 1"):
        embedder.encode(sentences, batch_size=0)


def test_a_progress_bar(embedder, sentences, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    embedder.encode(sentences, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{len(sentences)}/{len(sentences)}" in err


def test_vectors_are_those_of_sentence_transformers(sentence_folder, sentences):
    peer = SentenceTransformer(str(sentence_folder), device="cpu")
    options = {"prompt": "the old ", "truncate_dim": 8, "normalize_embeddings": True}
    wanted = peer.encode(sentences, **options)
    encoder = sparsecse.load_encoder(sentence_folder)
    assert np.allclose(encoder.encode(sentences, **options).numpy(), wanted, atol=1e-5)
    assert np.allclose(Runtime(encoder, "float32").encode(sentences, **options), wanted, atol=1e-5)


def test_demo_is_a_name_of_a_model(minilm):
    assert sparsecse.load_encoder("demo").source == str(minilm)
    assert Runtime("demo", "float32").dimension == 384
