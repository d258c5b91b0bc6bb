"""Reports: records in, tables, figures and one page out. Nothing is ever run again."""

from twin_eval.report.comparison import Comparison, compare
from twin_eval.report.files import ReportFiles, write_report
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
    "ReportFiles",
    "Run",
    "SummaryRow",
    "clamped_note",
    "compare",
    "episodes_csv",
    "format_rate",
    "gather",
    "load_runs",
    "summarise",
    "summary_csv",
    "summary_text",
    "write_report",
]
