"""`sparsecse doctor`: what this installation computes with, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsecse.cli import options
from sparsecse.cli.output import show


def doctor(*, json: options.Json = False) -> None:
    """Show versions, kernels, threads and devices of this installation, why they are so, and what is missing."""
    from sparsecse.cli.tables import rows_table
    from sparsecse.doctor import examine

    facts = examine()
    show(json, facts, rows_table("This installation", ("what", "found"), _rows(facts)))


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine, kernels, threads = facts["machine"], facts["kernels"], facts["threads"]
    computed = ", ".join(kernels["precisions"]) or "float32 through PyTorch"
    level = f", {kernels['level']}" if kernels["level"] else ""
    quota = "no CPU quota" if threads["quota"] is None else f"CPU quota {threads['quota']:g}"
    rows = [
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("machine", f"{machine['cpu']}, {machine['platform']}"),
        ("instruction sets", ", ".join(machine["instruction_sets"]) or "not known"),
        ("kernels", f"{kernels['implementation']}{level}: {computed}"),
        ("threads", f"{threads['used']}, by {threads['reason']}"),
        (
            "",
            f"torch {threads['torch']}, affinity {threads['affinity']} of {threads['processors']} processors, {quota}",
        ),
    ]
    rows += [("device", device) for device in facts["devices"]]
    rows += [("environment", f"{name}={value}") for name, value in facts["environment"].items()]
    if kernels["mend"]:
        rows.append(("to mend", kernels["mend"]))
    for one in facts["missing"]:
        rows.append((f"without [{one['extra']}]", f"{', '.join(one['packages'])}: {one['command']}"))
    return rows
