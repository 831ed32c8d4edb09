"""Which rows make a batch: each exactly once, groups together, the same on two processes as on one."""

import itertools

import pytest

from mm_hf.data import GroupedBatchSampler


GROUPS = [f"image {i}" for i in range(37) for _ in range(1 + i % 5)]


def batches(**kwargs):
    return list(GroupedBatchSampler(GROUPS, **{"batch_size": 10, **kwargs}))


def test_every_row_once():
    rows = list(itertools.chain(*batches()))
    assert sorted(rows) == list(range(len(GROUPS)))


def test_rows_of_a_group_stay_together():
    order = [GROUPS[row] for row in itertools.chain(*batches())]
    assert len([key for key, _ in itertools.groupby(order)]) == len(set(GROUPS))


def test_order_depends_on_seed_and_epoch_alone():
    sampler = GroupedBatchSampler(GROUPS, 10, seed=1)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first != list(GroupedBatchSampler(GROUPS, 10, seed=2))
    assert list(itertools.chain(*batches(shuffle=False))) == list(range(len(GROUPS)))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batches_of_one(world_size):
    whole = batches(batch_size=10 * world_size)
    parts = [batches(batch_size=10, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        assert batch == list(itertools.chain(*(part[number] for part in parts if number < len(part))))


@pytest.mark.parametrize("rows", [1, 3, 20, 21, 22])
def test_drop_last_leaves_every_process_a_row(rows):
    parts = [list(GroupedBatchSampler(rows, 10, rank=rank, world_size=2, drop_last=True)) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(GroupedBatchSampler(rows, 10, world_size=2, drop_last=True))
    assert all(batch for part in parts for batch in part)


def test_rows_without_a_key_are_groups_of_their_own():
    assert len(GroupedBatchSampler([None, None, "a", "a"], 1).groups) == 3


def test_batch_size_below_one():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        GroupedBatchSampler(3, 0)
