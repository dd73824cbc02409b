"""On which scale a process learns losses, and how it is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.searchers.gaussian import fit
from search.searchers.scales import LEAST_OFFSET, Scale, fit_on_best_scale

LOSSES = st.floats(0, 10)
SCALES = st.sampled_from([Scale(), Scale(LEAST_OFFSET), Scale(0.3)])


def made(n, losses, seed=0):
    x = np.random.default_rng(seed).random((n, 3))
    return x, losses(x, 0.02 * np.random.default_rng(seed + 1).standard_normal(n))


def factors(x, noise):
    """Every coordinate multiplies the loss, and so does the noise."""
    return 0.02 * np.exp(4 * x[:, 0] + 2 * x[:, 1] + noise)


def sums(x, noise):
    """Every coordinate adds to it, and so does the noise."""
    return 0.5 + np.sin(3 * x[:, 0]) + x[:, 1] + noise


@given(SCALES, LOSSES, LOSSES)
def test_a_scale_leads_back_and_keeps_the_order(scale, a, b):
    values = scale.values(np.array([a, b]))
    assert scale.losses(values) == pytest.approx([a, b], abs=1e-9)
    assert (values[0] < values[1]) <= (a < b)


@given(SCALES, st.floats(0.01, 5))
def test_the_slope_is_that_of_the_values(scale, loss):
    near = np.array([loss, loss + 1e-6])
    step = np.diff(scale.values(near))[0] / 1e-6
    assert scale.slope(near)[0] == pytest.approx(step, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("losses", "logarithmic"), [(factors, True), (sums, False)])
def test_the_scale_is_that_on_which_losses_are_simple(losses, logarithmic, seed):
    x, y = made(25, losses, seed)
    found = fit_on_best_scale(x, y, np.zeros(25))
    assert (found.scale.offset is not None) == logarithmic
    assert fit_on_best_scale(x, 1000 * y, np.zeros(25)).scale.offset is None or logarithmic


def test_factors_are_learnt_from_fewer_rows_on_their_scale():
    x, y = made(12, factors)
    new, true = made(200, factors, seed=5)
    found = fit_on_best_scale(x, y, np.zeros(12))
    ours = found.scale.losses(found.process.predict_mean(new))
    assert np.abs(ours - true).mean() < 0.5 * np.abs(fit(x, y).predict_mean(new) - true).mean()


def test_a_doubted_loss_counts_less_on_either_scale():
    x = np.array([[0.0], [0.4], [0.5], [1.0]])
    y = np.array([0.1, 0.1, 1.0, 0.1])
    place = np.array([[0.5]])
    for noise in (np.array([0, 0, 3.0, 0]), np.zeros(4)):
        found = fit_on_best_scale(x, y, noise)
        expected = found.scale.losses(found.process.predict_mean(place))[0]
        assert (expected < 0.5) == bool(noise.any())
