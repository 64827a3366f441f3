"""Text that a language model writes, and pictures of what it expects."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from lstm_jax.errors import UsageError
from lstm_jax.tasks.language import ngrams
from lstm_jax.tasks.language.corpus import EOS, UNKNOWN, Corpus

WINDOW, WINDOWS = 128, 64  # tokens and number of the cold starts in `loss_by_context`
SHOWN = {"characters": 90, "words": 40}  # tokens in `surprise`


def generate(
    forward: Callable, corpus: Corpus, prompt: str, length: int, temperature: float, seed: int
) -> str:
    """The prompt and `length` tokens drawn from softmax(logits / temperature).

    Temperature 0 takes the likeliest. Without a prompt it begins as after a line's end. <unk> is
    never written.
    """
    if temperature < 0 or length < 1:
        raise UsageError(f"temperature {temperature} and length {length}: expected >= 0 and >= 1")
    random = np.random.default_rng(seed)
    given = list(corpus.encode(prompt, "--prompt")) if prompt else []
    carry, logits = None, np.zeros(len(corpus.vocabulary))
    for token in [corpus.before["train"], *given]:
        logits, carry = advance(forward, token, carry)
    written: list[int] = []
    for _ in range(length):
        written.append(draw(logits, temperature, random, corpus.index.get(UNKNOWN)))
        logits, carry = advance(forward, written[-1], carry)
    if corpus.level == "characters":
        return prompt + corpus.decode(written)
    return corpus.decode([*given, *written])


def advance(forward: Callable, token: int, carry: Any) -> tuple[np.ndarray, Any]:
    """(logits [V] for what follows the token, carry)."""
    outputs, carry = forward({"inputs": np.full((1, 1), token, np.int32)}, carry)
    return np.asarray(outputs, np.float64)[0, 0], carry


def draw(
    logits: np.ndarray, temperature: float, random: np.random.Generator, never: int | None
) -> int:
    """One id, by the Gumbel trick."""
    if never is not None:
        logits = np.where(np.arange(len(logits)) == never, -np.inf, logits)
    if temperature == 0:
        return int(np.argmax(logits))
    return int(np.argmax(logits / temperature + random.gumbel(size=len(logits))))


def figures(forward: Callable, corpus: Corpus, arrays: dict) -> dict[str, Any]:
    """Where the test text surprises the model, and what context is worth."""
    return {
        "surprise": surprise(forward, corpus, arrays["test"]),
        "loss_by_context": loss_by_context(forward, corpus, arrays),
    }


def nats(forward: Callable, streams: np.ndarray) -> np.ndarray:
    """[B, T]: -log p of each token but the first of streams [B, 1 + T], read from a cold start."""
    logits = np.asarray(forward({"inputs": streams[:, :-1].T.astype(np.int32)})[0])
    logits = logits - logits.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(logits, streams[:, 1:].T[..., None], axis=-1)[..., 0]
    return (np.log(np.exp(logits).sum(axis=-1)) - picked).T


def surprise(forward: Callable, corpus: Corpus, text: np.ndarray) -> Any:
    """Bars of nats over the first tokens of the test text."""
    from matplotlib.figure import Figure  # start-up

    size = min(SHOWN[corpus.level], len(text) - 1)
    values = nats(forward, text[None, : size + 1])[0]
    names = [corpus.vocabulary[i] for i in text[1 : size + 1]]
    words = corpus.level == "words"
    figure = Figure(figsize=(13, 4.2 if words else 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(size), values, width=0.9, color="tab:blue")
    axes.axhline(float(values.mean()), color="0.4", linestyle="--", label="mean of these")
    labels = [name.replace("\n", "\\n").replace(EOS, "(eos)").replace("$", "\\$") for name in names]
    axes.set_xticks(range(size), labels, rotation=90 if words else 0, fontsize=9 if words else 8)
    axes.set(ylabel="surprise (nats)", xlim=(-1, size), title="How surprising each test token is")
    axes.set_ylim(top=1.18 * float(values.max()))
    axes.legend(loc="upper right")
    return figure


def loss_by_context(forward: Callable, corpus: Corpus, arrays: dict) -> Any:
    """Mean loss at each token after a cold start, over windows spread through the test text."""
    from matplotlib.figure import Figure  # start-up

    text = arrays["test"]
    window = min(WINDOW, (len(text) - 1) // 2)
    starts = np.linspace(0, len(text) - 1 - window, WINDOWS).astype(int)
    streams = text[starts[:, None] + np.arange(window + 1)]
    parts = np.split(streams, WINDOWS // 8)  # few at a time: logits are windows x tokens x V
    values = np.concatenate([nats(forward, part) for part in parts]).mean(axis=0)
    edges = [e for e in (0, 1, 2, 4, 8, 16, 32, 64, 128) if e <= window]
    spans = list(itertools.pairwise(edges))
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    names = [str(b) if b - a == 1 else f"{a + 1}-{b}" for a, b in spans]
    axes.plot(names, [values[a:b].mean() for a, b in spans], "o-", label="model")
    for style, (name, nll) in zip(
        ("--", ":"), ngrams.fit(arrays["train"], len(corpus.vocabulary)).items(), strict=True
    ):
        axes.axhline(float(nll(text).mean()), color="0.4", linestyle=style, label=name)
    axes.set(xlabel="tokens of context", ylabel="loss (nats)", title="What context is worth, test")
    axes.legend()
    return figure
