"""Dominance and hypervolume of minimised losses: pure NumPy over moocore.

Shapes: n rows, m objectives. A row with a NaN was not measured: it dominates nothing, is on no
front and adds no volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray


def nondominated(losses: ArrayLike, /, *, keep_ties: bool = False) -> NDArray[np.bool_]:
    """Tell which rows no other row dominates: at least as good in all, better in one.

    Args:
        losses: shape (n, m).
        keep_ties: of equal rows keep all; otherwise only the first.

    Returns:
        Mask of shape (n,); all false for rows with a NaN.

    >>> nondominated([[0.1, 0.9], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    array([ True,  True, False, False])
    >>> nondominated([[0.1, 0.9], [0.1, 0.9]], keep_ties=True)
    array([ True,  True])
    """
    points, measured = _checked(losses)
    mask = np.zeros(len(points), dtype=bool)
    if measured.any():
        mask[measured] = moocore.is_nondominated(points[measured], keep_weakly=keep_ties)
    return mask


def nondominated_beyond(losses: ArrayLike, /, *, tolerances: Sequence[float]) -> NDArray[np.bool_]:
    """Tell which rows stay when differences within a tolerance are ties.

    A row goes if one that stays is nowhere worse by more than the tolerance, and better by more
    than the tolerance somewhere. That relation is not transitive, so rows are judged in order:
    best first in the objectives without tolerance, then in the others; of rows that tie in
    everything the first stays.

    Args:
        losses: shape (n, m).
        tolerances: one per objective, 0 for an exact one.

    Returns:
        Mask of shape (n,); all false for rows with a NaN.

    >>> nondominated_beyond([[0.1, 0.500], [0.2, 0.499], [0.2, 0.3]], tolerances=[0, 0.01])
    array([ True, False,  True])
    """
    points, measured = _checked(losses)
    slack = np.asarray(tolerances, dtype=np.float64)
    columns = sorted(range(points.shape[1]), key=lambda j: -slack[j])
    mask = np.zeros(len(points), dtype=bool)
    for i in np.lexsort([points[:, j] for j in columns]):
        kept = points[mask]
        worse = (kept > points[i] + slack).any(axis=1)
        mask[i] = measured[i] and worse.all()
    return mask


def ranks(losses: ArrayLike, /) -> NDArray[np.int64]:
    """Give the non-domination rank of each row: 0 the front, 1 the front without those, ...

    Equal rows have equal rank; rows with a NaN come after all others. Source: non-dominated
    sorting, Deb et al. 2002 (NSGA-II).

    Args:
        losses: shape (n, m).

    Returns:
        Ranks of shape (n,).

    >>> ranks([[0.5, 0.5], [0.1, 0.1], [float("nan"), 0.0], [0.5, 0.5]])
    array([1, 0, 2, 1])
    """
    points, measured = _checked(losses)
    out = np.zeros(len(points), dtype=np.int64)
    if measured.any():
        out[measured] = moocore.pareto_rank(points[measured])
        out[~measured] = out[measured].max() + 1
    return out


def hypervolume(losses: ArrayLike, /) -> float:
    """Give the volume that the rows dominate inside the unit cube, from 0 to 1.

    The reference point is all ones, where each objective's reference lies. A row that is worse
    than the reference in any objective adds nothing; below 0 (better than ideal) counts as 0.

    Args:
        losses: shape (n, m); no rows have no volume.

    >>> hypervolume([[0.5, 0.5]]), hypervolume([[0.5, 1.5]]), hypervolume([[-3.0, 0.5]])
    (0.25, 0.0, 0.5)
    """
    points = _inside_cube(losses)
    return float(moocore.hypervolume(points, ref=1.0)) if len(points) else 0.0


# --- inside --------------------------------------------------------------------------------------


def _checked(losses: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    points = np.asarray(losses, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"losses must have shape (n, m) with m >= 1, got {points.shape}")
    return points, np.logical_not(np.isnan(points).any(axis=1))


def _inside_cube(losses: ArrayLike) -> NDArray[np.float64]:
    points, measured = _checked(losses)
    return np.clip(points[measured], 0.0, 1.0)
