"""Every quantization scheme by the contract; how ranges are chosen."""

import numpy as np
import pytest

from contracts.scheme_contract import SchemeContract
from trainables.calibrate import BINS, CALIBRATION, Histogram
from trainables.quantize import SCHEMES


@pytest.mark.parametrize("bits", SCHEMES)
class TestSchemes(SchemeContract):
    pass


def seen(values) -> Histogram:
    low, high = min(0.0, values.min()), max(0.0, values.max())
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0])


BELL = np.random.default_rng(0).normal(size=100_000)


@pytest.mark.parametrize("method", CALIBRATION)
@pytest.mark.parametrize(
    "values", [BELL, np.abs(BELL), -np.abs(BELL), BELL + 5, np.zeros(10), np.ones(3)]
)
def test_a_range_holds_zero_and_no_more_than_was_seen(method, values):
    if not values.any():
        values = np.array([0.0, 1e-3])
    histogram = seen(values)
    low, high = CALIBRATION[method](histogram)
    assert histogram.low <= low <= 0 <= high <= histogram.high
    assert high > low


def test_minmax_holds_all_and_percentile_leaves_out_the_rarest():
    outlier = np.append(BELL, 100.0)
    assert CALIBRATION["minmax"](seen(outlier))[1] == 100.0
    low, high = CALIBRATION["percentile"](seen(outlier))
    assert 3 < high < 6
    assert -6 < low < -3


def test_entropy_clips_a_long_tail_and_keeps_a_flat_range():
    flat = np.random.default_rng(0).uniform(0, 1, 100_000)
    assert CALIBRATION["entropy"](seen(flat))[1] > 0.9
    tailed = np.append(flat, [3.0])
    assert CALIBRATION["entropy"](seen(tailed))[1] < 2.0
