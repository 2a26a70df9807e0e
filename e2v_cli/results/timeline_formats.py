"""The spans of one utterance as other tools read them: RTTM, Audacity's labels, Praat's TextGrid.

Which files they go to is in ``results.formats``.
"""

from __future__ import annotations

from collections.abc import Sequence

from e2v_cli.results.spans import Span, rounded
from e2v_cli.system.text import percent_encoded, tsv_row


def format_rttm(utt_id: str, _duration: float, spans: Sequence[Span]) -> str:
    """NIST's: type, file, channel, start, length, orthography, subtype, speaker, confidence, lookahead."""
    head = f"SPEAKER {utt_id} 1"
    lines = []
    for span in spans:
        start, end = rounded(span.start), rounded(span.end)
        time = f"{start:.4f} {end - start:.4f}"  # the sum is exactly the next start
        lines.append(f"{head} {time} <NA> <NA> {percent_encoded(span.label)} {span.score:.6f} <NA>\n")
    return "".join(lines)


def format_audacity(_utt_id: str, _duration: float, spans: Sequence[Span]) -> str:
    """Start, end and label, as Audacity exports them."""
    return "".join(f"{rounded(span.start):.6f}\t{rounded(span.end):.6f}\t{tsv_row([span.label])}\n" for span in spans)


def format_text_grid(_utt_id: str, duration: float, spans: Sequence[Span]) -> str:
    """Praat's long text format as Praat writes it, the blanks at the ends of lines too."""
    head = (
        'File type = "ooTextFile"\n'
        'Object class = "TextGrid"\n'
        "\n"
        "xmin = 0 \n"
        f"xmax = {_praat_number(duration)} \n"
        "tiers? <exists> \n"
        "size = 1 \n"
        "item []: \n"
        "    item [1]:\n"
        '        class = "IntervalTier" \n'
        '        name = "emotion" \n'
        "        xmin = 0 \n"
        f"        xmax = {_praat_number(duration)} \n"
        f"        intervals: size = {len(spans)} \n"
    )
    quote = '"'
    return head + "".join(
        f"        intervals [{number}]:\n"
        f"            xmin = {_praat_number(span.start)} \n"
        f"            xmax = {_praat_number(span.end)} \n"
        f'            text = "{span.label.replace(quote, quote * 2)}" \n'
        for number, span in enumerate(spans, 1)
    )


def _praat_number(seconds: float) -> str:
    """Format a time without zeros at its end, as Praat does."""
    return f"{seconds:.4f}".rstrip("0").rstrip(".")
