"""Sweeps: cells of a file, what they share, what survives a kill; the engines that compute them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sweep_jobs import Job

from sparsecse.cells.cells import ATTEMPTS, Cell, Outcome, Room, attempt, measure_cells
from sparsecse.cells.processes import processes
from sparsecse.cli.app import main
from sparsecse.cli.sweep import read_plans
from sparsecse.errors import InputError
from sparsecse.sweeps import summary
from sparsecse.sweeps.grid import read_cells, varied
from sparsecse.sweeps.jobs import CellJob
from sparsecse.sweeps.sweep import Sweep
from sparsecse.workdir import Workdir

NAMES = ("model", "sparsity", "seed", "method", "protect", "reconstruct")


@pytest.fixture
def file(tmp_path: Path, sentence_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Write a sweep's file about the tiny model, in the folder that the test then works in."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, **common: object) -> Path:
        given = {"model": str(sentence_folder), "data": str(pairs_file), "tasks": str(pairs_file), "finetune": False}
        given |= {"reconstruct": False, **common}
        lines = [f"{name} = {json.dumps(value)}" for name, value in given.items() if value is not None]
        path = tmp_path / "sweep.toml"
        path.write_text("\n".join([*lines, text]))
        return path

    return write


def test_cells_are_the_grid_and_the_single_ones(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(
        'model = "demo"\n[grid]\nsparsity = [0.1, 0.2]\nseed = [0, 1]\n'
        '[[cells]]\nsparsity = 0.8\nprotect = ["0", "5.3"]\n'
    )
    cells = read_cells(path, NAMES)
    assert [(cell["sparsity"], cell.get("seed")) for cell in cells] == [
        *((sparsity, seed) for sparsity in (0.1, 0.2) for seed in (0, 1)),
        (0.8, None),
    ]
    assert {cell["model"] for cell in cells} == {"demo"} and cells[4]["protect"] == ["0", "5.3"]
    assert varied(cells) == ["sparsity", "seed", "protect"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsty = 0.1", r"key 'sparsty', .* Did you mean sparsity\?"),
        ("[grid]\nsede = [1]", r"key 'sede' in \[grid\], .* Did you mean seed\?"),
        ("[[cells]]\nworkdir = 'x'", r"key 'workdir' in \[\[cells\]\], which is no option of a cell"),
        ("[gird]\nseed = [1]", r"key 'gird'.* Did you mean grid\?"),
        ("[grid]\nseed = 1", r"seed in \[grid\] is 1; give a list"),
        ("[grid]\nseed = []", r"seed in \[grid\] is \[\]; give a list"),
        ("seed = 1\n[grid]\nseed = [1]", "seed for all cells and in"),
        ("grid = 1", r"write a table \[grid\]"),
        ("cells = 1", r"write a table \[\[cells\]\]"),
        ("seed = 1", "has no cells"),
        ("[[cells]]\nseed = 2020-01-01", "seed is datetime"),
        ("[grid]\nseed = [0, 1, 0]", "cells 0 and 2 have the same settings"),
        ("seed = ", "is not valid TOML"),
        (f"seed = {'9' * 5000}", "is not valid TOML .*4300"),
        ("seed = 0x" + "f" * 17, "seed has a number of more than 64 bits"),
        ('[[cells]]\ndata = "a\\u0000b"', "cells has a null character in a text"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, text, message):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_cells(path, NAMES)


@pytest.mark.parametrize("content", ["3", "null", '["sweep"]', "{}"])
def test_a_file_of_the_user_in_the_place_of_the_result_stays(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(InputError, match=r"sweep\.json is not the file of a sweep; move it away"):
        Sweep(tmp_path, [])


def test_settings_are_those_of_the_command_line(file):
    path = file(
        '[grid]\nlambda = [0.25]\nobjective = ["distill=1,unsup=0.1"]\nseed = [3]\nsparsity = ["auto"]\n'
        "protect = [['0', '1.2']]\ndev = [['demo', 'stsb']]\n",
        finetune=None,
        reconstruct=None,
        **{"train-batch-size": 8, "positives-dropout": 0.2},
    )
    [(_, plan)] = read_plans(path)
    assert plan.scoring.objective.alignment_weight == 0.25 and plan.scoring.dropout == 0.2
    assert plan.training is not None and plan.training.objective == {"distill": 1, "unsup": 0.1}
    assert plan.training.batch_size == 8 and (plan.scoring.seed, plan.training.seed) == (3, 3)
    assert plan.recipe.auto and plan.recipe.reconstruct and plan.recipe.protect == ("0", "1.2")
    assert plan.dev is not None and plan.dev.names == ("demo", "stsb")
    assert plan.stages() == ["score", "prune", "finetune", "eval"]


def test_the_file_and_the_job_array_of_the_page(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "use" / "sweep.md").read_text()
    path = tmp_path / "sweep.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    plans = [plan for _, plan in read_plans(path)]
    assert f"--array=0-{len(plans) - 1}%" in page
    assert plans[-2].method == "random" and plans[-1].scoring.objective.alignment_weight == 0.25
    assert len({(plan.model.name, plan.recipe.sparsity, plan.scoring.seed) for plan in plans[:24]}) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nsparsity = [1.5]", "cell 0: --sparsity 1.5 is outside 0 to 1"),
        ("[grid]\nsparsity = [0.1]\nseed = [0, 'one']", "cell 1: Invalid value for '--seed'"),
        ("[grid]\nsparsity = [0.1]\nportable = [1]", "cell 0: portable is 1; give true or false"),
        ("[grid]\nsparsity = [true]", "cell 0: sparsity is true; give a value"),
        ("[grid]\nsparsity = [0.1]\nmethod = ['tailor']", "Cell 0: --method 'tailor' is unknown"),
        ("[grid]\nseed = [1]", "Cell 0: Nothing says how much to prune"),
        ("[grid]\nsparsity = [0.1]\nlambda = [2]", "cell 0: --lambda 2.0 is outside"),
        ("[grid]\nsparsity = [0.1, '0.1']", "Cells 0 and 1 are the same"),
        ("[grid]\nsparsity = [0.1]\nworkdir = ['x']", "key 'workdir'"),
        ("[grid]\nsparsity = [0.1]\nnproc = [2]", "key 'nproc'"),
    ],
)
def test_bad_values_end_with_a_sentence(file, capsys, text, message):
    assert main(["sweep", str(file(text))]) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert not Path("sparsecse-sweep").exists()


def test_a_sweep_cell_by_cell_and_then_as_a_whole(file, capsys, tmp_path):
    path = str(file("[grid]\nsparsity = [0.25]\nseed = [0, 1]\n[[cells]]\nsparsity = 0.5"))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["sweep", path, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert call("--cell", "3")[0] == 2
    code, out, _ = call("--list")
    assert code == 0 and out.count("waiting") == 3 and not Path("sparsecse-sweep").exists()
    code, out, err = call("--cell", "2", "--json")
    [cell] = json.loads(out)["cells"]
    assert code == 0 and (cell["number"], cell["result"]["sparsity"]) == (2, 0.5) and "Cell 2 (sparsity 0.5)" in err
    assert call("--list")[1].count("finished") == 1
    for number in (0, 1):
        assert call("--cell", str(number))[0] == 0
    code, table, err = call()
    content = json.loads(Path("sparsecse-sweep/sweep.json").read_text())
    assert code == 0 and "Cell" not in err  # nothing was measured again
    assert [cell["state"] for cell in content["cells"]] == ["finished"] * 3
    assert [group["cells"] for group in content["groups"]] == [2, 1]
    assert Path("sparsecse-sweep/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert max(map(len, table.splitlines())) <= 80 and "0.25" in table and "±" in table
    # Scores by gradients have no seed: all cells share them, and the dense model's figures.
    for stage, names in (("score", "score-*"), ("eval-dense", "dense-*")):
        [shared] = Path("sparsecse-sweep/shared").glob(names)
        record = Workdir(shared).need(stage)
        assert {Workdir(cell["folder"]).need(stage) == record for cell in content["cells"]} == {True}
    # A run directory like any other.
    assert main(["inspect", content["cells"][0]["folder"], "--json"]) == 0
    # The data are others now: what was measured does not belong to it.
    data = tmp_path / "pairs.tsv"
    data.write_text(data.read_text() + "the cat\tthe mat\t1.5\n")
    code, _, err = call()
    assert code == 2 and "was measured with another data" in err


def test_a_model_that_was_corrected_is_scored_again(file, tmp_path, sentence_folder, monkeypatch):
    model = shutil.copytree(sentence_folder, tmp_path / "model")
    plans = read_plans(file("method = 'magnitude'\n[grid]\nsparsity = [0.25]", model=str(model)))

    def stopped(cells: Sequence[Cell]) -> Iterator[Outcome]:
        """What is shared, and then no cell."""
        return map(attempt, [cell for cell in cells if not isinstance(cell.run, CellJob)])

    Sweep(tmp_path / "out", plans).measure(stopped)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    again = counting(monkeypatch)
    Sweep(tmp_path / "out", plans).measure(stopped)
    assert [stage for _, stage in again] == ["score", "eval-dense"]


def counting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The (folder, stage) of every stage that does its work from now on."""
    done: list[tuple[str, str]] = []
    plain = Workdir.run_stage

    def run_stage(self, stage, inputs, settings, work, **how):
        record, reused = plain(self, stage, inputs, settings, work, **how)
        if not reused:
            done.append((self.path.name, stage))
        return record, reused

    monkeypatch.setattr(Workdir, "run_stage", run_stage)
    return done


def test_settings_that_look_alike_are_not_averaged(tmp_path):
    models = [str(tmp_path / place / "model") for place in ("one", "two")] + [str(tmp_path / "other")]
    for model in models:
        Path(model).mkdir(parents=True)

    def cell(figure: float, **settings: object) -> dict:
        figures = {"STS": {"dense": 80.0, "pruned": figure}}
        result = {"figures": figures, "sparsity": 0.5, "parameters": 1, "dense_parameters": 2}
        return {"state": "finished", "settings": settings, "result": result}

    def seeds(model: str, lam: float, figure: float) -> list[dict]:
        return [cell(figure + seed, model=model, seed=seed, **{"lambda": lam}) for seed in (0, 2)]

    cells = [*seeds(models[0], 0.1234567, 60), *seeds(models[1], 0.1234567, 70), *seeds(models[2], 0.1234568, 50)]
    groups = summary.groups_of({"cells": cells})
    assert [group.figures["STS"].mean for group in groups] == [61, 71, 51]
    assert [group.settings["model"] for group in groups] == [*models[:2], "other"]
    assert len({group.settings["lambda"] for group in groups}) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_in_the_middle_of_a_cell(file, tmp_path, monkeypatch):
    path = file("method = 'random'\n[grid]\nsparsity = [0.25, 0.5]")
    plans = read_plans(path)
    Sweep(tmp_path / "whole", plans).measure()
    wanted = Sweep(tmp_path / "whole", plans).content("sweep.toml")

    def killed_at(number: int) -> Callable[[Sequence[Cell]], Iterator[Outcome]]:
        """One process for each cell; that of one dies once it has pruned."""

        def engine(cells: Sequence[Cell]) -> Iterator[Outcome]:
            for place, cell in enumerate(cells):
                if isinstance(cell.run, CellJob) and place == number:
                    if (child := os.fork()) == 0:
                        monkeypatch.setattr("sparsecse.stages.pipeline.run_text", die)
                        attempt(cell)
                        os._exit(0)
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
                    raise KeyboardInterrupt
                yield attempt(cell)

        return engine

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(KeyboardInterrupt):
        Sweep(tmp_path / "out", plans).measure(killed_at(1))
    found = Sweep(tmp_path / "out", plans)
    states = [cell["state"] for cell in found.content("sweep.toml")["cells"]]
    assert states == ["finished", "waiting"]
    again = counting(monkeypatch)
    found.measure()
    left = found.cells[1].key
    assert again == [(left, "eval")]
    resumed = found.content("sweep.toml")
    tables = [summary.table_of(summary.groups_of(content)) for content in (wanted, resumed)]
    assert tables[0] == tables[1] and len(tables[0][1]) == 2


def test_a_cell_that_fails_is_told_and_tried_again(file, capsys, monkeypatch):
    path = str(file("[grid]\nsparsity = [0.25, 0.5]"))
    from sparsecse.sweeps import jobs

    plain = jobs.run

    def run(workdir, plan):
        if plan.recipe.sparsity == 0.25:
            raise RuntimeError("out of memory\nmore")
        return plain(workdir, plan)

    monkeypatch.setattr("sparsecse.cli.sweep._opened", lambda *_: here())
    monkeypatch.setattr(jobs, "run", run)
    assert main(["sweep", path]) == 1
    captured = capsys.readouterr()
    assert "Cell 0 (sparsity 0.25) failed: RuntimeError: out of memory" in captured.err
    assert "1 of 2 cells" in captured.out
    cells = json.loads(Path("sparsecse-sweep/sweep.json").read_text())["cells"]
    assert [cell["state"] for cell in cells] == ["failed", "finished"]
    monkeypatch.setattr(jobs, "run", plain)
    assert main(["sweep", path]) == 0


def here():
    import contextlib

    from sparsecse.cells.cells import here as engine

    return contextlib.nullcontext((engine, Room()))


class Kept(dict):
    def keep(self, key: str, result: dict) -> None:
        assert key not in self
        self[key] = result


def test_a_process_that_dies_is_replaced_and_its_cell_tried_again(tmp_path):
    log = tmp_path / "log"
    cells = [
        Cell("twice", Job(log, "twice", deaths=2)),
        Cell("plain", Job(log, "plain")),
        Cell("always", Job(log, "always", deaths=99)),
        Cell("wrong", Job(log, "wrong", error=InputError("no such file"))),
        Cell("broken", Job(log, "broken", error=KeyError("x"))),
    ]
    kept, failed = Kept(), {}
    with processes(1) as engine:
        measure_cells(cells, kept, engine, failed=lambda outcome: failed.update({outcome.key: outcome.error}))
        assert set(kept) == {"twice", "plain"} and kept["plain"]["pid"] != os.getpid()
        measure_cells([Cell("more", Job(log, "more"))], kept, engine)
    assert str(failed["wrong"]) == "no such file"
    assert "KeyError" in str(failed["broken"]) and "Traceback" in failed["broken"].details
    assert "ended unasked 3 times (SIGKILL)" in str(failed["always"])
    counts = Counter(log.read_text().split())
    assert counts == {"twice": 3, "plain": 1, "always": ATTEMPTS, "wrong": 1, "broken": 1, "more": 1}
    with pytest.raises(ProcessLookupError):
        os.kill(kept["more"]["pid"], 0)  # it ended with the engine


def test_the_threads_are_shared_out():
    assert [Room(4, 8).share(cells) for cells in (1, 2, 4, 12)] == [8, 4, 2, 2]
    assert Room(4, 2).share(4) == 1 and Room(2, 64, most=16).share(9) == 16


def test_ray_is_named_where_it_is_missing(file, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["sweep", str(file("[grid]\nsparsity = [0.25]")), "--engine", "ray"]) == 2
    assert 'pip install "sparsecse[ray]"' in capsys.readouterr().err
    assert main(["sweep", str(file("[grid]\nsparsity = [0.25]")), "--engine", "rya"]) == 2
    assert "Did you mean ray?" in capsys.readouterr().err


def test_the_engine_ray(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # of its processes
    from sparsecse.cells.cluster import LOCAL, on_ray, ray_cluster

    log = tmp_path / "log"
    cells = [Cell(name, Job(log, name, deaths)) for name, deaths in (("once", 1), ("plain", 0), ("always", 99))]
    kept, failed = Kept(), {}
    with ray_cluster(LOCAL, 2) as (ray, total, largest):
        assert (total, largest) == (2, 2)
        measure_cells(cells, kept, on_ray(ray, 2), failed=lambda outcome: failed.update({outcome.key: outcome.error}))
    assert set(kept) == {"once", "plain"} and "ended unasked 3 times" in str(failed["always"])
