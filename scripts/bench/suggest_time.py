"""Print the time of one suggestion by method and number of rows.

    python scripts/bench/suggest_time.py [--constraints]

CPU seconds of this process (BLAS at one thread), median of 5 suggestions, on the analytic problem
of the tests with 10 dimensions and siblings: 1,000 rows are 167 trainings.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before this folder, which has a search.py

from analytic_trials import analytic_rows, analytic_sweep

from search.searchers import make_searcher

METHODS = ("random", "tpe", "gp", "ehvi")
ROWS = (10, 100, 300, 1000)
CONSTRAINTS = {"constraints": {"size_bytes": {"max": 5e5}, "latency_ms": {"max": 2.0}}}


def seconds(method: str, rows: int, *, siblings: bool, **sections: object) -> float:
    """Time a suggestion after a number of rows of random trials."""
    spec = analytic_sweep(method, 0, siblings=siblings, **sections)
    searcher = make_searcher(spec)
    source = make_searcher(analytic_sweep("random", 1, siblings=siblings))
    pairs = spec.space.bits_pairs if siblings else []
    told = 0
    while told < rows:
        for row in analytic_rows(source.ask(), told, pairs)[: rows - told]:
            searcher.tell(row)
            told += 1
    searcher.ask()
    times = []
    for _ in range(5):
        started = time.process_time()
        searcher.ask()
        times.append(time.process_time() - started)
    return median(times)


def main() -> None:
    """Print one table with siblings and one without."""
    sections = CONSTRAINTS if "--constraints" in sys.argv else {}
    for siblings in (True, False):
        print(f"\nCPU seconds per suggestion, siblings {'on' if siblings else 'off'}")
        print("method  " + "".join(f"{n:>8} rows" for n in ROWS))
        for method in METHODS:
            times = [seconds(method, n, siblings=siblings, **sections) for n in ROWS]
            print(f"{method:8}" + "".join(f"{t:13.3f}" for t in times), flush=True)


if __name__ == "__main__":
    main()
