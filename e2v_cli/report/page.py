"""The contents of the page → HTML: one file, which asks nothing of any network.

Its policy allows the one style and the one script that are in it, by their digests, and media that are in it; so even a
text that escaped the template's own escaping could neither run nor ask for anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from e2v_cli._version import __version__
from e2v_cli.analysis.labels.classes import MISSING
from e2v_cli.analysis.labels.labels import canonical_name
from e2v_cli.report.against import ReferenceBlock
from e2v_cli.report.charts import draw_share, draw_speaker, draw_strip, draw_waveform
from e2v_cli.report.clips import Clip
from e2v_cli.report.examples import Example, Part
from e2v_cli.report.facts import RunFacts
from e2v_cli.report.overview import Overview
from e2v_cli.report.palette import Mark
from e2v_cli.report.projection import EmbeddingMap
from e2v_cli.report.speakers import SpeakerTable
from e2v_cli.system.text import clock, percent_encoded, tsv_row

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Card:
    """An utterance on the page."""

    example: Example
    number: int
    """Number of the card, counted from 0."""
    part: Part
    """The part that is played, or would be."""
    sound: Clip | str | None = None
    """Clip, or the reason why there is none; None: no clip was wanted."""
    text: str = ""
    """Transcript; empty: not known."""
    truth: str = ""
    """Class of the reference, of an utterance that is listed as an error; else empty."""

    @property
    def clip(self) -> Clip | None:
        """The clip that can be played; None: no clip."""
        return self.sound if isinstance(self.sound, Clip) else None

    @property
    def why_silent(self) -> str:
        """Reason why there is no clip; empty: there is one, or none was wanted."""
        return self.sound if isinstance(self.sound, str) else ""

    @property
    def is_cut(self) -> bool:
        """Whether only a part of the utterance is played."""
        return self.part != self.example.whole


@dataclass(frozen=True)
class Page:
    """The contents of the page."""

    title: str
    facts: RunFacts
    marks: Sequence[Mark]
    """Marks of the labels; empty for a model without a head."""
    overview: Overview | None
    """Distributions; None: no utterance is done."""
    examples: Sequence[Example]
    """All utterances of the page, by number."""
    cards: Sequence[Card]
    """Cards of the first of ``examples``."""
    doubtful: Sequence[int]
    next_doubtful: Sequence[int]
    typical: Sequence[int]
    """Numbers of utterances, like ``doubtful`` and ``next_doubtful``."""
    reference: ReferenceBlock | None
    longest: Sequence[Example]
    """Longest utterances, with their timelines."""
    speakers: SpeakerTable
    map: EmbeddingMap | None
    clip_seconds: float
    notes: Sequence[str]
    """Notes on what is missing, and why."""

    def letters_of(self, name: str) -> str:
        """Return the letters of a class, whose name may be another one than the model's; short ones of any other."""
        found = (mark.letters for mark in self.marks if name in (mark.label, canonical_name(mark.label)))
        return next(found, "–" if name == MISSING else name[:3])

    def cards_of(self, numbers: Sequence[int]) -> list[Card]:
        """Return the cards of utterances."""
        return [self.cards[number] for number in numbers]


def render_page(page: Page) -> bytes:
    """Render the page: the same bytes for the same page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "percent": lambda share: f"{100 * share:.1f} %",
        "decimals": _format_decimals,
        "duration": describe_length,
    }
    environment.globals |= {
        "draw_share": draw_share,
        "draw_speaker": draw_speaker,
        "draw_strip": draw_strip,
        "draw_waveform": draw_waveform,
    }
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    text = environment.get_template("page.html.j2").render(
        page=page,
        version=__version__,
        unit=TimeUnit.of(page.overview.seconds if page.overview else 0.0),
        policy=_make_policy(style, script),
        style=Markup(style),  # noqa: S704 — files of the package
        script=Markup(script),  # noqa: S704
        data=_embed_json(_collect_data(page)),
    )
    return text.encode(errors="backslashreplace")  # a path may be any bytes


@dataclass(frozen=True)
class TimeUnit:
    """The unit of amounts of audio."""

    name: str
    seconds: float

    @classmethod
    def of(cls, total: float) -> TimeUnit:
        """Choose the unit in which a total has a few digits."""
        units = (cls("seconds", 1.0), cls("minutes", 60.0), cls("hours", 3600.0))
        return next(unit for unit, most in zip(units, (600.0, 36_000.0, float("inf")), strict=True) if total < most)

    def format(self, seconds: float) -> str:
        """Format an amount without the unit."""
        return f"{seconds / self.seconds:,.1f}"


def _format_decimals(number: float, digits: int = 2) -> str:
    return f"{number:.{digits}f}"


def describe_length(seconds: float) -> str:
    """Format the length of an utterance: ``4.21 s``, ``75.0 s``, or ``1:02:03``."""
    return clock(seconds) if seconds >= 600 else f"{seconds:.{2 if seconds < 60 else 1}f} s"


def _collect_data(page: Page) -> dict[str, Any]:
    """Collect the data for the script."""
    words = [percent_encoded(tsv_row([mark.label])) for mark in page.marks]  # as in utt2emo of OUT
    return {
        "labels": [
            {"name": mark.label, "word": word, "letters": mark.letters, "colour": mark.colour}
            for mark, word in zip(page.marks, words, strict=True)
        ],
        "utterances": [
            {"id": example.utt_id, "label": example.label, "score": round(example.score, 2)}
            for example in page.examples
        ],
        "map": page.map.data if page.map else None,
    }


def _embed_json(data: object) -> Markup:
    """Format JSON that can stand in a script element: no text can end that, and none is a line break of JavaScript."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 — nothing in it needs escaping


def _make_policy(style: str, script: str) -> str:
    """Make the content security policy."""
    style_digest, script_digest = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_digest}'; script-src 'sha256-{script_digest}'; "
        "media-src data:; img-src data:; base-uri 'none'; form-action 'none'"
    )
