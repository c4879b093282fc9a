"""Why the metrics are what they are: curves, errors, breakdowns, pictures, comparisons."""

from detectron2.evaluation.analysis.comparison import Comparison, compare
from detectron2.evaluation.analysis.diagnosis import Diagnosis, diagnose
from detectron2.evaluation.analysis.report import write_report
from detectron2.evaluation.analysis.run import EvaluatedRun, read_run, run_of

__all__ = [
    "Comparison",
    "Diagnosis",
    "EvaluatedRun",
    "compare",
    "diagnose",
    "read_run",
    "run_of",
    "write_report",
]
