"""Errors of audio: those of a file become a Failure, those of this machine stop the run."""

from __future__ import annotations

import errno


class AudioError(Exception):
    """The audio of an utterance can't be used: ``reason`` is one of a few words, the message has the details."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


MACHINE_ERRORS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
)
"""Errors of the machine, not of a file: too many files are open, memory is full, or the file system is gone."""


def blame(error: OSError) -> AudioError:
    """Return an error as the file's own; raise it again if it is the machine's, so that the run stops."""
    if error.errno in MACHINE_ERRORS:
        raise error
    return AudioError("unreadable", error.strerror or str(error))


def too_large(max_bytes: int) -> AudioError:
    """Return the error of a command or a URL that delivers more than it may."""
    return AudioError("too large", f"more than {max_bytes} bytes; --max-source-bytes sets another limit")


def one_line(text: str) -> str:
    """Return a text on one line, without characters that a terminal would not show."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
