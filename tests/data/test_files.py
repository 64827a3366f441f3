"""Data files: found, verified, downloaded from a server that misbehaves in every way we know."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from lstm_jax import cli
from lstm_jax.data import files
from lstm_jax.data.datasets import DATASETS, Dataset, File
from lstm_jax.errors import UsageError

CONTENT = bytes(range(256)) * 1000  # 256,000 bytes


class Server:
    """Serves CONTENT at any path; `faults` are spent one a request, then it behaves."""

    def __init__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append((self.path, self.headers.get("Range")))
                fault = server.faults.pop(0) if server.faults else "none"
                server.answer(self, fault)

            def log_message(self, *_):
                pass

        self.faults: list[str] = []
        self.requests: list[tuple] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler, fault: str) -> None:
        if fault.isdigit():
            return handler.send_error(int(fault))
        body = gzip.compress(CONTENT) if handler.path.endswith(".gz") else CONTENT
        start = 0
        if (asked := handler.headers.get("Range")) and fault != "no ranges":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        self.send(handler, body[start:], fault)

    def send(self, handler, body: bytes, fault: str) -> None:
        if fault == "truncate":
            handler.wfile.write(body[: len(body) // 2])
        elif fault == "flip":
            handler.wfile.write(body[:1000] + bytes([body[1000] ^ 1]) + body[1001:])
        elif fault == "stall":
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            time.sleep(0.5)
        else:
            handler.wfile.write(body)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no folder of the user's, and no patience."""
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LSTM_JAX_DATA", raising=False)
    monkeypatch.setattr(files, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(files, "READ_SECONDS", 0.2)
    monkeypatch.setattr(files, "CONNECT_SECONDS", 0.5)
    return tmp_path / "cache"


def offer(monkeypatch, *urls: str) -> File:
    file = File("numbers.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), urls)
    monkeypatch.setitem(DATASETS, "numbers", Dataset("Numbers", "none", "nowhere", (file,)))
    return file


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_download_is_verified_cached_and_not_repeated(server, cache, monkeypatch, suffix):
    offer(monkeypatch, f"{server.url}/numbers.bin{suffix}")
    assert files.load("numbers", "numbers.bin") == CONTENT
    assert files.path("numbers", "numbers.bin") == cache / "numbers" / "numbers.bin"
    assert len(server.requests) == 1
    assert not list(cache.rglob("*.part*"))


@pytest.mark.parametrize("fault", ["truncate", "flip", "stall", "500", "503"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_one_fault_is_survived(server, cache, monkeypatch, fault, suffix):
    offer(monkeypatch, f"{server.url}/numbers.bin{suffix}")
    server.faults = [fault]
    assert files.load("numbers", "numbers.bin") == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["truncate", "stall"])
def test_download_goes_on_where_it_broke_off(server, cache, monkeypatch, fault):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    server.faults = [fault]
    files.path("numbers", "numbers.bin")
    start = int(server.requests[1][1].removeprefix("bytes=").rstrip("-"))
    assert len(CONTENT) // 2 - files.CHUNK < start <= len(CONTENT) // 2


def test_download_goes_on_in_the_next_process(server, cache, monkeypatch):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    server.faults = ["truncate", "500", "500"]
    with pytest.raises(UsageError, match="could not be downloaded"):
        files.path("numbers", "numbers.bin")
    files.path("numbers", "numbers.bin")
    assert server.requests[-1][1] is not None


def test_server_without_ranges_starts_again(server, cache, monkeypatch):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    server.faults = ["truncate", "no ranges"]
    assert files.load("numbers", "numbers.bin") == CONTENT


def test_foreign_part_file_is_dropped(server, cache, monkeypatch):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    (cache / "numbers").mkdir(parents=True)
    (cache / "numbers" / "numbers.bin.part").write_bytes(b"not the beginning")
    assert files.load("numbers", "numbers.bin") == CONTENT


def test_corrupt_for_ever_is_a_clear_error(server, cache, monkeypatch):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    server.faults = ["flip"] * 10
    with pytest.raises(UsageError, match="sha256 differs") as error:
        files.path("numbers", "numbers.bin")
    assert len(server.requests) == files.ATTEMPTS
    assert not list(cache.rglob("numbers.bin*.part")) and not list(cache.rglob("numbers.bin"))
    for said in ("numbers/numbers.bin", "256,000 bytes", str(cache), "LSTM_JAX_DATA"):
        assert said in str(error.value)


def test_404_is_not_asked_again_and_the_next_mirror_is(server, cache, monkeypatch):
    offer(monkeypatch, f"{server.url}/gone", f"{server.url}/here.gz")
    server.faults = ["404"]
    assert files.load("numbers", "numbers.bin") == CONTENT
    assert [path for path, _ in server.requests] == ["/gone", "/here.gz"]


def test_nobody_listening_says_what_is_missing(cache, monkeypatch):
    offer(monkeypatch, "http://127.0.0.1:9/numbers.bin")
    with pytest.raises(UsageError, match=r"numbers/numbers.bin \(256,000 bytes\) is missing"):
        files.path("numbers", "numbers.bin")


def test_good_file_is_never_overwritten(server, cache, monkeypatch):
    file = offer(monkeypatch, f"{server.url}/numbers.bin")
    place = files.path("numbers", "numbers.bin")
    server.faults = ["flip"] * 10
    before = place.stat().st_mtime_ns
    assert files.fetch("numbers", file) == place
    assert place.stat().st_mtime_ns == before and len(server.requests) == 1


def test_damaged_cache_is_removed_and_fetched_again(server, cache, monkeypatch, capsys):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    place = files.path("numbers", "numbers.bin")
    place.write_bytes(CONTENT[:-1])
    assert files.load("numbers", "numbers.bin") == CONTENT
    assert "removed, downloading it again" in capsys.readouterr().out


def test_threads_that_want_the_same_file_download_it_once(server, cache, monkeypatch):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    threads = [
        threading.Thread(target=files.path, args=("numbers", "numbers.bin")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1 and files.load("numbers", "numbers.bin") == CONTENT


@pytest.mark.parametrize("name", ["numbers/numbers.bin", "numbers.bin", "numbers/numbers.bin.gz"])
def test_folder_of_yours_comes_first(cache, monkeypatch, tmp_path, name):
    offer(monkeypatch, "http://127.0.0.1:9/numbers.bin")
    place = tmp_path / "mine" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(gzip.compress(CONTENT) if name.endswith(".gz") else CONTENT)
    assert files.path("numbers", "numbers.bin", str(tmp_path / "mine")) == place
    monkeypatch.setenv("LSTM_JAX_DATA", str(tmp_path / "mine"))
    assert files.load("numbers", "numbers.bin") == CONTENT


def test_damaged_file_of_yours_is_named_and_kept(cache, monkeypatch, tmp_path):
    offer(monkeypatch, "http://127.0.0.1:9/numbers.bin")
    place = tmp_path / "numbers.bin"
    place.write_bytes(b"something else")
    with pytest.raises(UsageError, match="14 bytes with sha256") as error:
        files.path("numbers", "numbers.bin", str(tmp_path))
    assert str(place) in str(error.value) and place.exists()


def test_a_bomb_is_not_unpacked(tmp_path):
    place = tmp_path / "zeros.gz"
    place.write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(UsageError, match="refusing"):
        files.read(place, limit=1 << 16)


def test_unwritable_cache_says_what_to_set(cache, monkeypatch):
    offer(monkeypatch, "http://127.0.0.1:9/numbers.bin")
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(UsageError, match="LSTM_JAX_CACHE"):
        files.path("numbers", "numbers.bin")


def test_unknown_dataset_and_file(cache):
    with pytest.raises(UsageError, match="did you mean 'mnist'"):
        files.path("minst", "x")
    with pytest.raises(UsageError, match="unknown data file"):
        files.path("mnist", "x")


def test_table_is_complete():
    for dataset in DATASETS.values():
        assert dataset.title and dataset.licence and dataset.home.startswith("http")
        for file in dataset.files:
            assert len(file.sha256) == 64 and file.size > 0 and file.urls
            assert all(url.startswith("https://") for url in file.urls)


def test_verb_lists_fetches_and_checks(server, cache, monkeypatch, capsys):
    offer(monkeypatch, f"{server.url}/numbers.bin")
    assert cli.main(["data", "list"]) == 0
    assert "256,000 bytes  numbers.bin: not here" in capsys.readouterr().out
    assert cli.main(["data", "fetch", "numbers"]) == 0
    assert cli.main(["data", "check"]) == 0
    assert "ok      numbers/numbers.bin" in capsys.readouterr().out
    (cache / "numbers" / "numbers.bin").write_bytes(np.zeros(10).tobytes())
    assert cli.main(["data", "check"]) == 2
    assert "corrupt numbers/numbers.bin" in capsys.readouterr().out
