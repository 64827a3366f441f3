"""Piano rolls as standard MIDI files, format 0: the least that every player understands."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

LOWEST = 21  # MIDI number of key 0 of 88, A0
TICKS = 480  # per quarter note
VELOCITY = 80


def write_midi(path: Path, roll: np.ndarray, *, beats_per_minute: float = 80.0) -> Path:
    """Write roll [T, 88] of 0 and 1, a quarter note a frame; a key held over frames is one note."""
    body = tempo(beats_per_minute) + notes(roll) + b"\x00\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS)
    path.write_bytes(header + b"MTrk" + struct.pack(">I", len(body)) + body)
    return path


def tempo(beats_per_minute: float) -> bytes:
    """The set-tempo event: microseconds per quarter note in three bytes."""
    return b"\x00\xff\x51\x03" + round(60e6 / beats_per_minute).to_bytes(3, "big")


def notes(roll: np.ndarray) -> bytes:
    """Note on and note off events with the ticks since the event before."""
    silence = np.zeros((1, roll.shape[1]), int)
    change = np.diff(np.concatenate([silence, roll.astype(int), silence]), axis=0)
    events, last = b"", 0
    for frame, key in np.argwhere(change):
        down = change[frame, key] > 0
        delta, last = (frame - last) * TICKS, frame
        events += variable(int(delta)) + bytes([0x90 if down else 0x80, LOWEST + key, VELOCITY])
    return events


def variable(number: int) -> bytes:
    """Seven bits a byte, the highest first, the top bit set on all but the last."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))
