"""Benchmarks: each file prints what it measured, and asserts nothing."""
