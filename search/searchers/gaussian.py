"""Gaussian process regression, small and fast, with noise per row.

Matern 5/2 kernel with one length scale per coordinate, fitted by maximum a posteriori: with a
handful of rows in a dozen dimensions the priors keep a length scale from explaining noise. The
noise is learned, and every row may bring noise of its own (an extrapolated accuracy, a row of
another study), which is what scikit-learn's estimator cannot combine with learning.

Shapes: n rows, d coordinates, q query points. Targets are standardised inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]

FIT_ROWS = 120
"""Rows that hyperparameters are fitted on: a fit of 12 coordinates then takes about 50 ms."""
MAX_ROWS = 300
"""Rows that predictions are conditioned on; of more, the most informative ones."""
MAX_STEPS = 40
"""Of L-BFGS; more moved no prediction that mattered on the problems in `scripts/bench`."""

# Log-normal priors on the unit cube and standardised targets. Length scales grow with the square
# root of the dimensions, as distances do (Hvarfner et al. 2024, arXiv:2402.02229). Noise is taken
# to be little until the rows say otherwise: with more, waves of an objective pass for noise.
_LENGTH_SD = 1.0
_AMPLITUDE_SD = 0.5
_NOISE_LOG_MEAN, _NOISE_SD = math.log(1e-4), 1.5
_JITTER = 1e-6


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; see `fit`."""

    rows: Floats
    """Divided by the length scales, shape (n, d)."""
    targets: Floats
    """Standardised, shape (n,)."""
    noise: Floats
    """Variance of each target, relative to the square of `scale`, shape (n,)."""
    length_scales: Floats
    amplitude: float
    learned_noise: float
    mean: float
    scale: float
    evidence: float = 0.0
    """Log density of the targets that it was fitted on, with that of its hyperparameters."""

    @cached_property
    def factor(self) -> Floats:
        """Lower Cholesky factor of the covariance of targets, shape (n, n)."""
        covariance = self.amplitude * _matern(_squared_distances(self.rows, self.rows))
        covariance[np.diag_indices_from(covariance)] += self.noise + _JITTER
        factor: Floats = cholesky(covariance, lower=True, check_finite=False)
        return factor

    @cached_property
    def weights(self) -> Floats:
        """Inverse covariance times targets, shape (n,)."""
        weights: Floats = cho_solve((self.factor, True), self.targets, check_finite=False)
        return weights

    def given(self, rows: Floats, targets: Floats, /) -> GaussianProcess:
        """Condition on more rows (k, d) with targets (k,), with the same hyperparameters."""
        return replace(
            self,
            rows=np.vstack([self.rows, rows / self.length_scales]),
            targets=np.append(self.targets, (targets - self.mean) / self.scale),
            noise=np.append(self.noise, np.full(len(targets), self.learned_noise)),
        )

    def predict_mean(self, queries: Floats, /) -> Floats:
        """Give the posterior mean at points (q, d): shape (q,)."""
        return self._covariance(queries) @ self.weights * self.scale + self.mean

    def predict(self, queries: Floats, /) -> tuple[Floats, Floats]:
        """Give posterior mean and standard deviation, noise left out, each of shape (q,)."""
        covariance = self._covariance(queries)
        half = solve_triangular(self.factor, covariance.T, lower=True, check_finite=False)
        variance = self.amplitude - np.einsum("ij,ij->j", half, half)
        mean = covariance @ self.weights * self.scale + self.mean
        return mean, np.sqrt(np.maximum(variance, 1e-10)) * self.scale

    def _covariance(self, queries: Floats) -> Floats:
        return self.amplitude * _matern(
            _squared_distances(queries / self.length_scales, self.rows)
        )


def fit(
    rows: Floats,
    targets: Floats,
    /,
    *,
    noise: Floats | None = None,
    subset: NDArray[np.int64] | None = None,
    fit_rows: int = FIT_ROWS,
    max_rows: int = MAX_ROWS,
) -> GaussianProcess:
    """Fit a process.

    Args:
        rows: coordinates of shape (n, d), n >= 1.
        targets: shape (n,).
        noise: standard deviation of each target beyond the learned noise, shape (n,); None: 0.
        subset: the rows that hyperparameters are fitted on; None: `fit_rows` informative ones.
        fit_rows: how many these are.
        max_rows: how many rows predictions are conditioned on.
    """
    mean = float(targets.mean())
    scale = float(targets.std()) or 1.0
    y = (targets - mean) / scale
    own = np.zeros(len(y)) if noise is None else (noise / scale) ** 2
    start = _start(rows.shape[1])
    if subset is None:
        subset = informative_rows(rows / np.exp(start[:-2]), own + 1e-2, fit_rows)
    theta, loss = _fit_hyperparameters(rows[subset], y[subset], own[subset], start)
    lengths, amplitude, learned = (
        np.exp(theta[:-2]),
        float(np.exp(theta[-2])),
        float(np.exp(theta[-1])),
    )
    scaled = rows / lengths
    kept = informative_rows(scaled, (own + learned) / amplitude, max_rows)
    return GaussianProcess(
        rows=scaled[kept],
        targets=y[kept],
        noise=(own + learned)[kept],
        length_scales=lengths,
        amplitude=amplitude,
        learned_noise=learned,
        mean=mean,
        scale=scale,
        evidence=-loss - len(subset) * math.log(scale),
    )


def prior_mode(d: int) -> float:
    """Give the length scale that is likeliest before anything was seen, in d dimensions."""
    return math.exp(_length_log_mean(d))


def informative_rows(scaled: Floats, noise: Floats, most: int) -> NDArray[np.int64]:
    """Choose rows one by one, each where the chosen ones leave most variance.

    Greedy conditional variance, Burt et al. 2020 (arXiv:2008.00323, section 4): a pivoted
    Cholesky factorisation that stops at `most` rows.

    Args:
        scaled: coordinates over length scales, shape (n, d).
        noise: variance of each row relative to the amplitude, shape (n,).
        most: how many rows to choose; all if there are not more.

    Returns:
        Rising indices.
    """
    n = len(scaled)
    if n <= most:
        return np.arange(n)
    left = np.ones(n) / (1.0 + noise)
    factor = np.zeros((most, n))
    chosen = np.zeros(most, dtype=np.int64)
    variance = np.ones(n)
    for i in range(most):
        pivot = chosen[i] = int(np.argmax(left))
        column = _matern(_squared_distances(scaled[pivot : pivot + 1], scaled))[0]
        column -= factor[:i, pivot] @ factor[:i]
        factor[i] = column / math.sqrt(max(variance[pivot], 0.0) + noise[pivot] + _JITTER)
        variance -= factor[i] ** 2
        left = variance / (1.0 + noise)
        left[chosen[: i + 1]] = -1.0
    return np.sort(chosen)


# --- hyperparameters -------------------------------------------------------------------------


def _start(d: int) -> Floats:
    """Give the mode of the prior: log length scales (d), log amplitude, log noise variance."""
    return np.array([_length_log_mean(d)] * d + [0.0, _NOISE_LOG_MEAN])


def _length_log_mean(d: int) -> float:
    return math.log(0.5 * math.sqrt(max(d, 1)))


def _fit_hyperparameters(
    rows: Floats, y: Floats, noise: Floats, start: Floats
) -> tuple[Floats, float]:
    """Give the likeliest hyperparameters, and their negative log posterior."""
    if len(y) < 2:
        return start, 0.0
    bounds = [(math.log(0.05), math.log(50.0))] * rows.shape[1]
    bounds += [(math.log(0.05), math.log(20.0)), (math.log(1e-5), math.log(1.0))]
    found = minimize(
        _loss,
        start,
        args=(rows, y, noise, start),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": MAX_STEPS},
    )
    if not np.isfinite(found.fun):
        return start, math.inf
    return found.x, float(found.fun)


def _loss(
    theta: Floats, rows: Floats, y: Floats, noise: Floats, mode: Floats
) -> tuple[float, Floats]:
    """Give the negative log posterior of hyperparameters and its gradient.

    Rasmussen and Williams 2006, equations 2.30 and 5.9. The sum over pairs of a weight times a
    squared difference needs no array of shape (n, n, d): it expands to row sums and products.
    """
    lengths, amplitude, learned = np.exp(theta[:-2]), np.exp(theta[-2]), np.exp(theta[-1])
    scaled = rows / lengths
    distance = np.sqrt(5.0 * _squared_distances(scaled, scaled))
    decay = amplitude * np.exp(-distance)
    signal = decay * (1.0 + distance + distance**2 / 3.0)
    covariance = signal.copy()
    covariance[np.diag_indices_from(covariance)] += noise + learned + _JITTER
    factor = cholesky(covariance, lower=True, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(len(y)), check_finite=False)
    weights = inverse @ y
    sd = np.array([_LENGTH_SD] * len(lengths) + [_AMPLITUDE_SD, _NOISE_SD])
    apart = (theta - mode) / sd
    value = 0.5 * y @ weights + np.log(np.diag(factor)).sum() + 0.5 * apart @ apart
    slope = np.outer(weights, weights) - inverse
    pull = slope * decay * (1.0 + distance) * (5.0 / 3.0)
    by_length = scaled.T**2 @ pull.sum(axis=1) - np.einsum("ik,ik->k", scaled, pull @ scaled)
    gradient = np.empty_like(theta)
    gradient[:-2] = -by_length
    gradient[-2] = -0.5 * np.sum(slope * signal)
    gradient[-1] = -0.5 * learned * np.trace(slope)
    return float(value), gradient + apart / sd


# --- kernel ----------------------------------------------------------------------------------


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))


def _matern(squared: Floats) -> Floats:
    distance = np.sqrt(5.0 * squared)
    return np.asarray((1.0 + distance + distance**2 / 3.0) * np.exp(-distance))
