"""The annotations of the package's public functions, checked whenever a test calls one.

jaxtyping's import hook reads the modules below with beartype around every function. Arguments are
looked at once the function has taken them: what it refuses, it says itself. Users pay nothing;
the package names jaxtyping's types only where jaxtyping is loaded already.
"""

from __future__ import annotations

from typing import Any

import beartype
import jaxtyping

MODULES = ("lstm_jax.engines.unroll", "lstm_jax.model.layers")


PUBLIC = {"unroll", "trace", "__init__", "__call__"}  # other functions take each other's word


def taken(stub: Any) -> Any:
    """Checks arguments and result together; the hook's first look, at arguments alone, is none."""
    checked = stub.__name__ in PUBLIC and stub.__annotations__.get("return") is not Any
    return beartype.beartype(stub) if checked else stub


HOOK = jaxtyping.install_import_hook(MODULES, "typed.taken")
