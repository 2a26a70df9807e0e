"""JSON lines and tables become utterances and segments; errors name the line."""

from __future__ import annotations

import json
import re

import pytest
from support.corpora import all_ids, all_pairs, pairs, read_corpus, write_scp

from e2v_cli.errors import CorpusError
from e2v_cli.records import Segment, Utterance

LIKE = 'a line is like {"key": "utt1", "source": "a.wav"}'
NAMES = "audio_filepath, source, wav, path, file, filename, file_name, audio"


def json_lines(*records: object) -> str:
    return write_scp("".join(f"{json.dumps(record)}\n" for record in records), "m.jsonl")


def test_nemo_manifest_has_ids_of_paths() -> None:
    """A duration alone is that of the file."""
    name = json_lines(
        {"audio_filepath": "x/a.wav", "duration": 1.5, "text": "hello"},
        {"audio_filepath": "y/d.wav", "duration": 2, "offset": None},
        {"audio_filepath": "/abs/my call.flac", "offset": 0, "duration": None},
        {"audio_filepath": "http://host/b%20c.wav?key=1"},
    )

    assert pairs(name) == [
        ("a", "x/a.wav"),
        ("d", "y/d.wav"),
        ("my%20call", "/abs/my call.flac"),
        ("b%20c", "http://host/b%20c.wav?key=1"),
    ]
    assert read_corpus([name]).recording_groups is None


def test_nemo_offsets_become_segments() -> None:
    name = json_lines(
        {"audio_filepath": "x/a.wav", "offset": 1.25, "duration": 2.25},
        {"audio_filepath": "b.wav", "offset": 0.7, "duration": 0.1},
        {"audio_filepath": "x/a.wav", "offset": 0, "duration": 1.25},
        {"audio_filepath": "b.wav", "offset": 12345.6789},
        {"audio_filepath": "c.wav", "duration": 3},
    )

    corpus = read_corpus([name])

    assert all_ids(corpus) == [
        b"a-0001250-0003500",
        b"b-0000700-0000800",
        b"a-0000000-0001250",
        b"b-12345679-end",
        b"c",
    ]
    assert [corpus[index] for index in (0, 1, 3, 4)] == [
        Utterance(0, "a-0001250-0003500", "x/a.wav", ".", Segment(1.25, 3.5), recording_id="x/a.wav"),
        Utterance(1, "b-0000700-0000800", "b.wav", ".", Segment(0.7, 0.8), recording_id="b.wav"),
        Utterance(3, "b-12345679-end", "b.wav", ".", Segment(12345.6789, None), recording_id="b.wav"),
        Utterance(4, "c", "c.wav", "."),
    ]
    assert corpus.recording_groups is not None
    assert corpus.recording_groups.tolist() == [0, 1, 0, 1, 2]
    assert corpus.durations.tolist()[:3] == [2.25, pytest.approx(0.1), 1.25]
    assert corpus.origin(3) == "m.jsonl:4"


def test_ids_of_segments_are_made_as_those_of_files() -> None:
    times = {"offset": 1, "duration": 1}
    name = json_lines(*({"audio_filepath": path, **times} for path in ("x/a.wav", "y/a.wav", "x/b.wav")))

    message = 'x/a.wav and y/a.wav have the same id, "a-0001000-0002000"; --id path tells them apart'
    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus([name])
    assert all_ids(read_corpus([name], id_form="path")) == [
        b"x/a-0001000-0002000",
        b"y/a-0001000-0002000",
        b"x/b-0001000-0002000",
    ]


def test_segments_may_have_ids() -> None:
    name = json_lines({"key": "u1", "wav": "a.wav", "offset": 1, "duration": 1}, {"key": "u2", "wav": "a.wav"})

    corpus = read_corpus([name])

    assert [(corpus[index].utt_id, corpus[index].segment) for index in (0, 1)] == [
        ("u1", Segment(1.0, 2.0)),
        ("u2", None),
    ]


def test_checksums_depend_on_path_and_times_alone() -> None:
    def checksums(*records: dict[str, object]) -> list[int]:
        return list(map(int, read_corpus([json_lines(*records)]).checksums))

    a = {"audio_filepath": "a.wav", "offset": 1, "duration": 2}
    b = {"audio_filepath": "b.wav", "offset": 0, "duration": 2}
    first, second = checksums(a, b)

    assert checksums({**a, "text": "x"}) == [first]
    assert checksums(b, a) == [second, first]
    changed = [checksums({**a, name: value})[0] for name, value in (("offset", 1.001), ("duration", 2.001))]
    assert len({first, second, *changed, *checksums({"audio_filepath": "a.wav"})}) == 5


@pytest.mark.parametrize(
    ("start", "seconds", "fault"),
    [
        (-1, 2, "from -1 to 1 s: not 0 <= start < end <= 1e9"),
        (1, 0, "from 1 to 1 s: not 0 <= start < end <= 1e9"),
        (0, -1, "from 0 to -1 s: not 0 <= start < end <= 1e9"),
        (1, 1e10, "from 1 to 1e+10 s: not 0 <= start < end <= 1e9"),
        (-1, None, "from -1 s: not 0 <= start < end <= 1e9"),
    ],
)
def test_invalid_segment_fails_alone(start: float, seconds: float | None, fault: str) -> None:
    bad = {"audio_filepath": "a.wav", "offset": start, "duration": seconds}
    corpus = read_corpus([json_lines({"audio_filepath": "a.wav", "offset": 1, "duration": 1}, bad)])

    assert (corpus[0].fault, corpus[1].fault) == ("", f"m.jsonl:2: {fault}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "b"', f"not JSON: Expecting ',' delimiter: line 2 column 1 (char 12); {LIKE}"),
        ('{"key": "b", "source": "b.wav"} x', f"not JSON: Extra data: line 1 column 33 (char 32); {LIKE}"),
        ('["b", "b.wav"]', f"not an object; {LIKE}"),
        ("b b.wav", f"not JSON: Expecting value: line 1 column 1 (char 0); {LIKE}"),
        ('{"key": "b", "sources": "b.wav"}', f"no audio; one of {NAMES} must name it"),
        ('{"key": "b", "source": ["b.wav"]}', '"source" is ["b.wav"]; it must be a string'),
        ('{"key": "b", "source": ""}', '"source" is ""; it must be a string'),
        ('{"key": "b", "source": "\\ud800"}', '"source" is "\\ud800"; it must be a string'),
        ('{"key": 17, "source": "b.wav"}', '"key" is 17; it must be a string'),
        ('{"key": "b", "source": "b.wav", "offset": "1.0"}', '"offset" is "1.0"; it must be a number, in seconds'),
        ('{"key": "b", "source": "b.wav", "offset": NaN}', '"offset" is NaN; it must be a number, in seconds'),
        ('{"key": "b", "source": "b.wav", "offset": true}', '"offset" is true; it must be a number, in seconds'),
        (
            '{"key": "b", "source": "b.wav", "offset": 1, "duration": "2"}',
            '"duration" is "2"; it must be a number, in seconds',
        ),
        (
            f'{{"key": "b", "source": "b.wav", "offset": {"9" * 400}}}',
            f'"offset" is {"9" * 40}; it must be a number, in seconds',
        ),
        ('{"key": "b c", "source": "b.wav"}', "white space or control characters in utt-id 'b c'; rename it"),
        ('{"key": "a", "source": "b.wav"}', 'utt-id "a" again (first on line 1)'),
        ('{"source": "b.wav"}', "an id here or in the first line, but not in both; write one in each, or in none"),
    ],
)
def test_malformed_json_is_named(line: str, message: str) -> None:
    write_scp(f'{{"key": "a", "source": "a.wav"}}\n\n{line}\n', "m.jsonl")

    with pytest.raises(CorpusError, match=f"^{re.escape(f'm.jsonl:3: {message}')}$"):
        read_corpus(["m.jsonl"])


def test_deep_json_is_named() -> None:
    write_scp('{"key": ' + "[" * 200_000, "m.jsonl")

    with pytest.raises(CorpusError, match=r"^m\.jsonl:1: not JSON: .*recursion.*; a line is like"):
        read_corpus(["m.jsonl"])


def test_same_segment_twice_is_refused_with_both_lines() -> None:
    record = {"audio_filepath": "a.wav", "offset": 1, "duration": 1}

    with pytest.raises(CorpusError, match=r'^m\.jsonl:2: utt-id "a-0001000-0002000" again \(first on line 1\)$'):
        read_corpus([json_lines(record, record)])


def test_table_may_have_quoted_cells_and_any_columns() -> None:
    write_scp(
        '\ufeffsplit, "Audio", utt_id,path\r\ntrain,x,a,"my, ""call"".wav"\r\n\r\ntest, y, b , 2.wav\r\n', "t.csv"
    )

    corpus = read_corpus(["t.csv"])

    assert all_pairs(corpus) == [("a", 'my, "call".wav'), ("b", "2.wav")]
    assert corpus.origin(1) == "t.csv:4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,path\na,my,call.wav\n",
            "t.csv:2: 3 cells, but the header has 2; quote cells with a delimiter",
        ),
        ("id,path\na\n", "t.csv:2: 1 cells, but the header has 2; quote cells with a delimiter"),
        ("id,path\na,\n", 't.csv:2: "path" is ""; it must be a string'),
        (
            'id,path\na,"two\nlines.wav"\n',
            "t.csv:2: unexpected end of data; a row is one line, with quotes around cells that need them",
        ),
        ("id,path\na,1.wav\na,2.wav\n", 't.csv:3: utt-id "a" again (first on line 2)'),
        (
            "id,path,start,end\na,1.wav,0,1\n",
            't.csv:1: column "start": a table has no segments; write JSON lines with offset and duration, '
            "or a Kaldi data directory",
        ),
    ],
)
def test_malformed_tables_are_named(content: str, message: str) -> None:
    write_scp(content, "t.csv")

    with pytest.raises(CorpusError, match=f"^{re.escape(message)}$"):
        read_corpus(["t.csv"])


def test_audio_of_a_list_is_told_by_the_first_known_column() -> None:
    name = json_lines({"source": "dataset", "audio_filepath": "a.wav", "id": "no", "key": "yes"})

    assert pairs(name) == [("yes", "a.wav")]
