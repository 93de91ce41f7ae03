"""Budgets: the cheapest cut that meets one, what layers cost, chunks, protected structures, and the command line."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_checkpoint

from sparsecse import stages
from sparsecse.benchmarking.latency_table import LENGTHS, SENTENCES, LatencyTable, measure_latency
from sparsecse.cli import main
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.packing import count_parameters
from sparsecse.pruning.costs import multiply_add_cost, parameter_cost, removed_fraction, select_by_cost
from sparsecse.pruning.masks import Budget, Mask, lowest, select, select_portable
from sparsecse.pruning.order import Limits, orders
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import Scores, ScoringSettings, random, scoring_method
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.workdir import Workdir

SIZES = [(4, 24)] * 3
TABLE = LatencyTable((0, 1, 4), (0.0, 0.5, 0.8), (0, 8, 24), (0.0, 0.3, 1.5), 0.25)
"""Not linear: the first head and the last neurons cost the most."""


def random_scores(seed: int, sizes=SIZES, scale: float = 1.0, combine: str = "squares") -> Scores:
    generator = torch.Generator().manual_seed(seed)
    heads = tuple(torch.rand(heads, generator=generator) * scale for heads, _ in sizes)
    return Scores(heads, tuple(torch.rand(neurons, generator=generator) for _, neurons in sizes), combine=combine)


def cost_models(bert):
    config = bert.model.config
    return {"parameters": parameter_cost(config), "multiply-adds": multiply_add_cost(config, 7), "latency": TABLE}


def loss(scores: Scores, mask: Mask) -> float:
    """By the definition of each combination, apart from `Scores.losses`."""
    power = 1 if scores.combine == "sums" else 2
    whole = 0.0
    for kind, stays in ((scores.heads, mask.heads), (scores.neurons, mask.neurons)):
        own = torch.cat(kind).double() ** power
        gone = float(own[~torch.cat(stays)].sum())
        whole += gone / float(own.sum()) if scores.combine == "order" else gone
    return whole


def brute_force(scores: Scores, model, sparsity: float) -> float:
    """The least loss over all (heads, neurons) counts that meet the budget."""
    sizes = scores.sizes()
    heads, neurons = sum(h for h, _ in sizes), sum(n for _, n in sizes)
    best = float("inf")
    for head_count, neuron_count in itertools.product(range(heads + 1), range(neurons + 1)):
        mask = Mask(
            tuple(~mark for mark in lowest(scores.heads, head_count)),
            tuple(~mark for mark in lowest(scores.neurons, neuron_count)),
        )
        if model.cost(mask.kept()) <= (1 - sparsity) * model.cost(sizes) * (1 + 1e-9):
            best = min(best, loss(scores, mask))
    return best


@pytest.mark.parametrize("name", ["parameters", "multiply-adds", "latency"])
@pytest.mark.parametrize("combine", ["sums", "squares", "order"])
@pytest.mark.parametrize(("seed", "sparsity", "scale"), [(0, 0.3, 1.0), (1, 0.55, 8.0), (2, 0.1, 30.0)])
def test_the_solver_finds_what_trying_everything_finds(bert, name, seed, sparsity, scale, combine):
    sizes = [(3, 10), (4, 8), (1, 12)]
    scores, model = random_scores(seed, sizes, scale, combine), cost_models(bert)[name]
    mask = select_by_cost(scores, model, sparsity)
    assert removed_fraction(model, sizes, mask.kept()) >= sparsity - 1e-9
    assert loss(scores, mask) == pytest.approx(brute_force(scores, model, sparsity), rel=1e-9)
    assert 0 < loss(scores, mask) < loss(scores, select(scores, Budget(8, 30)))


@pytest.mark.parametrize("combine", ["sums", "squares", "order"])
def test_losses_keep_each_order_and_the_kinds_as_they_combine(combine):
    signed = combine == "sums"
    scores = random_scores(3, scale=5.0, combine=combine)
    if signed:  # changes may be gains
        scores = replace(scores, heads=tuple(own - 1 for own in scores.heads))
    losses = scores.losses()
    assert losses.combine == "sums" and losses.sizes() == scores.sizes()
    for own, lost in zip(scores.tensors(), losses.tensors(), strict=True):
        assert lost.dtype == torch.float64 and lost.argsort().equal(own.argsort())
    head, neuron = float(scores.heads[1][2]), float(scores.neurons[2][7])
    totals = [float((torch.cat(kind).double() ** 2).sum()) for kind in (scores.heads, scores.neurons)]
    expected = {
        "sums": (head, neuron),
        "squares": (head**2, neuron**2),
        "order": (head**2 / totals[0], neuron**2 / totals[1]),
    }[combine]
    assert (float(losses.heads[1][2]), float(losses.neurons[2][7])) == pytest.approx(expected)
    negative = Scores((torch.tensor([-2.0, 1.0]),), (torch.zeros(2),), combine=combine).losses()
    assert negative.heads[0][0] < 0 < negative.heads[0][1] and not negative.neurons[0].any()


def test_many_unrelated_neurons_lose_what_squares_say():
    """Contributions of random signs: the sum of n of size s is about s * sqrt(n), so that n of them weigh like one
    head of that size, which their plain sum would call sqrt(n) times too dear."""
    signs = torch.randint(0, 2, (400, 64), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    size = 0.25
    truly = float((size * signs).sum(dim=1).pow(2).mean().sqrt())
    scores = Scores((torch.tensor([truly]),), (torch.full((64,), size),))
    losses = scores.losses()
    assert float(losses.neurons[0].sum()) == pytest.approx(float(losses.heads[0]), rel=0.15)
    assert float(scores.neurons[0].sum()) > 7 * truly


@pytest.mark.parametrize("method", ["taylor", "fisher", "fisher-block", "leave-one-out", "random"])
def test_the_score_file_says_how_scores_combine(bert, pairs, tmp_path, method):
    scores = scoring_method(method).score(bert, pairs, ScoringSettings(group_size=8))
    expected = {"taylor": "squares", "fisher": "sums", "leave-one-out": "sums"}.get(method, "order")
    assert scores.combine == expected == scores.of_layers([0]).combine
    scores.save(tmp_path / "scores.safetensors", {"method": method})
    found = Scores.load(tmp_path / "scores.safetensors")
    assert found.combine == expected and found.values == scores.values
    with pytest.raises(InputError, match="score again"):
        replace(found, combine="products")


@pytest.mark.parametrize("name", ["parameters", "multiply-adds", "latency"])
def test_costs_never_fall_with_more_heads_or_neurons(bert, name):
    model = cost_models(bert)[name]
    by_heads = [model.cost([(heads, 9), (2, 24)]) for heads in range(5)]
    by_neurons = [model.cost([(3, neurons), (2, 24)]) for neurons in range(25)]
    for costs in (by_heads, by_neurons):
        assert all(more > less for less, more in itertools.pairwise(costs))
    assert model.cost([]) == 0


def test_parameters_are_those_of_the_model(encoder):
    model = parameter_cost(encoder.model.config)
    mask = select_by_cost(random(encoder, 3), model, 0.4)
    smaller = prune(encoder, mask)
    family = encoder.model.config.original_model_type
    first = 32 * (family == "modernbert")  # of whose LayerNorms the first layer has one less
    gated = family in ("modernbert", "qwen3", "gemma3_text")  # and no biases there
    assert model.cost(SIZES) - first == sum(map(count_parameters, encoder.model.encoder.layer))
    # Keys and values that two heads shared stay whole with one of them; without heads no norm is left before them.
    assert mask.kept()[0][0] == 0
    halves = sum(2 * len(set(sources)) - len(sources) for sources in smaller.model.config.key_value_heads or [])
    more = halves * 8 * 32 - (32 + 2 * 8) * (family in ("qwen3", "gemma3_text"))
    assert model.cost(mask.kept()) - first + more == sum(map(count_parameters, smaller.model.encoder.layer))
    gone = count_parameters(encoder.model) - count_parameters(smaller.model)
    assert gone == model.cost(SIZES) - model.cost(mask.kept()) - more
    one_head = 3 * 8 * (32 + 1) + 8 * 32 if not gated else 4 * 8 * 32 if family == "modernbert" else 3 * 8 * 32
    assert model.head == one_head and model.neuron == 32 + 32 + (32 if gated else 1)


def test_multiply_adds_are_those_of_the_products(bert):
    model = multiply_add_cost(bert.model.config, 10)
    # Per token: three projections to 8 channels and one back, products with 10 keys and 10 values of 8 channels.
    assert model.cost([(1, 0)]) == 4 * 32 * 8 + 10 * 8 + 10 * 8
    assert model.cost([(0, 3)]) == 3 * (32 + 32)


def test_without_limits_the_order_is_that_of_the_scores():
    scores = random_scores(4)
    tied = Scores(scores.heads, tuple((own * 4).round() for own in scores.neurons))
    _, neurons = orders(tied, Limits())
    for count in (0, 1, 7, 30, 71, 72):
        for stays, mark in zip(neurons.after(count), lowest(tied.neurons, count), strict=True):
            assert stays.equal(~mark)
        assert neurons.left[count].tolist() == [int(stays.sum()) for stays in neurons.after(count)]


@pytest.mark.parametrize("align", [4, 5, 7, 24, 100])
@pytest.mark.parametrize("constant", [False, True])
def test_aligned_layers_keep_multiples_or_all(align, constant):
    scores = random_scores(5)
    if constant:
        scores = Scores(scores.heads, tuple(torch.full((24,), 0.1) for _ in range(3)))
    limits = Limits(align)
    allowed = {24, *range(0, 24, align)}
    masks = [select(scores, Budget(3, count), limits) for count in range(73)]
    masks += [select_by_cost(scores, TABLE, sparsity, limits) for sparsity in (0.1, 0.5)]
    for mask in masks:
        for own, stays in zip(scores.neurons, mask.neurons, strict=True):
            assert int(stays.sum()) in allowed
            if stays.any() and not stays.all():
                assert own[~stays].max() <= own[stays].min()
    for count, mask in enumerate(masks[:73]):
        removed = 72 - sum(neurons for _, neurons in mask.kept())
        assert abs(removed - count) <= min(align, 24) / 2
        assert sum(heads for heads, _ in mask.kept()) == 9


def test_chunks_are_weighed_whole():
    """The single lowest neuron stays where its chunk is the dearer one."""
    scores = Scores((torch.ones(1),) * 2, (torch.tensor([0.0, 9.0, 9.0, 9.0]), torch.tensor([1.0, 1.0, 8.0, 8.0])))
    mask = select(scores, Budget(0, 2), Limits(2))
    assert mask.neurons[0].all() and mask.neurons[1].tolist() == [False, False, True, True]


def test_portable_widths_are_aligned():
    mask = select_portable(random_scores(6), 0.3, align=5)
    assert {neurons for _, neurons in mask.kept()} == {15}  # 17 would stay
    assert {neurons for _, neurons in select_portable(random_scores(6), 0.3).kept()} == {17}
    with pytest.raises(InputError, match="leave no neuron"):
        select_portable(random_scores(6), 0.8, align=24)


def test_protected_structures_stay():
    low = random_scores(7, scale=1e-3)  # all heads would go first
    limits = Limits.of(SIZES, protect=("0", "2.1", "2.3"))
    cuts = [select(low, Budget(6, 48), limits), select_by_cost(low, TABLE, 0.5, limits)]
    for mask in cuts:
        assert mask.heads[0].all() and mask.neurons[0].all()
        assert mask.heads[2].tolist()[1::2] == [True, True]
    assert cuts[0].kept() == [(4, 24), (0, 0), (2, 0)]
    assert Limits.of(SIZES, 2, ("2.1", "0")).of_layers([0, 2]) == Limits(2, frozenset({(0, None), (1, 1)}))


@pytest.mark.parametrize("cut", ["cost", "heads", "neurons"])
def test_a_budget_that_cannot_be_met_says_how_far_it_goes(cut):
    scores, limits = random_scores(8), Limits.of(SIZES, 5, ("1", "2.0"))

    def attempt(fraction: float) -> Mask:
        if cut == "cost":
            return select_by_cost(scores, TABLE, fraction, limits)
        return select(scores, Budget.of(SIZES, **{f"{cut.removesuffix('s')}_sparsity": fraction}), limits)

    with pytest.raises(InputError, match="give at most that, or protect less") as raised:
        attempt(0.9)
    reach = float(re.findall(r"\b0\.\d{4}\b", str(raised.value))[-1])
    assert 0.4 < reach < 0.7
    assert attempt(reach).neurons[1].all()
    with pytest.raises(InputError, match="give at most that"):
        attempt(reach + 0.05)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range(sparsity):
    with pytest.raises(InputError, match="is outside 0 to 1"):
        select_by_cost(random_scores(9), TABLE, sparsity)


def fake_seconds(heads: int, neurons: int) -> float:
    """Of one layer; a second head is free, as on hardware that works in blocks."""
    return (0.0, 0.2, 0.2, 0.5, 0.6)[heads] + 0.01 * neurons


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_the_table_holds_what_the_timer_says(checkpoints, family):
    encoder = load_encoder(checkpoints[family], pooling="mean")
    before = torch.get_rng_state()
    calls, progressed = [], []

    def timer(runtime, token_ids):
        (heads, neurons), *others = runtime.encoder.model.config.layer_sizes()
        assert others == [(heads, neurons)] * 2  # all layers alike
        assert np.isfinite(runtime.encode_ids(token_ids)).all()
        assert len(token_ids) == SENTENCES and {len(ids) for ids in token_ids} == {round(10 * x) for x in LENGTHS}
        calls.append((heads, neurons))
        # The first passes and some of the others are disturbed.
        disturbed = 5.0 if len(calls) <= 10 or len(calls) % 3 == 0 else 0.0
        return 0.4 + 3 * fake_seconds(heads, neurons) + disturbed

    table = measure_latency(
        encoder,
        average_length=10,
        threads=1,
        repeats=4,
        timer=timer,
        progress=lambda done, total: progressed.append((done, total)),
    )
    assert table.heads == (0, 1, 2, 3, 4) and table.neurons == (0, 2, 6, 12, 18, 24)
    assert table.head_seconds == pytest.approx([fake_seconds(heads, 0) for heads in table.heads])
    assert table.neuron_seconds == pytest.approx([fake_seconds(0, neurons) for neurons in table.neurons])
    assert table.rest_seconds == pytest.approx(0.4)
    assert table.cost([(3, 7), (0, 24)]) == pytest.approx(0.5 + 0.07 + 0.24)
    assert len(set(calls)) == len(calls) / 5 == 10 and progressed[-1] == (50, 50)
    assert calls[:10] == calls[10:20]  # in turn
    assert table.conditions["precision"] == "float32" and table.conditions["threads"] == 1
    assert torch.get_rng_state().equal(before)


def test_noise_does_not_make_the_table_fall(bert):
    noise = iter(np.random.default_rng(1).random(1000).tolist())
    table = measure_latency(bert, average_length=4, timer=lambda runtime, ids: next(noise), repeats=1)
    for seconds in (table.head_seconds, table.neuron_seconds):
        assert seconds[0] == 0 and all(more >= less for less, more in itertools.pairwise(seconds))


def test_table_files(tmp_path):
    TABLE.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == TABLE
    (tmp_path / "table.json").write_text('{"heads": [0]}')
    with pytest.raises(InputError, match="no latency table"):
        LatencyTable.load(tmp_path / "table.json")


@pytest.fixture
def call(run, capsys):
    """Run a command in that run directory; returns (exit code, standard output, standard error)."""

    def call_(command: str, *arguments: object) -> tuple[int, str, str]:
        code = main([command, *map(str, arguments), "--workdir", str(run.path)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call_


@pytest.mark.parametrize("budget", ["parameters", "multiply-adds"])
def test_the_command_line_meets_the_budget(run, call, budget):
    code, out, _ = call("prune", "--budget", budget, "--sparsity", 0.3, "--json")
    record = json.loads(out)
    found = record["info"]["budget"]
    assert code == 0 and found["asked"] == {"sparsity": 0.3, "of": budget}
    assert 0.3 <= found["removed"][budget] < 0.33
    assert set(found["removed"]) == {"heads", "neurons", "parameters", "multiply-adds"}
    assert record["settings"]["budget"] == budget and record["settings"]["sparsity"] == 0.3
    dense = load_encoder(record["settings"].get("model", run.need("score").settings["model"]["name"]))
    gone = record["info"]["dense_parameters"] - record["info"]["parameters"]
    layers = sum(count_parameters(layer) for layer in dense.model.encoder.layer)
    assert found["removed"]["parameters"] == pytest.approx(gone / layers)
    code, out, err = call("prune", "--budget", budget, "--sparsity", 0.3)
    assert code == 0 and "already holds this cut" in err
    (line,) = (line for line in out.splitlines() if line.startswith("Asked:"))
    assert line.startswith(f"Asked: 30.0% {budget} removed. Removed from the layers: ") and "of heads" in line


def test_latency_is_measured_once_and_recorded(run, call, monkeypatch):
    timed = []

    def timer(runtime, token_ids):
        heads, neurons = runtime.encoder.model.config.layer_sizes()[0]
        timed.append((heads, neurons))
        return 0.4 + 3 * fake_seconds(heads, neurons)

    monkeypatch.setattr("sparsecse.benchmarking.latency_table._seconds", timer)
    options = ["--budget", "latency", "--average-length", 8, "--threads", 1, "--json"]
    code, out, err = call("prune", "--sparsity", 0.4, *options)
    record = json.loads(out)
    removed = record["info"]["budget"]["removed"]
    assert code == 0 and timed and "Timing layers" in err
    assert removed["latency"] >= 0.4
    dense, smaller = removed["seconds_per_pass"]
    assert dense == pytest.approx(0.4 + 3 * fake_seconds(4, 24))
    assert dense - smaller == pytest.approx(removed["latency"] * (dense - 0.4))
    table = json.loads((run.folder("latency") / "table.json").read_text())
    assert table["conditions"]["threads"] == 1 and table["conditions"]["precision"] == "float32"
    assert {"cpu", "cores"} <= set(table["conditions"]["machine"])
    assert record["inputs"]["latency/table.json"] == run.output_hash("latency", "table.json")

    count = len(timed)
    code, out, _ = call("prune", "--sparsity", 0.2, *options)
    assert code == 0 and len(timed) == count and json.loads(out)["info"]["budget"]["removed"]["latency"] >= 0.2
    code, out, _ = call("prune", "--sparsity", 0.2, *[*options[:3], 12, *options[4:]])
    assert code == 0 and len(timed) == 2 * count  # other sentences
    code, out, _ = call("prune", "--sparsity", 0.2, *options[:-1])
    assert "x as fast" in out and "of latency" in out
    code, out, _ = call("inspect", run.path, "--json")
    assert set(json.loads(out)["stages"]) == {"score", "latency", "prune"}


def test_latency_with_the_real_clock(run):
    record, _ = stages.prune(run, Recipe(sparsity=0.25, cost="latency"))
    removed = record.info["budget"]["removed"]
    assert 0.25 <= removed["latency"] <= 1
    assert all(seconds > 0 for seconds in removed["seconds_per_pass"])
    kept = stages.load_mask(run).kept()
    table = LatencyTable.load(run.folder("latency") / "table.json")
    assert removed["latency"] == pytest.approx(1 - table.cost(kept) / table.cost(SIZES))


def test_align_and_protect_on_the_command_line(call):
    code, out, _ = call("prune", "--sparsity", 0.5, "--align", 8, "--protect", "0,2.3", "--json")
    record = json.loads(out)
    kept = record["info"]["kept"]
    assert code == 0 and kept[0] == [4, 24] and {neurons % 8 for _, neurons in kept} == {0}
    assert sum(neurons for _, neurons in kept) in (32, 40)
    assert record["settings"]["align"] == 8 and record["settings"]["protect"] == ["0", "2.3"]
    code, out, _ = call("prune", "--sparsity", 0.5, "--align", 8, "--json")
    other = json.loads(out)
    assert code == 0 and other["created"] >= record["created"] and "protect" not in other["settings"]


def test_layers_that_leave_take_no_part(run):
    limits = Recipe(sparsity=0.4, cost="parameters", layers=(0, 2), protect=("2",))
    record, _ = stages.prune(run, limits)
    assert record.info["kept"][1] == (0, 0) and record.info["kept"][2] == (4, 24)
    assert record.info["budget"]["removed"]["parameters"] >= 0.4


def test_the_record_names_what_decides_the_mask_and_differs_from_the_default():
    """A default in the records would make every earlier stage of a run directory stale."""
    assert Recipe(sparsity=0.2).budget_settings == {}
    recipe = Recipe(sparsity=0.2, cost="multiply-adds", average_length=40, align=8, protect=("0",))
    assert recipe.budget_settings == {
        "budget": "multiply-adds",
        "sparsity": 0.2,
        "align": 8,
        "protect": ["0"],
        "average_length": 40,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "bytes", "--sparsity", "0.3"], "--budget 'bytes' is unknown; choose one of structures"),
        (["--budget", "parameters"], "--budget parameters takes --sparsity alone"),
        (["--budget", "latency", "--sparsity", "0.3", "--keep-heads", "3"], "--budget latency takes --sparsity alone"),
        (["--budget", "parameters", "--sparsity", "0.3", "--portable"], "leave out --portable"),
        (["--budget", "parameters", "--sparsity", "1.3"], "--sparsity 1.3 is outside 0 to 1"),
        (["--budget", "parameters", "--sparsity", "0.9", "--protect", "0"], "--sparsity 0.9 cannot be met"),
        (["--sparsity", "0.9", "--protect", "0,1"], "11 of 12 heads cannot be removed: 4 may leave"),
        (["--sparsity", "0.3", "--portable", "--protect", "0"], "--portable keeps all layers alike"),
        (["--sparsity", "0.3", "--align", "0"], "--align 0 is less than 1"),
        (["--sparsity", "0.3", "--average-length", "0"], "--average-length 0 is less than 1"),
        (["--sparsity", "0.3", "--protect", "5"], "there is no layer 5; the layers are 0 to 2"),
        (["--sparsity", "0.3", "--protect", "1.4"], "layer 1 has 4 heads"),
        (["--sparsity", "0.3", "--protect", "a"], "--protect a names no layer or head"),
        (["--sparsity", "0.3", "--protect", "1", "--layers", "0,2"], "--protect names layer 1"),
        (["--layers", "0,2", "--align", "2"], "--align and --protect say how a budget is met"),
        (["--sparsity", "0.3", "--budget", "latency", "--latency-precision", "x"], "--latency-precision 'x'"),
    ],
)
def test_bad_budgets_on_the_command_line(run, call, arguments, message):
    code, out, err = call("prune", *arguments)
    assert code == 2 and out == ""
    assert message in err and len(err.strip().splitlines()) == 1
    assert run.record("prune") is None and run.record("latency") is None


def test_run_takes_the_options_of_prune(tmp_path, pairs_file, sentence_folder, capsys):
    options = ["--budget", "multiply-adds", "--sparsity", "0.3", "--align", "4", "--protect", "1"]
    common = ["--tasks", "demo-test", "--no-bench", "--no-finetune", "--json", "--workdir", str(tmp_path / "run")]
    assert main(["run", str(sentence_folder), "--data", str(pairs_file), *options, *common]) == 0
    record = json.loads(capsys.readouterr().out)["prune"]
    assert record["info"]["kept"][1] == [4, 24] and record["info"]["budget"]["removed"]["multiply-adds"] >= 0.3
    assert {neurons % 4 for _, neurons in record["info"]["kept"]} == {0}


def test_a_pruned_model_can_be_pruned_by_cost_again(tmp_path, pairs_file, run):
    stages.prune(run, Recipe(sparsity=0.3, cost="parameters"))
    again = Workdir(tmp_path / "again")
    stages.score(again, ModelOptions(str(run.folder("prune") / "model")), DataOptions(str(pairs_file)), method="random")
    for cost in ("parameters", "latency"):
        record, _ = stages.prune(again, Recipe(sparsity=0.3, cost=cost))
        assert record.info["budget"]["removed"][cost] >= 0.3


def test_wide_heads_and_narrow_layers(tmp_path):
    folder = write_checkpoint(tmp_path / "odd", "bert", num_attention_heads=2, intermediate_size=5)
    encoder = load_encoder(folder, pooling="mean")
    table = measure_latency(encoder, average_length=5, timer=lambda runtime, ids: 1.0, repeats=1)
    assert table.heads == (0, 1, 2) and table.neurons == (0, 1, 2, 4, 5)
    assert table.cost([(2, 5)]) == 0 and table.rest_seconds == 1.0
    assert select_by_cost(random(encoder, 0), table, 0.5).kept() == [(2, 5)] * 3  # nothing costs anything
