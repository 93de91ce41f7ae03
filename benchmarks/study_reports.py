"""Write the table, the paragraph and the plot of every study in `results/studies` again, from its JSON file alone.

    python benchmarks/study_reports.py

`studies.sh` measures them. A file `<name>.json` or `<name>-<variant>.json` gives `.md` and `.png` beside it.
"""

from __future__ import annotations

from pathlib import Path

from studies import STUDIES

from sparsecse.studies.study import read_study, write_report

FOLDER = Path(__file__).parent / "results" / "studies"

for path in sorted(FOLDER.glob("*.json")):
    content = read_study(path)
    for written in write_report(STUDIES[content["study"]].load(), content, FOLDER, name=path.stem):
        print(written)
