"""Language models of characters or words, trained on continuous streams.

Row b of a training batch reads its own Bth part of the text, T tokens a step, and the carry goes
on from step to step (truncated backpropagation through time); it is reset at the epoch's start.
Evaluation reads a whole split in order and counts every token once; the loss is nats per token.
Zaremba et al. (2014), section 4.1; Mikolov et al. (2010).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.errors import UsageError, lookup
from lstm_jax.option import NOT_NEGATIVE, SIZE, Option
from lstm_jax.tasks import pipeline
from lstm_jax.tasks.classify import check_smoothing, smoothed
from lstm_jax.tasks.language import ngrams
from lstm_jax.tasks.language import samples as writing
from lstm_jax.tasks.language.corpus import Corpus, load
from lstm_jax.tasks.task import (
    Spec,
    Split,
    Task,
    average,
    cross_entropy,
    ratio,
    target_weights,
    weighed,
)

LEVELS = ("characters", "words")
PIPELINES = ("device", "grain")


OPTIONS = (
    Option("level", "characters", "characters | words; words end at blanks, each line in an <eos>"),
    Option("file", "", "one text of your own, split by position"),
    Option("valid_fraction", 0.05, "of that text, the part before the test part"),
    Option("test_fraction", 0.05, "of that text, the end"),
    Option(
        "train_file", "", "or three texts of your own; nothing at all: the dataset of the level"
    ),
    Option("valid_file", "", "the second of the three"),
    Option("test_file", "", "the third"),
    Option("unknown", "error", "tokens that training has not: error | replace (by <unk>)"),
    Option("steps", 35, "T, tokens through which a training step backpropagates", SIZE),
    Option(
        "eval_batch_size", 1, "streams that an evaluation split is cut into; each starts cold", SIZE
    ),
    Option("eval_steps", 256, "tokens per evaluation batch and stream", SIZE),
    Option("eval_size", 0, "tokens of each evaluation split used; 0: all", NOT_NEGATIVE),
    Option("label_smoothing", 0.0, "share of the target spread over the vocabulary"),
    Option("sample_length", 200, "tokens of the text sampled while training", NOT_NEGATIVE),
    Option(
        "pipeline",
        "device",
        "where the training text lies: device | grain (host, read ahead)",
        placement=True,
    ),
)


def build(config: Any) -> Task:
    """The text as ids; training, validation and test streams."""
    task, batch_size = config.task, config.train.batch_size
    check(task)
    corpus = load(task)
    size = len(corpus.vocabulary)
    row, steps = len(corpus.ids["train"]) // batch_size, task.steps
    if row < steps:
        raise UsageError(
            f"{len(corpus.ids['train']):,} training tokens are too few for train.batch_size="
            f"{batch_size} streams of task.steps={steps}: at least {batch_size * steps:,}"
        )
    arrays = {name: corpus.stream(name, task.eval_size) for name in ("valid", "test")}
    text = arrays["train"] = corpus.stream("train")
    per_epoch = row // steps
    turns = Turns(text, batch_size, row, steps)

    def batch(data: Any, key: Array, step: Array) -> dict:
        del key  # the order is that of the text
        return train_batch(jnp.asarray(data["train"]), step % per_epoch, batch_size, row, steps)

    on_host = task.pipeline == "grain"
    data: dict[str, Any] = dict(arrays)
    if on_host:
        first = map(turns.__getitem__, itertools.count())
        data["window"] = pipeline.window(first, 0, config.train.log_every)
        del data["train"]
    splits = {name: evaluation(arrays, name, task) for name in ("valid", "test")}
    return Task(
        spec=Spec(size, size, ids=True, stateful=True),
        data=data,
        batch=pipeline.from_window if on_host else batch,
        feed=partial(pipeline.read, turns) if on_host else None,
        loss=make_loss(task.label_smoothing),
        summarize=lambda metrics: summarize(metrics, task.level),
        splits=splits,
        baselines=baselines(corpus, arrays, task.level, task.label_smoothing),
        steps_per_epoch=per_epoch,
        figures=lambda forward: writing.figures(forward, corpus, arrays),
        predict=lambda forward, out, options: predict(forward, out, options, corpus),
        samples=lambda forward, key: samples(forward, key, corpus, task.sample_length),
    )


def check(task: Any) -> None:
    check_smoothing(task.label_smoothing)
    if task.level not in LEVELS:
        raise UsageError(f"task.level={task.level!r}, expected one of {', '.join(LEVELS)}")
    lookup("task.pipeline", task.pipeline, dict.fromkeys(PIPELINES))


def train_batch(text: Any, turn: Any, batch_size: int, row: int, steps: int) -> dict:
    """inputs and targets [T, B], one token apart; turn 0 .. row // T - 1 within the epoch.

    On the host or on the device, as the text is.
    """
    xp = np if isinstance(text, np.ndarray) else jnp
    time = xp.arange(steps)[:, None]
    at = xp.arange(batch_size) * row + turn * steps + time
    resets = xp.broadcast_to((turn == 0) & (time == 0), at.shape)
    return {"inputs": text[at], "targets": text[at + 1], "resets": resets}


class Turns:
    """An epoch's training batches by turn, read on the host."""

    def __init__(self, text: np.ndarray, batch_size: int, row: int, steps: int):
        self.text, self.sizes = text, (batch_size, row, steps)

    def __len__(self) -> int:
        return self.sizes[1] // self.sizes[2]

    def __getitem__(self, turn: int) -> dict:
        return train_batch(self.text, int(turn) % len(self), *self.sizes)


def evaluation(arrays: dict, name: str, task: Any) -> Split:
    """The split cut into eval_batch_size streams, read eval_steps at a time."""
    total = len(arrays[name]) - 1
    row = -(-total // task.eval_batch_size)

    def batch(data: Any, index: Array) -> dict:
        offset = index * task.eval_steps + jnp.arange(task.eval_steps)[:, None]
        at = jnp.arange(task.eval_batch_size) * row + offset
        mask = (offset < row) & (at < total)
        at, text = jnp.minimum(at, total - 1), jnp.asarray(data[name])
        return {"inputs": text[at], "targets": text[at + 1], "mask": mask}

    return Split(-(-row // task.eval_steps), batch)


def make_loss(smoothing: float) -> Callable:
    """loss(outputs [T, B, V], batch): nats per token; nll is the loss without smoothing."""

    def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
        counts = target_weights(batch)
        outputs, targets = weighed(counts, outputs, batch["targets"])
        mean = average(smoothed(outputs, targets, smoothing), counts)
        return ratio(mean), {"loss": mean, "nll": average(cross_entropy(outputs, targets), counts)}

    return loss


def summarize(metrics: dict, level: str) -> dict:
    """Adds bits_per_character = nll / ln 2, or perplexity = exp(nll)."""
    if "nll" not in metrics:
        return metrics
    if level == "characters":
        return {**metrics, "bits_per_character": metrics["nll"] / math.log(2)}
    return {**metrics, "perplexity": jnp.exp(metrics["nll"])}


def baselines(corpus: Corpus, arrays: dict, level: str, smoothing: float) -> dict:
    """Unigram and bigram models of the training text on the same tokens.

    With label smoothing the loss is not their nll, and they have none.
    """
    size = len(corpus.vocabulary)
    scores = ngrams.fit(arrays["train"], size)
    out: dict = {}
    for name in ("valid", "test"):
        found = {kind: float(nll(arrays[name]).mean()) for kind, nll in scores.items()}
        both = ("nll",) if smoothing else ("nll", "loss")
        summaries = {k: summarize(dict.fromkeys(both, nll), level) for k, nll in found.items()}
        out[name] = {k: {m: float(v) for m, v in s.items()} for k, s in summaries.items()}
    return out


def samples(forward: Callable, key: Array, corpus: Corpus, length: int) -> str:
    """A text to log while training."""
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    return writing.generate(forward, corpus, "", length, 1.0, seed)


def predict(
    forward: Callable, out_dir: Path, options: SimpleNamespace, corpus: Corpus
) -> list[Path]:
    """sample.txt: the prompt and `length` tokens more."""
    temperature = getattr(options, "temperature", None)
    text = writing.generate(
        forward,
        corpus,
        getattr(options, "prompt", "") or "",
        getattr(options, "length", 0) or 500,
        1.0 if temperature is None else temperature,
        getattr(options, "seed", 0) or 0,
    )
    place = out_dir / "sample.txt"
    place.write_text(text, encoding="utf-8")
    return [place]
