"""The timeline of a recording as other tools read it: RTTM, Audacity's labels, Praat's TextGrid.

Which files they go to is in ``results.formats``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from e2v_cli.results.spans import Span, Track
from e2v_cli.system.text import percent_encoded, tsv_row

TOUCHING_SECONDS = 0.001
"""Utterances that overlap by less touch each other: a cut is between samples, and times are rounded."""


def format_rttm(recording: str, tracks: Sequence[Track]) -> str:
    """Format NIST's RTTM: type, file, channel, start, length, orthography, subtype, speaker, confidence, lookahead."""
    lines = []
    for track in tracks:
        head = f"SPEAKER {recording} {1 + (track.tier.channel or 0)}"
        for span in track.spans:
            time = f"{span.start:.4f} {span.end - span.start:.4f}"  # the sum is exactly the next start
            lines.append(f"{head} {time} <NA> <NA> {percent_encoded(span.label)} {span.score:.6f} <NA>\n")
    return "".join(lines)


def format_audacity(_recording: str, tracks: Sequence[Track]) -> str:
    """Format start, end and label as Audacity exports them, in order of time."""
    spans = sorted((span for track in tracks for span in track.spans), key=lambda span: (span.start, span.end))
    return "".join(f"{span.start:.6f}\t{span.end:.6f}\t{tsv_row([span.label])}\n" for span in spans)


def format_text_grid(_recording: str, tracks: Sequence[Track]) -> str:
    """Format a TextGrid in Praat's long text format, with the blanks at the ends of lines."""
    tiers = arrange_tiers(tracks)
    end = max(span.end for track in tracks for span in track.spans)
    head = (
        'File type = "ooTextFile"\n'
        'Object class = "TextGrid"\n'
        "\n"
        "xmin = 0 \n"
        f"xmax = {_praat_number(end)} \n"
        "tiers? <exists> \n"
        f"size = {len(tiers)} \n"
        "item []: \n"
    )
    numbered = enumerate(tiers.items(), 1)
    return head + "".join(_format_tier(number, name, spans, end) for number, (name, spans) in numbered)


def arrange_tiers(tracks: Sequence[Track]) -> dict[str, list[Span]]:
    """Arrange tracks in tiers, by name: one that overlaps another of its tier goes to another, like ``anna (2)``."""
    tiers: dict[tuple[str, int], list[Span]] = {}
    for track in sorted(tracks, key=lambda track: (track.spans[0].start, track.spans[-1].end)):
        number, first = 1, track.spans[0]
        while _end_of(tiers.get((track.tier.name, number))) > first.start + TOUCHING_SECONDS:
            number += 1
        tiers.setdefault((track.tier.name, number), []).extend(track.spans)
    return {name if number == 1 else f"{name} ({number})": tiers[name, number] for name, number in sorted(tiers)}


def _end_of(spans: Sequence[Span] | None) -> float:
    """Return the end of the last span; 0 without spans."""
    return spans[-1].end if spans else 0.0


def _format_tier(number: int, name: str, spans: Sequence[Span], end: float) -> str:
    intervals = list(_fill_gaps(spans, end))
    return (
        f"    item [{number}]:\n"
        '        class = "IntervalTier" \n'
        f'        name = "{_escape_quotes(name)}" \n'
        "        xmin = 0 \n"
        f"        xmax = {_praat_number(end)} \n"
        f"        intervals: size = {len(intervals)} \n"
    ) + "".join(
        f"        intervals [{index}]:\n"
        f"            xmin = {_praat_number(start)} \n"
        f"            xmax = {_praat_number(stop)} \n"
        f'            text = "{_escape_quotes(text)}" \n'
        for index, (start, stop, text) in enumerate(intervals, 1)
    )


def _fill_gaps(spans: Sequence[Span], end: float) -> Iterator[tuple[float, float, str]]:
    """Yield the intervals of a tier: start, end and text, which is empty between utterances; none overlaps another."""
    before = 0.0
    for span in spans:
        if before < span.start:
            yield before, span.start, ""
        yield max(before, span.start), span.end, span.label
        before = span.end
    if before < end:
        yield before, end, ""


def _escape_quotes(text: str) -> str:
    return text.replace('"', '""')


def _praat_number(seconds: float) -> str:
    """Format a time without zeros at its end, as Praat does."""
    return f"{seconds:.4f}".rstrip("0").rstrip(".")
