"""Polyphonic music: which of 88 keys sound in the next frame, given all frames so far.

JSB Chorales by default, or any .mat, .npz or .json file of piano rolls (task.file). Scored by the
Bernoulli negative log-likelihood summed over keys, mean per frame; the first frame of a piece is
not predicted. Boulanger-Lewandowski et al. (2012), section 5; Bai et al. (2018), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data import files
from lstm_jax.errors import UsageError
from lstm_jax.option import Option
from lstm_jax.tasks import packing, readers
from lstm_jax.tasks.music import matfile
from lstm_jax.tasks.music.midi import LOWEST, write_midi
from lstm_jax.tasks.task import (
    Mean,
    Spec,
    Split,
    Task,
    average,
    ratio,
    sequential,
    shuffled,
    step_weights,
    time_major,
    weighed,
)

KEYS = 88
SPLITS = ("train", "valid", "test")
MATLAB = tuple(f"{split}data" for split in SPLITS)  # cell arrays of a .mat file
EVAL_STEPS = 256  # frames that an evaluation reads at a time, the carry handed on: exact
TOGETHER = 32  # pieces that the figures read together
PRIMER = 8  # frames of a test piece that a generated one begins with


OPTIONS = (
    Option("file", "", 'a .mat, .npz or .json of your own; "": JSB Chorales'),
    Option(
        "packing", "auto", "several pieces in one row: on | off | auto, if padding wastes a third"
    ),
    Option("steps", 256, "frames backpropagated through; longer rows in parts, 0: whole pieces"),
    Option("transpose", 0, "training pieces moved by up to this many semitones either way; 0: not"),
)


def build(config: Any) -> Task:
    """Rows of pieces, one behind the other; a batch is `train.batch_size` rows, or a part of them.

    The parts of a row come in order, in consecutive steps, and the carry goes on from one to the
    next: truncated backpropagation through time. Evaluation reads in parts too.
    """
    task, batch_size = config.task, config.train.batch_size
    check_options(config)
    rolls = load(task)
    parts = cut(config, rolls)
    stateful = max(parts.values()) > 1
    lengths = [len(roll) - 1 for roll in rolls["train"]]
    packed = packing.wanted(task.packing, lengths, causal(config.model)) or parts["train"] > 1
    arrays = {name: rows(rolls[name], packed, parts[name] if stateful else 0) for name in SPLITS}
    num_rows = {name: len(arrays[name]["inputs"]) for name in SPLITS}

    def batch(data: Any, key: Array, step: Array) -> dict:
        order_key, shift_key = jax.random.split(key)
        turn, part = step // parts["train"], step % parts["train"]
        indices = shuffled(order_key, turn, num_rows["train"], batch_size)
        chosen = take("train", parts["train"], part)(data, indices)
        return transposed(chosen, jax.random.fold_in(shift_key, turn), task.transpose)

    return Task(
        spec=Spec(KEYS, KEYS, stateful=stateful),
        data=arrays,
        batch=batch,
        loss=loss,
        splits={
            name: evaluation(name, num_rows[name], parts[name], batch_size)
            for name in ("valid", "test")
        },
        baselines={name: baselines(rolls["train"], rolls[name]) for name in ("valid", "test")},
        steps_per_epoch=-(-num_rows["train"] * parts["train"] // batch_size),
        figures=lambda forward: figures(forward, rolls, eval_steps(config.model)),
        predict=lambda forward, out, options: predict(forward, out, options, rolls["test"]),
    )


def check_options(config: Any) -> None:
    task = config.task
    if config.model.bidirectional:
        raise UsageError("model.bidirectional sees the frame to be predicted; set it to False")
    if not 0 <= task.transpose <= 12:
        raise UsageError(f"task.transpose={task.transpose}, expected 0 to 12 semitones")
    if task.steps < 0:
        raise UsageError(f"task.steps={task.steps}, expected at least 1 frame, or 0: whole pieces")


def causal(model: Any) -> bool:
    """Whether nothing but the carry connects the steps, so that rows can be packed and cut."""
    return not model.bidirectional and model.encoder != "conv"


def eval_steps(model: Any) -> int:
    """Frames that an evaluation reads at a time; 0: whole pieces, where a cut is not exact."""
    return EVAL_STEPS if causal(model) else 0


def cut(config: Any, rolls: dict) -> dict[str, int]:
    """In how many parts the rows of each split are read: 1 where they are short enough."""
    task = config.task
    longest = {name: max(len(roll) for roll in rolls[name]) - 1 for name in SPLITS}
    most = dict.fromkeys(SPLITS, eval_steps(config.model)) | {"train": task.steps}
    parts = {name: packing.num_parts(longest[name], most[name]) for name in SPLITS}
    reasons = {
        "model.encoder=conv sees across a cut": not causal(config.model),
        "task.packing=off would leave most parts empty": task.packing == "off",
    }
    against = [reason for reason, given in reasons.items() if given]
    if parts["train"] > 1 and against:
        raise UsageError(
            f"training pieces of up to {longest['train']:,} frames are cut at task.steps="
            f"{task.steps}, but {against[0]}; set task.steps=0 to train on whole pieces"
        )
    return parts


# ---------------------------------------------------------------------------------------------
# Data


def load(task: Any) -> dict[str, list[np.ndarray]]:
    """{"train" | "valid" | "test": rolls [T, 88] of 0 and 1}, checked."""
    given = Path(task.file).expanduser()
    if task.file and not given.is_file():
        raise UsageError(f"{task.file}: no such file")
    place = given if task.file else files.path("jsb", "JSB_Chorales.mat", task.data_dir)
    name, content = str(place), files.read(place)
    kinds = {".mat": from_mat, ".npz": from_npz, ".json": from_json}
    kind = Path(place.stem).suffix if place.suffix == ".gz" else place.suffix
    if kind not in kinds:
        raise UsageError(f"{name}: {kind or 'no'} file type, expected {', '.join(kinds)}")
    rolls = kinds[kind](content, name) if task.file else from_cells(matfile.cells(content, MATLAB))
    for split in SPLITS:
        if not rolls.get(split):
            raise UsageError(f"{name}: no pieces in {split!r}; expected train, valid and test")
        rolls[split] = [check(r, f"{name}: {split}[{i}]") for i, r in enumerate(rolls[split])]
    return rolls


def from_mat(content: bytes, name: str) -> dict[str, list]:
    """The cell arrays of MATLAB."""
    return from_cells(matfile.read(content, name, MATLAB))


def from_cells(cells: dict[str, list]) -> dict[str, list]:
    return {split: cells[f"{split}data"] for split in SPLITS}


def from_npz(content: bytes, name: str) -> dict[str, list]:
    """Arrays train [N, T, 88], or train_0, train_1, ... [T, 88], and so on."""
    arrays = readers.npz(content, name)
    out: dict[str, list] = {split: list(arrays.get(split, [])) for split in SPLITS}
    numbered = [key.rpartition("_") for key in arrays if key.rpartition("_")[2].isdigit()]
    for split, _, number in sorted(numbered, key=lambda parts: int(parts[2])):
        if split in out:
            out[split].append(arrays[f"{split}_{number}"])
    return out


def from_json(content: bytes, name: str) -> dict[str, list]:
    """{"train": [[frame, ...], ...]}; a frame is 88 times 0 or 1, or MIDI numbers 21 .. 108."""
    tree = readers.parse_json(content, name)
    if not isinstance(tree, dict):
        raise UsageError(f"{name}: a {type(tree).__name__}, expected an object of three lists")
    out = {}
    for split in SPLITS:
        pieces = tree.get(split, [])
        if not isinstance(pieces, list):
            raise UsageError(f"{name}: {split} is a {type(pieces).__name__}, expected a list")
        out[split] = [from_frames(p, f"{name}: {split}[{i}]") for i, p in enumerate(pieces)]
    return out


def from_frames(piece: Any, where: str) -> np.ndarray:
    """Roll [T, 88] from a list of frames."""
    if not isinstance(piece, list) or not all(isinstance(frame, list) for frame in piece):
        raise UsageError(f"{where}: expected a list of frames, each a list of numbers")
    roll = np.zeros((len(piece), KEYS), np.uint8)
    for t, frame in enumerate(piece):
        if len(frame) == KEYS and set(frame) <= {0, 1}:
            roll[t] = frame
            continue
        wrong = [n for n in frame if not isinstance(n, int) or not LOWEST <= n < LOWEST + KEYS]
        if wrong:
            expected = f"MIDI numbers {LOWEST} to {LOWEST + KEYS - 1}, or {KEYS} times 0 or 1"
            raise UsageError(f"{where}, frame {t}: {wrong[0]!r} among {len(frame)}, not {expected}")
        roll[t, np.array(frame, int) - LOWEST] = 1
    return roll


def check(roll: np.ndarray, where: str) -> np.ndarray:
    """The roll as uint8, if it is one."""
    roll = np.asarray(roll)
    if roll.ndim != 2 or roll.shape[1] != KEYS:
        raise UsageError(f"{where}: an array of {roll.shape}, expected [frames, {KEYS} keys]")
    if len(roll) < 2:
        raise UsageError(f"{where}: {len(roll)} frames, expected at least 2 to predict one")
    wrong = np.argwhere((roll != 0) & (roll != 1))
    if len(wrong):
        frame, key = wrong[0]
        raise UsageError(f"{where}, frame {frame}, key {key}: {roll[frame, key]}, expected 0 or 1")
    return roll.astype(np.uint8)


def rows(rolls: list[np.ndarray], packed: bool, parts: int = 0) -> dict[str, np.ndarray]:
    """inputs and targets [R, T, 88] uint8, one frame apart, as `packing.lay_out` has them."""
    out = packing.lay_out([{"inputs": r[:-1], "targets": r[1:]} for r in rolls], packed, parts)
    return {k: v for k, v in out.items() if k not in ("lasts", "order")}


def take(name: str, parts: int, part: Any) -> Callable:
    """take(data, indices) -> inputs, targets [T, B, 88] float32 and what says which steps count.

    One of the rows' equal parts.
    """

    def batch(data: dict, indices: Array) -> dict:
        size = data[name]["inputs"].shape[1] // parts
        at = indices[:, None], part * size + jnp.arange(size)
        found = {k: jnp.asarray(v) for k, v in data[name].items()}
        chosen = time_major({k: v[at] if v.ndim > 1 else v[indices] for k, v in found.items()})
        sound = {k: chosen[k].astype(jnp.float32) for k in ("inputs", "targets")}
        return {**chosen, **sound}

    return batch


def evaluation(name: str, num_rows: int, parts: int, batch_size: int) -> Split:
    """All rows in order, `batch_size` of them together and part after part."""

    def batch(data: Any, index: Array) -> dict:
        together = sequential(take(name, parts, index % parts), num_rows, batch_size)
        return together.batch(data, index // parts)

    return Split(-(-num_rows // batch_size) * parts, batch)


def transposed(batch: dict, key: Array, semitones: int) -> dict:
    """Each row moved by its own number of semitones in -s .. s; keys past the end are lost."""
    if not semitones:
        return batch
    shifts = jax.random.randint(key, (batch["inputs"].shape[1],), -semitones, semitones + 1)
    source = jnp.arange(KEYS) - shifts[:, None]
    inside = (source >= 0) & (source < KEYS)

    def move(roll: Array) -> Array:
        moved = jnp.take_along_axis(roll, jnp.clip(source, 0, KEYS - 1)[None], axis=2)
        return jnp.where(inside, moved, 0)

    return {**batch, "inputs": move(batch["inputs"]), "targets": move(batch["targets"])}


# ---------------------------------------------------------------------------------------------
# Scores


def frame_nll(logits: Any, targets: Any) -> Array:
    """[...]: -sum_k log p(x_k), nats; logits and targets [..., 88]."""
    xp = np if isinstance(logits, np.ndarray) else jnp
    return xp.sum(xp.logaddexp(logits, 0) - targets * logits, axis=-1)


def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
    """Mean over frames of `frame_nll`; outputs [T, B, 88].

    accuracy = TP / (TP + FP + FN) of the keys with p > 1/2, Bay et al. (2009).
    """
    counts = step_weights(batch, *outputs.shape[:2])
    outputs, targets = weighed(counts, outputs, batch["targets"])
    nll = average(frame_nll(outputs, targets), counts)
    on, played = outputs > 0, targets > 0
    hits = jnp.sum((on & played) * counts[..., None])
    touched = jnp.sum((on | played) * counts[..., None])
    return ratio(nll), {"loss": nll, "nll": nll, "accuracy": Mean(hits, touched)}


def baselines(train: list[np.ndarray], other: list[np.ndarray]) -> dict:
    """Each key at its training marginal; each key a Markov chain of its own.

    Probabilities are (n + 1/2) / (N + 1), so that a key never played in training is possible.
    """
    frames, before, after = stack(train)
    marginal = estimate(frames.sum(axis=0), len(frames))
    held = estimate((before * after).sum(axis=0), before.sum(axis=0))
    struck = estimate(((1 - before) * after).sum(axis=0), (1 - before).sum(axis=0))
    _, before, after = stack(other)
    chain = np.where(before > 0, held, struck)
    scores = {"marginal of each key": marginal, "each key from itself": chain}
    found = {name: bernoulli(p, after) for name, p in scores.items()}
    return {name: {"loss": nll, "nll": nll} for name, nll in found.items()}


def stack(rolls: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(all frames, all but each piece's last, all but each piece's first)."""
    parts = (rolls, [r[:-1] for r in rolls], [r[1:] for r in rolls])
    frames, before, after = map(np.concatenate, parts)
    return frames, before, after


def estimate(hits: Any, total: Any) -> np.ndarray:
    return (hits + 0.5) / (total + 1)


def bernoulli(p: np.ndarray, frames: np.ndarray) -> float:
    """Mean over frames [N, 88] of their negative log-likelihood, nats."""
    return float(-np.sum(np.where(frames > 0, np.log(p), np.log1p(-p))) / len(frames))


# ---------------------------------------------------------------------------------------------
# Pictures and music


def figures(forward: Callable, rolls: dict, steps: int) -> dict[str, Any]:
    """The first test piece against its predictions, and the loss by how much was heard before."""
    test = rolls["test"]
    logits = predictions(forward, test, steps)
    return {
        "piano_roll": piano_rolls(test[0][1:], 1 / (1 + np.exp(-logits[0]))),
        "nll_by_frame": nll_by_frame(rolls, logits),
    }


def predictions(forward: Callable, rolls: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Logits [T, 88] for the frames of each piece but the first.

    Pieces of about one length are read together, at most `steps` frames at a time, 0: at once.
    """
    order = sorted(range(len(rolls)), key=lambda i: len(rolls[i]))
    longest = len(rolls[order[-1]]) - 1
    size = min(steps or longest, longest)
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), TOGETHER):
        group = order[start : start + TOGETHER]
        frames = len(rolls[group[-1]]) - 1
        padded = np.zeros((frames + -frames % size, TOGETHER, KEYS), np.float32)
        for column, i in enumerate(group):
            padded[: len(rolls[i]) - 1, column] = rolls[i][:-1]
        carry, parts = None, []
        for part in range(0, frames, size):
            outputs, carry = forward({"inputs": padded[part : part + size]}, carry)
            parts.append(np.asarray(outputs))
        logits = np.concatenate(parts)
        found |= {i: logits[: len(rolls[i]) - 1, column] for column, i in enumerate(group)}
    return [found[i] for i in range(len(rolls))]


def piano_rolls(played: np.ndarray, predicted: np.ndarray) -> Any:
    """Above what was played, below the probability given to it one frame before."""
    from matplotlib.figure import Figure  # start-up

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, sharey=True)
    draw_roll(above, played, "played: first test piece")
    image = draw_roll(below, predicted, "predicted one frame ahead")
    below.set_xlabel("frame (quarter note)")
    figure.colorbar(image, ax=(above, below), label="probability", shrink=0.6)
    return figure


def draw_roll(axes: Any, roll: np.ndarray, title: str) -> Any:
    """Keys by MIDI number, the compass of four voices."""
    extent = (-0.5, len(roll) - 0.5, LOWEST - 0.5, LOWEST + KEYS - 0.5)
    image = axes.imshow(
        roll.T, origin="lower", aspect="auto", cmap="magma_r", vmin=0, vmax=1, extent=extent
    )
    used = np.flatnonzero(roll.max(axis=0) > 0.1)
    if used.size:
        axes.set_ylim(LOWEST + used[0] - 3, LOWEST + used[-1] + 3)
    axes.set(ylabel="key (MIDI number)", title=title)
    return image


def nll_by_frame(rolls: dict, logits: list[np.ndarray]) -> Any:
    """Mean NLL at each frame of the test pieces, for as long as ten of them last."""
    from matplotlib.figure import Figure  # start-up

    test = rolls["test"]
    nll = [frame_nll(own, r[1:]) for own, r in zip(logits, test, strict=True)]
    shown = sorted(len(values) for values in nll)[-10:][0]
    means = [np.mean([v[t] for v in nll if len(v) > t]) for t in range(shown)]
    trivial = baselines(rolls["train"], test)
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(1, shown + 1), means, label="model")
    for style, (name, score) in zip(("--", ":"), trivial.items(), strict=True):
        axes.axhline(score["nll"], color="0.4", linestyle=style, label=f"{name}, mean")
    axes.set(xlabel="frame (quarter note)", ylabel="NLL (nats)", title="Test NLL by frame")
    axes.set_ylim(top=12)
    axes.legend(loc="upper center", ncols=3)
    return figure


def generate(forward: Callable, primer: np.ndarray, length: int, temperature: float, seed: int):
    """Roll [length, 88]: the primer, then each key drawn from sigmoid(logit / temperature)."""
    random = np.random.default_rng(seed)
    roll, carry, logits = [np.asarray(frame, np.float32) for frame in primer], None, np.zeros(KEYS)
    for t in range(length):
        if t >= len(roll):
            chance = 1 / (1 + np.exp(-logits / max(temperature, 1e-3)))
            roll.append((random.random(KEYS) < chance).astype(np.float32))
        outputs, carry = forward({"inputs": roll[t][None, None]}, carry)
        logits = np.asarray(outputs)[0, 0].astype(np.float64)
    return np.stack(roll[:length])


def predict(
    forward: Callable, out_dir: Path, options: SimpleNamespace, test: list[np.ndarray]
) -> list[Path]:
    """chorale.mid and chorale.png: a piece begun by a test piece's first frames."""
    from matplotlib.figure import Figure  # start-up

    length = getattr(options, "length", 0) or 64
    seed = getattr(options, "seed", 0) or 0
    temperature = getattr(options, "temperature", None)
    temperature = 1.0 if temperature is None else temperature
    primer = test[seed % len(test)][:PRIMER]
    roll = generate(forward, primer, length, temperature, seed)
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    axes = figure.subplots()
    given = "given up to the line, from there on generated"
    draw_roll(axes, roll, f"{given}: temperature {temperature:g}, seed {seed}")
    axes.axvline(len(primer) - 0.5, color="tab:blue")
    axes.set_xlabel("frame (quarter note)")
    figure.savefig(out_dir / "chorale.png", dpi=120)
    return [write_midi(out_dir / "chorale.mid", roll), out_dir / "chorale.png"]
