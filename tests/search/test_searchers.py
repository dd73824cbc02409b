"""Searchers keep their contract, and each its own promise."""

import itertools
import math

import numpy as np
import pytest
from analytic_trials import analytic_rows, analytic_sweep, true_metrics
from hypothesis import given
from hypothesis import strategies as st

from contracts.searcher_contract import SearcherContract, asked, asked_ids, row_of, sweep
from search.errors import SpecError
from search.front.pareto import hypervolume
from search.objectives import broken, losses
from search.searchers import make_searcher
from search.searchers.beliefs import learn
from search.searchers.grid import covering_indices, covering_points
from search.searchers.random import MAX_REPEATS
from trainables.contract import Status


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


def test_a_quasi_random_order_leaves_smaller_gaps():
    space = {"learning_rate": {"uniform": [0.001, 1.0]}, "momentum": {"uniform": [0.0, 0.9]}}

    def halves(quasi_random):
        spec = sweep("random", space)
        search = spec.search.model_copy(update={"quasi_random": quasi_random})
        configs = asked(spec.model_copy(update={"search": search}), 16)
        return [sum(c.learning_rate < 0.5 and c.momentum < 0.45 for c in configs[:n])
                for n in (4, 8, 16)]  # fmt: skip

    assert halves(True) == [1, 2, 4]
    assert halves(False) != [1, 2, 4]


def test_quasi_random_draws_keep_to_bits_that_are_run():
    spec = analytic_sweep("random", 0)
    search = spec.search.model_copy(update={"quasi_random": True})
    configs = asked(spec.model_copy(update={"search": search}), 40)
    assert {(c.weight_bits, c.activation_bits) for c in configs} == set(spec.space.bits_pairs)


# --- tpe, gp, ehvi ---------------------------------------------------------------------------

LEARNED = ("tpe", "gp", "ehvi")


def volume_after(method, seed, trials):
    """Give the true hypervolume of what a search finds on the analytic problem."""
    spec = analytic_sweep(method, seed)
    searcher = make_searcher(spec)
    found = []
    for number in range(trials):
        config = searcher.ask()
        for row in analytic_rows(config, 10 * number, spec.space.bits_pairs, seed=seed):
            searcher.tell(row)
            found.append(true_metrics(row.config))
    return hypervolume(losses(found, spec.objective_list))


@pytest.mark.parametrize(
    ("method", "trials", "seeds"),
    [
        ("tpe", 25, 10),
        pytest.param("gp", 25, 4, marks=pytest.mark.slow),
        pytest.param("ehvi", 15, 4, marks=pytest.mark.slow),
    ],
)
def test_it_beats_random_search(method, trials, seeds):
    """By more than the standard error of the difference, several times over."""
    gains = [volume_after(method, s, trials) - volume_after("random", s, trials)
             for s in range(seeds)]  # fmt: skip
    assert np.mean(gains) > 2 * np.std(gains) / seeds**0.5
    assert np.mean(gains) > 0.02


def after(method, trials, *, status=Status.MEASURED, **sections):
    """Give a searcher that was told a number of random trials."""
    spec = analytic_sweep(method, 0, **sections)
    searcher = make_searcher(spec)
    for number, config in enumerate(asked(analytic_sweep("random", 1), trials)):
        for row in analytic_rows(config, 10 * number, spec.space.bits_pairs):
            searcher.tell(row.model_copy(update={"status": status}))
    return searcher


@pytest.mark.parametrize("method", LEARNED)
def test_suggestions_under_way_are_of_different_networks(method):
    searcher = after(method, 12)
    configs = [searcher.ask() for _ in range(4)]
    assert len({searcher.network_key(c) for c in configs}) == 4


@pytest.mark.parametrize("method", LEARNED)
def test_a_stopped_network_is_not_begun_again_under_other_bits(method):
    small = {"width": [8, 16, 32, 64], "depth": [2, 3, 4], "kernel_size": [3, 5],
             "weight_bits": [32, 8, 4], "activation_bits": [32, 8]}  # fmt: skip
    spec = analytic_sweep(method, 0, space=small)
    searcher, networks = make_searcher(spec), []
    for number in range(20):
        config = searcher.ask()
        rows = analytic_rows(config, 10 * number, spec.space.bits_pairs)
        measured = number < 12
        networks.append(searcher.network_key(config))
        for row in rows if measured else rows[:1]:
            changes = {} if measured else {"status": Status.STOPPED, "epochs_trained": 1}
            searcher.tell(row.model_copy(update=changes))
    assert len(set(networks)) == 20


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("bounds", [
    {"size_bytes": {"max": 5e4}, "latency_ms": {"max": 0.25}},
    {"size_bytes": {"max": 2e5}, "accuracy": {"min": 0.5}},
])  # fmt: skip
def test_suggestions_keep_bounds_that_nine_of_ten_draws_break(method, bounds):
    searcher = after(method, 12, constraints=bounds)
    spec = searcher.problem
    kept = [not broken({k: v for k, v in true_metrics(searcher.ask()).items() if k != "accuracy"},
                       spec.constraint_list) for _ in range(6)]  # fmt: skip
    assert sum(kept) >= 5


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("status", [Status.STOPPED, Status.DIVERGED, Status.INFEASIBLE,
                                    Status.FAILED])  # fmt: skip
def test_rows_without_a_measurement_alone_do_no_harm(method, status):
    searcher = after(method, 12, status=status)
    assert all(searcher.problem.space.contains(searcher.ask()) for _ in range(3))


@pytest.mark.parametrize("objectives", [
    {"accuracy": "max"},
    {"accuracy": "max", "size_bytes": "min"},
    {"accuracy": "max", "compressed_bytes": "min", "train_seconds": "min", "latency_ms": "min"},
])  # fmt: skip
@pytest.mark.parametrize("method", LEARNED)
def test_any_objectives_will_do(method, objectives):
    spec = analytic_sweep(method, 0, objectives=objectives)
    searcher = make_searcher(spec)
    for number in range(12):
        for row in analytic_rows(searcher.ask(), 10 * number, spec.space.bits_pairs):
            more = {"compressed_bytes": row.metrics["size_bytes"], "train_seconds": 1.0 + number}
            searcher.tell(row.model_copy(update={"metrics": row.metrics | more}))
    assert len({searcher.ask().trial_id for _ in range(3)}) == 3


def test_ehvi_learns_from_trials_under_way():
    """Where a trial under way turns out bad, the prediction falls."""
    spec = analytic_sweep("ehvi", 0, siblings=False)
    searcher = make_searcher(spec)
    for number in range(12):
        row = analytic_rows(searcher.ask(), number, [])[0]
        end = row.metrics["accuracy"]
        curve = [{"epoch": e, "accuracy": end - 0.02 * (10 - e)} for e in range(1, 11)]
        searcher.tell(row.model_copy(update={"curve": curve}))
    config = searcher.ask()

    def expected():
        return learn(searcher, searcher.region.axes).mean(searcher.pool([config]))[0, 0, 0]

    before = expected()
    searcher.hear(config, config.epochs // 2, 0.05)
    assert expected() > before + 0.1


def test_ehvi_trusts_hints_less_than_rows():
    config = asked(analytic_sweep("random", 2), 1)[0]
    bad = analytic_rows(config, 99, [])[0]
    bad = bad.model_copy(update={"metrics": bad.metrics | {"accuracy": 0.1}})

    def expected(hear):
        searcher = after("ehvi", 12)
        hear(searcher)
        pool = searcher.pool([config]).own()
        return learn(searcher, searcher.region.axes).mean(pool)[0, 0, 0]

    neither, hinted, told = (expected(lambda s: None), expected(lambda s: s.transfer(bad)),
                             expected(lambda s: s.tell(bad)))  # fmt: skip
    assert neither < hinted < told


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
    searchers = [make_searcher(sweep("random", CONTINUOUS)), *(after(m, 12) for m in LEARNED)]
    before = np.random.get_state()[1].copy()
    for searcher in searchers:
        searcher.ask()
    assert (np.random.get_state()[1] == before).all()
