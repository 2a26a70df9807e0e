"""Words of Kaldi's lists, and secrets in texts."""

from __future__ import annotations

import os

import pytest

from e2v_cli.system.text import is_word, percent_encoded, redact


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:password@host/a.wav", "https://***@host/a.wav"),
        ("https://token@host:8080/a@b.wav", "https://***@host:8080/a@b.wav"),
        ("ftp://user:p@ss:w@rd@host", "ftp://***@host"),
        ("https://host/a.wav?X-Amz-Signature=abc&n=1#part", "https://host/a.wav?***"),
        ("https://host#token", "https://host?***"),
        ("wget -qO- http://u:p@h/a?k=v | sox - -t wav - |", "wget -qO- http://***@h/a?*** | sox - -t wav - |"),
        ("https://u:p@a/x https://v:q@b/y", "https://***@a/x https://***@b/y"),
        ("https://host/a.wav", "https://host/a.wav"),
        ("a@b/what?.wav", "a@b/what?.wav"),
        ("", ""),
    ],
)
def test_secrets_of_urls_are_replaced(text: str, shown: str) -> None:
    assert redact(text) == shown
