"""Words of Kaldi's lists."""

from __future__ import annotations

import os

import pytest

from e2v_cli.system.text import is_word, percent_encoded


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("utt1", "utt1"),
        ("a b", "a%20b"),
        (" a  b ", "%20a%20%20b%20"),
        ("a\tb\n", "a%09b%0A"),
        ("a\u3000b\u00a0c", "a%E3%80%80b%C2%A0c"),
        ("\u2028a", "%E2%80%A8a"),
        ("\ufeffa\x7f", "%EF%BB%BFa%7F"),
        (os.fsdecode(b"caf\xe9"), "caf%E9"),
        ("ü/笑#:|", "ü/笑#:|"),
        ("a%20b", "a%2520b"),
        ("100%", "100%25"),
    ],
)
def test_texts_become_words(text: str, word: str) -> None:
    assert percent_encoded(text) == word
    assert is_word(word)
    assert is_word(text) == (text == word or "%" in text)
