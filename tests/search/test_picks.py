import doctest

import pytest
from made_rows import default_objectives, made_row

from search.errors import SearchError
from search.front import picks
from search.front.front import ParetoFront
from search.front.picks import NoModelFits, pick

BIG = made_row(1, 0.99, 1_000_000, 1.0)
MIDDLE = made_row(2, 0.97, 50_000, 0.1)
SMALL = made_row(3, 0.60, 10_000, 0.08)
FAST = made_row(4, 0.50, 12_300, 0.04)


@pytest.fixture
def front():
    front = ParetoFront.of([BIG, MIDDLE, SMALL, FAST], default_objectives())
    assert len(front.rows) == 4
    return front


def test_without_a_budget_the_most_accurate_is_picked(front):
    assert pick(front) == BIG


def test_a_budget_is_kept_with_equality(front):
    assert pick(front, max_size_bytes=50_000) == MIDDLE
    assert pick(front, max_size_bytes=49_999) == SMALL
    assert pick(front, max_latency_ms=0.1) == MIDDLE
    assert pick(front, max_latency_ms=0.05) == FAST
    assert pick(front, max_size_bytes=20_000, max_latency_ms=0.05) == FAST


def test_of_equally_accurate_models_the_smaller_then_the_faster_is_picked():
    rows = [
        made_row(1, 0.9, 20_000, 0.1),
        made_row(2, 0.9, 10_000, 0.3),
        made_row(3, 0.9, 10_000, 0.2),
    ]
    front = ParetoFront((*rows,), (*default_objectives(),), (), 0.0, {}, 0)
    assert pick(front).number == 3


def test_the_knee_is_the_member_closest_to_the_ideal_corner(front):
    # By hand: of the losses scaled over the front, MIDDLE has about (0.04, 0.35, 0.28); BIG has
    # two ones, SMALL and FAST nearly one in accuracy.
    assert pick(front, knee=True) == MIDDLE


def test_the_knee_respects_budgets(front):
    assert pick(front, knee=True, max_size_bytes=20_000) in (SMALL, FAST)


def test_the_knee_of_one_model_is_that_model():
    assert pick(ParetoFront.of([SMALL], default_objectives()), knee=True) == SMALL


@pytest.mark.parametrize(
    ("budget", "miss"),
    [
        ({"max_size_bytes": 5000}, "size <= 5.00 kB; the smallest model has 10.0 kB"),
        ({"max_latency_ms": 0.01}, "latency <= 0.0100 ms; the fastest model has 0.0400 ms"),
        ({"min_accuracy": 0.995}, "accuracy >= 0.995; the most accurate model has 0.99"),
        ({"max_size_bytes": 5000, "min_accuracy": 0.5}, "the smallest model has 10.0 kB"),
    ],
)
def test_a_budget_that_no_model_keeps_is_answered_with_the_nearest_miss(front, budget, miss):
    with pytest.raises(NoModelFits) as error:
        pick(front, **budget)
    assert miss in str(error.value)


def test_budgets_that_only_clash_are_answered_with_the_nearest_model(front):
    with pytest.raises(NoModelFits) as error:
        pick(front, max_size_bytes=49_000, min_accuracy=0.95)
    assert "each alone is met" in str(error.value)
    assert f"the nearest is {MIDDLE.trial_id} with 50.0 kB, 0.97" in str(error.value)


def test_an_empty_front_says_so():
    with pytest.raises(NoModelFits, match="no measured, feasible model"):
        pick(ParetoFront.of([], default_objectives()))


def test_nothing_fits_is_a_search_error_of_exit_code_1():
    assert issubclass(NoModelFits, SearchError)
    assert NoModelFits.exit_code == 1


def test_doctests():
    assert doctest.testmod(picks).failed == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (picks.bytes_text(0), "0 B"),
        (picks.bytes_text(999), "999 B"),
        (picks.bytes_text(1000), "1.00 kB"),
        (picks.bytes_text(123_456_789), "123 MB"),
        (picks.ms_text(0.000_123_4), "0.000123 ms"),
        (picks.ms_text(999.9), "1.00 s"),
    ],
)
def test_three_digits_are_shown(text, shown):
    assert text == shown
