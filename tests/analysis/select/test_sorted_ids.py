"""Ids in C order: their bytes decide, wherever they came from."""

from __future__ import annotations

from random import Random

import pytest

from e2v_cli.analysis.select.sorted_ids import SortedIds
from e2v_cli.errors import CorpusError

IDS = ["a", "a!", "a-1", "a1", "A", "~", "z" * 300, "ü", "笑", "é", "aa"] + [f"spk{number}" for number in range(50)]


@pytest.mark.parametrize("seed", range(5))
def test_ids_in_any_order_are_sorted(seed: int) -> None:
    keys = [utt_id.encode() for utt_id in Random(seed).sample(IDS, len(IDS))]
    if seed == 0:
        keys.sort()
    ids = SortedIds(iter([keys[:7], keys[7:8], keys[8:]]), run_lines=9)

    assert [key for chunk in ids.chunks() for key in chunk] == sorted(keys)
    assert [keys[index] for index in ids.order] == sorted(keys)
    assert len(ids) == len(keys)


def test_no_ids() -> None:
    ids = SortedIds(iter([]))

    assert (len(ids), list(ids.chunks())) == (0, [])


@pytest.mark.parametrize("keys", [[b"a", b"a"], [b"b", b"a", b"b"]])
def test_id_twice_is_refused(keys: list[bytes]) -> None:
    with pytest.raises(CorpusError, match=f'utt-id "{keys[0].decode()}" has two predictions'):
        SortedIds(iter([keys]))
