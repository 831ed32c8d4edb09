"""Time series: what their channels are like, as tensors, and saved with the processor."""

import math

import numpy as np
import pytest
import torch

from mm_hf import MMFusionProcessor, SeriesScaler


NAN = math.nan


@pytest.fixture
def scaler():
    return SeriesScaler.fit([[[0.0, 10.0], [2.0, 10.0]], None, [[4.0, NAN]]])


def test_what_is_learned(scaler):
    assert scaler.means == [2.0, 10.0]
    assert scaler.stds == [pytest.approx(math.sqrt(8 / 3)), 1.0]  # what never changes is left at its size
    assert scaler.channels == 2


@pytest.mark.parametrize("steps", [3, 7, 33, 999])
def test_a_channel_that_never_changes_is_not_blown_up(steps):
    """0.1 is no sum of powers of two: its deviation is 1e-17, and no zero."""
    readings = np.stack([np.full(steps, 0.1), np.arange(steps)], axis=1)
    scaler = SeriesScaler.fit([readings])
    assert scaler.stds[0] == 1.0
    assert abs(scaler.check([[0.11, 0.0]])[0, 0]) < 0.02


def test_what_is_far_off_is_finite_in_half_precision():
    found = SeriesScaler([0.0], [1.0])([[1e6], [-1e29]])["series_values"]
    assert found.half().isfinite().all()


def test_forms_of_one_series_and_of_several():
    processor = MMFusionProcessor(series_scaler=SeriesScaler([0.0, 0.0], [1.0, 1.0]))
    steps = [[1.0, 2.0], [3.0, 4.0]]
    for one in (steps, np.array(steps), torch.tensor(steps, dtype=torch.bfloat16)):
        assert processor(series=one)["series_values"].tolist() == [steps]
    assert processor(series=[steps, steps[:1]])["series_values"].shape == (2, 2, 2)
    assert processor(series=np.array([steps, steps]))["series_values"].shape == (2, 2, 2)
    gaps = processor(series=[steps, None, [], [[NAN, NAN]], np.zeros((0, 2))])
    assert gaps["series_index"].tolist() == [0, -1, -1, -1, -1]
    single = MMFusionProcessor(series_scaler=SeriesScaler([0.0], [1.0]))
    assert single(series=[1.0, 2.0, 3.0])["series_values"].shape == (1, 3, 1)


def test_tensors(scaler):
    found = scaler([[[2.0, 11.0]], np.array([[4.0, NAN], [0.0, 10.0], [2.0, 10.0]], dtype=np.float32)])
    assert found["series_attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    size = 2 / math.sqrt(8 / 3)
    expected = [[[0, 1], [0, 0], [0, 0]], [[size, 0], [-size, 0], [0, 0]]]
    torch.testing.assert_close(found["series_values"], torch.tensor(expected, dtype=torch.float32))
    single = SeriesScaler([0.0], [2.0])
    assert single([torch.tensor([1, 2, 3])])["series_values"].tolist() == [[[0.5], [1.0], [1.5]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: SeriesScaler.fit([None]), "series_scaler: .*series"),
        (lambda s: SeriesScaler.fit([[[1.0]], [[1.0, 2.0]]]), r"channels.*\[1, 2\]"),
        (lambda s: SeriesScaler.fit([[[1.0, NAN]]]), r"[Cc]hannels \[1\]"),
        (lambda s: SeriesScaler([0.0], [0.0]), r"series_scaler: .*\[0\.0\]"),
        (lambda s: s.check([[1.0, 2.0, 3.0]]), r"\b2 channels.*\(1, 3\)"),
        (lambda s: s.check([]), r"steps.*\(0, 1\)"),
        (lambda s: s.check([[1.0, 2.0], [3.0]]), "steps.*sequence"),
        (lambda s: s.check([["a", "b"]]), r"steps.*\bstr32\b"),
        (lambda s: s.check([["1", "2"]]), r"steps.*\bstr32\b"),
        (lambda s: s.check([[10**400, 1]]), r"steps.*\bfloat\b"),
        (lambda s: s.check([[math.inf, 1.0]]), r"steps.*\binf\b"),
        (lambda s: s.check([[1e300, 1.0]]), r"steps.*1e\+300"),
        (lambda s: SeriesScaler.fit([[[1e200, 1.0]]]), r"steps.*1e\+200"),
        (lambda s: SeriesScaler([NAN], [math.inf]), r"series_scaler: .*\[nan\]"),
    ],
)
def test_what_is_no_series(call, message, scaler):
    with pytest.raises(ValueError, match=message):
        call(scaler)
