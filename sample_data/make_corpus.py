"""Make the sample corpus: short synthetic utterances in nine "emotions", as two Kaldi data directories.

espeak-ng speaks every line of `sentences/` with the rate, pitch and pauses of its class (`STYLES`), and numpy
gives the waveform the colour of that class: a tremble, a whisper, a rise in pitch. Run it from the repository
root, since the paths in `wav.scp` are relative to it:

    python sample_data/make_corpus.py

The same versions of espeak-ng, libsndfile and numpy make the same bytes again.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias
from xml.sax.saxutils import escape

import numpy as np
import soundfile
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray

Waveform: TypeAlias = NDArray[np.float64]  # mono, at SAMPLE_RATE unless said otherwise

SAMPLE_RATE = 16_000  # Hz
ESPEAK_RATE = 22_050  # Hz
ESPEAK_WAV_HEADER = 44  # bytes
PEAK = 0.5  # of full scale


# -- Colours: what a class does to a waveform ----------------------------------------------------------------


def plain(wave: Waveform, _rng: Generator) -> Waveform:
    """Leave the voice as it is."""
    return wave


def harsh(wave: Waveform, rng: Generator) -> Waveform:
    """Overdrive the voice and lift its high frequencies."""
    return tilt(np.tanh(rng.uniform(4, 8) * wave / np.abs(wave).max()), 3)


def creaky(wave: Waveform, rng: Generator) -> Waveform:
    """Break the voice up some thirty times a second."""
    return pulsate(wave, rng.uniform(26, 34), depth=0.8)


def trembling(wave: Waveform, rng: Generator) -> Waveform:
    """Shake the loudness some seven times a second."""
    return pulsate(wave, rng.uniform(6, 8), depth=0.7)


def lilting(wave: Waveform, rng: Generator) -> Waveform:
    """Let the pitch swing up and down four times a second, and brighten the voice a little."""
    seconds = np.arange(len(wave)) / SAMPLE_RATE
    return tilt(replay(wave, 1 + 0.1 * np.sin(2 * np.pi * rng.uniform(3.5, 4.5) * seconds)), 2)


def whispered(wave: Waveform, rng: Generator) -> Waveform:
    """Put noise in the place of the voice, under the same spectral envelope."""
    size, hop = 512, 128  # 32 ms and 8 ms
    smooth = np.ones(13) / 13  # 400 Hz, wider than the harmonics are apart
    window = np.hanning(size)
    padded = np.pad(wave, size)
    frames = sliding_window_view(padded, size)[::hop] * window
    envelope = np.apply_along_axis(np.convolve, 1, np.abs(np.fft.rfft(frames)), smooth, "same")
    noise = np.fft.rfft(rng.standard_normal(frames.shape) * window)
    output: Waveform = np.zeros_like(padded)
    for start, frame in enumerate(np.fft.irfft(envelope * noise) * window):
        output[start * hop : start * hop + size] += frame
    return output[size:-size]


def muffled(wave: Waveform, rng: Generator) -> Waveform:
    """Take the high frequencies away."""
    return tilt(wave, rng.uniform(-9, -6))


def rising(wave: Waveform, rng: Generator) -> Waveform:
    """Let the pitch climb from start to end by about eight semitones."""
    return replay(wave, np.geomspace(1, rng.uniform(1.5, 1.7), len(wave)))


def noisy(wave: Waveform, rng: Generator) -> Waveform:
    """Drown the voice in a rumble about as loud as itself."""
    noise = tilt(rng.standard_normal(len(wave)), -3)
    snr = rng.uniform(-3, 3)  # dB
    level: float = wave.std() / noise.std() * 10 ** (-snr / 20)
    return wave + level * noise


def tilt(wave: Waveform, slope: float) -> Waveform:
    """Filter with a gain that rises by `slope` dB an octave (or falls) between 100 Hz and 8 kHz."""
    octaves = np.log2(np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE).clip(100) / 1000)
    gain = 10 ** (slope * octaves / 20)
    return np.fft.irfft(np.fft.rfft(wave) * gain, len(wave))


def pulsate(wave: Waveform, frequency: float, depth: float) -> Waveform:
    """Let the gain fall from 1 to 1 - depth and rise again, `frequency` times a second."""
    seconds = np.arange(len(wave)) / SAMPLE_RATE
    return wave * (1 - depth * (0.5 - 0.5 * np.cos(2 * np.pi * frequency * seconds)))


def replay(wave: Waveform, speed: Waveform) -> Waveform:
    """Play each sample at a relative speed of its own, and so the pitch; the length stays the same."""
    position = np.cumsum(speed)
    position *= (len(wave) - 1) / position[-1]
    replayed: Waveform = np.interp(position, np.arange(len(wave)), wave)
    return replayed


# -- Classes and speech --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How one class sounds."""

    rate: int  # words a minute
    pitch: int  # 0 to 99, within the voice's own compass
    range: int  # of the pitch, per cent of the voice's own
    gap: int  # between words, in steps of about 10 ms
    colour: Callable[[Waveform, Generator], Waveform]


STYLES: Mapping[str, Style] = {
    "angry": Style(rate=205, pitch=45, range=160, gap=0, colour=harsh),
    "disgusted": Style(rate=130, pitch=25, range=140, gap=2, colour=creaky),
    "fearful": Style(rate=220, pitch=80, range=50, gap=0, colour=trembling),
    "happy": Style(rate=185, pitch=75, range=200, gap=0, colour=lilting),
    "neutral": Style(rate=165, pitch=45, range=70, gap=0, colour=plain),
    "other": Style(rate=150, pitch=40, range=80, gap=1, colour=whispered),
    "sad": Style(rate=120, pitch=20, range=25, gap=3, colour=muffled),
    "surprised": Style(rate=170, pitch=65, range=150, gap=0, colour=rising),
    "unknown": Style(rate=165, pitch=45, range=90, gap=0, colour=noisy),
}


def synthesise(voice: str, text: str, emotion: str, rng: Generator) -> Waveform:
    """Speak `text` with an espeak-ng voice in the style of a class, a little differently with every draw."""
    style = STYLES[emotion]
    rate = round(style.rate * rng.uniform(0.92, 1.08))
    pitch = round(style.pitch + rng.uniform(-6, 6))
    wave = style.colour(speak(voice, text, rate, pitch, style.range, style.gap), rng)
    loudest: float = np.abs(wave).max()
    return wave * PEAK / loudest + room_noise(len(wave), rng)


def room_noise(samples: int, rng: Generator) -> Waveform:
    """Return what a microphone hears when nobody speaks."""
    return rng.standard_normal(samples) / 2000


def pause(rng: Generator) -> Waveform:
    """Return the silence between two speakers, 0.4 to 0.9 s."""
    return room_noise(round(rng.uniform(0.4, 0.9) * SAMPLE_RATE), rng)


def speak(voice: str, text: str, rate: int, pitch: int, pitch_range: int, gap: int) -> Waveform:
    """Run espeak-ng; the units are those of `Style`."""
    options = ["-v", voice, "-s", str(rate), "-p", str(pitch), "-g", str(gap)]
    markup = f'<prosody range="{pitch_range}%">{escape(text)}</prosody>'  # there is no option for the range
    command = ["espeak-ng", *options, "-z", "-m", "--stdout", markup]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    wave = np.frombuffer(output, dtype="<i2", offset=ESPEAK_WAV_HEADER) / 32768
    resampled: Waveform = soxr.resample(wave, ESPEAK_RATE, SAMPLE_RATE)
    return resampled


def require_espeak() -> None:
    """Leave with a hint if there is nothing to speak with."""
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng is not on PATH: apt-get install espeak-ng (or: brew install espeak-ng)")


# -- Data directories ----------------------------------------------------------------------------------------

SENTENCES = Path(__file__).parent / "sentences"

SPEAKERS: Mapping[str, str] = {  # and their espeak-ng voices
    "f1": "en-gb+f2",
    "f2": "en-us+f4",
    "m1": "en-us+m3",
    "m2": "en-gb-scotland+m5",
}
FOLDS = {"f1": "1", "f2": "2", "m1": "1", "m2": "2"}  # each has a woman and a man
NARROWBAND = "f1-0004"  # kept at 8 kHz, as from a telephone
STEREO = "m1-0001"  # kept at 44.1 kHz, with the right channel softer and later


class Line(NamedTuple):
    """One utterance to be spoken."""

    speaker: str
    emotion: str
    text: str


def read_lines(name: str) -> list[Line]:
    """Read `speaker emotion text` lines."""
    rows = (SENTENCES / name).read_text(encoding="utf-8").splitlines()
    return [Line(*row.split(maxsplit=2)) for row in rows]


def make_utterances(folder: Path) -> None:
    """Write the data directory of single recordings."""
    lines = dict(number(read_lines("utterances.txt")))
    paths = {}
    for index, (utt_id, line) in enumerate(lines.items()):
        wave = synthesise(SPEAKERS[line.speaker], line.text, line.emotion, np.random.default_rng([1, index]))
        path = folder / "wav" / f"{utt_id}.{audio_format(len(wave) / SAMPLE_RATE, index)}"
        if utt_id == NARROWBAND:
            write_audio(path, soxr.resample(wave, SAMPLE_RATE, 8000), 8000)
        elif utt_id == STEREO:
            right = 0.6 * np.roll(wave, 8)  # half a millisecond later
            write_audio(path, soxr.resample(np.stack([wave, right], axis=1), SAMPLE_RATE, 44_100), 44_100)
        else:
            write_audio(path, wave, SAMPLE_RATE)
        paths[utt_id] = str(path)
    write_table(folder / "wav.scp", paths)
    write_labels(folder, lines)
    write_table(folder / "spk2fold", FOLDS)


def number(lines: list[Line]) -> Iterator[tuple[str, Line]]:
    """Give each line an id that says who speaks, and not how."""
    counts = dict.fromkeys(SPEAKERS, 0)
    for line in lines:
        counts[line.speaker] += 1
        yield f"{line.speaker}-{counts[line.speaker]:04}", line


def audio_format(seconds: float, index: int) -> str:
    """Choose a file format: what is short may be large, what is long may not."""
    if seconds < 2:
        return "wav"
    return "flac" if seconds < 4 or (seconds < 6 and index % 2) else "ogg"


def make_dialogue(folder: Path) -> None:
    """Write the data directory of one long recording, cut by a `segments` file."""
    rng = np.random.default_rng(2)
    pieces = [pause(rng)]
    lines, segments = {}, {}
    for line in read_lines("dialogue.txt"):
        wave = synthesise(SPEAKERS[line.speaker], line.text, line.emotion, rng)
        start = sum(map(len, pieces)) / SAMPLE_RATE
        end = start + len(wave) / SAMPLE_RATE
        utt_id = f"{line.speaker}-dialogue-{100 * start:06.0f}-{100 * end:06.0f}"  # in 10 ms
        lines[utt_id] = line
        segments[utt_id] = f"dialogue {start:.2f} {end:.2f}"
        pieces += [wave, pause(rng)]
    path = folder / "wav" / "dialogue.ogg"
    write_audio(path, np.concatenate(pieces), SAMPLE_RATE)
    write_table(folder / "wav.scp", {"dialogue": str(path)})
    write_table(folder / "segments", segments)
    write_labels(folder, lines)


def write_labels(folder: Path, lines: Mapping[str, Line]) -> None:
    """Write who speaks, how, and what."""
    spk2utt = {
        speaker: " ".join(sorted(utt_id for utt_id, line in lines.items() if line.speaker == speaker))
        for speaker in {line.speaker for line in lines.values()}
    }
    write_table(folder / "utt2spk", {utt_id: line.speaker for utt_id, line in lines.items()})
    write_table(folder / "spk2utt", spk2utt)
    write_table(folder / "spk2gender", {speaker: speaker[0] for speaker in spk2utt})
    write_table(folder / "utt2emo", {utt_id: line.emotion for utt_id, line in lines.items()})
    write_table(folder / "text", {utt_id: line.text for utt_id, line in lines.items()})


def write_table(path: Path, rows: Mapping[str, str]) -> None:
    """Write a Kaldi table, sorted by key as the C locale sorts."""
    path.write_text("".join(f"{key} {value}\n" for key, value in sorted(rows.items())), encoding="utf-8")


def write_audio(path: Path, samples: Waveform, sample_rate: int) -> None:
    """Write a WAV, FLAC or OGG file, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate)
    if path.suffix == ".ogg":
        path.write_bytes(with_serial_number(path.read_bytes(), 1))


def with_serial_number(ogg: bytes, serial: int) -> bytes:
    """Give every page of an Ogg file this serial number, since libsndfile draws another each time it writes.

    A page has its serial number at byte 14, its checksum at byte 22, the number of its segments at byte 26;
    then come their sizes, one byte each, and the segments themselves.
    """
    pages = bytearray(ogg)
    start = 0
    while start < len(pages):
        end_of_sizes = start + 27 + pages[start + 26]
        end = end_of_sizes + sum(pages[start + 27 : end_of_sizes])
        pages[start + 14 : start + 18] = serial.to_bytes(4, "little")
        pages[start + 22 : start + 26] = bytes(4)  # the checksum counts itself as zero
        pages[start + 22 : start + 26] = ogg_checksum(bytes(pages[start:end])).to_bytes(4, "little")
        start = end
    return bytes(pages)


def ogg_checksum(page: bytes) -> int:
    """CRC-32 as Ogg wants it: polynomial 0x04c11db7, highest bit first, nothing inverted."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x104C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def main() -> None:
    """Make both data directories."""
    parser = argparse.ArgumentParser(description="Make the sample corpus; run it from the repository root.")
    parser.add_argument("--out", type=Path, default="sample_data", help="folder (default: %(default)s)")
    folder: Path = parser.parse_args().out
    require_espeak()
    make_utterances(folder)
    make_dialogue(folder / "long")


if __name__ == "__main__":
    main()
