"""What somebody who sits at a terminal sees of the commands that take long."""

import hashlib
import http.server
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.text import Text
from sweeps import planned
from terminal import Screen, Terminal

from lstm_jax.terminal import say_above, start_live

ROOT = Path(__file__).parent.parent
PROGRAM = str(Path(sys.executable).parent / "lstm-jax")
BAR = re.compile(r"━+╸?\s+(\d+)/400  ([\d,.]+ steps/s|[\d.]+ s/step)  ETA \d+:\d\d")


def train(workdir, *flags):
    config = f"--config={ROOT / 'configs/airline.py'}:smoke"
    flags = ("--config.train.num_steps=400", "--config.train.eval_every=20", *flags)
    return [PROGRAM, "train", config, f"--workdir={workdir}", *flags]


def records(workdir, split):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if line["split"] == split}


def flat(screen):
    """A bar's words may go on below it."""
    return re.sub(r"\s*\n", "  ", screen)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 40])
def test_training_shows_a_bar_with_rate_time_left_and_losses(columns, tmp_path):
    with Terminal(train(tmp_path), columns) as terminal:
        code, screen = terminal.finish()
    shown = [found for seen in terminal.seen if (found := BAR.search(flat(seen)))]
    assert code == 0, screen
    assert len({found[1] for found in shown}) > 5, screen
    compiled = re.search(r"compiled the training steps in (\d+\.\d) s", flat(screen))
    assert compiled, screen
    assert "0:0" in terminal.seen[1]
    assert "compiling" in "".join(terminal.seen) or float(compiled[1]) < 1, screen
    loss, valid = records(tmp_path, "train")[400]["loss"], records(tmp_path, "valid")[400]["loss"]
    assert f"loss {loss:.4g}  valid loss {valid:.4g}" in flat(screen), screen
    assert screen.count("400/400") == 1, screen
    assert re.search(r"tensorboard --logdir", screen)


@pytest.mark.slow
def test_a_terminal_that_is_resized_while_a_run_trains(tmp_path):
    with Terminal(train(tmp_path, "--config.train.num_steps=4000"), 80) as terminal:
        terminal.until(lambda screen: re.search(r"[1-9]\d*/4,000", screen))
        terminal.resize(40)
        screen = terminal.until(lambda screen: re.search(r"1,\d\d\d/4,000", screen))
        assert terminal.screen.wrapped == 0 and terminal.screen.widest <= 40, screen
        assert screen.count("/4,000") == screen.count("valid loss") == 1, screen
        terminal.resize(100)
        screen = terminal.until(lambda screen: re.search(r"2,\d\d\d/4,000", screen))
        assert terminal.screen.wrapped == 0 and terminal.screen.widest > 60, screen
        assert screen.count("/4,000") == 1, screen
        terminal.process.send_signal(signal.SIGINT)
        code, screen = terminal.finish()
    assert code == 4 and "interrupted at step" in screen


@pytest.mark.slow
def test_a_pipe_gets_plain_lines_whose_losses_are_those_of_their_step(tmp_path):
    done = subprocess.run(train(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "\x1b" not in done.stdout, done.stderr
    steps = re.findall(r"^step +(\d+)/400  loss (\S+)  valid loss (\S+)(.*)", done.stdout, re.M)
    train_, valid = records(tmp_path, "train"), records(tmp_path, "valid")
    assert len(steps) >= 10 and int(steps[-1][0]) == 400
    for step, loss, checked, rest in steps:
        of = int(found[1]) if (found := re.match(r" \(step (\d+)\)", rest)) else int(step)
        assert float(loss) == pytest.approx(train_[int(step)]["loss"], rel=1e-3)
        assert float(checked) == pytest.approx(valid[of]["loss"], rel=1e-3)
        assert of == int(step) // 20 * 20
    assert re.search(r"^compiled the training steps in \d+\.\d s$", done.stdout, re.M)


CONFIG = "config.train.num_steps = 4000\nconfig.train.log_every = config.train.eval_every = 20\n"
CONFIG += "config.train.checkpoint_every = 2000"
PACK = re.compile(
    r"pack 0\s+━*╸?\S*\s+[1-9][\d,]*/4,000  ETA \d+:\d\d  [\d,.]+ trial-steps/s  6 trials"
)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 40])
def test_a_sweep_shows_its_packs_to_who_launches_and_to_who_watches(columns, tmp_path):
    planned(tmp_path / "study", tmp_path / "w", config=CONFIG)
    where = f"--workdir={tmp_path / 'w'}"
    watching = [PROGRAM, "sweep", "watch", where]
    with (
        Terminal([PROGRAM, "sweep", "resume", where], columns) as launch,
        Terminal(watching, columns) as watch,
        ThreadPoolExecutor() as readers,
    ):
        ends = list(readers.map(Terminal.finish, (launch, watch)))
    for terminal, (code, screen) in zip((launch, watch), ends, strict=True):
        assert code == 0, screen
        assert terminal.screen.wrapped <= 5, screen  # the closing lines and their long paths
        assert any(PACK.search(flat(seen)) for seen in terminal.seen), "\n".join(terminal.seen)
        assert any(re.search(r"  loss \d.*  best ", flat(seen)) for seen in terminal.seen)
        assert re.search(r"pack 0: compiled the training steps in +\d+\.\d s", flat(screen)), screen
        assert "6 completed" in flat(screen)


def test_a_line_waits_while_the_thread_of_the_bar_draws():
    """Else each erases what the other wrote: they count rows at the same time."""
    master, slave = pty.openpty()
    with open(slave, "w") as file, open(master, "rb"):
        live = start_live(file, lambda: Text("bar"))
        line = threading.Thread(target=say_above, args=(live, "line"))
        with live._lock:
            line.start()
            line.join(0.1)
            assert line.is_alive()
        line.join()
        live.stop()


def test_a_sequence_that_arrives_in_two_reads_still_moves_the_cursor():
    screen = Screen(80)
    for part in ("stale", "\r\x1b", "[2", "Kdrawn\r\n\x1b[1", "A"):
        screen.write(part)
    assert str(screen) == "drawn\n" and screen.at[0] == 0


FETCH = """
import sys
from lstm_jax import cli
from lstm_jax.data import files
from lstm_jax.data.datasets import Dataset, File
file = File("some.bin", "{sha}", {size}, ("http://127.0.0.1:{port}/some.bin",))
files.DATASETS["some"] = Dataset("Some", "none", "here", (file,))
sys.exit(cli.main(["data", "fetch", "some"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 40])
def test_a_download_shows_how_far_it_is(columns, tmp_path):
    content = bytes(range(256)) * 8000

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 1 << 18):
                self.wfile.write(content[start : start + (1 << 18)])
                time.sleep(0.3)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sha = hashlib.sha256(content).hexdigest()
    code = FETCH.format(port=server.server_port, sha=sha, size=len(content))
    environment = {"LSTM_JAX_CACHE": str(tmp_path), "no_proxy": "127.0.0.1"}
    with Terminal([sys.executable, "-c", code], columns, **environment) as terminal:
        rc, screen = terminal.finish()
    server.shutdown()
    server.server_close()
    words = r"some\.bin\s+━+╸?━*\s+\d\S* [kM]B/2\.0 MB  \d\S* [kM]B/s  ETA \d:\d\d"
    assert rc == 0 and "ok  " in screen, screen
    assert sum(bool(re.search(words, flat(seen))) for seen in terminal.seen) >= 2, screen


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.4, 2.0])
def test_a_signal_soon_after_the_start_is_an_interruption(number, seconds, tmp_path):
    """While it imports; while it builds and compiles, or on a fast machine trains."""
    workdir = tmp_path / "run"
    fresh = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    long = train(workdir, "--config.train.num_steps=1000000")
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(long, env=fresh, **quiet)
    time.sleep(seconds)
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 4, errors
    assert "interrupted" in output + errors and "Traceback" not in errors
    assert workdir.exists() == ("interrupted at step" in output)
