"""Who goes on from a rung: the properties that the rule promises, against brute force."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from schedulers.rungs import (
    Rung,
    foretold,
    net_places,
    places_by_first,
    places_by_front,
    rung_epochs,
)

ROUNDED = st.integers(0, 6).map(lambda k: k / 6)  # coarse, so that ties and dominance happen
FACTORS = st.integers(2, 4)


def property_of(**strategies):
    """Check a test for some drawn cases, however slow the machine is."""
    return lambda test: settings(deadline=None, max_examples=60)(given(**strategies)(test))


def losses_of(objectives: int, max_size: int = 15):
    row = st.tuples(*[ROUNDED] * objectives)
    return st.lists(row, min_size=1, max_size=max_size)


ANY_LOSSES = st.integers(1, 4).flatmap(losses_of)


def filled(rows, *, factor=3, violations=None, **options) -> Rung:
    violations = violations or [0.0] * len(rows)
    rung = Rung(3, factor, **options)
    for place, (row, violation) in enumerate(zip(rows, violations, strict=True)):
        rung.enter(f"t{place}", tuple(row), violation)
    return rung


def goes_on(rung: Rung) -> list[bool]:
    return [rung.verdict(i) == "" for i in range(len(rung.names))]


def dominates(a, b) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def slow_fronts(rows) -> list[int]:
    left, fronts, number = set(range(len(rows))), [0] * len(rows), 0
    while left:
        front = {i for i in left if not any(dominates(rows[j], rows[i]) for j in left)}
        for i in front:
            fronts[i] = number
        left, number = left - front, number + 1
    return fronts


# --- the rule ------------------------------------------------------------------------------------


@property_of(rows=ANY_LOSSES, factor=FACTORS)
def test_the_best_of_the_first_objective_goes_on(rows, factor):
    on = goes_on(filled(rows, factor=factor))
    first = min(row[0] for row in rows)
    ties = [i for i, row in enumerate(rows) if row[0] == first]
    assert any(on[i] for i in ties)
    assert all(on[i] for i in ties) or len({rows[i] for i in ties}) > 1


@property_of(rows=ANY_LOSSES, factor=FACTORS)
def test_the_only_nondominated_trial_goes_on(rows, factor):
    front = [i for i, front in enumerate(slow_fronts(rows)) if front == 0]
    on = goes_on(filled(rows, factor=factor))
    if len({tuple(rows[i]) for i in front}) == 1:
        assert all(on[i] for i in front)


@property_of(rows=ANY_LOSSES, factor=FACTORS)
def test_about_one_in_reduction_factor_goes_on_by_each_order(rows, factor):
    rows = sorted(set(rows))
    keep = math.ceil(len(rows) / factor)
    front = slow_fronts(rows).count(0)
    assert keep <= sum(goes_on(filled(rows, factor=factor, keep_front=False))) <= 2 * keep
    assert sum(goes_on(filled(rows, factor=factor))) <= 2 * keep + front


@property_of(rows=ANY_LOSSES, factor=FACTORS, data=st.data())
def test_it_does_not_matter_in_which_order_trials_came(rows, factor, data):
    order = data.draw(st.permutations(range(len(rows))))
    on = goes_on(filled(rows, factor=factor))
    shuffled = goes_on(filled([rows[i] for i in order], factor=factor))
    assert shuffled == [on[i] for i in order]


@property_of(rows=losses_of(2), factor=FACTORS)
def test_scaling_an_objective_changes_nothing(rows, factor):
    scaled = [(row[0], 1024 * row[1] + 8) for row in rows]
    assert goes_on(filled(rows, factor=factor)) == goes_on(filled(scaled, factor=factor))


@property_of(rows=ANY_LOSSES, factor=FACTORS)
def test_who_is_dominated_never_goes_on_before_the_one_that_dominates(rows, factor):
    on = goes_on(filled(rows, factor=factor))
    for i, better in enumerate(rows):
        for j, worse in enumerate(rows):
            if dominates(better, worse):
                assert on[i] or not on[j]


@property_of(rows=ANY_LOSSES, factor=FACTORS)
def test_with_keep_front_nobody_stops_whom_nobody_dominates(rows, factor):
    on = goes_on(filled(rows, factor=factor, keep_front=True))
    assert all(on[i] for i, front in enumerate(slow_fronts(rows)) if front == 0)
    plain = goes_on(filled(rows, factor=factor, keep_front=False))
    assert all(kept for kept, was in zip(on, plain, strict=True) if was)


@property_of(rows=losses_of(2), data=st.data(), factor=FACTORS)
def test_the_feasible_come_first(rows, data, factor):
    violations = data.draw(
        st.lists(st.sampled_from([0.0, 0.1, 0.5]), min_size=len(rows), max_size=len(rows))
    )
    on = goes_on(filled(rows, factor=factor, violations=violations))
    feasible = sum(v == 0 for v in violations)
    if feasible >= math.ceil(len(rows) / factor):
        assert not any(on[i] for i, violation in enumerate(violations) if violation > 0)


@property_of(rows=losses_of(3), factor=FACTORS)
def test_what_is_no_number_stops_and_leaves_the_others_their_places(rows, factor):
    rung = filled(rows, factor=factor)
    reason = rung.enter("unknown", (0.0, math.nan, 0.0))
    assert reason == "rung 3: not every objective is a number"
    losses = np.array([*rows, (0.0, math.nan, 0.0)])
    places, _ = places_by_front(losses, np.zeros(len(losses)))
    assert places[-1] == len(rows)
    assert places_by_first(losses, np.zeros(len(losses)), places)[-1] == len(rows)


def test_entering_twice_changes_nothing():
    rung = filled([(0.1, 0.9), (0.5, 0.5)])
    rung.enter("t0", (0.0, 0.0))
    assert rung.losses == [(0.1, 0.9), (0.5, 0.5)]


def ended_rung() -> Rung:
    """Give a rung with ten ended trials of one size that each gained 0.2 to 0.3."""
    rung = Rung(3, 3)
    for i in range(10):
        rung.enter(f"t{i}", (0.5 + i / 100, 1.0))
        rung.ends[f"t{i}"] = (0.3 + (i % 2) / 10, 1.0)
    return rung


def test_who_cannot_reach_what_others_have_stops():
    """On the front of the rung, but those alike gained at most 0.28, which leaves it at 0.225."""
    rung = ended_rung()
    rung.enter("slow", (0.9, 0.8))
    rung.ends["slow"] = (0.3, 0.8)
    assert rung.enter("late", (0.505, 0.9)) == ""
    rung.ends["slow"] = (0.1, 0.8)
    assert rung.enter("late", (0.505, 0.9)) == "rung 3: may at best become worse than slow"


def test_few_ended_trials_tell_nothing():
    rung = ended_rung()
    rung.enter("slow", (0.9, 0.8))
    rung.ends = dict.fromkeys(("slow", "t0", "t1", "t2", "t3", "t4", "t5"), (0.1, 0.8))
    assert rung.enter("late", (0.505, 0.9)) == ""


@property_of(rows=losses_of(2), ends=losses_of(2), factor=FACTORS)
def test_the_best_goes_on_whatever_ended_trials_have(rows, ends, factor):
    rung = filled(rows, factor=factor)
    rung.ends |= dict(zip(rung.names, ends, strict=False))
    on = goes_on(rung)
    assert on[rows.index(min(rows))]


def chain(ends: list[float]) -> Rung:
    """Give a rung of trials, each worse than the one before; the first of them ended."""
    rung = filled([(0.5 + i / 100, 0.5 + i / 100) for i in range(30)], keep_front=False)
    rung.ends |= {f"t{i}": (end, 0.5 + i / 100) for i, end in enumerate(ends)}
    return rung


def test_a_rung_that_foretells_the_end_is_as_strict_as_asked():
    assert sum(goes_on(chain([]))) == 10
    assert sum(goes_on(chain([0.30, 0.31, 0.32, 0.33, 0.34, 0.35]))) == 10


def test_a_rung_that_foretells_nothing_lets_most_go_on():
    """Six ended in reverse order, and the prior counts as two: 3/4 go on, and a third of 1/4."""
    assert sum(goes_on(chain([0.35, 0.34, 0.33, 0.32, 0.31, 0.30]))) == math.ceil(22.5 + 2.5)


@property_of(rows=losses_of(2), ends=losses_of(2), factor=FACTORS)
def test_what_ended_trials_say_never_lets_fewer_go_on_by_rank(rows, ends, factor):
    rung = filled(rows, factor=factor)
    without = goes_on(rung)
    rung.ends |= dict(zip(rung.names, ends, strict=False))
    stopped = [rung.verdict(i) for i in np.flatnonzero(without)]
    assert all("may at best" in reason for reason in stopped if reason)


@property_of(rows=losses_of(2), ends=losses_of(2))
def test_what_is_foretold_is_the_least_squared_rank_correlation(rows, ends):
    k = min(len(rows), len(ends))
    then, now = np.array(rows[:k]), np.array(ends[:k])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant columns
        found = [spearmanr(then[:, j], now[:, j])[0] for j in range(2)] if k > 1 else [0.0, 0.0]
    changed = (then != now).any(axis=0)
    squares = [max(0.0, np.nan_to_num(r)) ** 2 for r, c in zip(found, changed, strict=True) if c]
    assert foretold(then, now) == pytest.approx(min(squares, default=1.0), abs=1e-9)


# --- what it says --------------------------------------------------------------------------------


def test_a_reason_names_rank_and_rival():
    rung = filled([(0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)])
    assert rung.verdict(3) == "rung 3: rank 4 of 4, dominated by t0"


def test_a_reason_says_where_the_front_is_crowded():
    rung = filled([(0.0, 1.0), (0.5, 0.5), (0.49, 0.51), (1.0, 0.0)], factor=4)
    assert rung.verdict(1) == ""
    rung.keep_front = False
    assert rung.verdict(1) == "rung 3: rank 3 of 4, on the front, which is crowded here"


def test_a_reason_says_that_a_constraint_is_broken():
    rung = filled([(0.2, 0.2), (0.3, 0.3), (0.1, 0.1)], violations=[0.0, 0.0, 0.5])
    assert rung.verdict(2) == "rung 3: rank 3 of 3, breaks a constraint"


# --- the parts -----------------------------------------------------------------------------------


@property_of(rows=ANY_LOSSES)
def test_fronts_are_those_of_brute_force(rows):
    _, fronts = places_by_front(rows, np.zeros(len(rows)))
    assert fronts.tolist() == slow_fronts(rows)


@property_of(rows=losses_of(2, max_size=10))
def test_each_prefix_of_a_net_adds_the_farthest_row(rows):
    places = net_places(rows)
    points = np.array(sorted(set(rows)), dtype=float)
    span = np.ptp(points, axis=0)
    points = (points - points.min(axis=0)) / np.where(span > 0, span, 1)
    order = np.argsort([places[rows.index(tuple(row))] for row in sorted(set(rows))])
    for k in range(1, len(order)):
        before = points[order[:k]]
        distances = [np.linalg.norm(before - point, axis=1).min() for point in points]
        assert distances[order[k]] == pytest.approx(max(distances))


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [(1, 3, 9, [1, 3]), (1, 3, 10, [1, 3, 9]), (4, 2, 64, [4, 8, 16, 32]), (9, 3, 9, [])],
)
def test_rungs_lie_below_the_last_epoch(grace, factor, epochs, expected):
    assert rung_epochs(grace, factor, epochs) == expected


# --- with promotion ------------------------------------------------------------------------


@property_of(rows=ANY_LOSSES, factor=FACTORS)
def test_where_trials_may_go_on_later_few_pass_and_none_alone(rows, factor):
    rung = Rung(3, factor, promote=True)
    first = [rung.enter(f"t{i}", tuple(row)) for i, row in enumerate(rows)]
    assert all(first[: factor - 1])  # nobody passes before there are enough to compare with
    passed = {tuple(row) for row, goes in zip(rows, goes_on(rung), strict=True) if goes}
    # Two orders, each with its share; ties share a place.
    assert len(passed) <= 2 * (len(rows) // factor)
    assert bool(passed) == (len(rows) >= factor)


@property_of(rows=ANY_LOSSES, factor=FACTORS)
def test_in_the_end_the_best_of_a_rung_goes_on(rows, factor):
    rung = filled(rows, factor=factor, promote=True)
    best = min(range(len(rows)), key=lambda i: rows[i])
    assert rung.verdict(best, ending=True) == ""
    for i, goes in enumerate(goes_on(rung)):  # what passes now passes then
        assert not goes or rung.verdict(i, ending=True) == ""
