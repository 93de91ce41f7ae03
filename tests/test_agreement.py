"""Agreement of two models without labels: by hand, under rotations, by chance, and from the command line."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sparsecse import stages
from sparsecse.cli import main
from sparsecse.datasets import draw_sentences
from sparsecse.errors import InputError
from sparsecse.evaluation import agreement, model_agreement
from sparsecse.evaluation.agreement import nearest
from sparsecse.sources import DataOptions, ModelOptions
from sparsecse.stages.agreement import run_text
from sparsecse.training import TrainingSettings
from sparsecse.training.examples import training_data
from sparsecse.training.held_out import hold_out
from sparsecse.training.sampling import rows_at, unseen_rows
from sparsecse.workdir import Workdir


def random_vectors(count: int = 300, dimension: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


class Table:
    """An encoder of sentences that are row numbers; it remembers what it was given."""

    def __init__(self, vectors: torch.Tensor):
        self.vectors = vectors
        self.seen: list[str] = []

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor:
        self.seen += sentences
        return self.vectors[[int(sentence) for sentence in sentences]]


def test_a_model_agrees_fully_with_itself():
    vectors = random_vectors()
    result = agreement(vectors, 3 * vectors.numpy())
    assert result.sentences == 300 and result.neighbour_count == 10
    figures = (result.cosine, result.similarity_spearman, result.neighbours, result.neighbours_in_reference)
    assert figures == pytest.approx((1, 1, 1, 1), abs=1e-6)


def test_a_rotation_keeps_what_coordinates_do_not_matter_for():
    vectors = random_vectors()
    rotation = torch.linalg.qr(random_vectors(24, 24, seed=1).double())[0]
    result = agreement((vectors.double() @ rotation).float(), vectors)
    assert result.similarity_spearman == pytest.approx(1, abs=1e-6) and result.neighbours > 0.999
    assert result.cosine is not None and abs(result.cosine) < 0.3
    assert result.neighbours_in_reference is not None and result.neighbours_in_reference < 0.3


def test_models_that_have_nothing_in_common_are_near_chance():
    result = agreement(random_vectors(), random_vectors(seed=1))
    assert result.neighbours_by_chance == pytest.approx(10 / 299)
    assert result.neighbours == pytest.approx(result.neighbours_by_chance, abs=0.02)
    assert result.neighbours_in_reference == pytest.approx(result.neighbours_by_chance, abs=0.02)
    assert abs(result.cosine or 1) < 0.05 and abs(result.similarity_spearman) < 0.05


def test_other_dimensions_leave_the_shared_coordinates_out():
    result = agreement(random_vectors(dimension=8), random_vectors())
    assert result.cosine is None and result.neighbours_in_reference is None
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["neighbours"] == result.neighbours


def on_circle(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_by_hand():
    reference, ours = on_circle(0, 10, 30, 100, 115), on_circle(0, 51, 30, 100, 115)
    # Nearest of the reference: 1 0 1 4 3. Of ours: 2 2 1 4 3. Ours among the reference's: 1 2 1 4 3.
    assert nearest(reference, reference, 1).flatten().tolist() == [1, 0, 1, 4, 3]
    result = agreement(ours, reference, neighbours=1)
    assert result.neighbours == pytest.approx(3 / 5)
    assert result.neighbours_in_reference == pytest.approx(4 / 5)
    assert result.cosine == pytest.approx((4 + math.cos(math.radians(41))) / 5)
    # Angles between 01 02 03 04 12 13 14 23 24 34.
    wanted = spearmanr([51, 30, 100, 115, 21, 49, 64, 70, 85, 15], [10, 30, 100, 115, 20, 90, 105, 70, 85, 15])
    assert result.similarity_spearman == pytest.approx(wanted.statistic, abs=1e-9)


def test_the_search_is_the_same_in_blocks_of_any_size():
    ours, theirs = (torch.nn.functional.normalize(random_vectors(seed=seed)) for seed in (0, 1))
    cosines = (ours @ theirs.T).fill_diagonal_(-2)
    wanted = cosines.argsort(dim=1, descending=True)[:, :10]
    for rows in (None, 1, 7, 299, 1000):
        assert (nearest(ours, theirs, 10, rows=rows) == wanted).all()


def test_similarities_are_ranked_inside_blocks_of_all_sentences():
    ours = random_vectors(70)
    theirs = ours + 0.5 * random_vectors(70, seed=1)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(3))
    found = []
    for rows in np.array_split(order.numpy(), 3):
        pairs = np.triu_indices(len(rows), 1)
        cosines = [torch.nn.functional.normalize(each[rows].double()) for each in (ours, theirs)]
        found.append(spearmanr(*((each @ each.T)[pairs].numpy() for each in cosines)).statistic)
    result = agreement(ours, theirs, block=20, seed=3)
    assert result.similarity_spearman == pytest.approx(np.mean(found), abs=1e-6)
    assert result.similarity_spearman != agreement(ours, theirs, block=20, seed=4).similarity_spearman
    assert result.neighbours == agreement(ours, theirs, block=70, seed=4).neighbours


def test_two_encoders_embed_each_sentence_once():
    vectors, other = random_vectors(60), random_vectors(60, 12)
    sentences = [str(row) for row in range(60)]
    one, two, steps = Table(vectors), Table(other), []
    result = model_agreement(one, two, sentences + sentences[:20], progress=lambda *step: steps.append(step))
    assert sorted(one.seen) == sorted(two.seen) == sorted(sentences)
    assert steps[-1] == (120, 120)
    assert result == agreement(vectors, other)


@pytest.mark.parametrize(
    ("vectors", "reference", "options", "message"),
    [
        (random_vectors(20), random_vectors(20), {}, "at least 21 different sentences, and there are 20"),
        (random_vectors(30), random_vectors(31), {}, "`vectors` has 30 rows and `reference` has 31"),
        (random_vectors(30)[0], random_vectors(30), {}, r"`vectors` has the shape \[24\]"),
        (random_vectors(30), random_vectors(30) / 0, {}, "`reference` has numbers that are not finite"),
        (torch.ones(30, 4), random_vectors(30), {}, "cosines of all pairs of 30 sentences are 1"),
        (random_vectors(30), random_vectors(30), {"neighbours": 0}, "`neighbours` 0 is less than 1"),
        (random_vectors(30), random_vectors(30), {"block": 2}, "`block` 2 is less than 3"),
    ],
)
def test_bad_input(vectors, reference, options, message):
    with pytest.raises(InputError, match=message):
        agreement(vectors, reference, **options)


def test_repeated_sentences_do_not_make_enough():
    table = Table(random_vectors(60))
    with pytest.raises(InputError, match="there are 15"):
        model_agreement(table, table, [str(row) for row in range(15)] * 4)
    assert not table.seen


def test_drawn_sentences_keep_their_order():
    sentences = [str(row) for row in range(50)]
    drawn = draw_sentences(sentences, 20, 1)
    assert len(set(drawn)) == 20 and list(drawn) == sorted(drawn, key=int)
    assert drawn != draw_sentences(sentences, 20, 2) and draw_sentences(sentences, 50) == sentences


# --- the command line and the stages


@pytest.fixture
def text_file(tmp_path, sentences):
    """More sentences than a comparison needs, some of them twice."""
    words = ["cat", "dog", "mat", "hill", "house", "river", "bird"]
    found = [f"the {a} sat on the {b}" for a in words for b in words]
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*found, *found[:5], *sentences]))
    return path


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSECSE_WORKDIR", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_eval_of_a_model_with_a_reference(call, sentence_folder, text_file):
    command = ["eval", sentence_folder, "--reference", sentence_folder, "--agreement", text_file]
    code, out, _ = call(*command, "--tasks", "demo-test", "--json")
    data = json.loads(out)
    assert code == 0 and data["average"] is not None
    found = data["agreement"]
    assert found["sentences"] == 56 and found["neighbours"] == 1 and found["cosine"] == pytest.approx(1, abs=1e-6)
    assert found["data"] == str(text_file) and found["reference"] == str(sentence_folder)
    code, out, err = call(*command, "--tasks", "none", "--agreement-limit", "30")
    assert code == 0 and "task" not in out and "on 30 sentences" in out and "Comparing: 60 of 60" in err
    assert "10 nearest neighbours shared" in out and "1.0000" in out


def test_eval_of_a_run_directory(call, run, text_file):
    assert call("prune", "--sparsity", "0.5", "--workdir", run.path)[0] == 0
    command = ["eval", "--tasks", "none", "--agreement", text_file, "--workdir", run.path]
    code, out, _ = call(*command, "--json")
    found = json.loads(out)["agreement"]
    assert code == 0 and 0 < found["neighbours"] < 1 and found["cosine"] < 1
    record = run.need("eval")
    assert record.info["agreement"] == found and "agreement" in record.inputs
    assert json.loads((run.folder("eval") / "results.json").read_text())["agreement"] == found
    assert "Agreement with the dense model on 56 sentences" in call(*command)[1]
    assert run.need("eval").created == record.created
    text_file.write_text(text_file.read_text() + "\nthe old red house sleeps")
    assert json.loads(call(*command, "--json")[1])["agreement"]["sentences"] == 57


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{model}", "--agreement", "text.txt"], "give that one as --reference"),
        (["--agreement", "text.txt", "--reference", "{model}"], "--reference is for a named MODEL"),
        (["{model}", "--reference", "{model}"], "give them as --agreement"),
        (["{model}", "--tasks", "none"], "Nothing is measured with --tasks none"),
        (["{model}", "--reference", "{model}", "--agreement", "few.txt"], "at least 21 different sentences"),
        (["{model}", "--reference", "{model}", "--agreement", "nowhere.txt"], "nowhere.txt is neither a file"),
        (
            ["{model}", "--reference", "{model}", "--agreement", "text.txt", "--agreement-limit", "5"],
            "--agreement-limit 5 is less than 21",
        ),
    ],
)
def test_bad_options(call, sentence_folder, text_file, tmp_path, options, message):
    (tmp_path / "few.txt").write_text("the cat\nthe dog\n")
    code, out, err = call("eval", *(option.format(model=sentence_folder) for option in options))
    assert (code, out) == (2, "") and message in err and len(err.strip().splitlines()) == 1


@pytest.fixture
def many(tmp_path):
    words = ["cat", "dog", "mat", "hill", "house", "river", "bird"]
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"{a} {b} {c}" for a in words for b in words for c in words))
    return path


def test_a_run_compares_on_sentences_that_were_not_trained_on(run, many):
    text, data = many, DataOptions(str(many))
    settings = TrainingSettings(batch_size=4, max_steps=3)
    found = run_text(run, data, settings)
    assert found is not None and found.source == f"{text}, not trained on" and len(found.sentences) == 343 - 12
    examples, _ = training_data(data, {"distill"})
    assert set(range(len(examples))) - set(unseen_rows(len(examples), settings)) == {
        row for position in range(3) for row in rows_at(len(examples), 4, settings.seed, position)
    }
    # Of what is held out for picking the weights nothing is taken either.
    left, held = hold_out(examples, settings.seed)
    trained = {left[row][0] for position in range(3) for row in rows_at(len(left), 4, settings.seed, position)}
    untouched = run_text(run, data, settings, held_out=True)
    assert untouched is not None and held is not None and len(untouched.sentences) == 343 - 34 - 12
    assert not (trained | set(held.sentences())) & set(untouched.sentences)
    # The whole text is trained on, and the scored pairs have too few sentences.
    assert run_text(run, data, TrainingSettings(batch_size=4)) is None
    assert run_text(run, data, None) is None


def test_a_run_without_held_out_text_compares_on_the_scored_sentences(tmp_path, sentence_folder):
    workdir = Workdir(tmp_path / "run")
    stages.score(workdir, ModelOptions(str(sentence_folder)), DataOptions("demo"), method="magnitude")
    found = run_text(workdir, DataOptions("demo"), None)
    assert found is not None and found.source == "the built-in demo (dev), scored on"
    assert len(found.sentences) == len(set(found.sentences)) > 100


def test_run_reports_the_agreement(call, sentence_folder, pairs_file, many):
    command = ["run", sentence_folder, "--data", pairs_file, "--train-data", many, "--sparsity", "0.5", "--no-bench"]
    command += ["--steps", "3", "--train-batch-size", "4", "--no-reconstruct", "--tasks", "demo-test"]
    code, out, err = call(*command)
    assert code == 0 and f"Agreement with the dense model on 297 sentences ({many}, not trained on)" in out
    code, out, err = call(*command, "--json")
    assert code == 0 and "eval: already there" in err
    assert 0 < json.loads(out)["eval"]["info"]["agreement"]["neighbours"] < 1
