"""The audio containers that e2v reads, one entry each; ``README.md`` beside this file shows how to add one."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass

from e2v_cli.audio.containers import open_asf, open_avi, open_matroska, open_mp4
from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError, blame
from e2v_cli.audio.flac import open_flac
from e2v_cli.audio.framed import find_ac3, find_adts, open_ac3, open_adts, open_amr, open_ape, open_caf, open_wavpack
from e2v_cli.audio.headers import open_au, open_sphere
from e2v_cli.audio.mpeg import find_frames, open_mp3
from e2v_cli.audio.ogg import open_ogg
from e2v_cli.audio.riff import open_riff
from e2v_cli.audio.tags import skip_tags

HEAD = 1 << 16
"""Bytes at the beginning of a file by which its format is told."""


@dataclass(frozen=True)
class AudioFormat:
    """An audio container."""

    name: str
    suffixes: tuple[str, ...]
    """Suffixes in lower case: in a folder, only files with one are audio. A file that the user names may have any."""
    seekable: bool
    """Whether a decoder finds any sample without decoding those before it."""
    matches: Callable[[bytes], object]
    """Whether a file has this format, by its first bytes after ID3 tags."""
    open: Callable[[str, bool], Decoder]
    """Open the file at a path, and check that it is whole as far as its structure tells; at a glance (True), without
    reading all of it.

    Raises:
        AudioError: the file is damaged, or not all there.
        OSError: the file can't be read.
    """


AUDIO_FORMATS = {
    audio_format.name: audio_format
    for audio_format in (
        AudioFormat("wav", (".wav",), True, re.compile(rb"(?s)(RIFF|RIFX|RF64|BW64)....WAVE").match, open_riff),
        AudioFormat("w64", (".w64",), True, re.compile(rb"riff\x2e\x91\xcf\x11").match, open_riff),
        AudioFormat("aiff", (".aif", ".aifc", ".aiff"), True, re.compile(rb"(?s)FORM....AIF[FC]").match, open_riff),
        AudioFormat("au", (".au",), True, re.compile(rb"\.snd|dns\.").match, open_au),
        AudioFormat("sph", (".sph", ".wv1", ".wv2"), True, re.compile(rb"NIST_1A").match, open_sphere),
        AudioFormat("flac", (".flac",), True, re.compile(rb"fLaC").match, open_flac),
        AudioFormat("ogg", (".oga", ".ogg", ".opus"), False, re.compile(rb"OggS").match, open_ogg),
        AudioFormat(
            "mp4",
            (".3g2", ".3gp", ".m4a", ".m4b", ".m4v", ".mov", ".mp4"),
            False,
            re.compile(rb"(?s)\0...(ftyp|styp|moov|wide|free|skip|pnot)|....mdat").match,
            open_mp4,
        ),
        AudioFormat(
            "matroska", (".mka", ".mkv", ".webm"), False, re.compile(rb"\x1a\x45\xdf\xa3").match, open_matroska
        ),
        AudioFormat(
            "asf", (".asf", ".wma", ".wmv"), False, re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11").match, open_asf
        ),
        AudioFormat("avi", (".avi",), False, re.compile(rb"(?s)RIFF....AVI ").match, open_avi),
        AudioFormat("amr", (".amr",), False, re.compile(rb"#!AMR(-WB)?\n").match, open_amr),
        AudioFormat("wavpack", (".wv",), False, re.compile(rb"wvpk").match, open_wavpack),
        AudioFormat("ape", (".ape",), False, re.compile(rb"MAC ").match, open_ape),
        AudioFormat("caf", (".caf",), False, re.compile(rb"caff").match, open_caf),
        AudioFormat("aac", (".aac",), False, find_adts, open_adts),
        AudioFormat("ac3", (".ac3", ".eac3"), False, find_ac3, open_ac3),
        AudioFormat("mp3", (".mp2", ".mp3"), False, find_frames, open_mp3),  # last, since it has no mark of its own
    )
}
"""Audio formats by name, in the order in which they are tried."""


def audio_suffixes() -> frozenset[str]:
    """Return the suffixes of all formats, in lower case, with their dots."""
    return frozenset(suffix for audio_format in AUDIO_FORMATS.values() for suffix in audio_format.suffixes)


def seekable_suffixes() -> frozenset[str]:
    """Return the suffixes of those formats in which a decoder finds any sample."""
    return frozenset(
        suffix for audio_format in AUDIO_FORMATS.values() if audio_format.seekable for suffix in audio_format.suffixes
    )


def open_audio(path: str, at_a_glance: bool = False) -> Decoder:
    """Open an audio file, whose format is told by its content.

    Args:
        path: path of the file.
        at_a_glance: whether the header alone is looked at; else a format without a header is read whole.

    Raises:
        AudioError: it is missing, empty, not audio, damaged, or not all there.
        OSError: this machine fails, not the file.
    """
    try:
        _check_file(path)
        head = _read_head(path)
        if not head:
            raise AudioError("not audio", "an ID3 tag, and no audio after it")
        for audio_format in AUDIO_FORMATS.values():
            if audio_format.matches(head):
                return audio_format.open(path, at_a_glance)
    except FileNotFoundError:
        raise AudioError("missing", "no such file") from None
    except OSError as error:
        raise blame(error) from None
    raise AudioError("not audio", f"no known format: it begins with {str(head[:16])[1:]}")


def _check_file(path: str) -> None:
    try:
        status = os.stat(path)
    except ValueError:
        raise AudioError("unreadable", "a NUL character in the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise AudioError("unreadable", "not a regular file")
    if status.st_size == 0:
        raise AudioError("empty", "0 bytes")


def _read_head(path: str) -> bytes:
    """Read the first bytes of a file, after its tags."""
    with open(path, "rb") as file:
        file.seek(skip_tags(file))
        return file.read(HEAD)
