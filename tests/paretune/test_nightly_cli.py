"""`paretune nightly` on one machine: what it prints, and its exit code."""

from datetime import date

import pytest
from made_rows import default_objectives, made_row

from paretune.cli import main
from search.front.compare import compare
from search.front.front import ParetoFront
from search.nightly import Night
from search.study.study import Study
from search.sweep import SweepOutcome

GOOD, BAD = made_row(1, 0.99, 10_000, 1.0), made_row(2, 0.90, 10_000, 1.0)


def front(*rows):
    return ParetoFront.of(rows, default_objectives())


@pytest.fixture
def nightly(tmp_path, capsys, monkeypatch):
    """Run the command on a night that ends with `now` after one that ended with `then`."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("name: digits\ndata: {name: digits}\nspace: {epochs: 1}\n")

    def run(*arguments, then=None, now=GOOD, interrupted=False):
        asked = []

        def run_night(spec, night, *, keep, observers):
            asked.append((night, keep))
            found = front(*([now] if now else []))
            outcome = SweepOutcome(Study(str(tmp_path)), found, [now], interrupted)
            done = compare(front(then), found) if then and not interrupted else None
            return Night(outcome, 7, done, ())

        monkeypatch.setattr("search.nightly.run_night", run_night)
        with pytest.raises(SystemExit) as ended:
            main(["nightly", str(sweep), "--plain", *arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err, asked

    return run


def test_a_first_night_has_nothing_to_compare_with(nightly):
    code, _, err, asked = nightly("--night", "2026-11-24", "--keep", "3")
    assert code == 0
    assert err.endswith("no earlier night to compare with\n")
    assert asked == [(date(2026, 11, 24), 3)]


def test_a_better_night_ends_with_0_and_tells_what_changed(nightly):
    code, out, _, _ = nightly(then=BAD, now=GOOD)
    assert code == 0
    assert f"phone   better: {BAD.trial_id}" in out
    assert "7 rows of earlier nights were learnt from" in out


def test_a_worse_pick_ends_with_1_and_names_the_profiles(nightly):
    code, out, err, _ = nightly(then=GOOD, now=BAD)
    assert code == 1
    assert "phone   worse" in out
    assert "the pick for phone, edge, server got worse since the night before" in err
    assert nightly("--worse-is-ok", then=GOOD, now=BAD)[0] == 0


def test_no_feasible_model_ends_with_1(nightly):
    code, _, err, _ = nightly(now=None)
    assert code == 1
    assert "without a feasible model" in err


def test_an_interrupted_night_says_how_to_go_on(nightly):
    code, _, err, _ = nightly("--night", "2026-11-24", then=GOOD, now=BAD, interrupted=True)
    assert code == 130
    assert "sweep.yaml --night 2026-11-24" in err


def test_the_date_comes_from_the_option_the_variable_or_today(nightly, monkeypatch):
    monkeypatch.setenv("PARETUNE_NIGHT", "2026-01-02")
    assert nightly()[3] == [(date(2026, 1, 2), 14)]
    monkeypatch.delenv("PARETUNE_NIGHT")
    (found, _), *_ = nightly("--time-zone", "Europe/Paris")[3]
    assert abs((found - date.today()).days) <= 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--night", "tomorrow"), "--night: got 'tomorrow'; allowed: a date such as 2026-11-24"),
        (("--time-zone", "Mars/Olympus"), "--time-zone: got 'Mars/Olympus'"),
        (("--time-zone", "../etc"), "--time-zone: got '../etc'"),
        (("--on-cluster",), "no `cluster:` section"),
    ],
)
def test_mistakes_end_with_2(nightly, arguments, text):
    code, _, err, asked = nightly(*arguments)
    assert (code, asked) == (2, [])
    assert text in err
