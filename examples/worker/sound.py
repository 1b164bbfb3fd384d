"""What can be measured of a WAV file without a speech model: length, loudness, and where somebody speaks.

It transcribes no words, and its result says so.
"""

from __future__ import annotations

import math
import sys
import wave
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent.parent
"""The only folder that media references reach."""
PREFIX: Final = "s3://mlproducer-examples/"
_FRAME: Final = 0.02
"""Seconds of one energy reading: short against a syllable, long against a period of the voice."""
_GAP: Final = 0.3
"""Seconds of quiet that end a segment; a stop consonant is quiet for less than half of that."""
_SHORTEST: Final = 0.1
"""Seconds; anything shorter is a click."""
_RANGE: Final = 30.0
"""dB under the loudest frame that still count as speech."""
_SILENCE: Final = -96.0
"""dBFS: the floor of 16 bits, given for digital silence."""
_FULL_SCALE: Final = 32768.0
_WIDTH: Final = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """Seconds from the beginning of the file."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    sample_rate: int
    rms_dbfs: float
    peak_dbfs: float
    segments: tuple[Segment, ...]

    @property
    def speech_seconds(self) -> float:
        return math.fsum(s.end - s.start for s in self.segments)


def resolve(reference: str, folder: Path = FOLDER) -> Path:
    """The file that `s3://mlproducer-examples/NAME` stands for. Raises: ValueError for any other reference."""
    name = reference.removeprefix(PREFIX)
    if name == reference or not name or "/" in name or "\\" in name or name.startswith("."):
        raise ValueError(f"the example worker reads only {PREFIX}NAME, a file of the examples folder")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"there is no {name} in the examples folder")
    return path


def measure(path: Path) -> Measured:
    """Read a mono 16-bit PCM WAV. Raises: ValueError for another kind of file, or an empty one."""
    samples, rate = _read(path)
    width = max(1, round(rate * _FRAME))
    levels = [_decibels(_rms(samples[i : i + width])) for i in range(0, len(samples), width)]
    return Measured(
        seconds=len(samples) / rate,
        sample_rate=rate,
        rms_dbfs=_decibels(_rms(samples)),
        peak_dbfs=_decibels(max(map(abs, samples)) / _FULL_SCALE),
        segments=_segments(levels, width / rate),
    )


def _read(path: Path) -> tuple[array[int], int]:
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as exc:
        raise ValueError(f"{path.name} is no WAV file: {exc}") from exc
    if (channels, width) != (1, _WIDTH):
        raise ValueError(f"{path.name} has {channels} channels of {8 * width} bits; the example reads mono of 16 bits")
    samples = array("h")
    samples.frombytes(raw[: len(raw) // _WIDTH * _WIDTH])
    if sys.byteorder == "big":  # WAV is little-endian
        samples.byteswap()
    if not samples:
        raise ValueError(f"{path.name} holds no sound")
    return samples, rate


def _rms(samples: array[int]) -> float:
    return math.sqrt(math.fsum(x * x for x in samples) / len(samples)) / _FULL_SCALE


def _decibels(level: float) -> float:
    return max(_SILENCE, 20 * math.log10(level)) if level > 0 else _SILENCE


def _segments(levels: list[float], step: float) -> tuple[Segment, ...]:
    """Runs of loud frames, joined over gaps shorter than `_GAP`."""
    threshold = max(levels) - _RANGE
    if max(levels) <= _SILENCE:
        return ()
    runs: list[tuple[int, int]] = []
    for index, level in enumerate(levels):
        if level < threshold:
            continue
        if runs and (index - runs[-1][1]) * step < _GAP:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return tuple(Segment(a * step, b * step) for a, b in runs if (b - a) * step >= _SHORTEST)
