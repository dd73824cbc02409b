"""The report as one HTML file: what can be read is in the HTML, what is drawn comes as data."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files

from search.front.compare import Comparison
from search.front.front import ParetoFront
from search.front.picks import PROFILES, Profile
from search.report import sections
from search.report.data import page_data
from search.report.html import Html, join, json_script, tag, text
from search.report.importance import importances
from search.spec.spec import SweepSpec
from search.study.rows import ResultRow


@dataclass(frozen=True)
class Report:
    """What a report is made of."""

    spec: SweepSpec
    location: str
    """Of the study folder."""
    rows: tuple[ResultRow, ...]
    running: bool = False
    """Whether rows are still to come: then there is no importance yet, which takes seconds."""
    command: str = ""
    """What made the study; empty if it is not known."""
    profiles: Mapping[str, Profile] = field(default_factory=lambda: PROFILES)
    compared: Comparison | None = None
    """With an earlier study."""

    @property
    def front(self) -> ParetoFront:
        """Select the front among the rows."""
        return ParetoFront.of(self.rows, self.spec.objective_list, self.spec.constraint_list)


def render(report: Report) -> str:
    """Give the whole page."""
    front = report.front
    found = (
        () if report.running else importances(report.rows, front.objectives, seed=report.spec.seed)
    )
    parts = {
        "title": text(f"{report.spec.name} - paretune"),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "plotly": _plotly(),
        "data": json_script("data", page_data(report.rows, front)),
        "name": text(report.spec.name),
        "written": _written(report),
        "tiles": sections.tiles(report.rows, front),
        "picks": sections.picks(front, report.profiles, report.location),
        "compression": sections.compression(report.rows),
        "importance": sections.importance(found, running=report.running),
        "ended": sections.ended(report.rows, front),
        "cost": sections.cost(report.rows),
        "compared": sections.compared(report.compared) if report.compared else Html(""),
        "provenance": sections.provenance(
            report.rows, report.spec, report.location, report.command
        ),
    }
    page = _asset("page.html")
    # One pass: what was put in is never looked at again, whatever it says.
    pieces = page.split("%%")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def _written(report: Report) -> Html:
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if not report.running:
        return join(["written ", moment])
    trained = sum(row.is_trial for row in report.rows)
    return join(
        [
            tag("strong", f"running: {trained} of {report.spec.search.trials} trials. "),
            f"Written {moment}; reload for newer numbers.",
        ]
    )


@lru_cache
def _asset(name: str) -> Html:
    return Html((files("search.report") / "assets" / name).read_text(encoding="utf-8"))


@lru_cache
def _plotly() -> Html:
    """Give plotly.js, packed: 1.9 MB instead of 4.8."""
    # The file that the plotly package ships, read without importing the package.
    script = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return Html(base64.b64encode(gzip.compress(script, 9, mtime=0)).decode())
