"""The report: one HTML page that needs nothing else, made from records."""

from mosa.results.report.build import Missing, missing_runs, write_report

__all__ = ["Missing", "missing_runs", "write_report"]
