"""Scores: equal to finite differences, independent of the batch size, the same for twins, reproducible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import distilbert_twin, roberta_twin, write_checkpoint
from safetensors.torch import load_file, save_file

from sparsecse.encoders import gates as gates_module
from sparsecse.encoders import load_encoder
from sparsecse.encoders.gates import Gates, gated
from sparsecse.errors import InputError
from sparsecse.kernels.reference import uniformity
from sparsecse.pruning.masks import Budget, select
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import Objective, Scores, contributions, magnitude, random, resolved_precision
from sparsecse.scoring.memory import bytes_per_token, room


def assert_same(left: Scores, right: Scores, rtol: float) -> None:
    for a, b in zip(left.heads + left.neurons, right.heads + right.neurons, strict=True):
        scale = max(float(b.abs().max()), 1e-12) if len(b) else 1.0
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol * scale)


def test_gates_inside_attention_score_the_same(monkeypatch, encoder, pairs):
    """As on a GPU: by the gradient of attention's own gates."""
    expected = contributions(encoder, pairs, batch_size=3, precision="float32")
    calls = []
    inside = gates_module._gate_attention
    monkeypatch.setattr(gates_module, "_fuses", lambda _: True)
    monkeypatch.setattr(gates_module, "_gate_attention", lambda *args: calls.append(args) or inside(*args))
    assert_same(contributions(encoder, pairs, batch_size=3, precision="float32"), expected, rtol=1e-4)
    assert calls


@pytest.mark.parametrize(
    "pooling,weight,widths",
    [("mean", 0.0, ()), ("cls", 0.5, ()), ("first_last_avg", 1.0, ()), ("mean", 0.5, (32, 5)), ("cls", 0.0, (9,))],
)
def test_contributions_are_finite_differences(tmp_path, pairs, pooling, weight, widths):
    folder = write_checkpoint(tmp_path, "bert", num_hidden_layers=2, num_attention_heads=2, intermediate_size=5)
    encoder = load_encoder(folder, pooling=pooling, normalize=True).double()
    scores = contributions(encoder, pairs, Objective(weight, matryoshka_dims=widths), batch_size=3)

    sentences = pairs.sentences()
    positives = torch.tensor(pairs.positives(4.0))
    input_ids, mask = encoder.collate(encoder.tokenize(sentences))

    def objective(gates: Gates) -> float:
        with torch.no_grad(), gated(encoder.model, gates):
            vectors = encoder(input_ids, mask)
        values = []
        for width in widths or (vectors.shape[1],):
            unit = F.normalize(vectors[:, :width], dim=-1)
            align = (unit[positives[:, 0]] - unit[positives[:, 1]]).square().sum(-1).mean()
            values.append(float(weight * align + (1 - weight) * uniformity(unit)))
        return sum(values) / len(values)

    step = 1e-5
    gates = Gates.ones(encoder.model, batch=len(sentences))
    for values, score in zip(gates.tensors(), [*scores.heads, *scores.neurons], strict=True):
        difference = torch.zeros_like(values)
        with torch.no_grad():
            for row in range(values.shape[0]):
                for column in range(values.shape[1]):
                    ends = []
                    for sign in (1, -1):
                        values[row, column] = 1 + sign * step
                        ends.append(objective(gates))
                    values[row, column] = 1
                    difference[row, column] = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(score, difference.abs().mean(dim=0), rtol=1e-5, atol=1e-10)


def test_scores_do_not_depend_on_the_batch_size(encoder, pairs):
    encoder.train()
    whole = contributions(encoder, pairs, batch_size=64, precision="float32")
    assert whole.sizes() == encoder.model.config.layer_sizes()
    for batch_size in (1, 3):
        scores = contributions(encoder, pairs, batch_size=batch_size, precision="float32")
        assert_same(scores, whole, rtol=1e-4)
    assert encoder.training and all(parameter.requires_grad for parameter in encoder.parameters())


def test_scores_do_not_depend_on_the_memory(encoder, pairs, monkeypatch):
    def scores(bytes_left: int) -> Scores:
        seen = []
        monkeypatch.setattr("sparsecse.scoring.memory.room", lambda _: bytes_left)
        found = contributions(
            encoder, pairs, batch_size=2, precision="float32", progress=lambda done, total: seen.append((done, total))
        )
        assert seen == sorted(set(seen)) and seen[-1] == (16, 16)
        return found

    everything = scores(2**40)
    assert_same(scores(0), everything, rtol=1e-5)
    assert_same(scores(30 * bytes_per_token(encoder.model)), everything, rtol=1e-5)


def test_a_pass_of_long_sentences_has_fewer(bert, pairs, monkeypatch):
    whole = contributions(bert, pairs, precision="float32")
    lengths = [len(ids) for ids in bert.tokenize(pairs.sentences())]
    monkeypatch.setattr("sparsecse.scoring.memory.PASS", 2 * max(lengths) * bytes_per_token(bert.model))
    tokens = []
    own = bert.forward_packed
    bert.forward_packed = lambda batch: tokens.append(len(batch.input_ids)) or own(batch)
    assert_same(contributions(bert, pairs, precision="float32"), whole, rtol=1e-5)
    assert max(tokens) <= 2 * max(lengths) and sum(tokens) == sum(lengths)


def test_what_a_pass_keeps_is_what_is_reckoned(encoder, sentences):
    encoder = prune(encoder, select(random(encoder, 0), Budget(4, 30))).eval().requires_grad_(False)
    batch = encoder.pack(encoder.tokenize(sentences))
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and len(tensor) >= len(batch.input_ids):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    gates = Gates.ones(encoder.model, batch=len(batch))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), gated(encoder.model, gates, batch.cu_lengths):
        encoder.forward_packed(batch)
    reckoned = len(batch.input_ids) * bytes_per_token(encoder.model)
    # Means, deviations and log-sum-exps weigh much in a model this small; the first layers need not keep all.
    assert 0.7 * reckoned < sum(kept.values()) < 1.25 * reckoned


def test_there_is_room_and_never_more_than_a_container_leaves(monkeypatch):
    assert (room(torch.device("cpu")) > 0) == Path("/proc/meminfo").exists()
    monkeypatch.setattr("sparsecse.scoring.memory._left_in_container", lambda: 4096)
    monkeypatch.setattr("sparsecse.scoring.memory._available", lambda: 8192)
    assert room(torch.device("cpu")) == 1024
    monkeypatch.setattr("sparsecse.scoring.memory.KEPT", 512)
    assert room(torch.device("cpu")) == 512
    assert room(torch.device("meta")) == 0


def test_packed_gates_have_the_gradients_of_padded_ones(encoder, sentences):
    encoder.double().eval()
    token_ids = encoder.tokenize(sentences)
    upstream = torch.randn(len(sentences), 32, generator=torch.Generator().manual_seed(0)).double()
    padded, packed = (Gates.ones(encoder.model, batch=len(sentences)) for _ in range(2))
    for value in (1.0, 0.7):
        with torch.no_grad():
            for gate in (*padded.tensors(), *packed.tensors()):
                gate[:, 0] = value
        with gated(encoder.model, padded):
            expected = encoder(*encoder.collate(token_ids))
        batch = encoder.pack(token_ids)
        with gated(encoder.model, packed, batch.cu_lengths):
            output = encoder.forward_packed(batch)
        torch.testing.assert_close(output, expected, atol=1e-12, rtol=1e-12)
        gradients = torch.autograd.grad(output, packed.tensors(), upstream)
        wanted = torch.autograd.grad(expected, padded.tensors(), upstream)
        for gradient, want in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient, want, atol=1e-12, rtol=1e-10)


def test_bfloat16_keeps_the_ranks_and_the_encoder(bert, pairs, monkeypatch):
    exact = contributions(bert, pairs, precision="float32")
    rough = contributions(bert, pairs, precision="bfloat16")
    for kind in ("heads", "neurons"):
        a, b = (torch.cat(getattr(scores, kind)).argsort().argsort().double() for scores in (exact, rough))
        assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.95  # random weights, few sentences: ranks lie close
    assert bert.model.dtype == torch.float32 and all(p.requires_grad for p in bert.parameters())
    monkeypatch.setattr("sparsecse.scoring.precision.fast_bfloat16", lambda: True)
    assert resolved_precision(bert) == "bfloat16"
    assert resolved_precision(bert, "float32") == resolved_precision(bert.double()) == "float32"
    monkeypatch.setattr("sparsecse.scoring.precision.fast_bfloat16", lambda: False)
    assert resolved_precision(bert.float()) == "float32"
    with pytest.raises(InputError, match="`precision` 'half'"):
        contributions(bert, pairs, precision="half")


def test_twins_of_other_families_get_the_same_scores(checkpoints, pairs, tmp_path):
    scores = contributions(load_encoder(checkpoints["bert"], pooling="mean"), pairs, precision="float32")
    for make in (roberta_twin, distilbert_twin):
        twin = load_encoder(make(tmp_path / make.__name__, checkpoints["bert"]), pooling="mean")
        assert_same(contributions(twin, pairs, precision="float32"), scores, rtol=1e-3)


def test_a_pruned_encoder_can_be_scored_again(encoder, pairs):
    scores = contributions(encoder, pairs)
    smaller = prune(encoder, select(scores, Budget(5, 40)))
    again = contributions(smaller, pairs)
    assert again.sizes() == smaller.model.config.layer_sizes()
    assert sum(map(len, again.heads)) == 7


def test_methods_without_data(bert):
    assert_same(random(bert, 3), random(bert, 3), rtol=0)
    assert not torch.equal(random(bert, 3).neurons[0], random(bert, 4).neurons[0])
    layer = bert.model.encoder.layer[1]
    norms = magnitude(bert)
    expected = torch.cat([layer.intermediate.dense.weight[5], layer.output.dense.weight[:, 5]]).norm()
    torch.testing.assert_close(norms.neurons[1][5], expected)
    rows = slice(16, 24)  # head 2 of size 8
    attention = layer.attention
    parts = [getattr(attention.self, name).weight[rows].flatten() for name in ("query", "key", "value")]
    parts.append(attention.output.dense.weight[:, rows].flatten())
    torch.testing.assert_close(norms.heads[1][2], torch.cat(parts).norm())


def test_score_files(bert, pairs, tmp_path):
    scores = contributions(bert, pairs)
    path = tmp_path / "scores.safetensors"
    scores.save(path, {"method": "taylor"})
    again = Scores.load(path)
    assert_same(again, scores, rtol=1e-6)
    assert again.values == scores.values
    broken = load_file(path)
    broken["neurons.1"][3] = float("nan")
    save_file(broken, path)
    with pytest.raises(InputError, match="neurons of layer 1 hold NaN"):
        Scores.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a score file"):
        Scores.load(path)
    with pytest.raises(InputError, match="does not exist"):
        Scores.load(tmp_path / "none")


def test_bad_objectives(bert, pairs):
    with pytest.raises(InputError, match="`matryoshka_dims` has 33, and the model's vectors have 32 values"):
        contributions(bert, pairs, Objective(matryoshka_dims=(33,)))
    with pytest.raises(InputError, match=r"`alignment_weight` 1\.5"):
        Objective(1.5)
    with pytest.raises(InputError, match=r"no pair with a gold score of at least 4\.9"):
        contributions(bert, pairs, Objective(positive_minimum=4.9))
