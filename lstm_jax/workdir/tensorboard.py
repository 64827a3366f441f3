"""TensorBoard event files, one per attempt, written without threads and without open handles.

tensorboardX makes the summaries and the checksums. Its SummaryWriter is not used: it takes a
thread, a queue and a file handle per run, and a process may train hundreds of runs at once.
"""

from __future__ import annotations

import functools
import importlib
import re
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.workdir.files import append

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.")
_BUFFER_BYTES = 1 << 16
_BUFFER_SECONDS = 5.0
# The session's end in TensorBoard's HParams; a run that can be resumed has not ended.
_SESSION = {"completed": "STATUS_SUCCESS", "diverged": "STATUS_FAILURE", "failed": "STATUS_FAILURE"}


class EventFile:
    """A fresh event file in `folder`; events wait in memory until `flush`, 64 KB or 5 seconds.

    TensorBoard hides what earlier attempts logged at `purge_step` or later.
    """

    def __init__(self, folder: Path, purge_step: int = 0):
        stamps = [int(m[1]) for path in folder.glob("events.*") if (m := _NAME.match(path.name))]
        # TensorBoard reads files in the order of their names; a clock may have been moved back.
        stamp = max([int(time.time()), *(s + 1 for s in stamps)])
        self.path = folder / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}"
        self._purge_step = purge_step
        self._buffer = bytearray()
        self._flushed = time.monotonic()
        self._started = False

    def add(self, step: int, summary: Any) -> None:
        """Queue one tensorboardX summary."""
        self._start()
        self._event(step=int(step), summary=summary)
        late = time.monotonic() - self._flushed > _BUFFER_SECONDS
        if late or len(self._buffer) > _BUFFER_BYTES:
            self.flush()

    def flush(self, sync: bool = False) -> None:
        """Append what waits to the file; `sync` forces it to the disk."""
        if not self._buffer:
            return
        append(self.path, bytes(self._buffer), sync)
        self._buffer.clear()
        self._flushed = time.monotonic()

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        self._event(file_version="brain.Event:2")
        # Every attempt says START: TensorBoard takes the first it sees for the run's beginning, and
        # only those after it for restarts.
        log = _proto("event").SessionLog
        start = log(status=log.SessionStatus.Value("START"))
        self._event(step=self._purge_step, session_log=start)

    def _event(self, **fields: Any) -> None:
        from tensorboardX.record_writer import masked_crc32c  # start-up

        data = _proto("event").Event(wall_time=time.time(), **fields).SerializeToString()
        header = struct.pack("<Q", len(data))
        self._buffer += header + struct.pack("<I", masked_crc32c(header))
        self._buffer += data + struct.pack("<I", masked_crc32c(data))


def _proto(name: str) -> Any:
    """Generated code of tensorboardX, whose names exist only at run time."""
    return importlib.import_module(f"tensorboardX.proto.{name}_pb2")


# ---------------------------------------------------------------- summaries


def scalars(values: Mapping[str, float]) -> Any:
    """One point per curve; NaN too, for which tensorboardX would print a warning of its own."""
    Summary = _proto("summary").Summary
    return Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items()])


def text(tag: str, words: str) -> Any:
    from tensorboardX import summary  # start-up

    return summary.text(tag, words)


def histogram(tag: str, values: Any) -> Any | None:
    """Histogram of the finite values in TensorBoard's own buckets; None when there is none."""
    from tensorboardX import summary  # start-up

    values = np.asarray(values).astype(np.float64).reshape(-1)
    values = values[np.isfinite(values)]
    return summary.histogram(tag, values, bins=_buckets()) if values.size else None


@functools.cache
def _buckets() -> np.ndarray:
    """TensorBoard's buckets, +-1e-12 * 1.1^n up to 1e20: equal for all steps, so they compare."""
    edges = 1e-12 * 1.1 ** np.arange(775)
    return np.concatenate([-edges[::-1], [0.0], edges])


def image(tag: str, png: bytes) -> Any:
    """A PNG as it is; width and height stand in its header."""
    Summary = _proto("summary").Summary
    width, height = struct.unpack(">II", png[16:24])
    picture = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


def lines(category: str, charts: Mapping[str, Sequence[str]]) -> Any:
    """The Custom Scalars tab: in each chart all curves whose tags match one of its patterns."""
    from tensorboardX import summary  # start-up

    return summary.custom_scalars({category: {n: ["Multiline", p] for n, p in charts.items()}})


def margins(category: str, charts: Mapping[str, Sequence[str]]) -> Any:
    """The same tab: in each chart a curve a run with a band, of three tags (value, low, high)."""
    from tensorboardX import summary  # start-up

    return summary.custom_scalars({category: {n: ["Margin", t] for n, t in charts.items()}})


def hparams(
    values: Mapping[str, Any], metrics: Mapping[str, Any], status: str, group: str = ""
) -> list[Any]:
    """Summaries for the HParams tab, in the run itself: no sub-run with a timestamp.

    Runs of a `group` are one row, which shows the means of their metrics; all of them must have the
    same fields, which become the columns. A run without one says nothing of columns: TensorBoard
    takes those of whichever run says so first, and would not show what only other runs set.
    """
    from tensorboardX import summary  # start-up

    plain = {name: plain_value(value) for name, value in values.items()}
    experiment, start, end = summary.hparams(plain, dict(metrics))
    plugin = start.value[0].metadata.plugin_data
    data = _proto("plugin_hparams").HParamsPluginData.FromString(plugin.content)
    data.session_start_info.group_name = group
    plugin.content = data.SerializeToString()
    begun = [experiment, start] if group else [start]
    if status not in _SESSION:
        return begun
    # tensorboardX ends every session with success; say what it was.
    data = _proto("plugin_hparams").HParamsPluginData()
    data.session_end_info.status = _proto("api").Status.Value(_SESSION[status])
    end.value[0].metadata.plugin_data.content = data.SerializeToString()
    return [*begun, end]


def plain_value(value: Any) -> bool | int | float | str:
    """A type that the HParams tab shows; it drops NumPy numbers, tuples and None without a word."""
    if hasattr(value, "dtype") and np.ndim(value) == 0:
        value = np.asarray(value).item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return ",".join(str(plain_value(v)) for v in value)
    return "none" if value is None else str(value)
