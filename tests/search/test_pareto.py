import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search.front import pareto

# Few distinct values, so that ties and dominance are frequent; some beyond the unit cube.
VALUES = st.sampled_from([-0.5, -0.0, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, float("nan")])


@st.composite
def tables(draw, values=VALUES, rows=8):
    shape = draw(st.integers(0, rows)), draw(st.integers(1, 4))
    table = draw(arrays(np.float64, shape, elements=values))
    table.flags.writeable = False
    return table


# --- slow twins: the definitions, word by word -------------------------------------------------


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


def slow_nondominated(table, keep_ties):
    mask = []
    for i, row in enumerate(table):
        beaten = any(dominates(other, row) for other in table)
        repeated = not keep_ties and any((other == row).all() for other in table[:i])
        mask.append(not beaten and not repeated and not np.isnan(row).any())
    return mask


def slow_ranks(table):
    ranks = [None] * len(table)
    for rank in range(len(table) + 1):
        open_rows = [i for i in range(len(table)) if ranks[i] is None]
        whole = [i for i in open_rows if not np.isnan(table[i]).any()]
        front = [i for i in whole if not any(dominates(table[j], table[i]) for j in whole)]
        for i in front or open_rows:
            ranks[i] = rank
    return ranks


def slow_hypervolume(table):
    """Sum the cells of the grid through all coordinates whose lower corner is dominated."""
    table = np.clip(table[~np.isnan(table).any(axis=1)], 0, 1)
    edges = [np.unique([*column, 0, 1]) for column in table.T]
    total = 0.0
    for cell in np.ndindex(*(len(e) - 1 for e in edges)):
        low = np.array([e[i] for e, i in zip(edges, cell, strict=True)])
        high = np.array([e[i + 1] for e, i in zip(edges, cell, strict=True)])
        if (table <= low).all(axis=1).any():
            total += float(np.prod(high - low))
    return total


# --- properties --------------------------------------------------------------------------------


@given(tables(), st.booleans())
def test_the_front_is_as_defined(table, keep_ties):
    mask = pareto.nondominated(table, keep_ties=keep_ties)
    assert mask.dtype == bool
    assert mask.tolist() == slow_nondominated(table, keep_ties)


@given(tables())
def test_ranks_are_as_defined(table):
    assert pareto.ranks(table).tolist() == slow_ranks(table)


@given(tables(rows=5))
def test_hypervolume_is_as_defined(table):
    assert pareto.hypervolume(table) == pytest.approx(slow_hypervolume(table), abs=1e-12)


@given(tables(values=st.floats(-1, 2)), st.randoms(use_true_random=False))
def test_order_changes_nothing(table, random):
    assume(len(table))
    order = random.sample(range(len(table)), len(table))
    assert pareto.ranks(table[order]).tolist() == pareto.ranks(table)[order].tolist()
    assert pareto.hypervolume(table[order]) == pytest.approx(pareto.hypervolume(table))


# --- edges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 3])
def test_no_rows_are_an_empty_front_without_volume(m):
    empty = np.zeros((0, m))
    assert pareto.nondominated(empty).shape == (0,)
    assert pareto.ranks(empty).shape == (0,)
    assert pareto.hypervolume(empty) == 0.0


def test_the_first_of_equal_rows_stays():
    assert pareto.nondominated([[0.2, 0.2]] * 3).tolist() == [True, False, False]


def test_a_front_of_unmeasured_rows_is_empty():
    nan = [[float("nan"), 0.0], [0.0, float("nan")]]
    assert not pareto.nondominated(nan).any()
    assert pareto.ranks(nan).tolist() == [0, 0]
    assert pareto.hypervolume(nan) == 0.0


@pytest.mark.parametrize("function", [pareto.nondominated, pareto.ranks, pareto.hypervolume])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (2, 0)])
def test_other_shapes_are_refused_with_their_shape(function, shape):
    with pytest.raises(ValueError, match=re.escape(f"m >= 1, got {shape}")):
        function(np.zeros(shape))


def test_doctests():
    import doctest

    assert doctest.testmod(pareto).failed == 0


# --- ties ------------------------------------------------------------------------------------


@given(points=tables(), slack=st.floats(0, 0.3))
def test_every_row_that_goes_ties_with_or_loses_to_one_that_stays(points, slack):
    tolerances = np.array([0.0] * (points.shape[1] - 1) + [slack])
    kept = pareto.nondominated_beyond(points, tolerances=tolerances)
    for row in points[~kept & ~np.isnan(points).any(axis=1)]:
        assert (points[kept] <= row + tolerances).all(axis=1).any()


@given(points=tables())
def test_without_tolerance_it_is_the_plain_front(points):
    kept = pareto.nondominated_beyond(points, tolerances=[0.0] * points.shape[1])
    plain = pareto.nondominated(points)
    assert sorted(points[kept].tolist()) == sorted(points[plain].tolist())


def test_a_latency_that_is_lower_by_noise_is_no_reason_to_stay():
    smaller_and_as_fast = [0.1, 0.2, 0.501]
    larger = [0.1, 0.3, 0.5]
    clearly_faster = [0.1, 0.4, 0.4]
    table = [larger, smaller_and_as_fast, clearly_faster]
    kept = pareto.nondominated_beyond(table, tolerances=[0, 0, 0.01])
    assert kept.tolist() == [False, True, True]
