"""Which networks are good, for searchers that split them into good and others.

Shapes: n networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from search.searchers.model_based import ModelSearcher, share_trained
from search.searchers.region import Region
from trainables.config import TrialConfig
from trainables.contract import Status

Floats = NDArray[np.float64]


def rank_networks(searcher: ModelSearcher, region: Region, *, count: int) -> list[TrialConfig]:
    """Give one config per network that was tried, best first.

    Networks with a feasible sibling come first, by the best non-domination rank of a sibling;
    within a rank, one after the other, the one that adds most hypervolume to those before it.
    Then measured ones by how far they break bounds, stopped ones by how far they came, diverged
    and infeasible ones. Failed ones say nothing.

    Args:
        searcher: has the rows.
        region: says what is feasible.
        count: how many of the best are to be in order; behind them, only ranks are.
    """
    rows = [row for row in searcher.rows if row.status is not Status.FAILED]
    measured = [row for row in rows if row.status is Status.MEASURED]
    values = region.losses(measured)
    good = np.isfinite(values[:, : region.m]).all(axis=1) & region.keeps(values)
    keys = [searcher.network_of(row) for row in measured]
    order: list[str] = _by_rank(
        [k for k, g in zip(keys, good, strict=True) if g], values[good, : region.m], count
    )
    beyond = region.beyond(values)
    order += [keys[i] for i in np.argsort(beyond, kind="stable") if not good[i]]
    unfinished = sorted(
        (row for row in rows if row.status is not Status.MEASURED),
        key=lambda row: (row.status is not Status.STOPPED, -share_trained(row)),
    )
    order += [searcher.network_of(row) for row in unfinished]
    configs = {searcher.network_of(row): row.config for row in rows}
    return [configs[key] for key in dict.fromkeys(order)]


def _by_rank(networks: Sequence[str], values: Floats, count: int) -> list[str]:
    """Sort networks, one for each row of losses (n, m)."""
    inside = np.clip(values, 0.0, 1.0)
    ranks = moocore.pareto_rank(inside) if len(inside) else np.empty(0)
    best: dict[str, int] = {}
    points: dict[str, list[int]] = {}
    for i, key in enumerate(networks):
        best[key] = min(best.get(key, ranks[i]), ranks[i])
        points.setdefault(key, []).append(i)
    order: list[str] = []
    for rank in sorted(set(best.values())):
        members = sorted(key for key in best if best[key] == rank)
        volumes = {key: inside[points[key]] for key in members}
        order += _greedily(volumes, count - len(order))
    return order


def _greedily(points: dict[str, Floats], count: int) -> list[str]:
    """Order networks by what each adds to the volume of those before it, `count` of them."""
    left = dict(points)
    order: list[str] = []
    taken = np.empty((0, 0))
    while left and len(order) < count:
        gains = {
            key: _volume(np.vstack([taken, own]) if len(taken) else own)
            for key, own in left.items()
        }
        order.append(max(gains, key=lambda key: gains[key]))
        own = left.pop(order[-1])
        taken = np.vstack([taken, own]) if len(taken) else own
    return order + list(left)


def _volume(points: Floats) -> float:
    return float(moocore.hypervolume(points, ref=1.0))
