"""Every scoring method against a plain loop in float64, and its results against batch sizes and interruptions."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import write_checkpoint

from sparsecse import stages
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.encoders.gates import Gates, gated
from sparsecse.errors import InputError
from sparsecse.pruning.masks import Budget, Mask, select
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import (
    METHODS,
    TABLE_FILE,
    Objective,
    Scores,
    ScoringSettings,
    Structure,
    leave_one_out,
    leave_one_out_scores,
    neuron_groups,
    oracle,
    scoring_method,
    single_heads,
)
from sparsecse.scoring.fisher import greedy_places
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.workdir import Workdir

OBJECTIVE = Objective(0.3)


def scores_of(name: str, encoder: Encoder, pairs, **settings) -> Scores:
    chosen = {"objective": OBJECTIVE, "seed": 4, "precision": "float32", "group_size": 5, **settings}
    return scoring_method(name).score(encoder, pairs, ScoringSettings(**chosen))


def assert_close(found: Scores, wanted: list[torch.Tensor], rtol: float = 1e-4) -> None:
    for a, b in zip([*found.heads, *found.neurons], wanted, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol * float(b.abs().max()))


def objective_by_hand(vectors: torch.Tensor, pairs, objective: Objective = OBJECTIVE) -> torch.Tensor:
    unit = vectors / vectors.square().sum(dim=-1, keepdim=True).sqrt()
    near = [(a, b) for a, b in pairs.positives(objective.positive_minimum)]
    align = sum(((unit[a] - unit[b]) ** 2).sum() for a, b in near) / len(near)
    count = range(len(unit))
    kernel = [torch.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in count for j in count if i != j]
    uniform = torch.log(sum(kernel) / len(kernel))
    return objective.alignment_weight * align + (1 - objective.alignment_weight) * uniform


def gradients_one_by_one(encoder: Encoder, pairs, objective: Objective = OBJECTIVE) -> list[torch.Tensor]:
    """dL/dg_x of each gate tensor as [sentences, structures], one padded forward and backward pass per sentence."""
    encoder.double().eval()
    token_ids = encoder.tokenize(pairs.sentences())
    with torch.no_grad():
        vectors = torch.cat([encoder(*encoder.collate([ids])) for ids in token_ids])
    rows = []
    for i, ids in enumerate(token_ids):
        gates = Gates.ones(encoder.model)
        with gated(encoder.model, gates):
            own = encoder(*encoder.collate([ids]))
        loss = objective_by_hand(torch.cat([vectors[:i], own, vectors[i + 1 :]]), pairs, objective)
        rows.append(torch.autograd.grad(loss, gates.tensors()))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def unit(tensor: torch.Tensor) -> torch.Tensor:
    return tensor / tensor.square().sum().sqrt()


def test_first_and_second_order_scores_are_those_of_a_plain_loop(encoder, pairs):
    gradients = gradients_one_by_one(encoder, pairs)
    assert_close(scores_of("taylor", encoder, pairs), [g.abs().mean(dim=0) for g in gradients])
    assert_close(scores_of("fisher", encoder, pairs), [(g * g).mean(dim=0) for g in gradients])


def test_the_signed_sum_is_the_slope_of_the_whole_objective(bert, pairs):
    found = scores_of("taylor-signed", bert, pairs)
    assert_close(found, [-g.sum(dim=0) for g in gradients_one_by_one(bert, pairs)])
    assert any((neurons < 0).any() for neurons in found.neurons) and any((x > 0).any() for x in found.neurons)


def test_batches_of_sentences_are_summed_before_the_absolute_value(bert, pairs, monkeypatch):
    monkeypatch.setattr("sparsecse.scoring.taylor.BATCH", 3)
    gradients = gradients_one_by_one(bert, pairs)
    order = torch.randperm(len(pairs.sentences()), generator=torch.Generator().manual_seed(4)).tolist()
    batches = [order[0:3], order[3:6], order[6:8]]
    wanted = [unit(torch.stack([g[batch].sum(dim=0).abs() for batch in batches]).mean(dim=0)) for g in gradients]
    for batch_size in (1, 64):
        assert_close(scores_of("taylor-batch", bert, pairs, batch_size=batch_size), wanted)
    other = scores_of("taylor-batch", bert, pairs, seed=5)
    assert not torch.allclose(other.neurons[0].double(), wanted[3], rtol=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_normalised_scores_are_mixed(bert, pairs, weight):
    align, uniform = (gradients_one_by_one(bert, pairs, Objective(w)) for w in (1.0, 0.0))
    wanted = [
        weight * unit(a.abs().mean(dim=0)) + (1 - weight) * unit(u.abs().mean(dim=0))
        for a, u in zip(align, uniform, strict=True)
    ]
    found = scores_of("taylor-mixed", bert, pairs, objective=Objective(weight))
    assert_close(found, wanted)
    values = scores_of("taylor", bert, pairs, objective=Objective(weight)).values
    assert found.values == pytest.approx(values, rel=1e-6)


def greedy_by_hand(blocks: list[torch.Tensor]) -> list[list[int]]:
    """Places by trying every structure at every step and computing the whole m^T F m."""
    left = [(layer, i) for layer, block in enumerate(blocks) for i in range(len(block))]
    gone: list[tuple[int, int]] = []
    places = [[-1] * len(block) for block in blocks]

    def cost(removed: list[tuple[int, int]]) -> float:
        total = 0.0
        for layer, block in enumerate(blocks):
            m = torch.zeros(len(block), dtype=torch.float64)
            m[[i for own, i in removed if own == layer]] = 1
            total += float(m @ block.double() @ m)
        return total

    while left:
        best = min(left, key=lambda each: cost([*gone, each]))
        places[best[0]][best[1]] = len(gone)
        gone.append(best)
        left.remove(best)
    return places


def test_greedy_elimination_is_the_one_found_by_trying_everything():
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for size in (4, 0, 6, 1):
        rows = torch.randn(5, size, generator=generator)
        blocks.append(rows.T @ rows / 5)
    found = greedy_places(blocks)
    assert [places.tolist() for places in found] == greedy_by_hand(blocks)
    diagonal = torch.cat([block.diagonal() for block in blocks]).argsort().argsort()
    assert diagonal.tolist() != torch.cat(found).tolist()  # what structures have in common changes the order
    twins = [torch.ones(2, 2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])]
    assert [places.tolist() for places in greedy_places(twins)] == [[0, 3], [1, 2]]


def test_block_fisher_removes_the_greedy_set(tmp_path, pairs):
    folder = write_checkpoint(tmp_path, "bert", num_hidden_layers=2, num_attention_heads=4, intermediate_size=6)
    encoder = load_encoder(folder, pooling="mean", normalize=True)
    gradients = gradients_one_by_one(encoder, pairs)
    blocks = [g.T @ g / len(g) for g in gradients]
    scores = scores_of("fisher-block", encoder, pairs)
    found = [places.tolist() for places in (*scores.heads, *scores.neurons)]
    assert found == [*greedy_by_hand(blocks[:2]), *greedy_by_hand(blocks[2:])]
    kept = select(scores, Budget(3, 5)).neurons
    assert [place < 5 for place in found[2] + found[3]] == (~torch.cat(kept)).tolist()


def test_activations_are_averaged_over_tokens(encoder, pairs):
    encoder.double().eval()
    seen: dict[tuple[str, int], list[torch.Tensor]] = {}
    handles = []
    for number, layer in enumerate(encoder.model.encoder.layer):
        for kind, projection in (("heads", layer.attention.output.dense), ("neurons", layer.output.dense)):
            own = seen.setdefault((kind, number), [])
            handles.append(projection.register_forward_pre_hook(lambda _, inputs, own=own: own.append(inputs[0][0])))
    with torch.no_grad():
        for ids in encoder.tokenize(pairs.sentences()):
            encoder(*encoder.collate([ids]))
    for handle in handles:
        handle.remove()
    heads, neurons = [], []
    for number, layer in enumerate(encoder.model.encoder.layer):
        context = torch.cat(seen["heads", number])
        weight = layer.attention.output.dense.weight.detach()
        parts = [slice(8 * head, 8 * head + 8) for head in range(4)]
        heads.append(torch.stack([context[:, p].norm(dim=1).mean() * weight[:, p].norm() for p in parts]))
        mean = torch.cat(seen["neurons", number]).abs().mean(dim=0)
        neurons.append(mean * layer.output.dense.weight.detach().norm(dim=0))
    assert_close(scores_of("activation", encoder, pairs), [*heads, *neurons], rtol=1e-9)


def test_weight_norms(bert, pairs):
    found = scores_of("l1", bert, pairs)
    layer = bert.model.encoder.layer[1]
    neuron = torch.cat([layer.intermediate.dense.weight[5], layer.output.dense.weight[:, 5]])
    torch.testing.assert_close(found.neurons[1][5], neuron.abs().sum())
    own = [getattr(layer.attention.self, name).weight[16:24] for name in ("query", "key", "value")]
    own.append(layer.attention.output.dense.weight[:, 16:24].T)
    torch.testing.assert_close(found.heads[1][2], torch.cat(own).abs().sum())


@pytest.mark.parametrize("name", METHODS)
def test_no_method_depends_on_the_batch_size(bert, pairs, name):
    bert.double().train()
    whole = scores_of(name, bert, pairs)
    assert whole.sizes() == bert.model.config.layer_sizes()
    for batch_size in (1, 3):
        again = scores_of(name, bert, pairs, batch_size=batch_size)
        assert_close(again, [*whole.heads, *whole.neurons])
    assert bert.training and all(parameter.requires_grad for parameter in bert.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_a_model_that_has_lost_whole_blocks(bert, pairs, name):
    heads = [torch.ones(4, dtype=torch.bool) for _ in range(3)]
    neurons = [torch.ones(24, dtype=torch.bool) for _ in range(3)]
    heads[0][:], neurons[1][:], heads[2][1] = False, False, False
    smaller = prune(bert, Mask(tuple(heads), tuple(neurons)))
    assert scores_of(name, smaller, pairs).sizes() == [(0, 24), (4, 0), (3, 24)]


def without(encoder: Encoder, structure: Structure) -> Encoder:
    kept = {
        "heads": [torch.ones(n, dtype=torch.bool) for n, _ in encoder.model.config.layer_sizes()],
        "neurons": [torch.ones(n, dtype=torch.bool) for _, n in encoder.model.config.layer_sizes()],
    }
    kept[structure.kind][structure.layer][list(structure.indices)] = False
    return prune(encoder, Mask(tuple(kept["heads"]), tuple(kept["neurons"])))


@pytest.mark.parametrize("pooling", ["mean", "cls", "first_last_avg"])
def test_leaving_out_is_pruning(encoder, pairs, pooling):
    encoder = Encoder(
        encoder.model, encoder.tokenizer, type(encoder.settings)(pooling, False, 40), encoder.source
    ).double()

    def value(model: Encoder) -> float:
        model.double().eval()
        with torch.no_grad():
            return float(objective_by_hand(model(*model.collate(model.tokenize(pairs.sentences()))), pairs))

    structures = [
        Structure("heads", 2, (0, 3)),
        Structure("heads", 0, (1,)),
        Structure("neurons", 1, (0, 5, 23)),
        Structure("heads", 1, (0, 1, 2, 3)),
        Structure("neurons", 2, (7,)),
        Structure("neurons", 0, (7,)),
    ]
    before = value(encoder)
    removals = list(leave_one_out(encoder, pairs, OBJECTIVE, structures, batch_size=3))
    assert [removal.layer for removal in removals] == [0, 0, 1, 1, 2, 2]
    for removal in removals:
        structure = Structure(removal.kind, removal.layer, removal.indices)
        assert removal.delta_objective == pytest.approx(value(without(encoder, structure)) - before, abs=1e-10)
    assert sorted(map(str, structures)) == sorted(str(Structure(r.kind, r.layer, r.indices)) for r in removals)


def test_leave_one_out_tells_the_change_of_spearman(bert, pairs):
    from sparsecse.evaluation import spearman

    bert.double()
    structure = Structure("heads", 1, (0, 1, 3))
    (removal,) = leave_one_out(bert, pairs, OBJECTIVE, [structure])
    change = spearman(without(bert, structure), pairs) - spearman(bert, pairs)
    assert removal.delta_spearman == pytest.approx(change, abs=1e-6)
    assert change != 0


def test_leave_one_out_scores_share_a_groups_change(bert, pairs):
    bert.double()
    taylor = scores_of("taylor", bert, pairs)
    groups = neuron_groups(taylor, 5)
    assert [len(group.indices) for group in groups] == [5, 5, 5, 5, 4] * 3
    table = list(leave_one_out(bert, pairs, OBJECTIVE, [*single_heads(bert), *groups]))
    scores = scores_of("leave-one-out", bert, pairs)
    for removal in table:
        own = (scores.heads if removal.kind == "heads" else scores.neurons)[removal.layer][list(removal.indices)]
        share = torch.full_like(own, removal.delta_objective / len(removal.indices))
        torch.testing.assert_close(own, share, rtol=1e-5, atol=0)
        # As they are kept in a file, members still differ, in the order of their contributions.
        assert bool((own.float().diff() > 0).all())
        assert bool((taylor.neurons[removal.layer][list(removal.indices)].diff() >= 0).all()) or removal.kind == "heads"


def test_leave_one_out_goes_on_where_it_stopped(bert, pairs, tmp_path, monkeypatch):
    measured = []
    vectors = oracle._States.vectors

    def counted(self, structure=None):
        measured.append(structure)
        return vectors(self, structure)

    monkeypatch.setattr("sparsecse.scoring.oracle._States.vectors", counted)
    structures = [*single_heads(bert), Structure("neurons", 1, (3, 4))]
    whole = list(leave_one_out(bert, pairs, OBJECTIVE, structures))
    assert len(measured) == 14
    table = tmp_path / "table.jsonl"
    stopped = leave_one_out(bert, pairs, OBJECTIVE, structures, table=table)
    first = [next(stopped) for _ in range(6)]
    stopped.close()
    assert first == whole[:6] and len(table.read_text().splitlines()) == 6
    assert torch.is_grad_enabled() and all(parameter.requires_grad for parameter in bert.parameters())
    with table.open("a") as stream:
        stream.write('{"kind": "heads", "layer": 1, "ind')  # as a kill leaves it
    measured.clear()
    done = []
    again = list(leave_one_out(bert, pairs, OBJECTIVE, structures, table=table, progress=lambda *now: done.append(now)))
    assert again == whole and done == [(i, 13) for i in range(1, 14)]
    assert measured == [None, *(Structure(r.kind, r.layer, r.indices) for r in whole[6:])]
    assert [json.loads(line)["delta_objective"] for line in table.read_text().splitlines()] == [
        removal.delta_objective for removal in whole
    ]
    table.write_text('{"kind": "heads"}\n')
    with pytest.raises(InputError, match=r"table\.jsonl is not a table of removals"):
        list(leave_one_out(bert, pairs, OBJECTIVE, structures, table=table))


def test_the_stage_resumes_leave_one_out_and_keeps_its_table(sentence_folder, pairs_file, pairs, tmp_path):
    workdir, other = Workdir(tmp_path / "run"), Workdir(tmp_path / "other")
    model, data = ModelOptions(str(sentence_folder)), DataOptions(str(pairs_file))
    settings = {"method": "leave-one-out", "scoring": ScoringSettings(OBJECTIVE, group_size=7)}
    calls = []

    def stop_at(limit: int):
        def open_line(_: str):
            def tell(done: int, total: int) -> None:
                calls.append((done, total))
                if done == limit:
                    raise KeyboardInterrupt

            return tell

        return open_line

    with pytest.raises(KeyboardInterrupt):
        stages.score(workdir, model, data, **settings, progress=stop_at(9))
    (partial,) = workdir.path.glob(".score-*")
    rows = (partial / TABLE_FILE).read_text().splitlines()
    assert len(rows) == 9 and calls[-1] == (9, 24)
    stages.score(workdir, model, data, method="random")  # does not take away what has been measured
    record, reused = stages.score(workdir, model, data, **settings)
    assert not reused and not list(workdir.path.glob(".score-*"))
    assert record.settings["group_size"] == 7 and "precision" not in record.settings
    table = (workdir.folder("score") / TABLE_FILE).read_text().splitlines()
    assert table[:9] == rows and len(table) == 24
    stages.score(other, model, data, **settings)
    a, b = stages.load_scores(workdir), stages.load_scores(other)
    assert_close(a, [*b.heads, *b.neurons], rtol=1e-6)
    direct = leave_one_out_scores(load_encoder(sentence_folder), pairs, settings["scoring"])
    assert_close(direct, [*b.heads, *b.neurons], rtol=1e-4)


def test_bad_settings():
    with pytest.raises(InputError, match="`group_size` 0"):
        ScoringSettings(group_size=0)
    with pytest.raises(InputError, match="`precision` 'half'"):
        ScoringSettings(precision="half")
    with pytest.raises(InputError, match=r"`method` 'best' is unknown; choose one of taylor, .*leave-one-out\."):
        scoring_method("best")
