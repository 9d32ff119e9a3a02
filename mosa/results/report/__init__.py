"""The report: one HTML page that needs nothing else, made from records."""

from mosa.results.report.build import write_report
from mosa.results.report.missing import Missing, missing_runs

__all__ = ["Missing", "missing_runs", "write_report"]
