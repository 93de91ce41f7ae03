"""Training: losses by hand, resuming ends where an uninterrupted run ends, the best weights are kept."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import WORDS

from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.objectives import alignment, distillation, info_nce
from sparsecse.training import TrainingSettings, parse_objective, train
from sparsecse.training.losses import BatchLoss


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, ...]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(WORDS), (6,), generator=generator).tolist() for _ in range(24)]
    return [(" ".join(WORDS[i] for i in row),) for row in rows]


@pytest.fixture(scope="module")
def triplets(examples) -> list[tuple[str, ...]]:
    return [(text, f"{text} and then", " ".join(reversed(text.split()))) for (text,) in examples]


def settings(**changes) -> TrainingSettings:
    defaults = {"batch_size": 8, "max_steps": 6, "eval_every": 2, "learning_rate": 1e-3, "warmup_ratio": 0.0}
    return TrainingSettings(**{**defaults, **changes})


def test_alignment_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert alignment(x, y).item() == 1.0  # 0 and 2


def test_info_nce_by_hand():
    torch.manual_seed(0)
    anchors, positives, negatives = torch.randn(3, 5, 4).double().unbind()
    logits = F.cosine_similarity(anchors[:, None], torch.cat([positives, negatives])[None], dim=-1) / 0.05
    logits[:, 5:] += 2.0 * torch.eye(5)
    expected = -F.log_softmax(logits, dim=1).diagonal().mean()
    loss = info_nce(anchors, positives, negatives, temperature=0.05, hard_negative_weight=2.0)
    torch.testing.assert_close(loss, expected)


def test_distillation_is_zero_for_the_teacher_itself():
    torch.manual_seed(0)
    vectors = torch.randn(4, 8)
    assert distillation(3 * vectors, vectors).item() == pytest.approx(0, abs=1e-6)
    opposite = distillation(-vectors, vectors)
    assert opposite.item() == pytest.approx(2, abs=1e-5)  # cosine -1, the same similarities


def test_a_packed_batch_has_the_loss_and_gradients_of_a_padded_one(encoder, triplets):
    teacher = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.model.encoder.layer[0].intermediate.dense.weight.mul_(1.5)
    loss = BatchLoss(encoder.eval(), settings(objective={"distill": 1.0, "sup": 1.0}), teacher)(triplets[:5])
    columns = list(zip(*triplets[:5], strict=True))
    vectors, wanted = ([e(*e.collate(e.tokenize(column))) for column in columns] for e in (encoder, teacher))
    expected = info_nce(*vectors) + distillation(torch.cat(vectors), torch.cat(wanted).detach())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    parameters = [p for name, p in encoder.named_parameters() if "pooler" not in name]
    gradients = torch.autograd.grad(loss, parameters)
    for gradient, want in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("where", ["hidden", "attention"])
def test_every_view_has_its_own_dropout(bert, sentences, where):
    for module in bert.modules():
        if isinstance(module, torch.nn.Dropout) and where == "attention":
            module.p = 0.0
        if hasattr(module, "dropout_prob") and where == "hidden":
            module.dropout_prob = 0.0
    batch = bert.train().pack(bert.tokenize([*sentences, *sentences]))
    torch.manual_seed(3)
    one, other = bert.forward_packed(batch).split(len(sentences))
    long = torch.tensor([len(sentence) > 10 for sentence in sentences])  # "river" may keep every probability
    assert ((one - other).abs().amax(dim=1) > 1e-3)[long].all()
    torch.manual_seed(3)
    assert bert.forward_packed(batch)[: len(sentences)].equal(one)
    assert not bert.forward_packed(batch)[: len(sentences)].equal(one)


@pytest.mark.parametrize("objective", ["unsup", "distill", "distill=1,unsup=0.1"])
def test_the_loss_falls_on_sentences(checkpoints, examples, objective):
    teacher = load_encoder(checkpoints["bert"], pooling="mean")
    encoder = load_encoder(checkpoints["bert"], pooling="mean")
    with torch.no_grad():
        for parameter in encoder.model.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    result = train(
        encoder, examples, settings(objective=parse_objective(objective), max_steps=40, eval_every=10), teacher=teacher
    )
    losses = [entry["loss"] for entry in result.history[1:]]
    assert losses[-1] < 0.9 * losses[0]
    assert result.steps == 40 and not encoder.training


@pytest.mark.parametrize("columns", [2, 3])
def test_the_loss_falls_on_pairs_and_triplets(bert, triplets, columns):
    data = [triplet[:columns] for triplet in triplets]
    result = train(bert, data, settings(objective={"sup": 1.0}, max_steps=20, mlp_head=True, eval_every=5))
    assert result.history[-1]["loss"] < result.history[1]["loss"]
    with pytest.raises(InputError, match="sup needs pairs"):
        train(bert, [("a cat",)], settings(objective={"sup": 1.0}))


def test_the_head_and_changed_dropout_leave_no_trace(bert, examples):
    names = set(bert.model.state_dict())
    train(bert, examples, settings(objective={"unsup": 1.0}, mlp_head=True, dropout=0.3))
    assert set(bert.model.state_dict()) == names
    assert bert.model.embeddings.dropout.p == 0.1
    assert bert.model.encoder.layer[0].attention.self.dropout_prob == 0.1


class Stop(Exception):
    pass


def test_resuming_ends_with_the_weights_of_an_uninterrupted_run(checkpoints, examples, pairs, tmp_path):
    def run(checkpoint, stop_at=None):
        def progress(report):
            if report.step == stop_at:
                raise Stop

        encoder = load_encoder(checkpoints["bert"], pooling="mean")
        chosen = settings(objective={"unsup": 1.0}, gradient_accumulation=2, max_steps=8, seed=3, mlp_head=True)
        dev = lambda e: spearman(e, pairs)  # noqa: E731
        result = train(encoder, examples, chosen, dev_score=dev, checkpoint=checkpoint, progress=progress)
        return encoder, result

    whole, result = run(tmp_path / "whole.pt")
    with pytest.raises(Stop):
        run(tmp_path / "parts.pt", stop_at=5)
    resumed, again = run(tmp_path / "parts.pt")
    assert again.history == result.history
    for name, tensor in whole.model.state_dict().items():
        assert tensor.equal(resumed.model.state_dict()[name]), name
    (tmp_path / "parts.pt").write_bytes(b"half")
    with pytest.raises(InputError, match=r"parts\.pt cannot be read"):
        run(tmp_path / "parts.pt")


def test_the_best_weights_are_kept_the_start_included(bert, examples, sentences):
    before = bert.encode(sentences)
    scores = iter([5.0, 4.0, 3.0, 2.0])
    result = train(bert, examples, settings(objective={"unsup": 1.0}), dev_score=lambda _: next(scores))
    assert (result.best_step, result.best_score) == (0, 5.0)
    assert bert.encode(sentences).equal(before)
    scores = iter([1.0, 2.0, 6.0, 3.0])
    result = train(bert, examples, settings(objective={"unsup": 1.0}), dev_score=lambda _: next(scores))
    assert (result.best_step, result.best_score) == (4, 6.0)


def test_kept_steps_and_schedule(bert, examples):
    kept = []
    chosen = settings(objective={"unsup": 1.0}, keep_steps=(1, 4))
    train(bert, examples, chosen, keep=lambda step, _: kept.append(step))
    assert kept == [1, 4]
    warm = settings(warmup_ratio=0.5, learning_rate=1.0)
    rates = [warm.learning_rate_at(step, 4) for step in range(4)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5])
    assert settings(max_steps=0, epochs=2.0).steps(24) == 6


def test_bfloat16_trains_and_keeps_float32_weights(bert, examples):
    result = train(bert, examples, settings(objective={"unsup": 1.0}, precision="bfloat16"))
    assert all(parameter.dtype == torch.float32 for parameter in bert.parameters())
    assert result.history[-1]["loss"] < float("inf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moco", "'moco' is unknown"),
        ("distill=x", "weight 'x' of distill is not a number"),
        ("unsup=-1", "must be above 0"),
    ],
)
def test_bad_objectives(text, message):
    with pytest.raises(InputError, match=message):
        parse_objective(text)


def test_bad_settings(bert, examples):
    with pytest.raises(InputError, match="--batch-size 1"):
        settings(batch_size=1)
    with pytest.raises(InputError, match="--precision int8"):
        settings(precision="int8")
    with pytest.raises(InputError, match="--teacher"):
        train(bert, examples, settings(objective={"distill": 1.0}))
    with pytest.raises(InputError, match="no training example"):
        train(bert, [], settings(objective={"unsup": 1.0}))
    with pytest.raises(InputError, match="loss became"):
        train(bert, examples, settings(objective={"unsup": 1.0}, learning_rate=1e30, max_grad_norm=1e30))
