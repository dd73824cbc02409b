"""A front that grows row by row is the front of its rows, whatever comes in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import default_objectives, made_row

from search.front.front import ParetoFront
from search.front.growing import GrowingFront
from search.objectives import Constraint
from trainables.contract import METRICS, Status

OBJECTIVES = default_objectives()
BOUNDS = [Constraint(METRICS["size_bytes"], high=40_000)]

# Few values, so that rows dominate each other often; latencies within and beyond the 2 % of a tie.
ROWS = st.lists(
    st.builds(
        made_row,
        st.integers(0, 12),  # the same number again is the same trial again
        st.sampled_from([None, 0.5, 0.6, 0.7]),
        st.sampled_from([10_000, 20_000, 50_000]),
        st.sampled_from([0.1, 0.1015, 0.103, 0.1046, 0.2]),
        status=st.sampled_from([Status.MEASURED] * 6 + [Status.STOPPED, Status.INFEASIBLE]),
    ),
    max_size=20,
)


def as_put(rows):
    """Give what is left of rows when each takes the place of an earlier one of its trial."""
    latest = {row.trial_id: row for row in rows}
    return [latest[trial_id] for trial_id in dict.fromkeys(row.trial_id for row in rows)]


@given(ROWS, ROWS, st.sampled_from([(), BOUNDS]))
def test_it_is_the_front_of_all_rows_after_each_of_them(earlier, later, constraints):
    earlier = as_put(earlier)
    growing = GrowingFront(OBJECTIVES, constraints, earlier)
    for n in range(len(later) + 1):
        if n:
            growing.put(later[n - 1])
        rows = as_put([*earlier, *later[:n]])
        whole = ParetoFront.of(rows, OBJECTIVES, constraints)
        assert growing.rows == rows
        assert growing.front == whole


@given(ROWS)
def test_it_is_the_front_by_its_definition(rows):
    """Rows in order, exact objectives first: one stays unless one that stays ties or beats it."""
    from search.front.pareto import nondominated_beyond
    from search.objectives import losses

    rows = [row for row in as_put(rows) if row.status is Status.MEASURED]
    table = losses([row.metrics for row in rows], OBJECTIVES)
    mask = nondominated_beyond(table, tolerances=[o.tolerance for o in OBJECTIVES])
    expected = {row.trial_id for row, on in zip(rows, mask, strict=True) if on}
    front = ParetoFront.of(rows, OBJECTIVES)
    assert {row.trial_id for row in front.rows} == expected


def test_a_row_that_gets_worse_lets_another_come_back():
    best, second = made_row(1, 0.9, 10_000, 0.1), made_row(2, 0.9, 10_000, 0.2)
    growing = GrowingFront(OBJECTIVES, (), [best, second])
    assert growing.front.rows == (best,)
    worse = best.model_copy(update={"metrics": {**best.metrics, "latency_ms": 0.3}})
    growing.put(worse)
    assert growing.front.rows == (second,)
    assert growing.rows == [worse, second]


@pytest.mark.parametrize("constraints", [(), BOUNDS])
def test_a_front_without_rows_is_empty(constraints):
    growing = GrowingFront(OBJECTIVES, constraints)
    assert growing.front == ParetoFront.of([], OBJECTIVES, constraints)
