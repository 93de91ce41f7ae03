"""`sparsecse doctor`: facts of this installation, and the reasons for them."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from sparsecse import doctor, processors
from sparsecse.cli import main
from sparsecse.kernels import dispatch
from sparsecse.processors import Quota


def test_the_command(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    install = {"extra": "onnx", "packages": ["onnx"], "command": "pip install 'sparsecse[onnx]'"}
    monkeypatch.setattr(doctor, "missing", lambda: [install])
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__ and facts["environment"]["OMP_NUM_THREADS"] == "2"
    assert facts["threads"]["used"] >= 1 and facts["devices"]
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert facts["threads"]["reason"] in out and facts["kernels"]["implementation"] in out
    assert install["command"] in out and "without [onnx]" in out


@pytest.mark.parametrize(
    ("affinity", "quota", "used", "reason"),
    [
        (16, None, 8, "what torch takes"),
        (4, None, 4, "the affinity mask"),
        (16, Quota(1.5, "cpu.max"), 2, "the CPU quota in cpu.max"),
        (4, Quota(6.0, "cpu.max"), 4, "the affinity mask"),
    ],
)
def test_why_so_many_threads(monkeypatch, affinity, quota, used, reason):
    monkeypatch.setattr(processors, "affinity", lambda: affinity)
    monkeypatch.setattr(processors, "cgroup_quota", lambda: quota)
    facts = doctor.threads(8)
    assert facts["used"] == used and facts["reason"].startswith(reason)


def test_what_computes(monkeypatch):
    monkeypatch.setenv("SPARSECSE_KERNELS", "reference")
    if dispatch.native_extension() is not None:
        assert doctor.kernels()["mend"] == "unset SPARSECSE_KERNELS"
    monkeypatch.setattr(dispatch, "native_extension", lambda: None)
    assert doctor.kernels()["implementation"] == "reference" and "g++" in doctor.kernels()["mend"]


def test_what_is_missing(monkeypatch):
    installed = {"matplotlib": "3.9", "torch": "2.9", "numpy": "2.0", "openvino": "2020.1", "nncf": "3.5"}

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor, "version", version)
    missing = {one["extra"]: one for one in doctor.missing()}
    if not missing:
        pytest.skip("sparsecse is not installed, so that its extras are not known")
    assert "plot" not in missing and "test" not in missing
    assert missing["transfer"]["command"] == "pip install 'sparsecse[transfer]'"
    assert missing["openvino"]["packages"] == ["openvino>=2026.4"]


def test_a_count_of_threads_that_ends_the_process(capsys):
    assert main(["eval", "demo", "--threads", "1000"]) == 2
    assert "--threads 1000 is more than" in capsys.readouterr().err
