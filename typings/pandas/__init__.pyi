"""Enough of pandas for a type checker: it has no types of its own."""

from typing import Any

def __getattr__(name: str) -> Any: ...
