"""Which rows make a batch: each exactly once, groups together, the same on two processes as on one."""

import itertools
import math
import pydoc_data.topics
import re
from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from transformers import AutoTokenizer

from mm_hf.data import GroupedBatchSampler
from mm_hf.data.samplers import WINDOW, balanced_weights


GROUPS = [f"image {i}" for i in range(37) for _ in range(1 + i % 5)]
LENGTHS = [(row * 7919) % 101 for row in range(len(GROUPS))]
WEIGHTS = [float(row % 3) for row in range(len(GROUPS))]
MODES = [{}, {"lengths": LENGTHS}, {"weights": WEIGHTS}, {"lengths": LENGTHS, "weights": WEIGHTS}, {"shuffle": False}]


def batches(**kwargs):
    return list(GroupedBatchSampler(GROUPS, **{"batch_size": 10, **kwargs}))


@pytest.mark.parametrize("mode", [{}, {"lengths": LENGTHS}, {"lengths": LENGTHS, "shuffle": False}])
def test_every_row_once(mode):
    rows = list(itertools.chain(*batches(**mode)))
    assert sorted(rows) == list(range(len(GROUPS)))


@pytest.mark.parametrize("mode", [mode for mode in MODES if "weights" not in mode])
def test_rows_of_a_group_stay_together(mode):
    if "lengths" not in mode:
        order = [GROUPS[row] for row in itertools.chain(*batches(**mode))]
        assert len([key for key, _ in itertools.groupby(order)]) == len(set(order))
    else:  # the batches change places after the cut: a group is in one, or in two where it did not fit
        cuts = Counter(key for batch in batches(**mode) for key in {GROUPS[row] for row in batch})
        assert sum(cuts.values()) - len(cuts) < len(batches(**mode))


def test_drawn_rows_of_a_group_stay_together_and_repeats_do_not():
    drawn = list(itertools.chain(*batches(weights=[50.0] + [1.0] * (len(GROUPS) - 1), batch_size=1000)))
    assert drawn.count(0) > 20
    runs = [list(rows) for _, rows in itertools.groupby(drawn, key=lambda row: GROUPS[row])]
    assert any(len(set(rows)) > 1 for rows in runs)
    assert max(rows.count(0) for rows in runs) < 5  # neighbours by chance


def test_order_depends_on_seed_and_epoch_alone():
    sampler = GroupedBatchSampler(GROUPS, 10, seed=1)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first != list(GroupedBatchSampler(GROUPS, 10, seed=2))
    assert list(itertools.chain(*batches(shuffle=False))) == list(range(len(GROUPS)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batches_of_one(world_size, mode):
    whole = batches(batch_size=10 * world_size, **mode)
    parts = [batches(batch_size=10, rank=rank, world_size=world_size, **mode) for rank in range(world_size)]
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
    with pytest.raises(ValueError, match=r"\b1, .*\b0\b"):
        GroupedBatchSampler(3, 0)


# --- The same in every mode


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world_size", [1, 2])
def test_skipping_begins_in_the_middle(mode, world_size):
    """What a run that resumes sees is what it would have seen; the next epoch is whole again."""
    for rank in range(world_size):
        sampler = GroupedBatchSampler(GROUPS, 10, rank=rank, world_size=world_size, drop_last=True, **mode)
        sampler.set_epoch(3)
        whole = list(sampler)
        for skip in (0, 1, 4, len(whole)):
            sampler.set_epoch(3, skip=skip)
            assert list(sampler) == whole[skip:]
            assert len(sampler) == len(whole)
        sampler.set_epoch(3)
        assert list(sampler) == whole
    with pytest.raises(ValueError, match=rf"\b{len(whole)} .*\b{len(whole) + 1}\b"):
        sampler.set_epoch(3, skip=len(whole) + 1)


@pytest.mark.parametrize("mode", MODES)
def test_epochs_are_drawn_from_the_seed(mode):
    samplers = [GroupedBatchSampler(GROUPS, 10, seed=seed, **mode) for seed in (1, 1, 2)]
    first, same, other = (list(sampler) for sampler in samplers)
    assert first == same
    assert (first != other) == mode.get("shuffle", True)
    samplers[0].set_epoch(1)
    assert (first != list(samplers[0])) == mode.get("shuffle", True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [1, 3, 20, 21, 22, 57])
def test_length_is_the_number_of_batches(mode, rows):
    values = {key: value if key == "shuffle" else list(range(1, rows + 1)) for key, value in mode.items()}
    for drop_last in (False, True):
        samplers = [
            GroupedBatchSampler(rows, 10, rank=rank, world_size=2, drop_last=drop_last, **values) for rank in (0, 1)
        ]
        assert max(len(list(sampler)) for sampler in samplers) == len(samplers[0]) == len(samplers[1])


@pytest.mark.parametrize("mode", [{}, {"lengths": LENGTHS}])
def test_accelerate_deals_out_whole_batches(mode):
    """With a number as `batch_size` it takes the short last batch for a part of one, and rows are lost."""
    whole = batches(**mode)
    parts = [BatchSamplerShard(GroupedBatchSampler(GROUPS, 10, **mode), 2, rank) for rank in (0, 1)]
    dealt = [batch for part in parts for batch in part]
    assert len(whole) % 2 == 0 or len(dealt) == len(whole) + 1
    assert all(batch in dealt for batch in whole)


# --- Batches of similar length


def padding(lengths, parts) -> float:
    """Tokens computed for each token that is there."""
    return sum(len(part) * max(lengths[row] for row in part) for part in parts) / sum(lengths)


def test_length_grouping_saves_padding_on_real_sentences(encoders):
    """Sentences of Python's own manual, by MiniLM's tokenizer. Measured: 2.86 tokens computed for each that is there
    at random, 1.04 with grouping; with three a picture 2.78 and 1.60."""
    tokenizer = AutoTokenizer.from_pretrained(encoders / "minilm-l6")
    text = " ".join(pydoc_data.topics.topics.values())
    sentences = [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.:])\s+", text)][:3000]
    lengths = [len(ids) for ids in tokenizer(sentences, truncation=True, max_length=128)["input_ids"]]
    plain = padding(lengths, GroupedBatchSampler(len(lengths), 16))
    grouped = padding(lengths, GroupedBatchSampler(len(lengths), 16, lengths=lengths))
    assert plain > 2
    assert grouped < 1.1
    # Three captions a picture, which stay together: the longest of them counts.
    groups = [row // 3 for row in range(len(lengths))]
    plain = padding(lengths, GroupedBatchSampler(groups, 16))
    grouped = padding(lengths, GroupedBatchSampler(groups, 16, lengths=lengths))
    assert grouped < 0.7 * plain


def test_lengths_are_grouped_within_windows_alone():
    """Sorted over all rows, an epoch would have few different batches."""
    rows = 4 * WINDOW * 10
    parts = list(GroupedBatchSampler(rows, 10, lengths=range(rows)))
    spread = [max(part) - min(part) for part in parts]
    assert sum(spread) / len(spread) > 20
    assert max(spread) < rows / 4
    means = [sum(part) / 10 for part in parts]
    assert [mean for mean in means if mean < rows / 10] != sorted(mean for mean in means if mean < rows / 10)
    sampler = GroupedBatchSampler(rows, 10, lengths=range(rows))
    sampler.set_epoch(1)
    assert len({tuple(part) for part in parts} & {tuple(part) for part in sampler}) == 0


def test_no_batch_mixes_the_long_of_one_window_with_the_short_of_the_next():
    window = WINDOW * 10
    across = range(window - 5, window + 5)  # one group, with which the first window ends in the middle of a batch
    groups = ["across" if row in across else row for row in range(2 * window)]
    lengths = [50 if row in across else row % 100 for row in range(2 * window)]
    parts = list(GroupedBatchSampler(groups, 10, shuffle=False, lengths=lengths))
    assert max(max(lengths[row] for row in part) - min(lengths[row] for row in part) for part in parts) < 50


def test_a_shorter_batch_stays_the_last():
    for epoch in range(5):
        sampler = GroupedBatchSampler(97, 10, lengths=list(range(97)))
        sampler.set_epoch(epoch)
        assert [len(batch) for batch in sampler] == [10] * 9 + [7]


# --- Balanced classes


def test_weights_balance_the_classes():
    labels = [0] * 900 + [1] * 90 + [2] * 10 + [-100] * 50
    sampler = GroupedBatchSampler(len(labels), 32, weights=balanced_weights(labels))
    rows = list(itertools.chain(*sampler))
    drawn = Counter(labels[row] for row in rows)
    assert len(rows) == len(labels)
    assert drawn[-100] == 0
    for label in range(3):  # five standard deviations of a third of 1050
        assert abs(drawn[label] - 350) < 5 * math.sqrt(1050 * 2 / 9)
    assert len({row for row in rows if labels[row] == 0}) > 200


def test_weights_are_probabilities_of_rows():
    counts = Counter()
    sampler = GroupedBatchSampler(4, 4, weights=[0.0, 1.0, 3.0, 0.0])
    for epoch in range(1000):
        sampler.set_epoch(epoch)
        counts.update(itertools.chain(*sampler))
    assert set(counts) == {1, 2}
    assert abs(counts[2] - 3000) < 5 * math.sqrt(4000 * 3 / 16)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 1, -100], [1 / 2, 1 / 2, 1, 0]),
        (["cat", None, "cat", "dog"], [1 / 2, 0, 1 / 2, 1]),
        ([1.0, float("nan"), 1.0], [1 / 2, 0, 1 / 2]),
        ([["a", "a"], ["a"]], [1 / 2, 1 / 2]),
        ([["a", "b"], ["a"], [], None], [(1 / 2 + 1) / 2, 1 / 2, 0, 0]),
        ([], []),
    ],
)
def test_balanced_weights(labels, expected):
    assert balanced_weights(labels) == expected


def test_balanced_weights_of_a_tensor():
    assert balanced_weights(torch.tensor([0, 0, 0, 1, -100])) == [1 / 3, 1 / 3, 1 / 3, 1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lengths": [1, 2]}, r"lengths.*\b3 .*\b2\b"),
        ({"weights": [1.0]}, r"weights.*\b3 .*\b1\b"),
        ({"weights": [1.0, -1.0, 1.0]}, r"weights.*-1\.0.* row 1"),
        ({"weights": [1.0, 1.0, float("nan")]}, r"weights.*nan.* row 2"),
        ({"weights": [0, 0, 0]}, r"weights.*\b3 .*\b0\b"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        GroupedBatchSampler(3, 2, **values)
