"""What to try next: one line per searcher. Heavy ones are imported when they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from search.searchers.contract import Problem, Searcher
from search.searchers.grid import GridSearcher
from search.searchers.random import RandomSearcher

SEARCHERS: dict[str, Callable[[Problem], Searcher]] = {
    "random": RandomSearcher,
    "grid": GridSearcher,
}


class _Method(Protocol):
    @property
    def method(self) -> str: ...


class _Spec(Problem, Protocol):
    @property
    def search(self) -> _Method: ...


def make_searcher(spec: _Spec) -> Searcher:
    """Make the searcher that a sweep names: a key of SEARCHERS."""
    return SEARCHERS[spec.search.method](spec)
