"""Blocks follow from the list alone, and shards have about the same cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from e2v_cli.corpus import blocks as blocks_module
from e2v_cli.corpus.blocks import BLOCKS, BlockPlan, estimate_costs
from e2v_cli.options import Shard

WHOLE = Shard(1, 1)


def deal(plan: BlockPlan, shard: Shard = WHOLE) -> list[tuple[int, list[int]]]:
    """Deal the blocks of a shard: the number of each, and its places."""
    return [(number, places.tolist()) for number, places in plan.deal_blocks(shard)]


def cost_by_shard(plan: BlockPlan, costs: NDArray[np.float32], count: int) -> list[float]:
    """Sum up the costs of what each of ``count`` shards is dealt."""
    return [
        sum(float(costs[places].sum(dtype=np.float64)) for _, places in plan.deal_blocks(Shard(count, index)))
        for index in range(1, count + 1)
    ]


@pytest.fixture
def _fours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists are cut into blocks of four, to their end."""
    monkeypatch.setattr(blocks_module, "BLOCK_SIZES", (4, 256))
    monkeypatch.setattr(blocks_module, "TAPER", 1)


@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        (0, []),
        (1, [1]),
        (2, [1, 1]),
        (15, [1] * 15),
        (16, [2, *[1] * 14]),
        (60, [7, 6, 5, 5, 4, 4, 3, 3, 2, 2, 2, 2, *[1] * 15]),
        (64, [8, 7, 6, 5, 4, 4, 3, 3, 3, 2, 2, 2, *[1] * 15]),
        (65, [8, 7, 6, 5, 4, 4, 3, 3, 3, 2, 2, 2, 2, *[1] * 14]),
        (80, [8, 8, 8, 7, 6, 5, 4, 4, 3, 3, 3, 2, 2, 2, *[1] * 15]),
    ],
)
def test_blocks_worked_out_by_hand(number: int, sizes: list[int]) -> None:
    """Each has at most one in eight of what is left: workers end at about the same time."""
    assert [len(places) for _, places in deal(BlockPlan(np.arange(number)))] == sizes


@pytest.mark.parametrize(
    ("number", "largest"),
    [
        (64, 8),
        (1000, 8),
        (8 * BLOCKS, 8),
        (8 * BLOCKS + 1, 9),
        (9 * BLOCKS, 9),
        (100 * BLOCKS - 1, 100),
        (256 * BLOCKS, 256),
        (256 * BLOCKS + 1, 256),
        (10_000_000, 256),
    ],
)
def test_the_size_of_blocks_follows_from_how_many_utterances_there_are(number: int, largest: int) -> None:
    sizes = [len(places) for _, places in BlockPlan(np.arange(number)).deal_blocks(WHOLE)]

    left, expected = number, []
    while left:
        expected.append(min(largest, max(1, left // 8)))
        left -= expected[-1]
    assert sizes[0] == largest
    assert sizes == expected


def test_blocks_hold_one_to_some_hundred_utterances() -> None:
    """A size is part of what makes results: whoever changes it changes their last bits."""
    assert (BLOCKS, blocks_module.BLOCK_SIZES, blocks_module.TAPER) == (1024, (8, 256), 8)


@pytest.mark.parametrize("number", [0, 1, 3, 7, 8, 9, 63, 64, 65, 200, 8 * BLOCKS, 8 * BLOCKS + 1, 20_011])
def test_blocks_are_neighbours_that_hold_everything_and_get_smaller(number: int) -> None:
    plan = BlockPlan(np.arange(number))

    blocks = deal(plan)

    assert list(itertools.chain(*(places for _, places in blocks))) == list(range(number))
    assert [block_number for block_number, _ in blocks] == list(range(len(blocks)))
    sizes = [len(places) for _, places in blocks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size == 1 or 8 * size <= sum(sizes[place:]) for place, size in enumerate(sizes))


@pytest.mark.usefixtures("_fours")
def test_blocks_are_of_those_that_are_computed_alone() -> None:
    """What was done when the list was another has no part in them."""
    members = np.array([0, 2, 3, 8, 9, 10, 50, 51, 99])

    assert deal(BlockPlan(members)) == [(0, [0, 2, 3, 8]), (1, [9, 10, 50, 51]), (2, [99])]


@pytest.mark.usefixtures("_fours")
def test_shards_get_blocks_in_turn() -> None:
    plan = BlockPlan(np.arange(18))

    assert [deal(plan, Shard(3, index)) for index in (1, 2, 3)] == [
        [(0, [0, 1, 2, 3]), (3, [12, 13, 14, 15])],
        [(1, [4, 5, 6, 7]), (4, [16, 17])],
        [(2, [8, 9, 10, 11])],
    ]


@pytest.mark.usefixtures("_fours")
def test_there_may_be_more_shards_than_blocks() -> None:
    plan = BlockPlan(np.arange(5))

    assert [deal(plan, Shard(4, index)) for index in (1, 2, 3, 4)] == [[(0, [0, 1, 2, 3])], [(1, [4])], [], []]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("number", [1, 4, 63, 8193, 20_000])
def test_together_shards_have_all_blocks_and_each_once(number: int, count: int) -> None:
    plan = BlockPlan(np.arange(number) * 3)

    shards = [deal(plan, Shard(count, index)) for index in range(1, count + 1)]

    assert sorted(itertools.chain(*shards)) == deal(plan)
    sizes = [sum(len(places) for _, places in shard) for shard in shards]
    assert max(sizes) - min(sizes) <= max(len(places) for _, places in deal(plan))


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_blocks_of_the_same_size_are_dealt_in_turn(count: int) -> None:
    """The first 1017 of so many are of 64 utterances each; those behind them get smaller."""
    plan = BlockPlan(np.arange(65_536))
    assert [len(places) for _, places in deal(plan)][1015:1019] == [64, 64, 56, 49]

    for place in range(count):
        dealt = [number for number, _ in deal(plan, Shard(count, place + 1))]
        assert [number for number in dealt if number < 1017] == list(range(place, 1017, count))


@pytest.mark.usefixtures("_fours")
@pytest.mark.parametrize(
    ("costs", "count", "shards"),
    [
        # blocks of 8, 2, 1, 6 and 5: the dearest first, each to who has least; 8 | 6 5, then 2 to the first
        ([2, 2, 2, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 6, 0, 0, 5, 0], 2, [[0, 1, 2], [3, 4]]),
        # 8 | 6 1 | 5 2
        ([2, 2, 2, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 6, 0, 0, 5, 0], 3, [[0], [2, 3], [1, 4]]),
        # the last one is the dearest by far
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 50, 50], 2, [[4], [0, 1, 2, 3]]),
        # more shards than blocks
        ([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0], 7, [[4], [3], [2], [1], [0], [], []]),
        # of those that have the same, the first
        ([0.5, 0.25, 0, 0, 0.5, 0, 0, 0, 0.25, 0, 0, 0, 0.125, 0, 0, 0, 0.125, 0], 2, [[0, 3], [1, 2, 4]]),
    ],
)
def test_the_dearest_blocks_go_first_each_to_who_has_least(
    costs: list[float], count: int, shards: list[list[int]]
) -> None:
    """The blocks are of four utterances, and of the last two."""
    by_utterance = np.array(costs, np.float32)
    plan = BlockPlan(np.arange(18), costs=by_utterance)

    dealt = [[number for number, _ in deal(plan, Shard(count, index))] for index in range(1, count + 1)]

    assert dealt == shards
    assert cost_by_shard(plan, by_utterance, count) == [
        sum(sum(costs[4 * number : 4 * number + 4]) for number in shard) for shard in shards
    ]


@pytest.mark.usefixtures("_fours")
def test_costs_are_those_of_places_in_the_list() -> None:
    """Of what is computed alone, in the order in which it is: recording_groups together."""
    costs = np.array([9, 1, 100, 2, 4, 8, 16, 100, 32], np.float32)
    members = np.array([1, 3, 4, 5, 6, 8])
    recording_groups = np.array([0, 1, 1, 2, 3, 1, 4, 4, 2])

    plan = BlockPlan(members, recording_groups, costs)

    # blocks of 1 and 5 and 3 and 8; of 4 and 6
    assert plan.members.tolist() == [1, 5, 3, 8, 4, 6]
    assert deal(plan, Shard(3, 1)) == [(0, [1, 5, 3, 8])]
    assert deal(plan, Shard(3, 2)) == [(1, [4, 6])]
    assert cost_by_shard(plan, costs, 3) == [1 + 8 + 2 + 32, 4 + 16, 0]


def test_costs_are_no_part_of_blocks() -> None:
    """Whoever computes an utterance computes it with the same ones."""
    costs = np.random.default_rng(0).lognormal(0, 2, 5000).astype(np.float32)

    assert deal(BlockPlan(np.arange(5000), costs=costs)) == deal(BlockPlan(np.arange(5000)))


def test_without_costs_all_utterances_take_the_same() -> None:
    alike = BlockPlan(np.arange(5000), costs=np.full(5000, 3, np.float32))
    plain = BlockPlan(np.arange(5000))

    for count in (1, 2, 7, 64):
        for index in range(1, count + 1):
            assert deal(plain, Shard(count, index)) == deal(alike, Shard(count, index))
        assert plain.count_by_shard(np.ones(5000, np.bool_), count).sum() == 5000


@pytest.mark.parametrize("count", [2, 3, 16, 100])
@pytest.mark.parametrize("seed", range(5))
def test_no_shard_ends_later_than_another_by_more_than_a_block(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    costs = generator.lognormal(0, 1.5, 20_000).astype(np.float32)
    members = np.flatnonzero(generator.random(20_000) < 0.8)
    plan = BlockPlan(members, np.repeat(np.arange(4000), 5), costs)

    by_block = [float(costs[places].sum(dtype=np.float64)) for _, places in plan.deal_blocks(WHOLE)]
    by_shard = cost_by_shard(plan, costs, count)

    assert max(by_shard) - min(by_shard) <= max(by_block)
    assert sum(by_shard) == pytest.approx(costs[members].sum(dtype=np.float64))
    for index in range(1, count + 1):
        dealt = [by_block[number] for number, _ in plan.deal_blocks(Shard(count, index))]
        assert by_shard[index - 1] == pytest.approx(sum(dealt))


def test_of_an_empty_plan_every_shard_has_nothing() -> None:
    for costs in (None, np.ones(5, np.float32)):
        plan = BlockPlan(np.arange(0), costs=costs)

        assert plan.count_by_shard(np.zeros(0, np.bool_), 3).tolist() == [0, 0, 0]
        assert deal(plan, Shard(3, 2)) == []


@pytest.mark.parametrize(
    ("sizes", "costs"),
    [
        ([], None),
        ([np.nan], None),
        ([np.nan, np.nan], None),
        ([2.5], [2.5]),
        ([1, 2, 6], [1, 2, 6]),
        ([1, np.nan, 3, np.nan, 5], [1, 3, 3, 3, 5]),
        ([np.nan, 0.5, 0], [0.25, 0.5, 0]),
    ],
)
def test_what_is_not_known_costs_as_much_as_the_mean(sizes: list[float], costs: list[float] | None) -> None:
    estimated = estimate_costs(np.array(sizes, np.float64))

    if costs is None:
        assert estimated is None
    else:
        assert estimated is not None
        assert estimated.dtype == np.float32
        assert estimated.tolist() == costs


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("number", [0, 1, 4, 63, 8193])
def test_counts_by_shard_are_those_of_its_blocks(number: int, count: int) -> None:
    members = np.flatnonzero(np.random.default_rng(number).random(2 * number) < 0.5)
    chosen = np.random.default_rng(count).random(2 * number) < 0.3
    plan = BlockPlan(members)

    counted = plan.count_by_shard(chosen[members], count)

    assert counted.tolist() == [
        sum(int(chosen[places].sum()) for _, places in plan.deal_blocks(Shard(count, index)))
        for index in range(1, count + 1)
    ]


@pytest.mark.usefixtures("_fours")
@pytest.mark.parametrize(
    ("recording_groups", "blocks"),
    [
        # each by itself: as without recording_groups
        ([0, 1, 2, 3, 4, 5], [[0, 1, 2, 3], [4, 5]]),
        # all of one: however many they are
        ([0, 0, 0, 0, 0, 0], [[0, 1, 2, 3, 4, 5]]),
        # a group that begins in a block is not cut where the block would end
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [[0, 1, 2, 3, 4, 5], [6, 7, 8]]),
        ([0, 0, 0, 0, 1, 1, 1, 2, 2], [[0, 1, 2, 3], [4, 5, 6, 7, 8]]),
        ([0, 0, 0, 0, 0, 1, 2, 3, 4], [[0, 1, 2, 3, 4], [5, 6, 7], [8]]),
        # a large one leaves the places of blocks that it fills to nobody
        ([0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3], [[0, 1, 2, 3, 4, 5, 6, 7, 8], [9, 10]]),
        # by first appearance, however they stand in the list
        ([0, 1, 0, 2, 1, 0], [[0, 2, 5, 1, 4], [3]]),
        ([0, 1, 2, 3, 0, 1, 2, 3], [[0, 4, 1, 5], [2, 6, 3, 7]]),
    ],
)
def test_what_is_decoded_together_is_in_the_same_block(recording_groups: list[int], blocks: list[list[int]]) -> None:
    plan = BlockPlan(np.arange(len(recording_groups)), np.array(recording_groups))

    assert deal(plan) == list(enumerate(blocks))
    assert plan.members.tolist() == list(itertools.chain(*blocks))


def test_blocks_that_get_smaller_do_not_cut_what_is_decoded_together() -> None:
    """Of twenty utterances, blocks begin at 0, 2, 4, 6, 7, 8 and so on; a group is where its first utterance is."""
    recording_groups = np.array([0, 0, 0, 1, 2, 3, 4, 4, 4, 4, *range(5, 15)])

    blocks = [places for _, places in deal(BlockPlan(np.arange(20), recording_groups))]

    assert blocks == [[0, 1, 2], [3], [4, 5], [6, 7, 8, 9], *([place] for place in range(10, 20))]


@pytest.mark.parametrize("number", [0, 1, 60, 1000, 20_011])
def test_groups_of_one_are_as_without_groups(number: int) -> None:
    members = np.arange(0, 2 * number, 2)

    assert deal(BlockPlan(members, np.arange(2 * number))) == deal(BlockPlan(members))


@pytest.mark.usefixtures("_fours")
def test_blocks_of_groups_are_of_those_that_are_computed_alone() -> None:
    """Of a group that was done in part when the list was another, the rest is computed together."""
    recording_groups = np.array([0, 1, 0, 2, 1, 0, 3, 3, 4])

    assert deal(BlockPlan(np.array([1, 2, 5, 6, 7, 8]), recording_groups)) == [(0, [2, 5, 1, 6, 7]), (1, [8])]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 4, 63, 20_000])
def test_shards_of_groups_have_all_and_each_once(number: int, count: int) -> None:
    """Numbers of recording_groups follow from their first appearance; blocks cut none of them."""
    generator = np.random.default_rng(number)
    numbered: dict[int, int] = {}
    recordings = generator.integers(0, 1 + number // 5, 2 * number).tolist()
    recording_groups = np.array([numbered.setdefault(recording, len(numbered)) for recording in recordings])
    members = np.flatnonzero(generator.random(2 * number) < 0.5)
    chosen = generator.random(2 * number) < 0.3
    plan = BlockPlan(members, recording_groups)

    blocks = deal(plan)
    shards = [deal(plan, Shard(count, index)) for index in range(1, count + 1)]

    assert sorted(itertools.chain(*shards)) == blocks
    assert [block_number for block_number, _ in blocks] == list(range(len(blocks)))
    flat = list(itertools.chain(*(places for _, places in blocks)))
    assert flat == plan.members.tolist() == sorted(members.tolist(), key=lambda place: (recording_groups[place], place))
    in_blocks = [set(recording_groups[places].tolist()) for _, places in blocks]
    assert sum(map(len, in_blocks)) == len(set.union(*in_blocks, set()))
    assert plan.count_by_shard(chosen[plan.members], count).tolist() == [
        sum(int(chosen[places].sum()) for _, places in shard) for shard in shards
    ]
