"""The parts of the report that can be read without a script."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from search.front.compare import Comparison, comparison_text
from search.front.front import ParetoFront
from search.front.picks import NoModelFits, Profile, bytes_text, ms_text
from search.front.steps import step_aside, step_less, step_more
from search.objectives import broken
from search.report.cost import cost_of
from search.report.html import Html, join, table, tag
from search.report.importance import MIN_TRAININGS, RELIABLE, Importance
from search.report.paired import KNOBS, Quartiles, paired_differences
from search.space.settings import bits_name
from search.spec.spec import SweepSpec
from search.study.rows import ResultRow
from trainables.contract import Status


def tiles(rows: Sequence[ResultRow], front: ParetoFront) -> Html:
    """Give the study in five numbers."""
    trained = sum(row.is_trial for row in rows)
    measured = front.counts.get(Status.MEASURED, 0)
    facts: list[tuple[str, str, str]] = [
        (f"{trained:,}", "trainings", f"{measured:,} models measured"),
        (f"{len(front.rows):,}", "on the front", f"hypervolume {front.hypervolume:.4f}"),
    ]
    if front.rows:
        best = max(front.rows, key=lambda r: r.metrics.get("accuracy", -math.inf))
        small = min(front.rows, key=lambda r: r.metrics.get("size_bytes", math.inf))
        fast = min(front.rows, key=lambda r: r.metrics.get("latency_ms", math.inf))
        facts += [
            (_percent(best.metrics["accuracy"]), "best accuracy", _about(best)),
            (bytes_text(small.metrics["size_bytes"]), "smallest", _about(small)),
            (ms_text(fast.metrics["latency_ms"]), "fastest", _about(fast)),
        ]
    return join(
        tag("div", tag("b", number), tag("span", name), tag("small", about), class_="tile")
        for number, name, about in facts
    )


def _about(row: ResultRow) -> str:
    return f"{row.trial_id}, {bits_name(row.config)}, {_percent(row.metrics['accuracy'])}"


# --- picks ---------------------------------------------------------------------------------------


def picks(front: ParetoFront, profiles: Mapping[str, Profile], location: str) -> Html:
    """Give the model that each device profile takes, and what its neighbours would give."""
    return join(_pick(front, profile, location) for profile in profiles.values())


def _pick(front: ParetoFront, profile: Profile, location: str) -> Html:
    head = join([tag("h3", profile.name), tag("p", profile.about, class_="about")])
    budgets = tag("p", profile.budgets_text, class_="budgets")
    try:
        row = profile.pick(front)
    except NoModelFits as miss:
        return tag("article", head, budgets, tag("p", str(miss)), class_="pick")
    facts = table(
        ["", ""],
        [
            ["accuracy", _percent(row.metrics["accuracy"])],
            ["on test images", "" if row.test_accuracy is None else _percent(row.test_accuracy)],
            ["size", bytes_text(row.metrics["size_bytes"])],
            ["latency", ms_text(row.metrics["latency_ms"])],
            ["bits", bits_name(row.config)],
        ],
        numbers=1,
    )
    more, less, aside = (step(front, row) for step in (step_more, step_less, step_aside))
    command = (
        f"paretune select {shlex.quote(location)} --profile {profile.name} --copy-to model.onnx"
    )
    return tag(
        "article",
        head,
        budgets,
        tag("button", row.trial_id, type="button", class_="model", data_select=row.trial_id),
        facts,
        tag("p", f"one step more: {more or 'nothing on the front is more accurate'}"),
        tag("p", f"one step less: {less or 'nothing on the front is smaller'}"),
        tag("p", f"faster: {aside or 'nothing as accurate is faster'}"),
        tag("code", command),
        class_="pick",
    )


# --- what compression buys -----------------------------------------------------------------------


def compression(rows: Sequence[ResultRow]) -> Html:
    """Give the paired differences of every kind of compression."""
    differences = paired_differences(rows)
    if not differences:
        return tag("p", "No two measured models differ in one kind of compression alone.")
    body = [
        [
            d.knob,
            d.change,
            len(d.pairs),
            _with_range(d.accuracy, lambda v: f"{100 * v:+.2f} %"),
            _with_range(d.size_ratio, lambda v: f"{v:.2f}x"),
            _with_range(d.latency_ratio, lambda v: f"{v:.2f}x"),
        ]
        for d in differences
    ]
    missing = [knob.name for knob in KNOBS if knob.name not in {d.knob for d in differences}]
    note = f"No two models of this study differ in {' or in '.join(missing)} alone."
    shown = table(["", "change", "pairs", "accuracy", "size", "latency"], body, numbers=4)
    return join([shown, tag("p", note, class_="note") if missing else ""])


def _with_range(quartiles: Quartiles, show) -> Html:  # type: ignore[no-untyped-def]
    low, middle, high = map(show, quartiles)
    return join([tag("b", middle), tag("small", f" {low} to {high}")])


# --- importance ----------------------------------------------------------------------------------


def importance(found: Sequence[Importance], *, running: bool) -> Html:
    """Give one chart of bars per objective."""
    if not found:
        return tag(
            "p",
            "Worked out when the sweep has ended."
            if running
            else f"Needs {MIN_TRAININGS} measured trainings and a dimension that varies.",
        )
    return tag("div", *(_bars(one) for one in found), class_="columns")


def _bars(found: Importance) -> Html:
    body = [
        [
            name,
            tag("meter", f"{share:.0%}", value=f"{share:.4f}", min=0, max=1, aria_label=name),
            f"{100 * share:.0f} %",
        ]
        for name, share in found.shares.items()
    ]
    about = f"explains {100 * max(found.explained, 0):.0f} % of what varies in unseen trainings"
    if found.explained < RELIABLE:
        about += ": too little to rely on"
    return tag(
        "div",
        tag("h3", found.objective),
        tag("p", about, class_="note"),
        table(["dimension", "", "share"], body, numbers=1),
    )


# --- how trials ended ----------------------------------------------------------------------------


def ended(rows: Sequence[ResultRow], front: ParetoFront) -> Html:
    """Give how trials ended, and every trial without a model with its reason."""
    counts = Counter(row.status for row in rows)
    bad = sum(
        row.status is Status.MEASURED and bool(broken(row.metrics, front.constraints))
        for row in rows
    )
    parts = [f"{counts[s]} {s.value}" for s in Status if counts[s]]
    if bad:
        parts.append(f"{bad} of the measured break a constraint")
    summary = tag("p", "; ".join(parts) or "no trials yet")
    without = [row for row in rows if row.status is not Status.MEASURED]
    if not without:
        return join([summary, tag("p", "Every trial was measured.", class_="note")])
    body = [[row.trial_id, row.status.value, row.epochs_trained, row.reason] for row in without]
    listing = table(["trial", "ended", "epochs", "why"], body)
    return join([summary, tag("details", tag("summary", "trial by trial"), listing)])


# --- cost ----------------------------------------------------------------------------------------


def cost(rows: Sequence[ResultRow]) -> Html:
    """Give what was spent and what was saved."""
    spent = cost_of(rows)
    total = sum(spent.seconds_by_phase.values())
    phases = [
        [name, _duration(seconds), f"{100 * seconds / total:.0f} %" if total else ""]
        for name, seconds in spent.seconds_by_phase.items()
    ]
    savings = [
        [s.by, f"{s.trials:,}", f"{s.epochs:,}", _duration(s.seconds) if s.trials else "-"]
        for s in spent.savings
    ]
    return tag(
        "div",
        tag(
            "div",
            tag("h3", f"spent: {spent.trainings:,} trainings, {spent.epochs:,} epochs"),
            table(["phase", "worker time", "share"], phases, numbers=2),
        ),
        tag(
            "div",
            tag("h3", "not needed"),
            table(["by", "trials", "epochs", "about"], savings, numbers=3),
        ),
        class_="columns",
    )


# --- comparison and provenance -------------------------------------------------------------------


def compared(comparison: Comparison) -> Html:
    """Give what changed since an earlier study."""
    return tag(
        "section",
        tag("h2", "Then and now"),
        tag("pre", comparison_text(comparison)),
        id="compared",
    )


def provenance(rows: Sequence[ResultRow], spec: SweepSpec, location: str, command: str) -> Html:
    """Give what the numbers were made with."""
    facts: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.environment.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            facts.setdefault(name, set()).add(shown)
    deploy = spec.deploy
    body = [
        ["study", location],
        ["command", command or "not known"],
        [
            "latency of",
            f"one call with {deploy.batch_size} image(s) on {deploy.device}, "
            f"{deploy.threads} thread(s)",
        ],
        *([name.replace("_", " "), " / ".join(sorted(facts[name]))] for name in sorted(facts)),
    ]
    return join(
        [
            table(["", ""], body),
            tag("details", tag("summary", "sweep file as run"), tag("pre", spec.to_yaml())),
        ]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
