"""Reports: a sweep's trials -> statistics, words, figures, one page. See docs/reports.md."""

from lstm_jax.report.build import build_report

__all__ = ["build_report"]
