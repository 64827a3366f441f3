"""Arrays by name in files: safetensors, npz; read only: ONNX, torch's .pt where that is installed.

Nothing is ever unpickled: npz without object arrays, .pt with `weights_only=True`.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_bytes
from safetensors.numpy import save as save_bytes

from lstm_jax.convert.layers import flat
from lstm_jax.errors import UsageError
from lstm_jax.workdir.files import replacing, write_bytes

NOTE = "lstm_jax"  # the entry of a file's metadata that holds ours, as JSON
Loaded = tuple[dict[str, Any], dict[str, Any]]


def load(path: Path) -> Loaded:
    """({name: array}, what `save` was told about them).

    Raises: UsageError for a file that is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise UsageError(f"no file {str(path)!r}")
    return _kind(path, LOADERS)(path)


def save(path: Path, arrays: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Write a .safetensors or .npz file whole."""
    write = _kind(path, SAVERS)
    write(path, {k: np.ascontiguousarray(v) for k, v in arrays.items()}, json.dumps(notes))


def _kind(path: Path, table: Mapping[str, Callable]) -> Callable:
    if path.suffix not in table:
        pickled = path.suffix in (".pkl", ".pickle", ".joblib")
        why = "a pickle runs code when it is opened; " if pickled else ""
        raise UsageError(
            f"{path}: {why}expected one of {', '.join(table)}. Elsewhere: "
            "safetensors.numpy.save_file(arrays, FILE) or numpy.savez(FILE, **arrays)"
        )
    return table[path.suffix]


def _load_safetensors(path: Path) -> Loaded:
    data = path.read_bytes()
    try:
        arrays = load_bytes(data)
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return arrays, _notes(header.get("__metadata__", {}).get(NOTE, "{}"))


def _save_safetensors(path: Path, arrays: dict[str, Any], notes: str) -> None:
    write_bytes(path, save_bytes(arrays, {NOTE: notes}))


def _load_npz(path: Path) -> Loaded:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path} is damaged, or holds objects: {error}") from None
    return arrays, _notes(str(arrays.pop(NOTE, "{}")))


def _save_npz(path: Path, arrays: dict[str, Any], notes: str) -> None:
    with replacing(path) as tmp, tmp.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{NOTE: np.array(notes)})


def _load_torch(path: Path) -> Loaded:
    try:
        import torch  # optional  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            f"{path} needs torch to be read: pip install torch, or there: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises its pickle's errors, whatever they are
        what = (
            str(error).partition("Unsupported global: ")[2].split(" was ")[0]
            or type(error).__name__
        )
        raise UsageError(
            f"{path} holds more than tensors ({what}), or is damaged; expected what "
            "torch.save(model.state_dict(), FILE) writes"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping):
        raise UsageError(f"{path} holds {type(state).__name__}; expected a state_dict")
    return {name: array.numpy() for name, array in flat(state, ".").items()}, {}


def _load_onnx(path: Path) -> Loaded:
    try:
        whole = importlib.import_module("lstm_jax.convert.onnx.whole")  # optional
    except ImportError:
        raise UsageError(f"{path} needs onnx to be read: pip install 'lstm-jax[onnx]'") from None
    return whole.load(path)


def _notes(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


LOADERS = {
    ".safetensors": _load_safetensors,
    ".npz": _load_npz,
    ".pt": _load_torch,
    ".pth": _load_torch,
    ".onnx": _load_onnx,
}
SAVERS = {".safetensors": _save_safetensors, ".npz": _save_npz}
