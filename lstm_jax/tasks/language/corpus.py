"""Texts as token ids: where they come from, the vocabulary, and what is wrong with them."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.data import files
from lstm_jax.errors import UsageError
from lstm_jax.tasks import readers

EOS, UNKNOWN = "<eos>", "<unk>"
PARTS = ("train", "valid", "test")
UNKNOWNS = ("error", "replace")
DATASETS = {
    "characters": ("shakespeare", ("input.txt",)),
    "words": ("ptb", ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")),
}


class Tokens(NamedTuple):
    """Part of a text: tokens start .. stop of all those of a file."""

    where: str
    all: list[str]
    start: int
    stop: int


class Corpus(NamedTuple):
    """A text in three parts."""

    level: str  # characters | words
    vocabulary: tuple[str, ...]
    index: dict[str, int]
    ids: dict[str, np.ndarray]  # of each part, int32
    before: dict[str, int]  # the id that the first token of each part is predicted from
    replace: bool = False  # unknown tokens become <unk>

    def stream(self, part: str, size: int = 0) -> np.ndarray:
        """[1 + N] int32: the id before and the part's ids, the first `size` of them if not 0."""
        ids = self.ids[part][: size or None]
        return np.concatenate([[self.before[part]], ids]).astype(np.int32)

    def encode(self, text: str, where: str) -> np.ndarray:
        """Ids of a text; UsageError at a token that is not in the vocabulary."""
        words = text.replace("\n", f" {EOS} ").split()
        tokens = list(text) if self.level == "characters" else words
        part = Tokens(where, tokens, 0, len(tokens))
        return encode(part, self.index, self.level, self.replace)

    def decode(self, ids: Any) -> str:
        """Text of ids; words with blanks between, each <eos> a line end."""
        tokens = [self.vocabulary[i] for i in ids]
        if self.level == "characters":
            return "".join(tokens)
        return " ".join(tokens).replace(f" {EOS}", "\n").replace("\n ", "\n")


def load(task: Any) -> Corpus:
    """The texts that the task names, as ids of the training part's vocabulary."""
    if task.unknown not in UNKNOWNS:
        raise UsageError(f"task.unknown={task.unknown!r}, expected one of {', '.join(UNKNOWNS)}")
    texts = [Tokens(name, t, 0, len(t)) for name, t in tokenized(task)]
    whole = len(texts) == 1
    parts = dict(zip(PARTS, cut(texts[0], task) if whole else texts, strict=True))
    replace = task.unknown == "replace"
    index = vocabulary(parts["train"], task.level, replace)
    ids = {name: encode(part, index, task.level, replace) for name, part in parts.items()}
    start = index.get(line_end(task.level), 0)
    before = {name: start for name in parts}
    if whole:  # the parts follow one another
        before |= {"valid": int(ids["train"][-1]), "test": int(ids["valid"][-1])}
    return Corpus(task.level, tuple(index), index, ids, before, replace)


def tokenized(task: Any) -> list[tuple[str, list[str]]]:
    """(name, tokens) of the one file or the three."""
    for place in sources(task):
        if not place.is_file():
            raise UsageError(f"{place}: no such file")
    texts = [(str(place), readers.text(files.read(place), str(place))) for place in sources(task)]
    return [(name, tokenize(text, name, task.level)) for name, text in texts]


def sources(task: Any) -> list[Path]:
    """One file, or three: yours, else those of the level's dataset."""
    trio = [task.train_file, task.valid_file, task.test_file]
    if any(trio) and (task.file or not all(trio)):
        raise UsageError(
            "give task.file alone, or task.train_file, task.valid_file and task.test_file together"
        )
    if task.file or all(trio):
        return [Path(name).expanduser() for name in ([task.file] if task.file else trio)]
    dataset, names = DATASETS[task.level]
    return [files.path(dataset, name, task.data_dir) for name in names]


def tokenize(text: str, where: str, level: str) -> list[str]:
    """Characters as they are; words between blanks, with an <eos> for each line's end."""
    if level == "characters":
        return list(text)
    if "\n" not in text:
        raise UsageError(
            f"{where}: {len(text):,} characters and no newline; expected a sentence a line, "
            "since each line's end is a token (or set task.level=characters)"
        )
    return [token for line in text.splitlines() for token in (*line.split(), EOS)]


def cut(text: Tokens, task: Any) -> list[Tokens]:
    """Training, validation and test part of one text, by position."""
    valid, test = task.valid_fraction, task.test_fraction
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise UsageError(
            f"task.valid_fraction={valid} and task.test_fraction={test}: "
            "expected both above 0 and their sum below 1"
        )
    total = len(text.all)
    ends = [0, round(total * (1 - valid - test)), round(total * (1 - test)), total]
    if min(np.diff(ends)) < 1:
        raise UsageError(f"{text.where}: {total} tokens are too few to split three ways")
    return [text._replace(start=a, stop=b) for a, b in itertools.pairwise(ends)]


def vocabulary(train: Tokens, level: str, replace: bool) -> dict[str, int]:
    """Ids by token: characters sorted; words by falling count, then sorted."""
    counts = Counter(train.all[train.start : train.stop])
    tokens = sorted(counts)
    if level == "words":
        tokens.sort(key=lambda token: -counts[token])
    if replace and UNKNOWN not in counts:
        tokens.append(UNKNOWN)
    if len(tokens) < 2:
        raise UsageError(f"{train.where}: {len(tokens)} kinds of token, expected at least 2")
    return {token: i for i, token in enumerate(tokens)}


def encode(part: Tokens, index: dict[str, int], level: str, replace: bool) -> np.ndarray:
    """[N] int32 ids; UsageError at an unknown token, unless such are to become <unk>."""
    if part.start == part.stop:
        raise UsageError(f"{part.where}: no tokens")
    tokens = part.all[part.start : part.stop]
    ids = np.array([index.get(token, -1) for token in tokens], np.int32)
    wrong = np.flatnonzero(ids < 0)
    if replace:
        ids[wrong] = index[UNKNOWN]
    elif wrong.size:
        place = position(part, int(wrong[0]), level)
        raise UsageError(
            f"{part.where}, {place}: {tokens[wrong[0]]!r} is not among the {len(index):,} tokens "
            "of the training text (task.unknown=replace makes such tokens <unk>)"
        )
    return ids


def position(part: Tokens, place: int, level: str) -> str:
    """Line and column (a word's number) of a part's token."""
    before = part.all[: part.start + place]
    end = line_end(level)
    lines = before.count(end)
    column = before[::-1].index(end) if lines else len(before)
    return f"line {lines + 1:,}, {'column' if level == 'characters' else 'word'} {column + 1:,}"


def line_end(level: str) -> str:
    return "\n" if level == "characters" else EOS
