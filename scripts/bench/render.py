"""Write the tables and the figure of `docs/benchmark.md` from what has run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.search import MARKS, own_cases, peer_cases, read_results
from bench.sweeps import read_results as read_sweeps

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "benchmark.md"
FIGURE = ROOT / "docs" / "benchmark.png"
SHOWN = (0.1, 0.25, 0.5, 1.0)
"""Shares of the budget in the tables."""

Runs = Mapping[str, Mapping[str, Any]]
"""By seed."""


def main() -> None:
    """Fill in what stands between the markers of the document."""
    results = read_results()
    text = DOCUMENT.read_text()
    for name, lines in tables(results).items():
        text = filled(text, name, lines)
    DOCUMENT.write_text(text)
    draw(results)


def tables(results: Mapping[str, Runs]) -> dict[str, list[str]]:
    """Give the lines of each table by its marker."""
    recorded = {k: v for k, v in results.items() if ":" not in k}
    stopping = [k for k in recorded if k.startswith("random + ")]
    searching = [k for k in recorded if k not in stopping or k in FIGURE_CASES]
    found = {
        "search": search_table({k: recorded[k] for k in by_final(recorded, searching)}),
        "reach": reach_table(recorded),
        "stopping": stopping_table({k: recorded[k] for k in by_final(recorded, stopping)}),
    }
    return found | {"analytic": analytic_table(results), "sweeps": sweeps_table(read_sweeps())}


def by_final(results: Mapping[str, Runs], names: Sequence[str]) -> list[str]:
    """Order by the median at the full budget, best first."""
    return sorted(names, key=lambda k: -np.median(volumes(results[k])[:, -1]))


def volumes(runs: Runs) -> np.ndarray:
    """Give normalised hypervolumes, shape (seeds, marks)."""
    return np.array([run["hypervolume"] for run in runs.values()])


def search_table(results: Mapping[str, Runs]) -> list[str]:
    """Give median and quartiles at shares of the budget."""
    header = " | ".join(f"{share:.0%} of budget" for share in SHOWN)
    lines = [f"| method | {header} | seeds |", "|---|" + "---|" * (len(SHOWN) + 1)]
    for name, runs in results.items():
        cells = []
        for share in SHOWN:
            cells.append(_quartiles(volumes(runs)[:, MARKS.index(share)]))
        lines.append(f"| {name} | {' | '.join(cells)} | {len(runs)} |")
    return lines


def reach_table(results: Mapping[str, Runs]) -> list[str]:
    """Give when methods reach, in the median, what peers end with."""
    middle = {name: np.median(volumes(runs), axis=0) for name, runs in results.items()}
    own = [case.name for case in own_cases() if case.name in middle]
    peers = [case.name for case in peer_cases() if case.name in middle]
    lines = [f"| method | {' | '.join(peers)} |", "|---|" + "---|" * len(peers)]
    for name in by_final(results, own):
        cells = []
        for peer in peers:
            reached = np.flatnonzero(middle[name] >= middle[peer][-1])
            cells.append(f"{MARKS[reached[0]]:.0%}" if len(reached) else "not")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def stopping_table(results: Mapping[str, Runs]) -> list[str]:
    """Give what each scheduler keeps under random search."""
    lines = [
        "| method | share of true front | hypervolume | best accuracy | started | to the end |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        keys = ("front", "started", "finished")
        mean = {key: np.mean([run[key] for run in runs.values()]) for key in keys}
        accuracy = np.median([run["accuracy"] for run in runs.values()])
        lines.append(
            f"| {name} | {mean['front']:.3f} | {_quartiles(volumes(runs)[:, -1])}"
            f" | {accuracy:.4f} | {mean['started']:.0f} | {mean['finished']:.0f} |"
        )
    return lines


def analytic_table(results: Mapping[str, Runs]) -> list[str]:
    """Give median and quartiles at the full budget, a column per problem."""
    found = {tuple(name.split(": ")): runs for name, runs in results.items() if ": " in name}
    problems = sorted({problem for problem, _ in found})
    methods = sorted({method for _, method in found})
    lines = [f"| method | {' | '.join(problems)} |", "|---|" + "---|" * len(problems)]
    for method in methods:
        cells = []
        for problem in problems:
            runs = found.get((problem, method), {})
            cells.append(f"{_quartiles(volumes(runs)[:, -1])}, n={len(runs)}" if runs else "")
        lines.append(f"| {method.removesuffix(' + none')} | {' | '.join(cells)} |")
    return lines


def sweeps_table(results: Mapping[str, Runs]) -> list[str]:
    """Give median and range of the hypervolume of real sweeps, and their trials in the mean."""
    lines = [
        "| sweep | 25% | 50% | 100% of epochs | seeds | trials | to the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        cells = []
        for share in ("25%", "50%", "100%"):
            found = [run["hypervolume"][share] for run in runs.values()]
            middle = _short(float(np.median(found)))
            spread = f" ({_short(min(found))} to {_short(max(found))})" if len(found) > 1 else ""
            cells.append(middle + spread)
        counts = [np.mean([run[key] for run in runs.values()]) for key in ("trials", "to the end")]
        cells += [str(len(runs)), *(f"{count:.0f}" for count in counts)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _quartiles(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{_short(middle)} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if value < 1 else f"{value:.3f}"


def filled(text: str, name: str, lines: Sequence[str]) -> str:
    """Replace what stands between the markers of a name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return pattern.sub("\n".join([begin, *lines, end]), text)


FIGURE_CASES = {
    "ehvi + none + siblings": "black",
    "ehvi + pareto_asha + siblings": "C0",
    "gp + pareto_asha + siblings": "C1",
    "tpe + pareto_asha + siblings": "C2",
    "random + pareto_asha + siblings": "C3",
    "mogp + none": "C4",
    "motpe + none": "C5",
    "nsga2 + none": "C6",
    "hyperopt + asha": "C7",
    "random + moasha": "C8",
    "random + none": "C9",
}


def draw(results: Mapping[str, Runs]) -> None:
    """Draw medians and quartiles over the budget."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, colour in FIGURE_CASES.items():
        if name in results:
            low, middle, high = np.quantile(volumes(results[name]), [0.25, 0.5, 0.75], axis=0)
            line = "-" if "siblings" in name else "--"
            axes.plot(MARKS, middle, line, color=colour, label=name)
            axes.fill_between(MARKS, low, high, color=colour, alpha=0.07, linewidth=0)
    axes.set(xlabel="share of the budget of training epochs", ylim=(0.6, 1.005))
    axes.set_ylabel("hypervolume, as share of the true front's")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
