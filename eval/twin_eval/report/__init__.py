"""Reports: records in, tables, figures and one page out. Nothing is ever run again."""

from twin_eval.report.comparison import Comparison, compare
from twin_eval.report.files import ReportFiles, write_report
from twin_eval.report.robustness import ConfigChange, compare_configs, robustness_text
from twin_eval.report.runs import Run, gather, load_runs
from twin_eval.report.tables import (
    SummaryRow,
    clamped_note,
    episodes_csv,
    format_rate,
    summarise,
    summary_csv,
    summary_text,
)

__all__ = [
    "Comparison",
    "ConfigChange",
    "ReportFiles",
    "Run",
    "SummaryRow",
    "clamped_note",
    "compare",
    "compare_configs",
    "episodes_csv",
    "format_rate",
    "gather",
    "load_runs",
    "robustness_text",
    "summarise",
    "summary_csv",
    "summary_text",
    "write_report",
]
