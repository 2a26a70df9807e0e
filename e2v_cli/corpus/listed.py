"""Utterances as lines of a Kaldi data directory: ``wav.scp``, ``segments`` and ``reco2file_and_channel``."""

from __future__ import annotations

import os
from typing import NamedTuple

from e2v_cli.records import Utterance
from e2v_cli.system.text import number_word


class Listed(NamedTuple):
    """An utterance, as bytes of its list."""

    key: bytes
    recording: bytes
    """Id of the recording; empty: the utterance is a recording itself."""
    source: bytes
    folder: str
    """Folder of the list, where a relative path is looked for if the current folder doesn't have it."""
    times: bytes = b""
    """Start and end in the recording as the list has them, with a blank between them; empty: all of the recording."""
    channel: int | None = None
    """Channel of the utterance, counted from 0; None: ``recording_channel``."""
    recording_channel: int | None = None
    """Channel of the recording, counted from 0; None: the channel of ``--channel``."""


def list_utterance(utterance: Utterance) -> Listed:
    """Format an utterance whose list has another form."""
    segment = utterance.segment
    times = "" if segment is None else f"{number_word(segment.start)} {number_word(segment.end or -1.0)}"
    return Listed(
        utterance.utt_id.encode(),
        utterance.recording_id.encode(),
        os.fsencode(utterance.source),
        utterance.folder,
        times.encode(),
        utterance.channel,
        utterance.recording_channel,
    )
