"""What a run records about itself: atomic JSON files, and the manifest of where it came from."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lstm_jax import plugins
from lstm_jax.config.fields import resolve
from lstm_jax.config.fields import to_json as config_to_json
from lstm_jax.engines.native.build import told
from lstm_jax.workdir.files import CREATED, write_json, write_text

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore",
    "ml-collections", "numpy", "scipy", "tensorboardX", "matplotlib",
)  # fmt: skip
_OF_AN_ATTEMPT = ("created", "versions", "host", "devices", "processors", "flags")
_MAX_ATTEMPTS = 100
_MAX_DIFF = 200_000  # characters of `git diff` kept in the manifest; its hash is kept always


def write_config(workdir: str | Path, config: Any) -> None:
    """config.json, the resolved config with its sections, and the files of the parts it names."""
    plugins.keep(Path(workdir), resolve(config).flat.values())
    write_text(Path(workdir) / "config.json", config_to_json(config))


def write_manifest(
    workdir: str | Path, config: ConfigDict, argv: Sequence[str] | None = None, **extra: Any
) -> dict[str, Any]:
    """manifest.json: versions, commit, config hash, command, host, devices, flags; returned too.

    A run that resumes keeps what its earlier attempts were made with.
    """
    manifest = describe(config, argv) | extra
    if earlier := _earlier(Path(workdir) / "manifest.json"):
        manifest["earlier"] = earlier[-_MAX_ATTEMPTS:]
    write_json(Path(workdir) / "manifest.json", manifest)
    return manifest


def _earlier(path: Path) -> list[dict[str, Any]]:
    """The attempts that an existing manifest tells of, without commands and diffs."""
    try:
        found = json.loads(path.read_text())
        short = {k: v for k, v in found.items() if k in _OF_AN_ATTEMPT}
        short["git"] = {k: v for k, v in found["git"].items() if k != "diff"}
        return [*found.get("earlier", []), short]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def describe(config: ConfigDict, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The manifest as a dict: what a second run needs to be the same, or to say why it is not."""
    command = list(sys.argv if argv is None else argv)
    return {
        "created": time.strftime(CREATED, time.gmtime()),
        "command": [os.path.basename(command[0]), *command[1:]] if command else [],
        "config_hash": resolve(config).hash,
        "seed": int(config.seed),
        "versions": versions(),
        "git": git_state(),
        "host": platform.node(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "devices": devices(),
        "flags": flags(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, this library and what it computes with."""
    found = {"python": platform.python_version()}
    for name in ("lstm-jax", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def devices() -> dict[str, Any]:
    """Backend, kind and number of devices, and of processes."""
    return {
        "backend": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }


def flags() -> dict[str, Any]:
    """What changes numbers without being in the config: XLA's flags, JAX's variables and modes."""
    found: dict[str, Any] = {
        name: value
        for name, value in sorted(os.environ.items())
        if name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
        or (name.startswith("JAX_") and "CACHE" not in name and "COORDINATOR" not in name)
    }
    for name in ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable"):
        found[name] = getattr(jax.config, name, None)
    return found | {"native": told()}


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of this library's checkout, whether it is changed, and how; empty when not in one."""
    here = Path(__file__).parent
    commit = _git(here, "rev-parse", "HEAD")
    if not commit or not _git(here, "ls-files", Path(__file__).name):
        return {"commit": "", "dirty": False, "diff": ""}
    diff = _git(here, "diff", "HEAD")
    return {
        "commit": commit.strip(),
        "dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no").strip()),
        "diff": diff[:_MAX_DIFF],
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else "",
    }


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
