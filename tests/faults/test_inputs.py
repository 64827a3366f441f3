"""Files of every kind with random damage: an answer in time, and nothing touched elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import random
import signal
import struct
from pathlib import Path

import faulty
import numpy as np
import pytest
import scipy.io

from lstm_jax.config import default_config
from lstm_jax.data import files
from lstm_jax.errors import UsageError
from lstm_jax.sweep.define import plan
from lstm_jax.tasks import readers
from lstm_jax.tasks.forecast.forecast import AIRLINE
from lstm_jax.tasks.forecast.series import read_series
from lstm_jax.tasks.language import corpus
from lstm_jax.tasks.music import matfile
from lstm_jax.training import reproduce, saved
from lstm_jax.workdir.files import read_json
from lstm_jax.workdir.metrics import open_writer, read_metrics

pytestmark = pytest.mark.faults
SECONDS, BATCH = 60, 20


def a_mat() -> bytes:
    cells = np.empty((1, 3), object)
    for i in range(3):
        cells[0, i] = np.arange(12.0).reshape(3, 4)
    out = io.BytesIO()
    scipy.io.savemat(out, {"traindata": cells}, do_compression=True)
    return out.getvalue()


def an_npz() -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, train=np.arange(12.0))
    return out.getvalue()


def an_idx() -> bytes:
    return struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 28, 28) + bytes(2 * 28 * 28)


METRICS = b"".join(
    json.dumps({"step": n, "split": "train", "loss": n / 7}).encode() + b"\n" for n in range(1, 30)
)
STATUS = json.dumps({"status": "running", "step": 30, "heartbeat": 1.5, "attempt": 1}).encode()
MANIFEST = json.dumps({"versions": {"jax": "1"}, "git": {"commit": "c"}, "earlier": []}).encode()
RUN = json.dumps({"seed": 0, "task": {"name": "adding"}, "cell": {"name": "lstm"}}).encode()
TS = b"@classLabel true a b\n@data\n1,2,3:4,5,6:a\n7,8,9:1,2,3:b\n"
SWEEP = json.dumps({"version": 1, "study": "s", "varied": ["seed"], "packs": [[0]]}).encode()


def metrics(path: Path) -> None:
    read_metrics(path.parent)
    open_writer(path.parent, resume_step=20).scalars(25, "train", {"loss": 1.0})
    pairs = [(line["step"], line["split"]) for line in read_metrics(path.parent)]
    assert len(pairs) == len(set(pairs)) and max(pairs)[0] == 25


def words(path: Path) -> None:
    text = readers.text(files.read(path), str(path))
    corpus.tokenize(text, str(path), "words")


SERIES = default_config("forecast").task
# What a good file holds, its name, and who reads it.
INPUTS = {
    "csv": (AIRLINE.read_bytes(), "x.csv", lambda p: read_series(p, SERIES)),
    "mat": (a_mat(), "x.mat", lambda p: matfile.read(files.read(p), p.name, ("traindata",))),
    "idx": (an_idx(), "x.idx", lambda p: readers.idx(files.read(p), p.name, (None, 28, 28))),
    "npz": (an_npz(), "x.npz", lambda p: readers.npz(files.read(p), p.name)),
    "gz": (gzip.compress(an_idx()), "x.gz", files.read),
    "ts": (TS, "x.ts", lambda p: readers.ts(files.read(p), p.name)),
    "text": (b"the cat sat\non the mat\n" * 9, "x.txt", words),
    "metrics.jsonl": (METRICS, "metrics.jsonl", metrics),
    "manifest": (MANIFEST, "manifest.json", lambda p: reproduce.differences(p.parent, p.parent)),
    "config.json": (RUN, "config.json", lambda p: saved.saved_config(p.parent)),
    "summary.json": (STATUS, "summary.json", lambda p: saved.summary(p.parent)),
    "status.json": (STATUS, "status.json", read_json),
    "sweep.json": (SWEEP, "sweep.json", lambda p: plan.read_plan(p.parent)),
}


def damaged(dice: random.Random, content: bytes) -> bytes:
    """One to four flips, cuts, repeats, bursts of noise, or numbers that became huge."""
    out = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        a, b = sorted(dice.randrange(len(out) + 1) for _ in range(2))
        how = dice.randrange(5)
        if how == 0 and out:
            out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
        elif how == 1:
            del out[a:b]
        elif how == 2:
            out[a:a] = out[a:b] * dice.randint(1, 3)
        elif how == 3:
            out[a:a] = dice.randbytes(dice.randint(1, 40))
        else:
            out = bytearray(out.replace(b"1", b"9" * dice.randint(1, 400), 2))
    return bytes(out)


def late(number, frame):
    raise TimeoutError(f"no answer within {SECONDS} s")


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("batch", faulty.cases(500 // BATCH))
def test_a_damaged_file_is_answered(kind, batch, tmp_path):
    content, name, read = INPUTS[kind]
    (tmp_path / "beside").write_text("untouched")
    signal.signal(signal.SIGALRM, late)
    for case in range(batch * BATCH, (batch + 1) * BATCH):
        folder = tmp_path / "in" / str(case)
        folder.mkdir(parents=True)
        (folder / name).write_bytes(damaged(random.Random(case), content))
        signal.alarm(SECONDS)
        try:
            read(folder / name)
        except UsageError as error:
            assert str(error)
        finally:
            signal.alarm(0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beside", "in"]
    assert (tmp_path / "beside").read_text() == "untouched"
