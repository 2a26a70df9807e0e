"""The audio containers that e2v reads, one entry each; ``README.md`` beside this file shows how to add one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2v_cli.audio.integrity import (
    ExpectedLength,
    read_decoder_length,
    read_logged_length,
    read_mp3_length,
    read_nist_length,
    read_ogg_length,
    read_w64_length,
)

if TYPE_CHECKING:
    import soundfile


@dataclass(frozen=True)
class AudioFormat:
    """An audio container."""

    name: str
    containers: tuple[str, ...]
    """libsndfile's names of it."""
    suffixes: tuple[str, ...]
    """Of its files, in lower case: what is taken for audio in a folder. A file that is named may be called anything."""
    seekable: bool
    """Whether a decoder finds any sample without decoding those before it."""
    read_expected_length: Callable[[soundfile.SoundFile, str], ExpectedLength]
    """Its completeness check: returns how many samples the open file at a path claims to have.

    Raises:
        AudioError: they can't be there, or the file is damaged where libsndfile doesn't see it.
    """
    check_reads_file: bool = False
    """Whether that reads all of a file: where only headers are looked at, libsndfile's length counts instead."""


AUDIO_FORMATS = {
    audio_format.name: audio_format
    for audio_format in (
        AudioFormat("wav", ("WAV", "WAVEX", "RF64"), (".wav",), True, read_logged_length),
        AudioFormat("w64", ("W64",), (".w64",), True, read_w64_length),
        AudioFormat("aiff", ("AIFF",), (".aif", ".aifc", ".aiff"), True, read_logged_length),
        AudioFormat("au", ("AU",), (".au",), True, read_logged_length),
        AudioFormat("sph", ("NIST",), (".sph",), True, read_nist_length),
        AudioFormat("flac", ("FLAC",), (".flac",), True, read_decoder_length),
        AudioFormat("ogg", ("OGG",), (".oga", ".ogg", ".opus"), False, read_ogg_length, check_reads_file=True),
        AudioFormat("mp3", ("MP3",), (".mp3",), False, read_mp3_length, check_reads_file=True),
    )
}
"""By name."""


def find_format(container: str) -> AudioFormat | None:
    """Find the format of a container, by libsndfile's name of it."""
    for audio_format in AUDIO_FORMATS.values():
        if container in audio_format.containers:
            return audio_format
    return None


def audio_suffixes() -> frozenset[str]:
    """Return the suffixes of all formats, in lower case, with their dots."""
    return frozenset(suffix for audio_format in AUDIO_FORMATS.values() for suffix in audio_format.suffixes)


def seekable_suffixes() -> frozenset[str]:
    """Return the suffixes of those formats in which a decoder finds any sample."""
    return frozenset(
        suffix for audio_format in AUDIO_FORMATS.values() if audio_format.seekable for suffix in audio_format.suffixes
    )
