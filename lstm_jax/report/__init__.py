"""Reports: a sweep's trials -> statistics, words, figures, one page. See docs/reports.md."""

from lstm_jax.report.build import build_report
from lstm_jax.report.joint import build_joint

__all__ = ["build_joint", "build_report"]
