"""What a run shows: a bar or a few lines, and at the end a table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lstm_jax.terminal import Bar, speed
from lstm_jax.workdir.console import Progress, closing_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_few_and_say_all(monkeypatch):
    file = io.StringIO()
    with Progress(1000, file=file) as bar:
        for step in range(1, 1001):
            bar.update(step, loss=1 / step)
        bar.message("done [1]")
    printed = file.getvalue().splitlines()
    assert 20 <= len(printed) <= 23 and printed[-1] == "done [1]"
    assert printed[-2].startswith("step 1000/1000  loss 0.001  ") and "steps/s" in printed[-2]
    assert "ETA 0:0" in printed[1] and "ETA" not in printed[-2]
    assert "\x1b" not in file.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    file = Terminal()
    with Progress(100, file=file) as bar:
        bar.update(50, loss=0.5)
        bar.message("a word [bold]")
        bar.update(100, valid=0.25)
    assert "100/100" in file.getvalue() and "loss 0.5 (step 50)  valid 0.25" in file.getvalue()
    assert "a word [bold]" in file.getvalue()


def test_the_rate_leaves_out_compilation_and_what_was_done_before(monkeypatch):
    from lstm_jax.workdir import console

    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    bar = Progress(10_000, start=5000, file=io.StringIO())
    assert bar.rate == 0
    now[0] = 10.0
    bar.update(5100)
    assert bar.rate == 10
    now[0] = 11.0
    bar.update(5200)
    assert bar.rate == 100 and bar._speed() == ["100 steps/s", "ETA 0:48"]
    now[0] = 21.0
    assert bar._speed() == ["100 steps/s", "ETA 0:38"]  # it goes down between two updates


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (12_345.6, "12,346 steps/s"),
        (34.4, "34 steps/s"),
        (2.51, "2.5 steps/s"),
        (0.4, "2.5 s/step"),
        (0.025, "40 s/step"),
        (0.0004, "2,500 s/step"),
    ],
)
def test_a_slow_rate_is_told_in_seconds_a_step(rate, words):
    assert speed(rate, "steps") == words


def test_a_value_of_an_earlier_step_says_so():
    file = io.StringIO()
    with Progress(20, file=file) as bar:
        bar.update(10, loss=0.5, valid=0.25)
        bar.update(20, loss=0.4)
    last = file.getvalue().splitlines()[-1]
    assert "loss 0.4  valid 0.25 (step 10)" in last


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 30])
def test_a_bar_keeps_its_words_whole_in_any_width(columns):
    words = ["1,280/3,000", "20 steps/s", "ETA 1:12", "loss 0.0007229", "valid loss 0.0004543"]
    file = io.StringIO()
    Console(file=file, width=columns).print(Bar(1280, 3000, words))
    lines = file.getvalue().splitlines()
    assert all(len(line) <= columns for line in lines)
    assert all(any(word in line for line in lines) for word in words)
    assert lines[0].startswith("━" * 3) and (len(lines) == 1) == (columns > 80)


def table(file: io.StringIO) -> list[list[str]]:
    return [line.split() for line in file.getvalue().splitlines() if line.strip()]


def test_the_closing_table_sorts_the_model_among_its_baselines(tmp_path):
    file = io.StringIO()
    metrics = {"train": {"loss": 0.1}, "test": {"loss": 0.2, "rmse": 15.0, "mae": 9.0}}
    baselines = {"test": {"persistence": {"rmse": 48.0}, "linear": {"rmse": 13.8, "mae": 10.0}}}
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "events.out.tfevents.1").touch()
    closing_table(metrics, baselines, tmp_path / "a run", name="lstm", file=file)
    rows = table(file)
    assert rows[0] == ["test", "split"] and rows[1] == ["rmse", "mae", "loss"]
    assert rows[3:6] == [
        ["linear", "13.8*", "10"],
        ["lstm", "15", "9*", "0.2*"],
        ["persistence", "48"],
    ]
    assert rows[-1][:2] == ["tensorboard", "--logdir"]
    assert file.getvalue().strip().endswith(f"'{tmp_path}/a run'")


def test_larger_accuracy_is_better_and_nan_comes_last(tmp_path):
    file = io.StringIO()
    baselines = {"test": {"chance": {"accuracy": 0.1}, "odd": {"accuracy": float("nan")}}}
    closing_table({"test": {"accuracy": 0.9}}, baselines, tmp_path, file=file)
    assert [row[0] for row in table(file)[3:6]] == ["model", "chance", "odd"]


def test_the_best_is_bold_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = Terminal()
    closing_table({"test": {"rmse": 1.0}}, {"test": {"b": {"rmse": 2.0}}}, tmp_path, file=file)
    assert "\x1b[1m" in file.getvalue() and "*" not in file.getvalue()
