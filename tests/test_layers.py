"""`--layers auto`: whole layers compete with heads and neurons for one budget."""

from __future__ import annotations

import json

import pytest

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.pruning.costs import multiply_add_cost
from sparsecse.pruning.layers import best_layers, search_layers
from sparsecse.pruning.masks import Budget, select
from sparsecse.pruning.recipe import Recipe
from sparsecse.pruning.selection import affords, select_by_recipe
from sparsecse.pruning.surgery import prune


def removed(sizes, kept) -> tuple[int, int]:
    return tuple(sum(a[kind] for a in sizes) - sum(b[kind] for b in kept) for kind in (0, 1))


@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 2), (1,)])
def test_a_budget_of_the_whole_model_counts_the_layers_that_leave(ensemble, layers):
    sizes = ensemble.scores.sizes()
    budget = Budget.of(sizes, sparsity=0.7)
    cut = Recipe(sparsity=0.7, layers=layers, layers_compete=True)
    assert affords(cut, layers, sizes)
    mask = select_by_recipe(cut, ensemble.scores, sizes)
    assert mask.kept_layers() == list(layers)
    assert removed(sizes, mask.kept()) == (budget.heads, budget.neurons)
    # In the layers that stay it is the lowest-scored of them that leave.
    gone = Budget.of_layers(sizes, layers)
    own = select(ensemble.scores.of_layers(layers), budget.less(gone))
    assert [mask.heads[layer].tolist() for layer in layers] == [x.tolist() for x in own.heads]


def test_what_the_budget_does_not_afford(ensemble):
    sizes = ensemble.scores.sizes()
    assert not affords(Recipe(sparsity=0.3, layers_compete=True), (0, 1), sizes)
    assert affords(Recipe(sparsity=0.34, layers_compete=True), (0, 1), sizes)
    assert not affords(Recipe(neuron_sparsity=0.9, layers_compete=True), (0, 1), sizes)


@pytest.mark.parametrize("sparsity", [0.4, 0.7])
def test_a_cost_of_the_whole_model_counts_them_too(ensemble, sparsity):
    sizes = ensemble.scores.sizes()
    model = multiply_add_cost(ensemble.dense.model.config)
    cut = Recipe(sparsity=sparsity, cost="multiply-adds", layers_compete=True)
    models = {"multiply-adds": model}
    assert affords(cut, (0, 2), sizes, models) and affords(cut, (0,), sizes, models) == (sparsity > 0.66)
    for layers in ((0, 1, 2), (0, 2)):
        mask = select_by_recipe(
            Recipe(sparsity=sparsity, cost="multiply-adds", layers=layers, layers_compete=True),
            ensemble.scores,
            sizes,
            models,
        )
        kept = [mask.kept()[layer] for layer in layers]
        assert model.cost(kept) <= (1 - sparsity) * model.cost(sizes) * (1 + 1e-9)


def test_the_search_measures_what_it_cuts(ensemble, pairs):
    cut = Recipe(sparsity=0.7, layers_compete=True)
    tried = search_layers(ensemble, cut)
    assert tried[0].layers == (0, 1, 2)
    sets = {one.layers for one in tried}
    # All with one layer less, and with two less those that follow the best of these.
    assert {(0, 1), (0, 2), (1, 2)} <= sets and len(sets) == len(tried) == 1 + 3 + 2
    for one in tried:
        mask = select_by_recipe(
            Recipe(sparsity=0.7, layers=one.layers, layers_compete=True), ensemble.scores, ensemble.scores.sizes()
        )
        wanted = pytest.approx(spearman(prune(ensemble.dense, mask), pairs), abs=0.2)
        assert one.dev == one.dev_cut == {"similarity": wanted}
    assert best_layers(tried, ensemble.dev) == max(tried, key=lambda one: one.dev["similarity"]).layers


def test_reconstruction_decides_between_the_best(ensemble):
    tried = search_layers(ensemble, Recipe(sparsity=0.4, layers_compete=True, reconstruct=True))
    assert len(tried) == 1 + 3
    assert all(one.dev["similarity"] >= one.dev_cut["similarity"] for one in tried)
    worst = sorted(tried[1:], key=lambda one: one.dev_cut["similarity"])[0]
    assert worst.dev == worst.dev_cut  # not among the two best without


def test_protected_layers_stay(ensemble):
    tried = search_layers(ensemble, Recipe(sparsity=0.6, layers_compete=True, protect=("0", "2.1")))
    assert {one.layers for one in tried} == {(0, 1, 2), (0, 2)}


def test_the_choice_is_a_stage_and_the_cut_follows_it(run):
    cut = Recipe(sparsity=0.5, layers_compete=True)
    record, reused = stages.prune(run, cut)
    chosen = run.need("layers")
    assert not reused and record.info["layers"] == chosen.info["layers"] == record.settings["layers"]
    assert record.info["layers_tried"] == chosen.info["tried"]
    assert record.inputs["layers/tried.json"] == chosen.outputs["tried.json"]
    # The fractions are those of the whole model, whichever layers left.
    assert record.info["budget"]["removed"]["neurons"] == pytest.approx(0.5, abs=0.01)
    created = chosen.created
    assert stages.prune(run, cut)[1] and run.need("layers").created == created
    assert run.newest_model() == ("prune", [])
    # Of the same layers named by hand, the budget is one of those that stay.
    again, reused = stages.prune(run, Recipe(sparsity=0.5, layers=tuple(record.info["layers"])))
    assert not reused and again.info["budget"]["removed"]["neurons"] == pytest.approx(0.5, abs=0.02)


def test_the_command_line(run, capsys):
    assert main(["prune", "--sparsity", "0.4", "--layers", "auto", "--workdir", str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert "Layers tried" in printed and "0, 1, 2" in printed
    assert main(["prune", "--layers", "auto", "--workdir", str(run.path)]) == 2
    assert "--layers auto spends --sparsity" in capsys.readouterr().err
    assert main(["prune", "--sparsity", "0.4", "--layers", "some", "--workdir", str(run.path)]) == 2
    assert "nor auto" in capsys.readouterr().err


def test_a_run_packs_what_was_chosen(tmp_path, sentence_folder, pairs_file, capsys):
    arguments = ["run", str(sentence_folder), "--data", str(pairs_file), "--tasks", "demo-test", "--sparsity", "0.4"]
    arguments += ["--layers", "auto", "--steps", "0", "--no-bench", "--workdir", str(tmp_path / "run"), "--json"]
    assert main(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    packed = load_encoder(done["pack"]["info"]["path"])
    assert packed.model.config.num_hidden_layers == len(done["prune"]["info"]["layers"])


@pytest.mark.parametrize("bad", [{}, {"sparsity": 0.4, "portable": True}, {"sparsity": 0.4, "rounds": 2}])
def test_what_does_not_go_together(bad):
    with pytest.raises(InputError, match=r"`layers_compete`|`rounds`"):
        Recipe(layers_compete=True, **bad)
