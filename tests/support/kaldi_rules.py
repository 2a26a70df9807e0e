"""What ``validate_data_dir.sh --no-feats`` of Kaldi requires of a data directory, by its documentation.

https://kaldi-asr.org/doc/data_prep.html: files are sorted by their first column in the locale C, each key is there
once, files of utterances have the same ones, and so on.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

UTTERANCE_FILES = ("text", "utt2dur", "utt2lang", "utt2num_frames", "utt2uniq", "utt2emo", "utt2score")
"""Of which each that is there has all utterances. The script does not know the last two."""


def find_faults(folder: Path, no_text: bool = False, no_spk_sort: bool = False) -> list[str]:
    """Find what breaks a rule."""
    faults = []
    tables: dict[str, list[list[bytes]]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.suffix == ".json" or path.name == "rejected.tsv":
            continue
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            faults.append(f"{path.name}: does not end in a line break")
        rows = [line.split() for line in content.split(b"\n")[:-1]]
        keys = [row[0] if row else b"" for row in rows]
        tables[path.name] = rows
        if keys != sorted(set(keys)):
            faults.append(f"{path.name}: not sorted, or a key is there twice")
    faults += [f"no {name}" for name in ("wav.scp", "utt2spk", "spk2utt") if not tables.get(name)]
    if "text" not in tables and not no_text:
        faults.append("no text")
    if faults:
        return faults
    utterances = keys_of(tables["utt2spk"])
    faults += _find_speaker_faults(tables, no_spk_sort)
    for name in UTTERANCE_FILES:
        if name in tables and keys_of(tables[name]) != utterances:
            faults.append(f"{name}: other utterances than in utt2spk")
    faults += _find_recording_faults(tables, utterances)
    faults += [f"utt2dur: {row}" for row in tables.get("utt2dur", []) if len(row) != 2 or not float(row[1]) > 0]
    text = (folder / "text").read_bytes() if "text" in tables else b""
    if re.search(rb"(^|\s)(<s>|</s>|#0)(\s|$)", text) or text.decode().count("\u00a0"):
        faults.append("text: a symbol that is not allowed")
    return faults


def keys_of(rows: list[list[bytes]]) -> list[bytes]:
    return [row[0] for row in rows]


def _find_speaker_faults(tables: dict[str, list[list[bytes]]], no_spk_sort: bool) -> list[str]:
    faults = []
    pairs = tables["utt2spk"]
    if any(len(row) != 2 for row in pairs):
        return ["utt2spk: a line has not two columns"]
    if not no_spk_sort and pairs != sorted(pairs, key=lambda row: (row[1], row[0])):
        faults.append("utt2spk: not sorted by speaker")
    inverse = [[utterance, row[0]] for row in tables["spk2utt"] for utterance in row[1:]]
    if sorted(inverse) != pairs or any(row[1:] != sorted(row[1:]) for row in tables["spk2utt"]):
        faults.append("spk2utt: not the inverse of utt2spk")
    genders = tables.get("spk2gender")
    if genders is not None and (
        keys_of(genders) != keys_of(tables["spk2utt"]) or any(row[1:] not in ([b"f"], [b"m"]) for row in genders)
    ):
        faults.append("spk2gender: other speakers, or neither m nor f")
    return faults


def _find_recording_faults(tables: dict[str, list[list[bytes]]], utterances: list[bytes]) -> list[str]:
    faults = []
    recordings = keys_of(tables["wav.scp"])
    segments = tables.get("segments")
    if any(len(row) < 2 or row[1].startswith(b"~") for row in tables["wav.scp"]):
        faults.append("wav.scp: no path, or one with a tilde")
    if segments is None and recordings != utterances:
        faults.append("wav.scp: other utterances than in utt2spk")
    if segments is not None:
        if any(len(row) != 4 or not float(row[3]) > float(row[2]) >= 0 for row in segments):
            return [*faults, "segments: a line has another form"]
        if keys_of(segments) != utterances:
            faults.append("segments: other utterances than in utt2spk")
        if sorted({row[1] for row in segments}) != recordings:
            faults.append("segments: other recordings than in wav.scp")
    channels = tables.get("reco2file_and_channel")
    if channels is not None and (
        keys_of(channels) != recordings or any(len(row) != 3 or row[2] not in (b"A", b"B", b"1") for row in channels)
    ):
        faults.append("reco2file_and_channel: other recordings than in wav.scp, or no channel A or B")
    return faults


def read_table(path: Path) -> dict[str, str]:
    """Read the lines of a list by their first column."""
    pairs = (line.split(maxsplit=1) for line in path.read_text().splitlines())
    return {pair[0]: "".join(itertools.islice(pair, 1, None)) for pair in pairs}
