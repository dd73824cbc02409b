"""What model-based searchers are made of: process, forecasts, curves, region, ranking."""

import math

import numpy as np
import pytest
from analytic_trials import analytic_rows, analytic_sweep, true_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import made_row

from search.objectives import objective
from search.searchers import gaussian
from search.searchers.curves import ENOUGH_CURVES, LearningCurves
from search.searchers.forecasts import learn_forecasts
from search.searchers.gaussian import fit, informative_rows
from search.searchers.model_based import bits_of, under_bits
from search.searchers.ranking import rank_networks
from search.searchers.region import Region
from search.searchers.tpe import TpeSearcher
from trainables.config import BITS_ON_CPU, TrialConfig
from trainables.contract import Status

AXES = [objective("size_bytes"), objective("latency_ms")]


# --- the Gaussian process ----------------------------------------------------------------------


def made_data(n, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 6))
    return x, np.sin(4 * x[:, 0]) + x[:, 1] ** 2 + noise * rng.standard_normal(n)


def test_it_predicts_what_it_never_saw_and_knows_how_well():
    x, y = made_data(80)
    new, true = made_data(200, seed=1, noise=0.0)
    mean, sd = fit(x, y).predict(new)
    assert np.abs(mean - true).mean() < 0.05
    assert 0.5 < np.std((mean - true) / sd) < 1.5
    assert np.allclose(mean, fit(x, y).predict_mean(new))


@pytest.mark.parametrize("seed", range(3))
def test_waves_do_not_pass_for_noise(seed):
    """The front of ZDT3: rows without noise must not end as a smooth curve with noise."""

    def height(x):
        wave = x[:, 0] * np.sin(10 * math.pi * x[:, 0])
        return 1 - np.sqrt(x[:, 0]) - wave + 2 * x[:, 1:].mean(axis=1)

    rows = np.random.default_rng(seed).random((60, 6))
    rows[:, 1:] = 0.5 * rows[:, 1:] ** 3
    process = fit(rows, height(rows))
    front = np.zeros((101, 6))
    front[:, 0] = np.linspace(0.0, 1.0, 101)
    missed = process.predict_mean(front) - height(front)
    assert process.learned_noise < 0.01
    assert missed.std() < 0.5 * height(front).std()


def test_coordinates_that_do_not_matter_get_long_scales():
    scales = fit(*made_data(80)).length_scales
    assert scales[:2].max() < scales[2:].min()


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_posterior_is_right(seed):
    x, y = made_data(20, seed)
    own = np.full(20, 0.1)
    mode = gaussian._start(6)
    theta = mode + 0.3 * np.random.default_rng(seed).standard_normal(len(mode))
    given_gradient = gaussian._loss(theta, x, y, own, mode)[1]
    steps = 1e-5 * np.eye(len(theta))
    numeric = [
        (
            gaussian._loss(theta + s, x, y, own, mode)[0]
            - gaussian._loss(theta - s, x, y, own, mode)[0]
        )
        / 2e-5
        for s in steps
    ]
    assert np.allclose(given_gradient, numeric, rtol=1e-4, atol=1e-4)


def test_a_row_with_noise_of_its_own_counts_less():
    x = np.array([[0.0], [0.4], [0.5], [1.0]])
    y = np.array([0.0, 0.0, 1.0, 0.0])
    trusted = fit(x, y).predict_mean(np.array([[0.5]]))[0]
    doubted = fit(x, y, noise=np.array([0, 0, 2.0, 0])).predict_mean(np.array([[0.5]]))[0]
    assert doubted < 0.5 * trusted


def test_given_rows_lower_the_uncertainty_near_them_alone():
    x, y = made_data(30)
    process = fit(x, y)
    places = np.array([[0.5] * 6, [0.0] * 6])
    mean, sd = process.predict(places)
    after_mean, after_sd = process.given(places[:1], mean[:1]).predict(places)
    assert after_sd[0] < 0.8 * sd[0]
    assert after_sd[1] > 0.95 * sd[1]
    assert np.allclose(after_mean, mean, atol=0.05)


def test_more_rows_than_it_takes_are_chosen_apart():
    x = np.vstack([np.zeros((50, 2)), np.eye(2), np.ones((1, 2))])
    assert set(informative_rows(x, np.full(53, 1e-3), 4)) >= {50, 51, 52}
    x, y = made_data(500)
    process = fit(x, y, max_rows=40)
    assert len(process.rows) == 40


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_any_few_rows_can_be_fitted(n, d, seed):
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.random((n, d)), 2, axis=0)  # every row twice
    mean, sd = fit(x, np.ones(2 * n) * seed).predict(rng.random((3, d)))
    assert np.isfinite(mean).all()
    assert (sd > 0).all()


# --- forecasts ---------------------------------------------------------------------------------


def random_rows(count, seed=0):
    spec = analytic_sweep("random", seed)
    rng = np.random.default_rng(seed)
    configs = [spec.space.sample(rng) for _ in range(count)]
    return [row for c in configs for row in analytic_rows(c, 1, spec.space.bits_pairs)]


def test_a_structure_that_was_seen_is_looked_up():
    rows = random_rows(5)
    forecasts = learn_forecasts(rows, AXES)
    other = rows[0].config.model_copy(update={"learning_rate": 0.077, "batch_size": 16})
    mean, sd = forecasts.predict([other], [[bits_of(other)]])
    found = [axis.loss(rows[0].metrics[axis.metric.name]) for axis in AXES]
    assert mean[0, 0].tolist() == found
    assert sd[0, 0].tolist() == [0.0, 0.0]


def test_a_structure_that_was_not_seen_is_predicted_within_a_few_per_cent():
    forecasts = learn_forecasts(random_rows(40), AXES)
    configs = [row.config for row in random_rows(20, seed=1)[::6]]
    pairs = sorted(BITS_ON_CPU)
    mean, sd = forecasts.predict(configs, [pairs] * len(configs))
    true = [[true_metrics(under_bits(c, p)) for p in pairs] for c in configs]
    span = [abs(math.log(a.reference) - math.log(a.metric.ideal)) for a in AXES]
    for j, axis in enumerate(AXES):
        losses = np.array([[axis.loss(t[axis.metric.name]) for t in own] for own in true])
        assert np.median(np.abs(mean[:, :, j] - losses)) * span[j] < 0.05
    assert (sd >= 0).all()


def test_infeasible_rows_teach_forecasts_too():
    row = made_row(1, None, 5e4, 0.3, status=Status.INFEASIBLE)
    mean, _ = learn_forecasts([row], AXES).predict([row.config], [[bits_of(row.config)]])
    assert mean[0, 0].tolist() == [AXES[0].loss(5e4), AXES[1].loss(0.3)]


# --- learning curves ---------------------------------------------------------------------------


def curve_row(number, final, epochs=10):
    accuracies = [final - 0.4 * (1 - e / epochs) for e in range(1, epochs + 1)]
    curve = [{"epoch": e, "accuracy": a} for e, a in enumerate(accuracies, 1)]
    return made_row(number, final, 1e4, 0.1, curve=curve)


def test_a_curve_is_extrapolated_like_those_that_finished():
    curves = LearningCurves.of([curve_row(i, 0.5 + 0.05 * i) for i in range(8)])
    mean, sd = curves.final(0.5, 0.5)
    assert mean == pytest.approx(0.7, abs=0.02)
    assert sd < 0.05
    assert curves.final(0.5, 0.0)[1] > sd, "far outside of what was seen it is less sure"


def test_few_curves_say_nothing():
    curves = LearningCurves.of([curve_row(i, 0.8) for i in range(ENOUGH_CURVES - 1)])
    assert curves.final(0.5, 0.5) is None


# --- region ------------------------------------------------------------------------------------


def test_bounds_hold_in_losses_as_they_do_in_units():
    spec = analytic_sweep(
        "random", 0, constraints={"accuracy": {"min": 0.8}, "parameters": {"max": 1000, "min": 10}}
    )
    region = Region(spec)
    good = {"accuracy": 0.8, "size_bytes": 1e9, "latency_ms": 99.0, "parameters": 1000}
    for change, kept in [
        ({}, True),
        ({"accuracy": 0.79}, False),
        ({"parameters": 1001}, False),
        ({"parameters": 9}, False),
        ({"accuracy": math.nan}, False),
    ]:
        row = made_row(1).model_copy(update={"metrics": good | change})
        assert region.keeps(region.losses([row])).tolist() == [kept]


def test_the_chance_to_keep_a_bound_is_half_at_the_bound():
    region = Region(analytic_sweep("random", 0, constraints={"size_bytes": {"max": 1e5}}))
    bound = region.axes[1].loss(1e5)
    mean = np.array([[0.5, bound, 0.5], [0.5, bound - 0.1, 0.5], [0.5, bound + 1e-9, 0.5]])
    sd = np.array([[1.0, 0.1, 1.0], [1.0, 0.1, 1.0], [1.0, 0.0, 1.0]])
    assert region.chance(mean, sd, region.forecast) == pytest.approx([0.5, 0.8413, 0.0], abs=1e-4)


# --- ranking -----------------------------------------------------------------------------------


def test_networks_are_ranked_by_front_then_volume_and_feasible_ones_come_first():
    spec = analytic_sweep("tpe", 0, siblings=False, constraints={"latency_ms": {"max": 5.0}})
    config = {name: TrialConfig(batch_size=i + 1) for i, name in enumerate("abcdefg")}
    rows = [
        made_row(1, 0.5, 1e5, 1.0, config=config["a"]),
        made_row(2, 0.9, 1e4, 1.0, config=config["b"]),  # dominates a, adds most
        made_row(3, 0.91, 3e6, 4.9, config=config["c"]),  # on the front, adds little
        made_row(4, 0.99, 1e3, 5.1, config=config["d"]),  # breaks the bound
        made_row(5, 0.4, 1e3, 0.1, config=config["e"], status=Status.STOPPED, epochs_trained=5),
        made_row(6, None, 1e3, 9.0, config=config["f"], status=Status.INFEASIBLE),
        made_row(7, config=config["g"], status=Status.FAILED),
    ]
    searcher = TpeSearcher(spec)
    for row in rows[::-1]:
        searcher.tell(row)
    ranked = [c.trial_id for c in rank_networks(searcher, searcher.region, count=3)]
    assert ranked == [config[name].trial_id for name in "bcadef"]


def test_a_network_is_as_good_as_the_best_of_its_siblings():
    spec = analytic_sweep("tpe", 0)
    small, large = (TrialConfig(batch_size=n, model_args={"width": 8}) for n in (16, 32))
    rows = [
        made_row(1, 0.8, 1e4, 1.0, config=large),
        made_row(2, 0.7, 1e5, 1.0, config=small),
        made_row(3, 0.9, 1e3, 0.1, config=under_bits(small, (8, 8)), origin="sibling"),
    ]
    searcher = TpeSearcher(spec)
    for row in rows:
        searcher.tell(row)
    best = rank_networks(searcher, searcher.region, count=1)[0]
    assert best.batch_size == small.batch_size
