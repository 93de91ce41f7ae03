"""Studies of what pruning does to an encoder: curves, controls and rivals, measured cell by cell and resumable."""

from sparsecse.studies.registry import STUDIES
from sparsecse.studies.setup import Setup, StudySettings
from sparsecse.studies.study import Cell, Study, can_draw, read_study, run_study, write_report

__all__ = ["STUDIES", "Cell", "Setup", "Study", "StudySettings", "can_draw", "read_study", "run_study", "write_report"]
