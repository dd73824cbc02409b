"""Searchers keep their contract, and each its own promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.searcher_contract import SearcherContract, asked, asked_ids, row_of, sweep
from search.errors import SpecError
from search.searchers import make_searcher
from search.searchers.grid import covering_indices, covering_points
from search.searchers.random import MAX_REPEATS


class TestGrid(SearcherContract):
    @pytest.fixture
    def method(self):
        return "grid"


class TestRandom(SearcherContract):
    @pytest.fixture
    def method(self):
        return "random"


class TestTpe(SearcherContract):
    @pytest.fixture
    def method(self):
        return "tpe"


class TestGp(SearcherContract):
    @pytest.fixture
    def method(self):
        return "gp"


class TestEhvi(SearcherContract):
    @pytest.fixture
    def method(self):
        return "ehvi"


CONTINUOUS = {"learning_rate": {"log_uniform": [1e-3, 1.0]}, "batch_size": [16, 32, 64]}


# --- random ----------------------------------------------------------------------------------


def test_random_draws_the_same_configs_after_a_restart():
    spec = sweep("random", CONTINUOUS)
    whole = asked(spec, 20)
    earlier = [row_of(config, i) for i, config in enumerate(whole[:12])]
    assert asked(spec, 8, rows=earlier) == whole[12:]


def test_random_skips_many_rows_of_earlier_runs():
    """Rows that were told are no repeats, however many come in a row."""
    spec = sweep("random", CONTINUOUS)
    count = MAX_REPEATS + 50
    whole = asked(spec, count + 1)
    earlier = [row_of(config, i) for i, config in enumerate(whole[:count])]
    assert asked(spec, 1, rows=earlier) == whole[count:]


def test_random_finds_what_is_almost_never_drawn():
    """One config has a thousandth of the draws: all others mean the same as one another."""
    space = {"optimizer": "adamw", "pruning_method": "filter", "pruning_ratio": {"choice": [
        *(i / 100_000 for i in range(999)), 0.5]}}  # fmt: skip
    assert len(asked(sweep("random", space))) == 2


def test_random_ends_where_a_continuous_space_has_few_meanings():
    """On 8 channels every ratio prunes nothing."""
    spec = sweep(
        "random",
        {
            "width": 8,
            "depth": 1,
            "pruning_method": "filter",
            "pruning_ratio": {"uniform": [0, 0.9]},
        },
    )
    assert len(asked(spec)) == 1


# --- grid ------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), max_size=4))
def test_the_order_has_every_combination_once(counts):
    combinations = list(covering_indices(counts))
    assert len(combinations) == math.prod(counts)
    assert set(combinations) == set(itertools.product(*map(range, counts)))


@given(st.lists(st.integers(1, 6), max_size=5), st.integers(1, 8))
def test_the_first_k_have_every_value_of_dimensions_with_at_most_k(counts, k):
    prefix = list(itertools.islice(covering_indices(counts), k))
    for dimension, count in enumerate(counts):
        if count <= k:
            assert {indices[dimension] for indices in prefix} == set(range(count))


def test_the_first_suggestions_cover_the_space():
    space = {"batch_size": [1, 2, 3], "epochs": [1, 2, 3, 4], "amp": ["none", "bf16"]}
    first = asked(sweep("grid", space), 4)
    assert {c.epochs for c in first} == {1, 2, 3, 4}
    assert {c.batch_size for c in first[:3]} == {1, 2, 3}
    assert {c.amp for c in first[:2]} == {"none", "bf16"}


def test_the_first_block_covers_all_pairs_of_the_two_longest():
    space = {"batch_size": [1, 2, 3], "epochs": [1, 2, 3, 4], "amp": ["none", "bf16"]}
    first = asked(sweep("grid", space), 12)
    assert len({(c.epochs, c.batch_size) for c in first}) == 12


def test_a_grid_over_a_continuous_dimension_is_refused():
    with pytest.raises(SpecError, match="learning_rate"):
        next(covering_points(sweep("random", CONTINUOUS).space, seed=0))


def test_a_huge_grid_starts_at_once():
    space = {"epochs": {"int": [1, 10_000]}, "batch_size": {"int": [1, 65_536]},
             "width": {"int": [1, 1024]}, "fc_width": {"int": [0, 8192]}}  # fmt: skip
    assert len(asked_ids(sweep("grid", space), 5)) == 5


def test_suggestions_do_not_touch_the_global_generator():
    before = np.random.get_state()[1].copy()
    searcher = make_searcher(sweep("random", CONTINUOUS))
    searcher.ask()
    assert (np.random.get_state()[1] == before).all()
