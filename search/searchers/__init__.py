"""What to try next: one line per searcher. Heavy ones are imported when they are made."""

from __future__ import annotations

from collections.abc import Callable

from search.searchers.contract import Problem, Searcher
from search.searchers.grid import GridSearcher
from search.searchers.random import RandomSearcher


def _ehvi(problem: Problem) -> Searcher:
    from search.searchers.ehvi import EhviSearcher

    return EhviSearcher(problem)


def _gp(problem: Problem) -> Searcher:
    from search.searchers.gp import GpSearcher

    return GpSearcher(problem)


def _tpe(problem: Problem) -> Searcher:
    from search.searchers.tpe import TpeSearcher

    return TpeSearcher(problem)


SEARCHERS: dict[str, Callable[[Problem], Searcher]] = {
    "random": RandomSearcher,
    "grid": GridSearcher,
    "tpe": _tpe,
    "gp": _gp,
    "ehvi": _ehvi,
}


def make_searcher(problem: Problem) -> Searcher:
    """Make the searcher that a sweep names: a key of SEARCHERS."""
    return SEARCHERS[problem.search.method](problem)
