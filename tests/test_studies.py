"""Studies: cells are measured once and kept, intervals are the bootstrap's, every study runs on a tiny model."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import study as study_script
from conftest import tiny_tokenizer, write_checkpoint
from scipy.stats import spearmanr
from studies import STUDIES
from studies.budgets import together

from sparsecse.cells.cells import Cell
from sparsecse.cli.app import main
from sparsecse.datasets import RetrievalSet
from sparsecse.encoders import load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.studies import frontier, registry
from sparsecse.studies.frontier import at_speed, spread_layers
from sparsecse.studies.intervals import paired_interval
from sparsecse.studies.oracle import correlations
from sparsecse.studies.others import Other
from sparsecse.studies.setup import Setup, StudySettings
from sparsecse.studies.study import Study, run_study, write_report
from sparsecse.training import TrainingSettings


class Counting:
    """A study of three cells, the last of which fails until it is allowed."""

    def __init__(self):
        self.measured: list[str] = []
        self.fails = True
        cells = [Cell(key, lambda key=key: self.measure(key)) for key in ("a", "b", "c")]
        self.study = Study(
            "Counting",
            lambda setup: cells,
            lambda results: f"{len(results)} cells.",
            lambda results: (["cell", "value"], [[key, str(cell["value"])] for key, cell in results.items()]),
            lambda results, axes: axes.plot([cell["value"] for cell in results.values()]),
        )

    def measure(self, key: str) -> dict:
        if key == "c" and self.fails:
            raise KeyboardInterrupt
        self.measured.append(key)
        return {"value": len(self.measured)}


class Same:
    """A setup of one identity."""

    def __init__(self, data: str = "x"):
        self.data = data

    def identity(self) -> dict:
        return {"model": "tiny", "data": self.data}


def test_a_killed_study_goes_on(tmp_path):
    counting = Counting()
    with pytest.raises(KeyboardInterrupt):
        run_study("counting", counting.study, Same(), tmp_path)
    assert set(json.loads((tmp_path / "counting.json").read_text())["results"]) == {"a", "b"}
    counting.fails = False
    content = run_study("counting", counting.study, Same(), tmp_path)
    assert counting.measured == ["a", "b", "c"]
    assert [content["results"][key]["value"] for key in "abc"] == [1, 2, 3]
    assert {"machine", "versions", "date"} <= set(content)
    with pytest.raises(InputError, match="another data"):
        run_study("counting", counting.study, Same("y"), tmp_path)


def test_a_report_has_the_paragraph_the_table_and_a_plot(tmp_path):
    pytest.importorskip("matplotlib")
    counting = Counting()
    counting.fails = False
    written = write_report(counting.study, run_study("counting", counting.study, Same(), tmp_path), tmp_path)
    text = written[0].read_text()
    assert "3 cells." in text and "| b | 2 |" in text
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_the_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "counting.json").write_text("[]")
    with pytest.raises(InputError, match="not the file of a study"):
        run_study("counting", Counting().study, Same(), tmp_path)


def test_the_interval_is_that_of_a_bootstrap_over_pairs():
    generator = np.random.default_rng(3)
    gold = generator.normal(size=400)
    good, bad = gold + 0.5 * generator.normal(size=400), gold + 1.5 * generator.normal(size=400)
    found = paired_interval({"t": gold}, [{"t": good}], {"t": bad})
    true = 100 * (spearmanr(gold, good).statistic - spearmanr(gold, bad).statistic)
    assert found["difference"] == pytest.approx(true, abs=1e-6)
    differences = []
    for _ in range(600):
        rows = generator.integers(0, 400, 400)
        own = spearmanr(gold[rows], good[rows]).statistic, spearmanr(gold[rows], bad[rows]).statistic
        differences.append(100 * (own[0] - own[1]))
    low, high = np.quantile(differences, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.15 * (high - low))
    assert found["high"] == pytest.approx(high, abs=0.15 * (high - low))
    same = paired_interval({"t": gold}, [{"t": good}], {"t": good})
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_the_interval_over_seeds_holds_what_seeds_differ_by():
    generator = np.random.default_rng(5)
    gold = generator.normal(size=4000)
    base = {"t": gold + generator.normal(size=4000)}
    seeds = [{"t": gold + noise * generator.normal(size=4000)} for noise in (0.4, 0.7, 1.0)]
    alone = [paired_interval({"t": gold}, [one], base) for one in seeds]
    found = paired_interval({"t": gold}, seeds, base)
    assert found["difference"] == pytest.approx(np.mean([one["difference"] for one in alone]), abs=1e-9)
    widest = max(one["high"] - one["low"] for one in alone)
    assert found["high"] - found["low"] > 3 * widest  # the seeds are far apart, the pairs many
    assert found["low"] >= min(one["low"] for one in alone) and found["high"] <= max(one["high"] for one in alone)
    again = paired_interval({"t": gold}, [seeds[0]] * 4, base)
    assert again == pytest.approx(alone[0])


def test_layers_are_thinned_evenly():
    assert spread_layers(6, 6) == (0, 1, 2, 3, 4, 5)
    assert spread_layers(6, 3) == (0, 2, 5)
    assert spread_layers(12, 6)[0] == 0 and spread_layers(12, 6)[-1] == 11
    assert spread_layers(6, 1) == (0,)


def test_the_frontier_is_read_between_points():
    line = [{"speedup": 1.0, "mean": 80.0}, {"speedup": 2.0, "mean": 78.0}]
    assert at_speed(line, 1.5) == pytest.approx(79.0)
    assert at_speed(line, 2.5) is None


def test_other_models_stand_beside_the_pruned_ones(setup, tmp_path, pairs_file):
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import StaticEmbedding

    static = st.SentenceTransformer(modules=[StaticEmbedding(tiny_tokenizer().backend_tokenizer, embedding_dim=16)])
    static.save_pretrained(str(tmp_path / "static"))
    small = load_encoder(write_checkpoint(tmp_path / "plain", "bert", num_hidden_layers=1), pooling="cls")
    (tmp_path / "small").mkdir()
    save_encoder(small, tmp_path / "small", stock=True)
    others = tuple(Other(name, str(tmp_path / name)) for name in ("static", "small"))
    lists = RetrievalSet("tiny", "test", {"d": "the cat", "e": "river"}, {"q": "a cat"}, {"q": {"d": 1}}, "x")
    setup = replace(setup, settings=replace(setup.settings, others=others), retrieval={"tiny": lists})
    study = replace(
        frontier.STUDY,
        cells=lambda setup: [cell for cell in frontier.cells(setup) if cell.key.startswith(("dense", "with-"))],
    )
    content = run_study("frontier", study, setup, tmp_path / "out")
    dense, *found = content["results"].values()
    assert [(cell["kind"], cell["name"]) for cell in found] == [("other", "static"), ("other", "small")]
    assert dense["retrieval"].keys() == {"tiny"} and dense["bytes"] > found[1]["bytes"] > found[0]["bytes"] > 0
    for cell, model in zip(found, (static, small), strict=True):
        assert cell["mean"] == pytest.approx(spearman(model, setup.score_pairs), abs=0.3)
        assert cell["sentences_per_second"] > 0 and "low" in cell["change"]
    header, rows = study.table(content["results"])
    assert header[-1] == "nDCG@10" and rows[0][0] == "dense"
    assert "static has" in study.paragraph(content["results"])
    write_report(study, content, tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing/modules.json").write_text("[]")
    for name in ("nothing", "nowhere"):
        with pytest.raises(InputError):
            Other(name, str(tmp_path / name)).load()
    assert main(["study", "lambda", "x", "--data", str(pairs_file), "--with", "y"]) == 2


def test_the_paragraph_says_whether_another_model_is_beaten():
    speeds = {"dense": (1.0, 80.0), "pruned": (3.0, 76.0), "layers": (2.0, 70.0)}
    cells = {kind: {"kind": kind, "text_speedup": x, "mean": y} for kind, (x, y) in speeds.items()}
    cells["with-a"] = {"kind": "other", "name": "a", "text_speedup": 2.0, "mean": 77.0}
    cells["with-b"] = {"kind": "other", "name": "b", "text_speedup": 90.0, "mean": 60.0}
    text = frontier.paragraph(cells)
    assert "a has 77.00 at 2.00 times" in text and "is at +1.00 from it" in text
    assert "b has 60.00 at 90.00 times the dense model's speed, where no pruned model was measured." in text


def test_correlation_with_the_oracle_has_the_right_sign():
    removals = [
        {"kind": kind, "delta_objective": float(i), "delta_spearman": -float(i)}
        for kind in ("heads", "neurons")
        for i in range(5)
    ]
    promised = [{"kind": r["kind"], "score": r["delta_objective"]} for r in removals]
    upside_down = [{"kind": r["kind"], "score": -r["delta_objective"]} for r in removals]
    found = correlations(
        {"removals-0": {"removals": removals}, "good": {"promised": promised}, "bad": {"promised": upside_down}}
    )
    assert all(value == pytest.approx(1.0) for value in found["good"].values())
    assert all(value == pytest.approx(-1.0) for value in found["bad"].values())


def test_what_sets_do_together_is_bounded_by_what_each_does(setup):
    rows = together(setup)
    assert {row["kind"] for row in rows} == {"heads", "neurons"} and len(rows) == 8
    for row in rows:
        assert row["by_squares"] <= row["by_sums"] + 1e-9 and row["by_sums"] >= 1 - 1e-6
    first = rows[0]  # 10 % of nine heads is one head, which is its own set
    assert (first["by_squares"], first["by_sums"]) == pytest.approx((1, 1), rel=1e-5)


@pytest.fixture
def setup(tmp_path, sentence_folder, pairs, sentences) -> Setup:
    training = TrainingSettings(batch_size=4, max_steps=4, eval_every=2, queue_size=4, precision="float32")
    return Setup(
        name="tiny",
        dense=load_encoder(sentence_folder),
        score_pairs=pairs,
        tasks={"task": pairs},
        sentences=sentences,
        cosines=tmp_path / "cosines",
        settings=StudySettings(sparsities=(0.25, 0.5), methods=("taylor", "random"), seeds=2, training=training),
    )


# How many cells each has with the settings above and three layers.
CELLS = {
    "sparsity": 1 + 2 * (1 + 1 + 2),
    "scorers": 1 + 2 * (1 + 2 + 2 + 2),
    "oracle": 12 + 2 + 1 + 2,
    "lambda": 1 + 2 * 2 * 5,
    "rewind": 2 * (1 + 2 * 4),
    "objectives": 3 * (1 + 2),
    "frontier": 1 + 2 + 2 * 2,
    "budgets": 2 + 2 * 2 * 4,  # a tiny model cannot do it with neurons only
    "data": 1 + 4 + 6 + 2 * 4,  # the pairs, their sentences alone, and the sentences under two seeds
    "tasks": 1 + 1 + 2,
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_on_a_tiny_model(name, setup, tmp_path):
    study = STUDIES[name].load()
    content = run_study(name, study, setup, tmp_path / "out")
    assert len(content["results"]) == CELLS[name]
    header, rows = study.table(content["results"])
    assert rows and all(len(row) == len(header) for row in rows)
    assert len(study.paragraph(content["results"])) > 40
    assert "nan" not in json.dumps(rows)
    assert (tmp_path / "out" / f"{name}.json").exists()
    write_report(study, content, tmp_path / "out")
    # All is there: nothing is measured again.
    again = run_study(name, study, setup, tmp_path / "out")
    assert again["results"] == content["results"]


def test_cells_measure_what_they_say(setup):
    dense = setup.measure(setup.dense, "dense")
    cut = setup.measure(setup.cut(setup.scores(), 0.5), "half")
    change = setup.interval("half", "dense")
    assert change["difference"] == pytest.approx(cut["mean"] - dense["mean"], abs=1e-6)
    assert dense["tasks"]["task"] == pytest.approx(setup.dev(setup.dense), abs=0.2)
    with_repair = setup.repaired(setup.cut(setup.scores(), 0.5), seed=1)
    assert with_repair.best["similarity"] >= with_repair.history[0]["dev"]["similarity"]


def test_the_command_line(sentence_folder, pairs_file, tmp_path, capsys):
    arguments = ["study", "lambda", str(sentence_folder), "--data", str(pairs_file), "--tasks", "demo-test"]
    arguments += ["--sparsities", "0.5", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["results"]) == {
        "dense",
        *(f"{x:g}/0.5" for x in (0, 0.25, 0.5, 0.75, 1)),
    }
    assert main(arguments) == 0
    assert "averaged over the sparsities" in capsys.readouterr().out
    assert main(["study", "nothing", str(sentence_folder), "--data", str(pairs_file)]) == 2
    assert "no study 'nothing'" in capsys.readouterr().err
    assert main([*arguments[:3], "--data", str(pairs_file), "--sparsities", "2"]) == 2
    capsys.readouterr()
    rewind = ["rewind", *arguments[2:]]
    assert main(["study", *rewind]) == 2
    assert f"the studies are {', '.join(registry.STUDIES)}." in capsys.readouterr().err
    assert main(rewind, commands=study_script.app) == 2
    assert "--train-data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "options", "studies"),
    [(["study", "--help"], {}, registry.STUDIES), (["--help"], {"commands": study_script.app}, STUDIES)],
)
def test_help_names_the_studies_of_the_registry(arguments, options, studies, capsys):
    assert main(arguments, **options) == 0
    text = re.sub(r"[\s│]+", "", capsys.readouterr().out)
    for name, spec in STUDIES.items():
        assert (f"{name}:{spec.summary}.".replace(" ", "") in text) == (name in studies)
