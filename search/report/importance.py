"""How much each dimension decides about each objective.

Permutation importance (Breiman 2001, as scikit-learn has it) of a random forest, measured on
trainings that the forest has not seen: siblings share their training, so they stay together.
Shapes: n rows, d dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.objectives import Objective, losses
from search.space.settings import settings, varying
from search.study.rows import ResultRow
from trainables.contract import Status

MIN_TRAININGS = 12
"""With fewer, a third of them says nothing about the others."""
RELIABLE = 0.3
"""R² below which a forest knows little more than the mean, by convention."""
FOLDS = 3
TREES = 40
REPEATS = 3


@dataclass(frozen=True)
class Importance:
    """What decides about one objective."""

    objective: str
    explained: float
    """R² on unseen trainings, mean of the folds; below RELIABLE the shares say little."""
    shares: dict[str, float]
    """By dimension: what mixing up its values costs in R², as a share of the sum; descending."""


def importances(
    rows: Sequence[ResultRow], objectives: Sequence[Objective], *, seed: int
) -> list[Importance]:
    """Give the importance of every varying dimension; nothing if there are too few trainings."""
    measured = [row for row in rows if row.status is Status.MEASURED]
    table = losses([row.metrics for row in measured], objectives)
    whole = np.flatnonzero(np.isfinite(table).all(axis=1))
    measured, table = [measured[i] for i in whole], table[whole]
    names = varying(row.config for row in measured)
    groups = np.array([json.dumps(row.config.training_part()) for row in measured])
    if len(set(groups)) < MIN_TRAININGS or not names:
        return []
    X = _encoded(measured, names)
    found = []
    for j, objective in enumerate(objectives):
        explained, costs = _explained(X, table[:, j], groups, seed=seed)
        shares = costs / costs.sum() if costs.sum() > 0 else costs
        order = np.argsort(-shares, kind="stable")
        by_name = {names[i]: float(shares[i]) for i in order}
        found.append(Importance(objective.metric.name, explained, by_name))
    return found


def _explained(
    X: NDArray[np.float64], y: NDArray[np.float64], groups: NDArray[Any], *, seed: int
) -> tuple[float, NDArray[np.float64]]:
    """Give R² on held-out groups, and by how much it falls where one column is mixed up (d,)."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import GroupKFold

    scores, costs = [], np.zeros(X.shape[1])
    for train, held_out in GroupKFold(FOLDS).split(X, y, groups):
        forest = RandomForestRegressor(TREES, random_state=seed).fit(X[train], y[train])
        scores.append(forest.score(X[held_out], y[held_out]))
        found = permutation_importance(
            forest, X[held_out], y[held_out], n_repeats=REPEATS, random_state=seed
        )
        costs += np.clip(found.importances_mean, 0, None)
    return float(np.mean(scores)), costs


def _encoded(rows: Sequence[ResultRow], names: Sequence[str]) -> NDArray[np.float64]:
    """Give (n, d): numbers as they are, words by their place in the alphabet, absent ones -1."""
    columns = []
    for name in names:
        values = [settings(row.config).get(name) for row in rows]
        words = {word: i for i, word in enumerate(sorted({str(value) for value in values}))}
        numeric = all(value is None or isinstance(value, int | float) for value in values)
        columns.append(
            [
                (-1.0 if v is None else float(v)) if numeric else float(words[str(v)])
                for v in values
            ]
        )
    return np.array(columns, dtype=np.float64).T
