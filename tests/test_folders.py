"""Every layout of a folder gives the vectors that sentence-transformers gives, through every door, or is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from conftest import tiny_tokenizer
from folders.build import POSITIONS, Row, build
from folders.rows import ROWS

from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.packing import pack
from sparsecse.runtime import Runtime

TEXTS = (
    "",
    " ",
    "the",
    "The Cat",
    "THE CAT SAT ON THE MAT",
    "the cat sat on the mat",
    "  the   cat  ",
    "the\ncat\tsat",
    "cats, dogs; birds!",
    "a",
    "42 3.14 1e-5",
    "Ünïcödé café İstanbul",
    "猫在垫子上",
    "🐈 on 🟫",
    "[CLS] the [MASK] cat [PAD] sat [SEP]",
    "<s> the <mask> cat <pad> sat </s>",
    "https://example.org/the?cat=sat",
    "\u200bthe\u00a0cat\u0000",
    "the cat sat on the mat and then " * 20,
    "supercalifragilisticexpialidocious " * 3,
)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    yield counts
    found = ", ".join(f"{counts[name]} {name}" for name in ("reproduced", "refused"))
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfolders: {sum(counts.values())} rows, {found}")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than these models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reference(folder):
    """The folder as sentence-transformers loads it, texts that are longer than its positions cut to them."""
    from sentence_transformers import SentenceTransformer

    options = {"dtype": torch.float32}
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=options)
    model.max_seq_length = min(model.max_seq_length, POSITIONS)
    return model


@pytest.mark.filterwarnings("ignore:.*names a max_seq_length of")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_vectors_are_right_or_the_folder_is_refused(row: Row, tmp_path, tally):
    folder = build(row, tmp_path / "model")
    if row.refused is not None:
        with pytest.raises(InputError, match=row.refused) as refusal:
            load_encoder(folder, **row.options)
        assert "\n" not in str(refusal.value) and str(folder) in str(refusal.value)
        tally["refused"] += 1
        return
    expected = reference(folder)
    if row.options:
        pooling = row.options["pooling"]
        expected[1].pooling_mode = pooling
        expected.max_seq_length = row.options.get("max_length", expected.max_seq_length)
    vectors = expected.encode(list(TEXTS), convert_to_tensor=True)
    encoder = load_encoder(folder, **row.options)
    pack(encoder, tmp_path / "packed")
    packed = reference(tmp_path / "packed")
    with torch.inference_mode():
        padded = encoder(*encoder.collate(encoder.tokenize(TEXTS)))
    doors = {
        "load_encoder": encoder.encode(TEXTS),
        "forward": padded[:, : encoder.width()],
        "Runtime": Runtime(encoder, "float32").encode(TEXTS, convert_to_tensor=True),
        "packed": packed.encode(list(TEXTS), convert_to_tensor=True),
    }
    for door, found in doors.items():
        torch.testing.assert_close(found, vectors, atol=1e-5, rtol=1e-5, msg=lambda text, door=door: f"{door}: {text}")
    assert packed.similarity_fn_name == expected.similarity_fn_name
    assert packed.max_seq_length == expected.max_seq_length == encoder.settings.max_length
    assert row.max_length in (None, encoder.settings.max_length)
    tally["reproduced"] += 1


def test_a_limit_above_the_positions_is_said(tmp_path):
    row = next(row for row in ROWS if row.name == "above the positions")
    with pytest.warns(UserWarning, match=f"max_seq_length of 8192 and has {POSITIONS} positions"):
        load_encoder(build(row, tmp_path / "model"))


def test_a_packed_limit_survives_a_save_by_sentence_transformers(sentence_folder, tmp_path):
    pack(load_encoder(sentence_folder, max_length=10), tmp_path / "packed")
    reference(tmp_path / "packed").save_pretrained(str(tmp_path / "saved"))
    assert load_encoder(tmp_path / "saved").settings.max_length == 10


def test_a_pack_has_the_files_of_tools_that_read_no_transformers(sentence_folder, tmp_path):
    pack(load_encoder(sentence_folder, max_length=10), tmp_path / "packed")
    special = json.loads((tmp_path / "packed" / "special_tokens_map.json").read_text())
    assert {name: token["content"] for name, token in special.items()} == tiny_tokenizer().special_tokens_map
    assert json.loads((tmp_path / "packed" / "tokenizer_config.json").read_text())["model_max_length"] == 10
