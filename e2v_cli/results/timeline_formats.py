"""TODO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from e2v_cli.options import TimelineFormat
from e2v_cli.results.tables import file_name, kaldi_key
from e2v_cli.system.text import tsv_row
from e2v_cli.results.timeline import Span, rounded
from e2v_cli.system.files import draft_of, drafted, sync_folder


class TimelineFiles:
    """``timeline.rttm`` and ``timeline.ctm``; ``audacity/ID.txt`` and ``textgrid/ID.TextGrid``, a file an utterance."""

    def __init__(self, output_dir: Path, formats: Sequence[TimelineFormat], create: Callable[[str], BinaryIO]) -> None:
        """Open the files that the options ask for.

        Args:
            output_dir: where folders are made.
            formats: in any order, more than once or not.
            create: opens a file by its name; whoever gives it publishes the file when it is whole.
        """
        self.output_dir = output_dir
        self.formats = frozenset(formats)
        # Not the file's own draft: behind a long id there is no room for what the name of a draft has more.
        self._draft = draft_of(output_dir / "timeline.tsv")
        self._lists = {name: create(f"timeline.{name}") for name in ("rttm", "ctm") if name in self.formats}
        self._folders = [output_dir / name for name in ("audacity", "textgrid") if name in self.formats]
        for folder in self._folders:
            folder.mkdir(exist_ok=True)

    def add(self, utt_id: str, duration: float, spans: Sequence[Span]) -> None:
        """Write an utterance in every format.

        Raises:
            OSError: it can't be written.
        """
        if "rttm" in self.formats:
            self._lists["rttm"].write(_rttm(utt_id, spans).encode())
        if "ctm" in self.formats:
            self._lists["ctm"].write(_ctm(utt_id, spans).encode())
        if "audacity" in self.formats:
            self._publish(f"audacity/{file_name(utt_id)}.txt", _audacity(spans))
        if "textgrid" in self.formats:
            self._publish(f"textgrid/{file_name(utt_id)}.TextGrid", _text_grid(duration, spans))

    def sync(self) -> None:
        """Put the names of files on the disk itself, so that they are found after a crash."""
        for folder in (*self._folders, self.output_dir):
            sync_folder(folder)

    def _publish(self, place: str, content: str) -> None:
        """Write a file to the disk itself, and give it its name when it is whole."""
        with drafted(self.output_dir / place, self._draft) as file:
            file.write(content.encode())


def _rttm(utt_id: str, spans: Iterable[Span]) -> str:
    """NIST's: type, file, channel, start, length, orthography, subtype, speaker, confidence, lookahead."""
    head = f"SPEAKER {kaldi_key(utt_id)} 1"
    return "".join(f"{head} {_place(span)} <NA> <NA> {kaldi_key(span.label)} {span.score:.6f} <NA>\n" for span in spans)


def _ctm(utt_id: str, spans: Iterable[Span]) -> str:
    """NIST's: file, channel, start, length, word, confidence."""
    head = f"{kaldi_key(utt_id)} 1"
    return "".join(f"{head} {_place(span)} {kaldi_key(span.label)} {span.score:.6f}\n" for span in spans)


def _place(span: Span) -> str:
    """Start and length, of which the sum is exactly the next start."""
    start, end = rounded(span.start), rounded(span.end)
    return f"{start:.4f} {end - start:.4f}"


def _audacity(spans: Iterable[Span]) -> str:
    """Start, end and label, as Audacity exports them."""
    return "".join(f"{rounded(span.start):.6f}\t{rounded(span.end):.6f}\t{tsv_row([span.label])}\n" for span in spans)


def _text_grid(duration: float, spans: Sequence[Span]) -> str:
    """Praat's long text format as Praat writes it, the blanks at the ends of lines too."""
    head = (
        'File type = "ooTextFile"\n'
        'Object class = "TextGrid"\n'
        "\n"
        "xmin = 0 \n"
        f"xmax = {_short(duration)} \n"
        "tiers? <exists> \n"
        "size = 1 \n"
        "item []: \n"
        "    item [1]:\n"
        '        class = "IntervalTier" \n'
        '        name = "emotion" \n'
        "        xmin = 0 \n"
        f"        xmax = {_short(duration)} \n"
        f"        intervals: size = {len(spans)} \n"
    )
    quote = '"'
    return head + "".join(
        f"        intervals [{number}]:\n"
        f"            xmin = {_short(span.start)} \n"
        f"            xmax = {_short(span.end)} \n"
        f'            text = "{span.label.replace(quote, quote * 2)}" \n'
        for number, span in enumerate(spans, 1)
    )


def _short(seconds: float) -> str:
    """The same without zeros at the end, as in Praat."""
    return f"{seconds:.4f}".rstrip("0").rstrip(".")
