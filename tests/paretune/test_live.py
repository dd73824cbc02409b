import io
import time

import pytest
from made_rows import default_objectives, made_row
from rich.console import Console

from paretune.live import REFRESHES_PER_SECOND, LiveView, PlainLines
from search.objectives import Constraint
from search.observer import SweepPlan
from trainables.config import TrialConfig
from trainables.contract import METRICS, Progress, Status

NAMES = ("learning_rate", "width", "weight_bits")


def config(seed, **more):
    return TrialConfig(
        seed=seed, learning_rate=0.03, epochs=12, model_args={"width": 16}, **more
    ).canonical()


def plan(trials=24, earlier=(), max_concurrent=2):
    return SweepPlan("digits", "/studies/digits", trials, earlier, default_objectives(),
                     max_concurrent)  # fmt: skip


def progress(epoch, accuracy):
    return Progress(epoch, accuracy, 0.5, 0.01, 10_000, 0.05, 1.0, 0, 1.0, 1000)


def console(width=200, **more):
    return Console(file=io.StringIO(), width=width, **more)


def text(view):
    return view.console.file.getvalue()


def drawn(view, width=200):
    """Give the lines of the live view as a terminal would show them."""
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    screen.print(view.render())
    return screen.file.getvalue().splitlines()


# --- plain lines -------------------------------------------------------------------------------


def test_a_measured_trial_is_one_line_with_what_varies():
    view = PlainLines(console(), names=NAMES)
    view.sweep_started(
        plan(earlier=(made_row(1, 0.5, 99_000, 0.2), made_row(2, 0.4, 99_500, 0.3)))
    )
    view.trial_started(config(3).trial_id, config(3))
    view.trial_ended(made_row(3, 0.981, 43_100, 0.0521, config=config(3, weight_bits=8)))
    opening, line, front = text(view).splitlines()
    assert opening == "digits: 24 trials, 2 of them done before, 2 at a time"
    trial_id = config(3, weight_bits=8).trial_id
    assert line == (
        f"[ 3/24] {trial_id} measured  acc 0.981  43.1 kB  0.0521 ms  lr=0.03 width=16 W8A32"
    )
    assert front.strip().startswith("front of 1, hypervolume 0.5")


def test_a_line_is_not_wrapped_in_a_narrow_log():
    view = PlainLines(console(width=40), names=NAMES)
    view.sweep_started(plan())
    view.trial_ended(made_row(1, 0.9, 43_100, 0.05, status=Status.STOPPED, reason="rung 1 " * 20))
    assert len(text(view).splitlines()) == 2
    assert "\x1b" not in text(view)


def test_the_front_is_told_only_when_a_row_joins_it():
    view = PlainLines(console())
    view.sweep_started(plan())
    view.trial_ended(made_row(1, 0.9, 10_000, 0.05))
    view.trial_ended(made_row(2, 0.8, 20_000, 0.06))
    view.trial_ended(made_row(3, 0.95, 20_000, 0.06))
    fronts = [line.split(",")[0].strip() for line in text(view).splitlines() if "front" in line]
    assert fronts == ["front of 1", "front of 2"]


def test_siblings_are_told_but_are_no_trials_of_their_own():
    view = PlainLines(console())
    view.sweep_started(plan(trials=2))
    view.trial_ended(made_row(1, 0.9, 40_000, 0.05))
    view.trial_ended(made_row(2, 0.9, 10_000, 0.05, origin="sibling", parent="0123abcd"))
    heads = [line[:5] for line in text(view).splitlines() if line.startswith("[")]
    assert heads == ["[1/2]", "[1/2]"]
    assert "(sibling of 0123abcd)" in text(view)


@pytest.mark.parametrize("status", [Status.STOPPED, Status.INFEASIBLE, Status.FAILED])
def test_why_a_trial_has_no_model_is_told(status):
    view = PlainLines(console())
    view.sweep_started(plan())
    view.trial_ended(made_row(1, status=status, reason="because"))
    assert f"{status.value}" in text(view)
    assert text(view).rstrip().endswith("- because")


def test_a_measured_model_that_breaks_a_constraint_is_told():
    view = PlainLines(console(), constraints=[Constraint(METRICS["accuracy"], low=0.9)])
    view.sweep_started(plan())
    view.trial_ended(made_row(1, 0.8, 10_000, 0.05))
    assert text(view).rstrip().endswith("- breaks accuracy >= 0.9")
    assert "front" not in text(view)


def test_brackets_in_a_reason_are_not_markup():
    view = PlainLines(Console(file=io.StringIO(), width=200))
    view.sweep_started(plan())
    view.trial_ended(made_row(1, status=Status.FAILED, reason="bad [bold]shape[/] [3, 8]"))
    assert "bad [bold]shape[/] [3, 8]" in text(view)


# --- live view ---------------------------------------------------------------------------------


def started(view, *trials):
    for seed in trials:
        view.trial_started(config(seed).trial_id, config(seed))


def test_the_live_view_shows_progress_best_and_running_trials():
    view = LiveView(console(force_terminal=True), names=NAMES)
    view.sweep_started(plan())
    try:
        started(view, 1, 2, 3)
        view.epoch_ended(config(2).trial_id, progress(5, 0.876))
        view.trial_ended(made_row(1, 0.98, 43_100, 0.05, config=config(1), seconds={"wall": 10}))
        bar, counts, best, *running = drawn(view)
    finally:
        view.sweep_ended(interrupted=False)
    assert bar.startswith("digits")
    # 23 trials are left, two at a time, ten seconds each.
    assert bar.rstrip().endswith("1/24 trials about 1 min 55 s left")
    assert counts.startswith("2 running, 1 measured; front of 1, hypervolume 0.")
    made = config(1).trial_id
    assert best.startswith(
        f"best: accuracy 0.980 ({made}), size_bytes 43.1 kB ({made}), latency_ms 0.0500 ms"
    )
    assert running[0].split() == [
        config(2).trial_id, "epoch", "5/12", "acc", "0.876", "lr=0.03", "width=16", "W32A32",
    ]  # fmt: skip
    assert running[1].split()[:5] == [config(3).trial_id, "epoch", "0/12", "acc", "-"]


def test_the_live_view_says_that_it_is_starting_until_the_first_trial():
    view = LiveView(console(force_terminal=True))
    view.sweep_started(plan(earlier=(made_row(1, 0.9, 10_000, 0.05),)))
    try:
        assert drawn(view)[1].startswith("starting, 1 measured")
        started(view, 2)
        assert drawn(view)[1].startswith("1 running, 1 measured")
    finally:
        view.sweep_ended(interrupted=False)


def test_no_more_running_trials_are_shown_than_run_at_once():
    view = LiveView(console(), names=NAMES)
    view.plan = plan(max_concurrent=2)
    started(view, *range(10))
    assert sum("epoch" in line for line in drawn(view)) == 2


def test_a_running_trial_stays_on_one_line_of_a_narrow_terminal():
    view = LiveView(console(), names=NAMES)
    view.plan = plan()
    started(view, 1)
    assert sum("epoch" in line or "W32" in line for line in drawn(view, width=40)) == 1


def test_the_time_left_is_unknown_before_a_trial_of_this_run_ended():
    view = PlainLines(console())
    view.sweep_started(plan(earlier=(made_row(1, 0.9, seconds={"wall": 1000.0}),)))
    assert view.seconds_left() is None
    view.trial_ended(made_row(2, 0.9, seconds={"wall": 4.0}))
    view.trial_ended(made_row(3, 0.9, origin="sibling", seconds={}))
    assert view.seconds_left() == 22 * 4.0 / 2


def test_the_median_trial_decides_the_time_left():
    view = PlainLines(console())
    view.sweep_started(plan(trials=4))
    for number, wall in ((1, 10.0), (2, 12.0), (3, 500.0)):
        view.trial_ended(made_row(number, seconds={"wall": wall}))
    assert view.seconds_left() == 12.0  # one trial is left, the second worker idles


def test_a_sweep_without_a_known_end_shows_no_time_left():
    view = LiveView(console())
    view.plan = plan(trials=None)
    view.trial_ended(made_row(1, 0.9, 10_000, 0.05, seconds={"wall": 4.0}))
    assert view.seconds_left() is None
    assert "1/? trials" in drawn(view)[0]


def test_the_last_state_stays_on_the_screen_without_running_trials():
    view = LiveView(console(force_terminal=True, color_system=None), names=NAMES)
    view.sweep_started(plan())
    started(view, 1)
    view.trial_ended(made_row(2, 0.9, 10_000, 0.05))
    view.sweep_ended(interrupted=True)
    bar, counts, *_ = text(view).splitlines()[-4:]
    assert "1/24 trials" in bar
    assert counts.startswith("0 running, 1 measured")


def test_ending_a_view_that_never_began_is_fine():
    LiveView(console()).sweep_ended(interrupted=True)


def test_the_live_view_is_calm():
    assert REFRESHES_PER_SECOND <= 4
    view = LiveView(console(force_terminal=True))
    view.sweep_started(plan())
    before = len(text(view))
    for number in range(200):
        view.trial_ended(made_row(number, status=Status.FAILED))
    events = text(view)[before:].count("failed")
    view.sweep_ended(interrupted=False)
    # A redraw per event would be 200; by the clock there is time for a few.
    assert events < 50


def test_the_view_stays_calm_with_a_thousand_trials():
    screen = Console(file=io.StringIO(), width=100, height=30, force_terminal=True)
    view = LiveView(screen, names=NAMES)
    began = time.monotonic()
    view.sweep_started(plan(trials=1000, max_concurrent=4))
    heights = []
    for number in range(1, 1001):
        own = config(number)
        view.trial_started(own.trial_id, own)
        view.epoch_ended(own.trial_id, progress(1, 0.5))
        if number > 4:
            row = made_row(number, 1 - 1 / number, 1e6 / number, 1.0, config=config(number - 4))
            view.trial_ended(row)
        if number % 100 == 0:
            heights.append(len(drawn(view, width=100)))
    time.sleep(3 / REFRESHES_PER_SECOND)  # else all is over before the first refresh
    view.sweep_ended(interrupted=False)
    seconds = time.monotonic() - began
    # Bar, counts, best, and the trials that run: as high at the end as after a hundred trials.
    assert max(heights) == min(heights) <= 3 + 4 + 1
    # A refresh goes back to its first line; between them nothing is written.
    refreshes = text(view).count("\x1b[2K\x1b[1A") / max(heights)
    assert 0 < refreshes <= REFRESHES_PER_SECOND * seconds + 2
    assert len(text(view)) < 20_000 * (seconds + 1)
