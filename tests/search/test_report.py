"""Numbers of the report, worked out a second time; and what no row may do to the page."""

import json
import re
import statistics
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest
from made_rows import made_row

from search.front import pareto
from search.front.front import ParetoFront
from search.objectives import broken, losses
from search.observer import SweepPlan
from search.report.cost import cost_of
from search.report.data import page_data
from search.report.html import json_script, table, tag, text
from search.report.importance import importances
from search.report.page import Report, render
from search.report.paired import paired_differences
from search.report.progress import growth
from search.report.writer import ReportWriter
from search.spec.spec import SweepSpec
from search.study import storage
from trainables.config import TrialConfig
from trainables.contract import Status

START = datetime(2026, 1, 1, tzinfo=UTC)
EVIL = '</script><img src=x onerror="alert(1)"><script>alert(1)</script>&%%plotly%%'


@pytest.fixture
def spec(tmp_path):
    return SweepSpec.model_validate(
        {
            "name": "made",
            "storage": str(tmp_path),
            "data": {"name": "digits"},
            "space": {"learning_rate": {"log_uniform": [0.01, 0.1]}, "weight_bits": [32, 8]},
            "constraints": {"accuracy": {"min": 0.5}},
            "search": {"trials": 20},
        }
    )


def made_study(trainings: int = 16, seed: int = 0):
    """Give rows of trainings with two bits each; size follows width, accuracy follows the rate."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(trainings):
        rate, width = float(rng.uniform(0.01, 0.1)), int(rng.integers(4, 64))
        parent = None
        for bits in (32, 8):
            config = TrialConfig(
                learning_rate=rate,
                epochs=4,
                weight_bits=bits,
                model_args={"width": width},
                amp=("none", "bf16")[number % 2],
            ).canonical()
            row = made_row(
                len(rows) + 1,
                0.4 + 5 * rate - 0.01 * (bits == 8) + 0.001 * rng.random(),
                width * 100 * bits,
                0.01 * width * (0.5 if bits == 8 else 1),
                config=config,
                origin="sibling" if parent else "trained",
                parent=parent,
                epochs_trained=4,
                seconds={"train": 2.0, "wall": 3.0} if not parent else {"measure": 0.5},
                finished_at=(START + timedelta(minutes=number, seconds=len(rows) % 2)).isoformat(),
            )
            row = row.model_copy(update={"metrics": row.metrics | {"train_seconds": 2.0}})
            rows.append(row)
            parent = parent or row.trial_id
    return rows


# --- paired differences ----------------------------------------------------------------------


def test_paired_differences_agree_with_a_search_of_all_pairs():
    rows = [*made_study(), made_row(99, status=Status.FAILED)]
    base = rows[0]
    for number, change in enumerate(
        (
            {"amp": "bf16"},
            {"pruning_method": "filter", "pruning_ratio": 0.5},
            {"amp": "bf16", "weight_bits": 8},
        )
    ):
        config = base.config.model_copy(update=change)
        metrics = {k: v * (1 + 0.1 * number) for k, v in base.metrics.items()}
        rows.append(
            base.model_copy(
                update={
                    "trial_id": config.trial_id,
                    "config": config,
                    "metrics": metrics,
                    "number": 100 + number,
                }
            )
        )
    knobs = {
        "bits": {"weight_bits", "activation_bits"},
        "pruning": {"pruning_method", "pruning_ratio", "pruning_criterion", "prune_at"},
        "mixed precision": {"amp"},
    }
    expected = {}
    for a in rows:
        for b in rows:
            if "accuracy" not in a.metrics or "accuracy" not in b.metrics:
                continue
            x, y = a.config.model_dump(), b.config.model_dump()
            differing = {key for key in x if x[key] != y[key]}
            for knob, fields in knobs.items():
                plain = {
                    "bits": a.config.weight_bits == a.config.activation_bits == 32,
                    "pruning": a.config.pruning_method == "none",
                    "mixed precision": a.config.amp == "none",
                }[knob]
                if differing and differing <= fields and plain:
                    expected.setdefault(knob, []).append((a, b))
    found = paired_differences(rows)
    assert {d.knob for d in found} == set(knobs)
    for difference in found:
        pairs = [(a.trial_id, b.trial_id) for a, b in expected[difference.knob]]
        assert sorted(difference.pairs) == sorted(pairs)
        of = {row.trial_id: row.metrics for row in rows}
        both = [(of[without], of[with_]) for without, with_ in difference.pairs]
        gains = [b["accuracy"] - a["accuracy"] for a, b in both]
        sizes = [b["size_bytes"] / a["size_bytes"] for a, b in both]
        latencies = [b["latency_ms"] / a["latency_ms"] for a, b in both]
        assert difference.accuracy == pytest.approx(quartiles(gains))
        assert difference.size_ratio == pytest.approx(quartiles(sizes))
        assert difference.latency_ratio == pytest.approx(quartiles(latencies))


def quartiles(values):
    """Give 25 %, 50 % and 75 %, interpolated between neighbours."""
    return statistics.quantiles([*values] * (1 + (len(values) == 1)), n=4, method="inclusive")


def test_without_pairs_there_are_no_differences():
    assert paired_differences([made_row(1, 0.9, 1000, 1.0), made_row(2, 0.8, 900, 1.0)]) == []


# --- importance, cost, growth ----------------------------------------------------------------


def test_importance_finds_what_decides(spec):
    found = {i.objective: i for i in importances(made_study(40), spec.objective_list, seed=0)}
    assert next(iter(found["accuracy"].shares)) == "learning_rate"
    assert next(iter(found["latency_ms"].shares)) == "width"
    assert found["size_bytes"].explained > 0.5
    assert sum(found["size_bytes"].shares.values()) == pytest.approx(1)
    again = importances(made_study(40), spec.objective_list, seed=0)
    assert {i.objective: i for i in again} == found


def test_importance_needs_enough_trainings(spec):
    assert importances(made_study(4), spec.objective_list, seed=0) == []


def test_cost_counts_a_training_once():
    rows = made_study(3)
    config = TrialConfig(epochs=10)
    rows.append(
        made_row(
            90, 0.3, status=Status.STOPPED, config=config, epochs_trained=4,
            curve=[{"epoch": 4.0, "train_seconds": 8.0}], seconds={"train": 8.0},
        )
    )  # fmt: skip
    begun = made_row(92, 0.9, 10, 1.0, config=config, origin="continued", epochs_trained=10)
    rows.append(begun.model_copy(update={"epochs_spent": 4}))
    rows.append(made_row(91, status=Status.INFEASIBLE, config=config, seconds={"forecast": 1.0}))
    cost = cost_of(rows)
    assert (cost.trainings, cost.epochs) == (5, 3 * 4 + 4 + 4)
    assert cost.seconds_by_phase == {"train": 14.0, "measure": 1.5, "forecast": 1.0}
    savings = {s.by: (s.trials, s.epochs, s.seconds) for s in cost.savings}
    assert savings["stopping early"] == (1, 6, pytest.approx(6 * 2.0))
    # At the median of .5 s (three trainings) and 2 s (the stopped one) an epoch.
    assert savings["forecasts that broke a bound"] == (1, 10, pytest.approx(5.0))
    assert savings["networks that another trial had begun"] == (1, 6, pytest.approx(3.0))
    assert savings["siblings on one training"] == (3, 12, pytest.approx(6.0))


def test_growth_agrees_with_the_hypervolume_of_every_prefix(spec):
    rows = made_study(20)
    grown = growth(rows, spec.objective_list, spec.constraint_list)
    for count, volume in zip(grown.rows, grown.hypervolume, strict=True):
        feasible = [r.metrics for r in rows[:count] if not broken(r.metrics, spec.constraint_list)]
        expected = pareto.hypervolume(losses(feasible, spec.objective_list)) if feasible else 0
        assert volume == pytest.approx(expected)
    assert grown.rows[-1] == len(rows)
    assert grown.minutes[-1] == pytest.approx(19 + (1 + 3) / 60)


# --- the page --------------------------------------------------------------------------------


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def elements(page):
    parser = Elements()
    parser.feed(page)
    return parser.found


def test_what_a_row_says_stays_text(spec):
    clean = made_study(14)
    evil = [
        made_row(97, status=Status.FAILED, reason=EVIL),
        made_row(
            98, 0.9, 1000, 1.0,
            config=TrialConfig(model="pkg.mod:net", model_args={EVIL: EVIL}),
            environment={EVIL: EVIL},
        ),
    ]  # fmt: skip
    named = spec.model_copy(update={"storage": EVIL})
    safe = elements(render(Report(spec, "/a/study", tuple(clean), running=True)))
    page = render(Report(named, EVIL, (*clean, *evil), command=EVIL))
    assert [t for t, _ in elements(page)].count("script") == [t for t, _ in safe].count("script")
    assert not [t for t, a in elements(page) if t == "img" or any(k.startswith("on") for k in a)]
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert EVIL in data["rows"]["reason"]


def test_the_page_asks_for_nothing_outside(spec):
    page = render(Report(spec, "/a/study", tuple(made_study(5))))
    for name, attributes in elements(page):
        for key in ("src", "href"):
            value = attributes.get(key) or ""
            assert value.startswith(("#", "data:")) or not value, (name, value)
    assert "default-src 'none'" in page
    assert len(page) < 3e6


def test_escaping_happens_once():
    assert tag("p", text("<&>"), title='"') == '<p title="&quot;">&lt;&amp;&gt;</p>'
    assert "<td>&lt;b&gt;</td>" in table(["a"], [["<b>"]])
    assert json_script("d", {"a": "</script>"}).count("</script>") == 1


def test_numbers_of_the_page_are_those_of_the_rows(spec):
    rows = [*made_study(14), made_row(99, status=Status.DIVERGED, reason="nan")]
    front = ParetoFront.of(rows, spec.objective_list, spec.constraint_list)
    data = page_data(rows, front)
    members = {row.trial_id for row in front.rows}
    assert {i for i, on in zip(data["rows"]["id"], data["rows"]["front"], strict=True) if on} == (
        members
    )
    for row, accuracy in zip(rows, data["metrics"]["accuracy"], strict=True):
        if accuracy is None:
            assert "accuracy" not in row.metrics
        else:
            assert accuracy == pytest.approx(row.metrics["accuracy"], rel=1e-4)
    edge = data["projections"][0]["edge"]  # accuracy above size: both rise along the edge
    sizes = [rows[i].metrics["size_bytes"] for i in edge]
    accuracies = [rows[i].metrics["accuracy"] for i in edge]
    assert sizes == sorted(sizes)
    assert accuracies == sorted(accuracies)


@pytest.mark.parametrize("rows", [(), (made_row(1, status=Status.FAILED, reason="oops"),)])
def test_a_study_without_models_has_a_report(spec, rows):
    page = render(Report(spec, "/a/study", rows))
    assert "the front is empty" in page


def test_one_objective_is_enough(spec):
    alone = spec.model_copy(update={"objectives": {"accuracy": spec.objectives["accuracy"]}})
    assert "1 on the front" not in render(Report(alone, "/a", tuple(made_study(3))))


# --- while a sweep runs ----------------------------------------------------------------------


def test_the_report_is_refreshed_now_and_then_and_at_the_end(spec, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(storage, "write_whole", lambda path, content: written.append(content))
    clock = iter([100.0, 100.0, 101.0, 131.0, 131.0])
    monkeypatch.setattr("search.report.writer.time.monotonic", lambda: next(clock))
    writer = ReportWriter(spec, "paretune run x", every_seconds=30)
    plan = SweepPlan("made", str(tmp_path), 20, (), spec.objective_list, 1)
    writer.sweep_started(plan)
    for row in made_study(2)[:3]:
        writer.trial_ended(row)
    assert len(written) == 2  # the second row came a second after the first
    assert b"running: 2 of 20 trials" in written[-1]
    writer.sweep_ended(interrupted=False)
    assert len(written) == 3
    assert b"running:" not in written[-1]
    assert b"paretune run x" in written[-1]
