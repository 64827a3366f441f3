"""Where data files come from: a folder of yours, the cache, or a verified download.

`data/datasets.py` has one literal table of every file with the sha256 of its bytes (of the unpacked
bytes where the source serves gzip), and nothing is used before they match. A download goes to a
`.part` file beside its place, goes on where it broke off, is checked, and only then moved there.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lstm_jax.data.datasets import DATASETS, Dataset, File
from lstm_jax.errors import UsageError, lookup
from lstm_jax.terminal import Bar, clock, start_live

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0  # silence longer than this is a stalled server
ATTEMPTS = 3  # per address
BACKOFF_SECONDS = 1.0  # doubled after each failure
CHUNK = 1 << 13
OFFLINE = "the host name does not resolve (offline?)"
UNPACKED_LIMIT = 1 << 30  # bytes that a .gz of unknown content may unpack to


class Corrupt(ValueError):
    """Bytes that are not the ones in the table."""


# ---------------------------------------------------------------------------------------------
# Finding


def cache_dir() -> Path:
    """LSTM_JAX_CACHE, or the user's cache folder."""
    import pooch  # start-up

    return Path(os.environ.get("LSTM_JAX_CACHE") or pooch.os_cache("lstm_jax")).expanduser()


def folders(data_dir: str = "") -> list[Path]:
    """The folders of yours that are searched, first one first."""
    given = [data_dir, os.environ.get("LSTM_JAX_DATA", "")]
    return [Path(folder).expanduser() for folder in given if folder]


def candidates(dataset: str, file: File, folder: Path) -> list[Path]:
    """Where `file` may lie in a folder: with its dataset or alone, packed or not."""
    names = [f"{dataset}/{file.name}", file.name, *file.aliases]
    return [folder / (name + suffix) for name in names for suffix in ("", ".gz")]


def find(dataset: str, file: File, data_dir: str = "") -> Path | None:
    """The first copy in a folder of yours or in the cache, not yet verified."""
    places = [p for folder in folders(data_dir) for p in candidates(dataset, file, folder)]
    places.append(cache_dir() / dataset / file.name)
    return next((place for place in places if place.is_file()), None)


def path(dataset: str, name: str, data_dir: str = "") -> Path:
    """A verified copy of one file of a dataset; read it with `read`.

    Looks in `data_dir`, then LSTM_JAX_DATA, then the cache, then downloads to the cache.
    UsageError where a file of yours is damaged or nothing can be downloaded.
    """
    file = lookup("data file", name, {f.name: f for f in lookup_dataset(dataset).files})
    place = find(dataset, file, data_dir)
    if place is None or place.is_relative_to(cache_dir()):
        return fetch(dataset, file, data_dir)
    try:
        verify(place, file)
    except Corrupt as error:
        raise UsageError(
            f"{place}: {error}. It is not the {dataset} file in the table of "
            "lstm_jax/data/datasets.py: restore it, or remove it to have it downloaded; data of "
            "your own goes in by its task's file fields"
        ) from None
    return place


def lookup_dataset(name: str) -> Dataset:
    return lookup("dataset", name, DATASETS)


def read(place: Path, limit: int = UNPACKED_LIMIT) -> bytes:
    """The bytes of a file, unpacked when its name ends in .gz; UsageError past `limit` bytes."""
    try:
        with gzip.open(place) if place.suffix == ".gz" else open(place, "rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{place}: cannot be read: {error}") from None
    if len(content) > limit:
        raise UsageError(f"{place}: more than {limit:,} bytes; refusing to read it")
    return content


def load(dataset: str, name: str, data_dir: str = "") -> bytes:
    """The verified bytes of one file of a dataset."""
    return read(path(dataset, name, data_dir))


def verify(place: Path, file: File) -> None:
    """Corrupt unless the unpacked bytes are those in the table."""
    try:
        content = read(place, limit=max(2 * file.size, 1 << 16))
    except UsageError as error:
        raise Corrupt(str(error).removeprefix(f"{place}: ")) from None
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise Corrupt(
            f"{len(content):,} bytes with sha256 {found[:12]}..., "
            f"expected {file.size:,} bytes with {file.sha256[:12]}..."
        )


# ---------------------------------------------------------------------------------------------
# Fetching


def fetch(dataset: str, file: File, data_dir: str = "") -> Path:
    """The verified copy in the cache, downloaded when it is missing or damaged."""
    target = cache_dir() / dataset / file.name
    with locked(target):
        if target.is_file():
            try:
                verify(target, file)
                return target
            except Corrupt as error:
                target.unlink()
                print(f"{target}: {error}; removed, downloading it again", flush=True)
        failures = [line for url in file.urls for line in attempt(url, file, target)]
        if not target.is_file():
            raise UsageError(unavailable(dataset, file, data_dir, target, failures))
    return target


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """One process at a time fetches a file; the others wait for it and then find it there."""
    lock = target.with_name(target.name + ".lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UsageError(
            f"{target.parent}: cannot be written ({error.strerror}); set LSTM_JAX_CACHE to a "
            "folder that can, or task.data_dir to one that holds the data"
        ) from None
    with lock.open("w") as stream:
        with contextlib.suppress(ImportError):  # no fcntl on Windows: there the last one wins
            import fcntl  # not on Windows

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def attempt(url: str, file: File, target: Path) -> list[str]:
    """Up to ATTEMPTS downloads from one address; what went wrong, one line each."""
    import pooch  # start-up
    import requests

    pooch.get_logger().setLevel(logging.WARNING)  # its "Downloading ..." repeats the bar
    failures: list[str] = []
    while len(failures) < ATTEMPTS and not target.is_file():
        if failures:
            time.sleep(BACKOFF_SECONDS * 2 ** (len(failures) - 1))
        try:
            downloader: Any = Resuming(file)
            pooch.retrieve(url, file.sha256, target.name, target.parent, downloader=downloader)
        except requests.HTTPError as error:
            failures.append(f"{url}: {error}")
            if str(error) in ("HTTP 401", "HTTP 403", "HTTP 404", "HTTP 410"):
                break  # asking again will not help
        except (ValueError, OSError) as error:  # requests' own errors are OSErrors
            failures.append(f"{url}: {readable(error)}")
            if failures[-1].endswith(OFFLINE):
                break
    return failures


def readable(error: Exception) -> str:
    """An error of requests, urllib3 or pooch in one short line."""
    text = " ".join(str(error).split())
    if "hash" in text:
        return "the bytes that arrived are not those in the table (sha256 differs)"
    if "NameResolution" in text or "getaddrinfo" in text:
        return OFFLINE
    return text if len(text) <= 160 else f"{type(error).__name__}: {text[:140]}..."


class Resuming:
    """A pooch downloader that goes on where the last attempt broke off, and unpacks gzip."""

    def __init__(self, file: File):
        self.file = file

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        output = Path(output_file)
        part = output.with_name(self.file.name + ".part")
        receive(url, part, self.file)
        try:
            if url.endswith(".gz"):
                output.write_bytes(read(part.rename(part.with_suffix(".part.gz")), self.file.size))
            else:
                part.replace(output)
        except UsageError as error:
            raise Corrupt(str(error)) from None
        finally:
            part.with_suffix(".part.gz").unlink(missing_ok=True)


def receive(url: str, part: Path, file: File) -> None:
    """Bytes from `url` appended to `part` until it is whole; IOError when they stop early."""
    import requests  # start-up

    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    timeout = (CONNECT_SECONDS, READ_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:  # nothing after what we have: it was not ours
            part.unlink()
            raise OSError("the server cannot resume there; starting again")
        if response.status_code >= 400:
            raise requests.HTTPError(f"HTTP {response.status_code}", response=response)
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        start = start if response.status_code == 206 and resumed else 0
        length = int(response.headers.get("Content-Length") or 0)
        total = start + length if length else file.size
        with open(part, "ab" if start else "wb") as stream, bar(file.name, start, total) as advance:
            for chunk in response.iter_content(CHUNK):
                stream.write(chunk)
                advance(len(chunk))
                if stream.tell() > max(2 * file.size, 1 << 16):
                    break  # whatever this is, the checksum will not match
    if length and part.stat().st_size < total:
        raise OSError(f"broke off after {part.stat().st_size:,} of {total:,} bytes")


@contextlib.contextmanager
def bar(name: str, start: int, total: int) -> Iterator[Any]:
    """A progress bar on a terminal, one plain line elsewhere."""
    from rich import filesize  # start-up

    done, began = start, time.monotonic()

    def advance(size: int) -> None:
        nonlocal done
        done += size

    def render() -> Any:
        rate = (done - start) / max(time.monotonic() - began, 1e-3)
        eta = [f"ETA {clock((total - done) / rate)}"] if start < done < total else []
        sizes = f"{filesize.decimal(done)}/{filesize.decimal(total)}"
        return Bar(done, total, [sizes, f"{filesize.decimal(int(rate))}/s", *eta], label=name)

    live = start_live(sys.stderr, render)
    if live is None:
        resumed = f", going on from {start:,}" if start else ""
        print(f"downloading {name} ({total:,} bytes{resumed})", file=sys.stderr, flush=True)
    try:
        yield advance
    finally:
        if live is not None:
            live.stop()


def unavailable(dataset: str, file: File, data_dir: str, target: Path, failures: list[str]) -> str:
    """The one message for a file that is nowhere and cannot be had."""
    searched = [str(folder) for folder in folders(data_dir)] + [str(target.parent)]
    return "\n".join(
        [
            f"data file {dataset}/{file.name} ({file.size:,} bytes) is missing "
            "and could not be downloaded",
            f"  looked in: {', '.join(searched)}",
            *(f"  tried:     {failure}" for failure in dict.fromkeys(failures)),
            f"  it goes to {target}, or to {dataset}/{file.name} under a folder named by "
            "--config.task.data_dir or LSTM_JAX_DATA",
        ]
    )


def describe(name: str, data_dir: str) -> list[str]:
    """The lines of one dataset in `lstm-jax data list`."""
    dataset = DATASETS[name]
    lines = [
        f"{name}: {dataset.title}",
        f"  licence  {dataset.licence}",
        f"  home     {dataset.home}",
    ]
    for file in dataset.files:
        place = find(name, file, data_dir) or "not here; `fetch` downloads it"
        lines.append(f"  {file.size:>12,} bytes  {file.name}: {place}")
    return lines


def check(data_dir: str) -> int:
    """One line a file: ok, absent or corrupt; 2 if any is corrupt."""
    damaged = 0
    for name, dataset in DATASETS.items():
        for file in dataset.files:
            place = find(name, file, data_dir)
            try:
                if place is not None:
                    verify(place, file)
                print(f"{'ok' if place else 'absent':8}{name}/{file.name}  {place or ''}".rstrip())
            except Corrupt as error:
                damaged += 1
                print(f"corrupt {name}/{file.name}  {place}: {error}")
    return 2 if damaged else 0
