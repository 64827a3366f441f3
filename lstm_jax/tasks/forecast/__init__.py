"""Forecasting: series, windows, the task and its figures."""
