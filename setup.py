"""Builds sparsecse._native, the CPU kernels of csrc/, without PyTorch; the install goes on without it if that fails."""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nanobind
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# nanobind's stable ABI begins with Python 3.12; older and free-threaded interpreters get a build of their own.
STABLE_ABI = sys.version_info >= (3, 12) and not sysconfig.get_config_var("Py_GIL_DISABLED")
# csrc/ is written in vector types of GCC and Clang, which MSVC lacks, and counts in `long`, which has 32 bits there.
NATIVE = sys.platform != "win32"


class BuildNative(build_ext):
    """Compiles the sources side by side, and explains a failure in one sentence."""

    def build_extension(self, ext: Extension) -> None:
        compile_all = self.compiler.compile

        def compile_side_by_side(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1)) as pool:
                objects = pool.map(lambda source: compile_all([source], **options), sources)
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_side_by_side
        try:
            super().build_extension(ext)
        except Exception as error:
            print(
                f"warning: the CPU kernels (sparsecse._native) could not be compiled: {error}\n"
                "warning: sparsecse works without them, slower, through PyTorch; they need g++ or clang++ with C++17",
                file=sys.stderr,
            )
            raise


def native_extension() -> Extension:
    nanobind_source = Path(nanobind.source_dir())
    csrc = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "csrc").iterdir())]
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    # SPARSECSE_SANITIZE=address,undefined is what `make asan` sets.
    sanitize = os.environ.get("SPARSECSE_SANITIZE")
    extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"] if sanitize else []
    macros: list[tuple[str, str | None]] = [("NDEBUG", None), ("NB_COMPACT_ASSERTIONS", None)]
    if STABLE_ABI:
        macros.append(("Py_LIMITED_API", "0x030C0000"))
    return Extension(
        "sparsecse._native",
        sources=[path for path in csrc if path.endswith(".cpp")],
        depends=[path for path in csrc if path.endswith(".h")],
        include_dirs=[
            nanobind.include_dir(),
            str(nanobind_source),
            str(nanobind_source.parent / "ext" / "robin_map" / "include"),
        ],
        define_macros=macros,
        extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-strict-aliasing", *openmp, *extra],
        extra_link_args=[*openmp, *extra],
        language="c++",
        py_limited_api=STABLE_ABI,
        # Where an incomplete install is worse than none (wheels, CI), SPARSECSE_REQUIRE_NATIVE=1 makes a failure final.
        optional=not os.environ.get("SPARSECSE_REQUIRE_NATIVE"),
    )


def wheel_tags() -> dict[str, str]:
    """Where a wheel of this build can be installed."""
    if not NATIVE:  # without compiled parts, but for this system alone: others compile their own
        return {"plat_name": sysconfig.get_platform()}
    return {"py_limited_api": "cp312"} if STABLE_ABI else {}


if not NATIVE:
    print("sparsecse is installed without its CPU kernels, which Windows does not get; it computes through PyTorch.")
setup(
    ext_modules=[native_extension()] if NATIVE else [],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": wheel_tags()},
)
