"""Blocks depend on the list alone, and shards have about the same cost."""

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
    """Deal the blocks of a shard: (number, indices in the list) of each."""
    return [(number, indices.tolist()) for number, indices in plan.deal_blocks(shard)]


def cost_by_shard(plan: BlockPlan, costs: NDArray[np.float32], count: int) -> list[float]:
    """Sum the costs of each of ``count`` shards."""
    return [
        sum(float(costs[indices].sum(dtype=np.float64)) for _, indices in plan.deal_blocks(Shard(count, index)))
        for index in range(1, count + 1)
    ]


@pytest.fixture
def _blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists have blocks of four, without smaller ones at the end."""
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
def test_sizes_of_blocks_match_manual_calculation(number: int, sizes: list[int]) -> None:
    """Each block has at most an eighth of the remaining utterances: workers end at about the same time."""
    assert [len(indices) for _, indices in deal(BlockPlan(np.arange(number)))] == sizes


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
def test_block_size_depends_on_number_of_utterances(number: int, largest: int) -> None:
    sizes = [len(indices) for _, indices in BlockPlan(np.arange(number)).deal_blocks(WHOLE)]

    left, expected = number, []
    while left:
        expected.append(min(largest, max(1, left // 8)))
        left -= expected[-1]
    assert sizes[0] == largest
    assert sizes == expected


def test_block_size_limits_are_fixed() -> None:
    """Another size would change the last bits of results."""
    assert (BLOCKS, blocks_module.BLOCK_SIZES, blocks_module.TAPER) == (1024, (8, 256), 8)


@pytest.mark.parametrize("number", [0, 1, 3, 7, 8, 9, 63, 64, 65, 200, 8 * BLOCKS, 8 * BLOCKS + 1, 20_011])
def test_blocks_cover_the_list_in_order_and_get_smaller(number: int) -> None:
    plan = BlockPlan(np.arange(number))

    blocks = deal(plan)

    assert list(itertools.chain(*(indices for _, indices in blocks))) == list(range(number))
    assert [block_number for block_number, _ in blocks] == list(range(len(blocks)))
    sizes = [len(indices) for _, indices in blocks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size == 1 or 8 * size <= sum(sizes[index:]) for index, size in enumerate(sizes))


@pytest.mark.usefixtures("_blocks_of_four")
def test_blocks_hold_only_utterances_to_compute() -> None:
    """Utterances done with an earlier list are in no block."""
    members = np.array([0, 2, 3, 8, 9, 10, 50, 51, 99])

    assert deal(BlockPlan(members)) == [(0, [0, 2, 3, 8]), (1, [9, 10, 50, 51]), (2, [99])]


@pytest.mark.usefixtures("_blocks_of_four")
def test_shards_get_blocks_in_turn() -> None:
    plan = BlockPlan(np.arange(18))

    assert [deal(plan, Shard(3, index)) for index in (1, 2, 3)] == [
        [(0, [0, 1, 2, 3]), (3, [12, 13, 14, 15])],
        [(1, [4, 5, 6, 7]), (4, [16, 17])],
        [(2, [8, 9, 10, 11])],
    ]


@pytest.mark.usefixtures("_blocks_of_four")
def test_surplus_shards_get_no_blocks() -> None:
    plan = BlockPlan(np.arange(5))

    assert [deal(plan, Shard(4, index)) for index in (1, 2, 3, 4)] == [[(0, [0, 1, 2, 3])], [(1, [4])], [], []]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("number", [1, 4, 63, 8193, 20_000])
def test_shards_partition_the_blocks(number: int, count: int) -> None:
    plan = BlockPlan(np.arange(number) * 3)

    shards = [deal(plan, Shard(count, index)) for index in range(1, count + 1)]

    assert sorted(itertools.chain(*shards)) == deal(plan)
    sizes = [sum(len(indices) for _, indices in shard) for shard in shards]
    assert max(sizes) - min(sizes) <= max(len(indices) for _, indices in deal(plan))


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_blocks_of_the_same_size_are_dealt_in_turn(count: int) -> None:
    """The first 1017 blocks have 64 utterances each; later ones are smaller."""
    plan = BlockPlan(np.arange(65_536))
    assert [len(indices) for _, indices in deal(plan)][1015:1019] == [64, 64, 56, 49]

    for index in range(count):
        dealt = [number for number, _ in deal(plan, Shard(count, index + 1))]
        assert [number for number in dealt if number < 1017] == list(range(index, 1017, count))


@pytest.mark.usefixtures("_blocks_of_four")
@pytest.mark.parametrize(
    ("costs", "count", "shards"),
    [
        # blocks of cost 8, 2, 1, 6 and 5, the dearest first, each to the shard with least: 8 | 6 5, then 2 to the first
        ([2, 2, 2, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 6, 0, 0, 5, 0], 2, [[0, 1, 2], [3, 4]]),
        # 8 | 6 1 | 5 2
        ([2, 2, 2, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 6, 0, 0, 5, 0], 3, [[0], [2, 3], [1, 4]]),
        # the last one is the dearest by far
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 50, 50], 2, [[4], [0, 1, 2, 3]]),
        # more shards than blocks
        ([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0], 7, [[4], [3], [2], [1], [0], [], []]),
        # equal costs: the first block
        ([0.5, 0.25, 0, 0, 0.5, 0, 0, 0, 0.25, 0, 0, 0, 0.125, 0, 0, 0, 0.125, 0], 2, [[0, 3], [1, 2, 4]]),
    ],
)
def test_dearest_blocks_go_first_to_the_shard_with_least_cost(
    costs: list[float], count: int, shards: list[list[int]]
) -> None:
    """Blocks have four utterances, the last one two."""
    by_utterance = np.array(costs, np.float32)
    plan = BlockPlan(np.arange(18), costs=by_utterance)

    dealt = [[number for number, _ in deal(plan, Shard(count, index))] for index in range(1, count + 1)]

    assert dealt == shards
    assert cost_by_shard(plan, by_utterance, count) == [
        sum(sum(costs[4 * number : 4 * number + 4]) for number in shard) for shard in shards
    ]


@pytest.mark.usefixtures("_blocks_of_four")
def test_costs_are_indexed_by_position_in_the_list() -> None:
    """Members are in the order of computation: recording groups together."""
    costs = np.array([9, 1, 100, 2, 4, 8, 16, 100, 32], np.float32)
    members = np.array([1, 3, 4, 5, 6, 8])
    recording_groups = np.array([0, 1, 1, 2, 3, 1, 4, 4, 2])

    plan = BlockPlan(members, recording_groups, costs)

    # blocks: 1, 5, 3, 8; and 4, 6
    assert plan.members.tolist() == [1, 5, 3, 8, 4, 6]
    assert deal(plan, Shard(3, 1)) == [(0, [1, 5, 3, 8])]
    assert deal(plan, Shard(3, 2)) == [(1, [4, 6])]
    assert cost_by_shard(plan, costs, 3) == [1 + 8 + 2 + 32, 4 + 16, 0]


def test_costs_do_not_change_blocks() -> None:
    """An utterance always has the same neighbours in its block."""
    costs = np.random.default_rng(0).lognormal(0, 2, 5000).astype(np.float32)

    assert deal(BlockPlan(np.arange(5000), costs=costs)) == deal(BlockPlan(np.arange(5000)))


def test_missing_costs_count_as_equal_costs() -> None:
    alike = BlockPlan(np.arange(5000), costs=np.full(5000, 3, np.float32))
    plain = BlockPlan(np.arange(5000))

    for count in (1, 2, 7, 64):
        for index in range(1, count + 1):
            assert deal(plain, Shard(count, index)) == deal(alike, Shard(count, index))
        assert plain.count_by_shard(np.ones(5000, np.bool_), count).sum() == 5000


@pytest.mark.parametrize("count", [2, 3, 16, 100])
@pytest.mark.parametrize("seed", range(5))
def test_costs_of_shards_differ_by_at_most_a_block(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    costs = generator.lognormal(0, 1.5, 20_000).astype(np.float32)
    members = np.flatnonzero(generator.random(20_000) < 0.8)
    plan = BlockPlan(members, np.repeat(np.arange(4000), 5), costs)

    by_block = [float(costs[indices].sum(dtype=np.float64)) for _, indices in plan.deal_blocks(WHOLE)]
    by_shard = cost_by_shard(plan, costs, count)

    assert max(by_shard) - min(by_shard) <= max(by_block)
    assert sum(by_shard) == pytest.approx(costs[members].sum(dtype=np.float64))
    for index in range(1, count + 1):
        dealt = [by_block[number] for number, _ in plan.deal_blocks(Shard(count, index))]
        assert by_shard[index - 1] == pytest.approx(sum(dealt))


def test_empty_plan_has_empty_shards() -> None:
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
def test_unknown_cost_is_the_mean(sizes: list[float], costs: list[float] | None) -> None:
    estimated = estimate_costs(np.array(sizes, np.float64))

    if costs is None:
        assert estimated is None
    else:
        assert estimated is not None
        assert estimated.dtype == np.float32
        assert estimated.tolist() == costs


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("number", [0, 1, 4, 63, 8193])
def test_count_by_shard_matches_its_blocks(number: int, count: int) -> None:
    members = np.flatnonzero(np.random.default_rng(number).random(2 * number) < 0.5)
    chosen = np.random.default_rng(count).random(2 * number) < 0.3
    plan = BlockPlan(members)

    counted = plan.count_by_shard(chosen[members], count)

    assert counted.tolist() == [
        sum(int(chosen[indices].sum()) for _, indices in plan.deal_blocks(Shard(count, index)))
        for index in range(1, count + 1)
    ]


@pytest.mark.usefixtures("_blocks_of_four")
@pytest.mark.parametrize(
    ("recording_groups", "blocks"),
    [
        # each by itself: as without recording_groups
        ([0, 1, 2, 3, 4, 5], [[0, 1, 2, 3], [4, 5]]),
        # a single group, of any size
        ([0, 0, 0, 0, 0, 0], [[0, 1, 2, 3, 4, 5]]),
        # a group that begins in a block extends it
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [[0, 1, 2, 3, 4, 5], [6, 7, 8]]),
        ([0, 0, 0, 0, 1, 1, 1, 2, 2], [[0, 1, 2, 3], [4, 5, 6, 7, 8]]),
        ([0, 0, 0, 0, 0, 1, 2, 3, 4], [[0, 1, 2, 3, 4], [5, 6, 7], [8]]),
        # a large group replaces the blocks that it covers
        ([0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3], [[0, 1, 2, 3, 4, 5, 6, 7, 8], [9, 10]]),
        # by first appearance, in any order of the list
        ([0, 1, 0, 2, 1, 0], [[0, 2, 5, 1, 4], [3]]),
        ([0, 1, 2, 3, 0, 1, 2, 3], [[0, 4, 1, 5], [2, 6, 3, 7]]),
    ],
)
def test_recording_group_is_in_one_block(recording_groups: list[int], blocks: list[list[int]]) -> None:
    plan = BlockPlan(np.arange(len(recording_groups)), np.array(recording_groups))

    assert deal(plan) == list(enumerate(blocks))
    assert plan.members.tolist() == list(itertools.chain(*blocks))


def test_tapering_blocks_do_not_cut_recording_groups() -> None:
    """Blocks of twenty utterances begin at 0, 2, 4, 6, 7, 8 and so on; a group is in that of its first utterance."""
    recording_groups = np.array([0, 0, 0, 1, 2, 3, 4, 4, 4, 4, *range(5, 15)])

    blocks = [indices for _, indices in deal(BlockPlan(np.arange(20), recording_groups))]

    assert blocks == [[0, 1, 2], [3], [4, 5], [6, 7, 8, 9], *([index] for index in range(10, 20))]


@pytest.mark.parametrize("number", [0, 1, 60, 1000, 20_011])
def test_groups_of_one_make_the_same_blocks_as_no_groups(number: int) -> None:
    members = np.arange(0, 2 * number, 2)

    assert deal(BlockPlan(members, np.arange(2 * number))) == deal(BlockPlan(members))


@pytest.mark.usefixtures("_blocks_of_four")
def test_blocks_of_groups_hold_only_utterances_to_compute() -> None:
    """The rest of a group that was partly done with an earlier list stays together."""
    recording_groups = np.array([0, 1, 0, 2, 1, 0, 3, 3, 4])

    assert deal(BlockPlan(np.array([1, 2, 5, 6, 7, 8]), recording_groups)) == [(0, [2, 5, 1, 6, 7]), (1, [8])]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, 4, 63, 20_000])
def test_shards_of_groups_partition_the_blocks(number: int, count: int) -> None:
    """Groups are numbered by first appearance; no block cuts one."""
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
    flat = list(itertools.chain(*(indices for _, indices in blocks)))
    assert flat == plan.members.tolist() == sorted(members.tolist(), key=lambda index: (recording_groups[index], index))
    in_blocks = [set(recording_groups[indices].tolist()) for _, indices in blocks]
    assert sum(map(len, in_blocks)) == len(set.union(*in_blocks, set()))
    assert plan.count_by_shard(chosen[plan.members], count).tolist() == [
        sum(int(chosen[indices].sum()) for _, indices in shard) for shard in shards
    ]
