"""The utterances of a diarisation → ``segments`` and ``utt2spk`` in OUT, for what comes after the run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from e2v_cli.corpus.corpus import Corpus
from e2v_cli.journal.ids import DIARISATION_FILES
from e2v_cli.system.files import published
from e2v_cli.system.text import number_word


def save_diarisation(output_dir: Path, corpus: Corpus) -> None:
    """Write the lists of all utterances that have a recording and valid times, as Kaldi has them.

    Raises:
        OSError: they can't be written.
    """
    with ExitStack() as stack:
        segments, speakers = (stack.enter_context(published(output_dir / name)) for name in DIARISATION_FILES)
        for index, tier in enumerate(corpus.tiers()):
            utterance = corpus[index]
            if utterance.segment and tier and not utterance.fault:
                times = (utterance.segment.start, utterance.segment.end or -1.0)
                channel = () if utterance.channel is None else (str(utterance.channel),)
                cells = (utterance.utt_id, utterance.recording_id, *map(number_word, times), *channel)
                segments.write((" ".join(cells) + "\n").encode())
                speakers.write(f"{utterance.utt_id} {tier.speaker}\n".encode())
