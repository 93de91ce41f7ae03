"""Training: the loss of a batch, resuming ends where an uninterrupted run ends, the best weights are kept."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import weakref
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from conftest import WORDS, write_checkpoint

from sparsecse import objectives
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.objectives import bootstrap, cosent, distillation, info_nce
from sparsecse.training import TrainingSettings, parse_objective, train
from sparsecse.training.checkpointing import layers_again
from sparsecse.training.losses import BatchLoss
from sparsecse.training.momentum import KeyQueue, MomentumNetwork
from sparsecse.training.planning import Pace, Work, plan
from sparsecse.training.sampling import rows_at, visited_rows
from sparsecse.training.teacher import Teacher


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


def test_a_packed_batch_has_the_loss_and_gradients_of_a_padded_one(encoder, triplets):
    teacher = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.model.encoder.layer[0].intermediate.dense.weight.mul_(1.5)
    chosen = settings(objective={"distill": 1.0, "sup": 1.0})
    taught = Teacher([teacher], encoder, chosen)
    taught.embed([text for triplet in triplets for text in triplet])
    loss = BatchLoss(encoder.eval(), chosen, taught)(triplets[:5])
    columns = list(zip(*triplets[:5], strict=True))
    vectors, wanted = ([e(*e.collate(e.tokenize(column))) for column in columns] for e in (encoder, teacher))
    expected = info_nce(*vectors) + distillation(torch.cat(vectors), torch.cat(wanted).detach())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    parameters = [p for name, p in encoder.named_parameters() if "pooler" not in name]
    gradients = torch.autograd.grad(loss, parameters)
    for gradient, want in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-4, rtol=1e-3)


def test_moco_contrasts_with_the_average_and_a_queue_of_its_keys(bert, examples):
    chosen = settings(objective={"moco": 2.0}, queue_size=12, mlp_head=True)
    loss = BatchLoss(bert, chosen).eval()
    with torch.no_grad():  # the average is now another network than the encoder
        bert.model.encoder.layer[0].intermediate.dense.weight.mul_(1.5)
        keys = [
            loss.average.head(loss.average.encoder.encode([text for (text,) in examples[i : i + 8]])) for i in (0, 8)
        ]
    for number, queue in enumerate((None, keys[0])):
        batch = examples[8 * number : 8 * number + 8]
        anchors = loss.head(bert(*bert.collate(bert.tokenize([text for (text,) in batch]))))
        expected = 2 * info_nce(anchors, keys[number], queue=queue, temperature=0.05)
        found = loss(batch)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        weights = [bert.model.encoder.layer[0].intermediate.dense.weight, loss.head.dense.weight]
        for gradient, want in zip(
            torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True
        ):
            torch.testing.assert_close(gradient, want, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(loss.queue.keys(), torch.cat([keys[1], keys[0]])[:12], atol=1e-5, rtol=1e-5)


def test_byol_predicts_each_view_from_the_other(bert, examples):
    loss = BatchLoss(bert, settings(objective={"byol": 1.0}, dropout=0.0)).eval()
    with torch.no_grad():
        bert.model.encoder.layer[0].intermediate.dense.weight.mul_(1.5)
    texts = [text for (text,) in examples[:6]]
    predicted = loss.predictor(bert(*bert.collate(bert.tokenize(texts))))
    expected = bootstrap(predicted, loss.average.encoder.encode(texts))  # without dropout both views are the same
    torch.testing.assert_close(loss(examples[:6]), expected, atol=1e-5, rtol=1e-5)


def test_byol_crosses_the_views(bert, examples, monkeypatch):
    loss = BatchLoss(bert, settings(objective={"byol": 1.0}))
    generator = torch.Generator().manual_seed(0)
    online, average = torch.randn(2, 2, 3, bert.model.config.hidden_size, generator=generator)
    views = {bert: [*online], loss.average.encoder: [*average]}
    monkeypatch.setattr(BatchLoss, "_vectors", lambda self, encoder, columns: views[encoder][: len(columns)])
    one, other = (loss.predictor(view) for view in online)
    expected = (bootstrap(one, average[1]) + bootstrap(other, average[0])) / 2
    torch.testing.assert_close(loss(examples[:3]), expected)


def test_the_average_takes_the_dropout_of_the_run(bert, examples, monkeypatch):
    seen = []
    own = BatchLoss._keys

    def keys(self, columns):
        seen.append((self.average.encoder.model.embeddings.dropout.p, self.average.encoder.training))
        return own(self, columns)

    monkeypatch.setattr(BatchLoss, "_keys", keys)
    train(bert, examples, settings(objective={"byol": 1.0}, dropout=0.3, max_steps=2))
    assert seen == [(0.3, True)] * 2


def test_the_views_of_the_average_have_dropout(bert, examples):
    loss = BatchLoss(bert, settings(objective={"byol": 1.0})).train()
    one, other = loss._keys([[text for (text,) in examples]] * 2)
    assert (one - other).abs().amax(dim=1).min() > 1e-3
    assert not one.requires_grad


def test_the_average_after_some_steps_is_that_of_the_formula(bert):
    head = torch.nn.Linear(3, 3)
    average = MomentumNetwork(bert, head, momentum=0.9)
    weight = bert.model.encoder.layer[1].output.dense.weight
    expected = [weight.double(), head.weight.double()]
    for _ in range(4):
        with torch.no_grad():
            weight.add_(1.0)
            head.weight.sub_(0.5)
        average.update(bert, head)
        expected = [0.9 * old + 0.1 * new.double() for old, new in zip(expected, (weight, head.weight), strict=True)]
    found = [average.encoder.model.encoder.layer[1].output.dense.weight, average.head.weight]
    for tensor, want in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor.double(), want, atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize("objective", ["moco", "byol"])
def test_a_run_lets_the_average_follow_every_step(bert, examples, tmp_path, objective):
    name = "encoder.layer.1.output.dense.weight"
    weights = [bert.model.state_dict()[name].clone()]
    chosen = settings(
        objective={objective: 1.0}, momentum=0.9, queue_size=20, max_steps=3, keep_steps=(1, 2, 3), dropout=0.3
    )

    def keep(step, encoder):
        weights.append(encoder.model.state_dict()[name].clone())

    train(bert, examples, chosen, checkpoint=tmp_path / "checkpoint.pt", keep=keep)
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.9 * expected + 0.1 * weight
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["loss"]
    torch.testing.assert_close(saved[f"average.encoder.model.{name}"], expected, atol=1e-6, rtol=1e-5)
    assert not expected.allclose(weights[-1], atol=1e-4)
    if objective == "moco":
        assert saved["queue.count"] == 20


def test_the_queue_forgets_the_oldest_and_comes_back_from_a_checkpoint():
    queue = KeyQueue(5, 1)
    assert queue.keys().shape == (0, 1)
    queue.push(torch.tensor([[1.0], [2.0]]))
    seen = queue.keys()
    queue.push(torch.tensor([[3.0], [4.0]]))
    assert queue.keys().flatten().tolist() == [3, 4, 1, 2]
    queue.push(torch.tensor([[5.0], [6.0]]))
    assert queue.keys().flatten().tolist() == [5, 6, 3, 4, 1]
    assert seen.flatten().tolist() == [1, 2]
    fresh = KeyQueue(5, 1)
    fresh.load_state_dict(queue.state_dict())
    assert fresh.keys().equal(queue.keys())
    queue.push(torch.arange(7.0)[:, None])
    assert queue.keys().flatten().tolist() == [0, 1, 2, 3, 4]


def test_graded_pairs_beside_distillation(bert, checkpoints, triplets):
    chosen = settings(objective={"graded": 0.5, "distill": 1.0})
    data = [triplet[:2] for triplet in triplets[:5]]
    teacher = load_encoder(checkpoints["bert"], pooling="mean")
    taught = Teacher([teacher], bert, chosen)
    taught.embed([text for pair in data for text in pair])
    with torch.no_grad():
        bert.model.encoder.layer[0].intermediate.dense.weight.mul_(1.5)
    scores = torch.tensor([0.0, 5.0, 2.5, 2.5, 1.0])
    first, second = (bert.encode(list(column)) for column in zip(*data, strict=True))
    wanted = teacher.encode([text for column in zip(*data, strict=True) for text in column])
    expected = 0.5 * cosent(first, second, scores) + distillation(torch.cat([first, second]), wanted)
    torch.testing.assert_close(BatchLoss(bert.eval(), chosen, taught)(data, scores), expected, atol=1e-4, rtol=1e-4)


def test_every_objective_on_vectors_is_summed_over_the_widths(bert, checkpoints, triplets):
    teacher = load_encoder(checkpoints["bert"], pooling="cls", truncate_dim=4)  # it teaches with whole vectors
    chosen = settings(objective={"distill": 1.0, "sup": 0.5, "unsup": 0.25}, matryoshka_dims=[32, 8])
    taught = Teacher([teacher], bert, chosen)
    taught.embed([text for triplet in triplets for text in triplet])
    columns = [list(column) for column in zip(*triplets[:5], strict=True)]
    wanted = torch.cat([teacher(*teacher.collate(teacher.tokenize(column))) for column in columns]).detach()
    vectors = [bert(*bert.collate(bert.tokenize(column))) for column in columns]
    expected = torch.zeros(())
    for width in (32, 8):
        cut = [one[:, :width] for one in vectors]
        expected += distillation(torch.cat(cut), wanted[:, :width])
        expected += 0.5 * info_nce(*cut) + 0.25 * info_nce(cut[0], cut[0])
    torch.testing.assert_close(BatchLoss(bert.eval(), chosen, taught)(triplets[:5]), expected, atol=1e-4, rtol=1e-4)


def test_graded_pairs_at_several_widths(bert, triplets):
    data, scores = [triplet[:2] for triplet in triplets[:5]], torch.tensor([0.0, 5.0, 2.5, 2.5, 1.0])
    chosen = settings(objective={"graded": 1.0}, matryoshka_dims=(8, 5))
    first, second = (bert.encode(list(column)) for column in zip(*data, strict=True))
    expected = sum(cosent(first[:, :width], second[:, :width], scores) for width in (8, 5))
    with pytest.warns(UserWarning, match="no width above 8, and the model gives vectors of 32"):
        loss = BatchLoss(bert.eval(), chosen)
    torch.testing.assert_close(loss(data, scores), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("max_length", [5, 64])
def test_a_cached_teacher_has_the_vectors_of_the_step(encoder, triplets, max_length):
    chosen = settings(objective={"distill": 1.0}, max_length=max_length)
    teacher = copy.deepcopy(encoder).eval()
    told = []
    taught = Teacher([teacher], encoder, chosen)
    taught.embed([text for triplet in triplets for text in triplet], lambda *done: told.append(done))
    count = len({text for triplet in triplets for text in triplet})
    assert told[-1] == (count, count)
    texts = [triplet[2] for triplet in triplets[3:9]] * 2
    with torch.no_grad():
        in_the_step = teacher.forward_packed(teacher.pack(teacher.tokenize(texts, max_length)))
    torch.testing.assert_close(taught(texts), F.normalize(in_the_step, dim=-1), atol=1e-6, rtol=1e-5)


def test_several_teachers_are_averaged_as_unit_vectors(checkpoints, bert, sentences):
    teachers = [load_encoder(checkpoints[name], pooling="mean", normalize=False) for name in ("bert", "mpnet")]
    taught = Teacher(teachers, bert, settings())
    taught.embed(sentences)
    mean = sum(F.normalize(teacher.encode(sentences), dim=-1) for teacher in teachers) / 2
    torch.testing.assert_close(taught(sentences), F.normalize(mean, dim=-1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("count", "size", "positions"), [(24, 8, 2), (25, 8, 5), (25, 8, 90), (3, 3, 1)])
def test_only_what_the_steps_visit_is_embedded(count, size, positions):
    visited = {row for position in range(positions) for row in rows_at(count, size, 5, position)}
    assert visited_rows(count, size, 5, positions) == sorted(visited)


def test_the_teacher_embeds_once_and_only_the_sentences_of_the_steps(checkpoints, bert, examples):
    teacher = load_encoder(checkpoints["bert"], pooling="mean")
    told = []
    train(
        bert, examples, settings(max_steps=2, eval_every=1), teacher=teacher, teacher_progress=lambda *x: told.append(x)
    )
    assert told == [(16, 16)]


def test_teachers_are_made_one_by_one_and_share_tokens(checkpoints, bert, examples, monkeypatch):
    """Blocks of a few tokens, and more than one of them, change no vector."""
    dense = load_encoder(checkpoints["bert"], pooling="mean")
    texts = [text for (text,) in examples]
    expected = Teacher([dense, dense.copy()], bert, settings(precision="float32"))
    expected.embed(texts)
    alive: list[weakref.ref] = []
    tokenized = []

    class Made(Sequence):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            assert not any(one() for one in alive)
            alive.append(weakref.ref(made := dense.copy()))
            return made

    own = type(dense).tokenize
    monkeypatch.setattr(type(dense), "tokenize", lambda self, *args: tokenized.append(1) or own(self, *args))
    monkeypatch.setattr("sparsecse.training.teacher._BLOCK_TOKENS", 20)
    found = Teacher(Made(), bert, settings(precision="float32"))
    assert found.embed(texts) > 0 and tokenized == [1] and len(alive) == 2
    torch.testing.assert_close(found(texts), expected(texts), atol=1e-6, rtol=1e-5)


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


@pytest.mark.parametrize("objective", ["unsup", "byol", "distill", "distill=1,unsup=0.1", "distill=1,moco=0.1"])
def test_the_loss_falls_on_sentences(checkpoints, examples, objective):
    teacher = load_encoder(checkpoints["bert"], pooling="mean")
    encoder = load_encoder(checkpoints["bert"], pooling="mean")
    with torch.no_grad():
        for parameter in encoder.model.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    chosen = settings(objective=parse_objective(objective), max_steps=40, eval_every=10, queue_size=16)
    result = train(encoder, examples, chosen, teacher=teacher)
    losses = [entry["loss"] for entry in result.history[1:]]
    assert losses[-1] < 0.9 * losses[0]
    assert result.steps == 40 and not encoder.training


def test_mini_batches_have_the_loss_of_the_batch(bert, triplets, monkeypatch):
    chosen = settings(objective={"sup": 1.0}, batch_size=10, dropout=0.0, precision="float32", max_steps=3)
    found, taken, forward = [], [], Encoder.forward_packed
    monkeypatch.setattr(Encoder, "forward_packed", lambda own, batch: taken.append(len(batch)) or forward(own, batch))
    for mini, held in ((0, objectives._HELD), (3, 0)):  # whole batches with held logits; neither
        encoder = bert.copy()
        monkeypatch.setattr(objectives, "_HELD", held)
        taken.clear()
        history = train(encoder, triplets, dataclasses.replace(chosen, mini_batch_size=mini)).history
        found.append([*(entry["loss"] for entry in history[1:]), *encoder.encode("the cat sat").tolist()])
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-5)
    assert max(taken) == 8 and len(taken) == 3 * 2 * 4 + 1  # of 30 texts, four parts, each twice; and `encode`
    with pytest.raises(InputError, match="`mini_batch_size` -1 is not 0"):
        settings(mini_batch_size=-1)


def test_checkpointed_layers_have_the_gradient_of_kept_ones(bert, triplets):
    """With dropout, and with parts: checkpoints within checkpoints."""
    loss = BatchLoss(bert, settings(objective={"sup": 1.0}, precision="float32")).train()
    passes: list[None] = []
    layers = bert.model.encoder.layer
    handle = layers[0].output.dense.register_forward_pre_hook(lambda *_: passes.append(None))
    for parts in (1, 2):
        loss.parts = parts
        expected, once = gradient(loss, triplets), len(passes)
        with layers_again(bert, True):
            found = gradient(loss, triplets)
        assert len(passes) >= 2 * once + parts
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        passes.clear()
    handle.remove()
    assert not any(layer.gradient_checkpointing for layer in layers)


def gradient(loss, examples):
    torch.manual_seed(1)
    loss.zero_grad()
    loss(examples).backward()
    return torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])


def test_a_resumed_run_has_parts_as_small_as_asked_for(bert, triplets, tmp_path, monkeypatch):
    """A checkpoint of more processes, whose shares are smaller, has fewer parts."""
    chosen = settings(objective={"sup": 1.0}, max_steps=2, eval_every=1)

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(copy.deepcopy(bert), triplets, chosen, checkpoint=tmp_path / "checkpoint.pt", progress=stop)
    sizes, forward = [], Encoder.forward_packed
    monkeypatch.setattr(Encoder, "forward_packed", lambda self, batch: sizes.append(len(batch)) or forward(self, batch))
    train(bert, triplets, dataclasses.replace(chosen, mini_batch_size=2), checkpoint=tmp_path / "checkpoint.pt")
    assert sizes and max(sizes) == 3 * 2  # three sentences of each example


@pytest.mark.parametrize("columns", [2, 3])
def test_the_loss_falls_on_pairs_and_triplets(bert, triplets, columns):
    data = [triplet[:columns] for triplet in triplets]
    result = train(bert, data, settings(objective={"sup": 1.0}, max_steps=20, mlp_head=True, eval_every=5))
    assert result.history[-1]["loss"] < result.history[1]["loss"]
    with pytest.raises(InputError, match="sup needs pairs"):
        train(bert, [("a cat",)], settings(objective={"sup": 1.0}))


def test_the_loss_falls_on_graded_pairs_and_the_order_is_learnt(bert, pairs):
    data = list(zip(pairs.first, pairs.second, strict=True))
    chosen = settings(objective={"graded": 1.0}, batch_size=6, max_steps=30, eval_every=5, dropout=0.0)
    before = spearman(bert, pairs)
    result = train(bert, data, chosen, scores=pairs.scores)
    assert result.history[-1]["loss"] < 0.5 * result.history[1]["loss"]
    assert spearman(bert, pairs) > before


def test_the_head_and_changed_dropout_leave_no_trace(bert, examples):
    names = set(bert.model.state_dict())
    objective = {"unsup": 1.0, "moco": 1.0, "byol": 1.0}
    train(bert, examples, settings(objective=objective, mlp_head=True, dropout=0.3, queue_size=8))
    assert set(bert.model.state_dict()) == names
    assert bert.model.embeddings.dropout.p == 0.1
    assert bert.model.encoder.layer[0].attention.self.dropout_prob == 0.1


class Stop(Exception):
    pass


class Scripted:
    """Dev figures as they are given."""

    def __init__(self, figures):
        self.figures = iter(figures)

    def __call__(self, encoder):
        return {"similarity": next(self.figures)}

    def rank(self, figures):
        return True, figures["similarity"]


@pytest.mark.parametrize("objective", ["unsup", "moco", "byol", "distill=1,moco=0.1,byol=0.5"])
def test_resuming_ends_with_the_weights_of_an_uninterrupted_run(checkpoints, examples, pairs, tmp_path, objective):
    teacher = load_encoder(checkpoints["mpnet"], pooling="mean")

    def run(checkpoint, stop_at=None):
        def progress(report):
            if report.step == stop_at:
                raise Stop

        encoder = load_encoder(checkpoints["bert"], pooling="mean")
        chosen = settings(
            objective=parse_objective(objective),
            gradient_accumulation=2,
            max_steps=8,
            seed=3,
            mlp_head=True,
            momentum=0.9,
            queue_size=20,
        )
        # Rising, so that the last weights are the ones that are compared.
        count = itertools.count(0 if checkpoint.name == "whole.pt" or stop_at else 3)
        dev = Scripted(spearman(encoder, pairs) + 1000 * number for number in count)
        result = train(encoder, examples, chosen, teacher=teacher, dev=dev, checkpoint=checkpoint, progress=progress)
        assert result.best_step == 8
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


def test_a_time_budget_plans_fewer_steps_and_a_resumed_run_keeps_them(checkpoints, examples, tmp_path, monkeypatch):
    """What was tried for the estimate leaves no trace: the run is that of so many steps without a budget."""
    teacher = load_encoder(checkpoints["bert"], pooling="mean")
    chosen = settings(
        objective=parse_objective("distill=1,moco=0.1,byol=0.5"), max_steps=40, queue_size=12, dropout=0.3
    )
    monkeypatch.setattr("sparsecse.training.loop.plan", lambda work, pace, wanted, *_, **__: (wanted - 37, "said"))

    def run(chosen, checkpoint=None, stop_at=None, note=None):
        def progress(report):
            if report.step == stop_at:
                raise Stop

        encoder = load_encoder(checkpoints["bert"], pooling="mean")
        result = train(encoder, examples, chosen, teacher=teacher, checkpoint=checkpoint, progress=progress, note=note)
        return encoder.model.state_dict(), result

    expected, _ = run(dataclasses.replace(chosen, max_steps=3))
    budget = dataclasses.replace(chosen, time_budget=1.0)
    said = []
    with pytest.raises(Stop):
        run(budget, tmp_path / "checkpoint.pt", stop_at=1, note=said.append)
    monkeypatch.delattr("sparsecse.training.loop.plan")  # nothing is planned twice
    found, result = run(budget, tmp_path / "checkpoint.pt", note=said.append)
    assert said == ["said"] and (result.steps, result.planned) == (3, 3)
    for name, tensor in expected.items():
        assert tensor.equal(found[name]), name


def test_how_many_steps_fit():
    work = Work(examples=1000, columns=2, per_step=64, eval_every=50, taught=True)
    pace = Pace(step=2.0, text=0.1, ready=10.0, dev=5.0)
    assert work.seconds(10, pace) == pytest.approx(10 + 128 + 20 + 5)
    assert work.seconds(120, pace) == pytest.approx(10 + 200 + 240 + 15)
    assert plan(work, pace, 120, settings()) == (
        120,
        "Training: about 8 minutes for 120 steps of 64 examples, teacher pass included",
    )
    assert plan(work, Pace(0.01), 120, settings()) == (120, None)
    steps, said = plan(work, pace, 120, settings(time_budget=6.0), spent=20.0)
    assert work.seconds(steps, pace) <= 340 < work.seconds(steps + 1, pace)
    assert said.startswith(f"Training: about 6 minutes for {steps} steps") and "and the budget is 6 minutes" in said
    assert "120 would take 8 minutes" in said
    assert plan(work, pace, 120, settings(time_budget=30.0))[0] == 120
    with pytest.raises(InputError, match="20 steps, the fewest planned, take about 4 minutes"):
        plan(work, pace, 120, settings(time_budget=2.0))
    with pytest.raises(InputError, match="`time_budget` 0"):
        settings(time_budget=0.0)


def test_the_best_weights_are_kept_the_start_included(bert, examples, sentences):
    before = bert.encode(sentences)
    result = train(bert, examples, settings(objective={"unsup": 1.0}), dev=Scripted([5.0, 4.0, 3.0, 2.0]))
    assert (result.best_step, result.best) == (0, {"similarity": 5.0})
    assert bert.encode(sentences).equal(before)
    result = train(bert, examples, settings(objective={"unsup": 1.0}), dev=Scripted([1.0, 2.0, 6.0, 3.0]))
    assert (result.best_step, result.best) == (4, {"similarity": 6.0})


def test_patience_ends_training_and_keeps_the_best(bert, examples):
    # Scores at steps 0, 2, 4, ...: the best at 2, an equal one is no new best, and the third failure is at 8.
    dev = Scripted([1.0, 5.0, 4.0, 5.0, 3.0])
    reports, weights = [], {}
    chosen = settings(objective={"unsup": 1.0}, max_steps=20, patience=3, keep_steps=(2,))

    def keep(step, encoder):
        weights.update({name: tensor.clone() for name, tensor in encoder.model.state_dict().items()})

    result = train(bert, examples, chosen, dev=dev, keep=keep, progress=reports.append)
    assert (result.steps, result.planned, result.best_step, result.best) == (8, 20, 2, {"similarity": 5.0})
    for name, tensor in bert.model.state_dict().items():
        assert tensor.equal(weights[name]), name
    # A progress display is told that the work is done.
    assert [report.steps for report in reports[-2:]] == [20, 8]


def test_patience_counts_from_the_start_and_across_a_resumption(bert, examples, tmp_path):
    chosen = settings(objective={"unsup": 1.0}, max_steps=20, patience=3)

    def run(scores, stop_at=None):
        def progress(report):
            if report.step == stop_at:
                raise Stop

        checkpoint = tmp_path / "checkpoint.pt"
        return train(bert, examples, chosen, dev=Scripted(scores), checkpoint=checkpoint, progress=progress)

    before = {name: tensor.clone() for name, tensor in bert.model.state_dict().items()}
    with pytest.raises(Stop):
        run([9.0, 1.0, 2.0], stop_at=5)
    for scores in ([3.0], []):  # the second time there is nothing left to do
        result = run(scores)
        assert (result.steps, result.best_step) == (6, 0)
        for name, tensor in bert.model.state_dict().items():
            assert tensor.equal(before[name]), name


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
        ("barlow", "'barlow' is unknown"),
        ("sup,graded", "leave one of them out"),
        ("distill=x", "weight 'x' of distill is not a number"),
        ("unsup=-1", "must be above 0"),
    ],
)
def test_bad_objectives(text, message):
    with pytest.raises(InputError, match=message):
        parse_objective(text)


def test_bad_settings(bert, examples, tmp_path):
    with pytest.raises(InputError, match="`batch_size` 1"):
        settings(batch_size=1)
    with pytest.raises(InputError, match="`precision` 'int8'"):
        settings(precision="int8")
    with pytest.raises(InputError, match="`teacher`"):
        train(bert, examples, settings(objective={"distill": 1.0}))
    with pytest.raises(InputError, match="`momentum` 1"):
        settings(momentum=1.0)
    with pytest.raises(InputError, match="`queue_size` 24 is not below"):
        train(bert, examples, settings(objective={"moco": 1.0}, queue_size=24))
    with pytest.raises(InputError, match="needs pairs with gold scores"):
        train(bert, [("a cat", "the dog")], settings(objective={"graded": 1.0}))
    with pytest.raises(InputError, match="1 gold scores for 2 pairs"):
        train(bert, [("a cat", "the dog")] * 2, settings(objective={"graded": 1.0}), scores=[1.0])
    with pytest.raises(InputError, match=r"`matryoshka_dims` \(8, 8\) is not a list of different widths"):
        settings(matryoshka_dims=(8, 8))
    with pytest.raises(
        InputError, match="`matryoshka_dims` cuts the vectors, and `objective` sup has layers over them"
    ):
        settings(objective={"sup": 1.0}, mlp_head=True, matryoshka_dims=(8,))
    with pytest.raises(InputError, match="`matryoshka_dims` has 33, and the model's vectors have 32 values"):
        train(bert, examples, settings(objective={"unsup": 1.0}, matryoshka_dims=(33, 8)))
    wide = load_encoder(write_checkpoint(tmp_path / "wide", "bert", hidden_size=64), pooling="mean")
    with pytest.raises(InputError, match="vectors of 64 numbers and the model in training has 32"):
        train(bert, examples, settings(), teacher=wide)
    with pytest.raises(InputError, match="no training example"):
        train(bert, [], settings(objective={"unsup": 1.0}))
    with pytest.raises(InputError, match="loss became"):
        train(bert, examples, settings(objective={"unsup": 1.0}, learning_rate=1e30, max_grad_norm=1e30))
