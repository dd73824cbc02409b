"""What is lost when something breaks: real sweeps on digits, real signals, a table at the end.

    python scripts/bench/faults.py [--kills 20] [--trials 12] [CASE ...]

Every case is compared with an undisturbed sweep of the same seed. Columns: rows that were there
before the fault and not after; trials that began again although they had a checkpoint; rows at the
end, of those asked for; trials whose accuracies differ from the undisturbed sweep's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests")]

from bench.fault_cases import from_outside, in_a_trial, storages  # noqa: E402
from bench.fault_cases.bench import Bench, CaseError, Result  # noqa: E402

CASES: dict[str, Callable[[Bench], Result]] = {
    "exception": in_a_trial.exception,
    "nan": in_a_trial.nan,
    "gpu-memory": in_a_trial.gpu_memory,
    "worker": in_a_trial.worker,
    "memory": in_a_trial.memory,
    "hang": in_a_trial.hang,
    "queue": in_a_trial.queue,
    "node": from_outside.node,
    "driver": from_outside.driver,
    "eviction": from_outside.eviction,
    "disk": storages.disk,
    "storage": storages.storage,
}
LINE = "| {:10} | {:40} | {:4} | {:6} | {:>7} | {:5} | {}"
MAX_SAID = 110


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--kills", type=int, default=20, help="of the driver")
    parser.add_argument("--trials", type=int, default=12, help="of each sweep")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    wrong = set(options.cases) - set(CASES)
    if wrong:
        parser.error(f"no case {', '.join(wrong)}; allowed: {', '.join(CASES)}")
    print(
        LINE.format("case", "what was done", "lost", "from 0", "rows", "other", "what was said |")
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="f-") as folder:
        bench = Bench(Path(folder), options.trials, options.kills, options.seed)
        harmless = [_run(bench, name) for name in options.cases or CASES]
    sys.exit(not all(harmless))


def _run(bench: Bench, name: str) -> bool:
    """Run a case and print its line; tell whether nothing was lost."""
    try:
        r = CASES[name](bench)
    except CaseError as error:
        print(f"| {name:10} | did not come about: see below | | | | | |", flush=True)
        print(f"{name}: {error}", file=sys.stderr)
        return False
    said = r.said if len(r.said) <= MAX_SAID else f"{r.said[:MAX_SAID]}..."
    rows = f"{r.rows}/{r.asked}"
    print(
        LINE.format(name, r.done, r.lost, r.from_zero, rows, r.other_accuracies, f"{said} |"),
        flush=True,
    )
    return r.is_harmless


if __name__ == "__main__":
    main()
