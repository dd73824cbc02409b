import doctest
import json

import pytest
from made_rows import default_objectives, made_row

from search.front import compare as module
from search.front.compare import compare, comparison_text
from search.front.front import ParetoFront
from search.front.picks import PROFILES, Profile
from search.objectives import Constraint
from trainables.contract import METRICS

BIG = made_row(1, 0.99, 4_000_000, 20.0)
SMALL = made_row(2, 0.90, 100_000, 1.0)
BETTER_SMALL = made_row(3, 0.93, 90_000, 0.9)
WORSE_SMALL = made_row(4, 0.80, 100_000, 1.0)


def front(*rows, constraints=()):
    return ParetoFront.of(rows, default_objectives(), constraints)


def verdicts(comparison):
    return {change.profile.name: change.verdict for change in comparison.picks}


def test_a_study_compared_with_itself_has_not_changed():
    same = compare(front(BIG, SMALL), front(BIG, SMALL))
    assert (same.joined, same.left, same.stayed, same.worse) == ((), (), 2, False)
    assert same.hypervolume_then == same.hypervolume_now > 0
    assert set(verdicts(same).values()) == {"same"}


def test_a_better_model_joins_and_the_dominated_one_leaves():
    found = compare(front(BIG, SMALL), front(BIG, SMALL, BETTER_SMALL))
    assert found.joined == (BETTER_SMALL,)
    assert [(gone.row, gone.reason) for gone in found.left] == [
        (SMALL, f"dominated by {BETTER_SMALL.trial_id}")
    ]
    assert found.hypervolume_now > found.hypervolume_then
    assert verdicts(found) == {"phone": "same", "edge": "better", "server": "same"}
    assert not found.worse


def test_a_less_accurate_pick_is_worse():
    found = compare(front(BIG, SMALL), front(BIG, WORSE_SMALL))
    assert verdicts(found) == {"phone": "same", "edge": "worse", "server": "same"}
    assert found.worse
    assert found.left[0].reason == "not found again"


def test_a_pick_that_is_gone_is_worse_and_a_new_one_is_better():
    assert verdicts(compare(front(SMALL), front(BIG)))["edge"] == "worse"
    assert verdicts(compare(front(BIG), front(SMALL)))["edge"] == "better"
    assert verdicts(compare(front(BIG), front(BIG)))["edge"] == "none"


@pytest.mark.parametrize(("fall", "verdict"), [(0.004, "changed"), (0.006, "worse")])
def test_a_fall_inside_the_tolerance_is_not_worse(fall, verdict):
    slightly = made_row(5, 0.90 - fall, 100_000, 1.0)
    assert verdicts(compare(front(SMALL), front(slightly)))["edge"] == verdict


def test_both_volumes_are_taken_on_the_later_reference_and_constraints():
    bound = Constraint(METRICS["size_bytes"], high=1_000_000)
    found = compare(front(BIG, SMALL), front(SMALL, constraints=[bound]))
    assert found.hypervolume_then == found.hypervolume_now
    assert found.left[0].reason == "breaks size_bytes <= 1e+06"


def test_other_data_are_noted():
    old = made_row(1, 0.9, 1000, 1.0, environment={"data_fingerprint": "aaaa"})
    new = made_row(2, 0.9, 900, 1.0, environment={"data_fingerprint": "bbbb"})
    assert compare(front(old), front(new)).notes == ("another data: aaaa then, bbbb now",)
    assert compare(front(old), front(old)).notes == ()


def test_another_device_is_noted_but_copied_rows_do_not_count():
    old = made_row(1, 0.9, 1000, 1.0, latency={"device": "old CPU"})
    new = made_row(2, 0.8, 900, 1.0, latency={"device": "new CPU"})
    copied = old.model_copy(update={"origin": "copied"})
    note = "another device that measured: old CPU then, new CPU now"
    assert compare(front(old), front(new, copied)).notes == (note,)
    assert compare(front(old), front(copied)).notes == ()


def test_an_empty_front_can_be_compared():
    assert compare(front(), front(SMALL)).hypervolume_then == 0
    assert compare(front(SMALL), front()).worse
    assert not compare(front(), front()).worse


def test_profiles_of_ones_own_are_used():
    tiny = {"tiny": Profile("tiny", "", max_size_bytes=10)}
    assert verdicts(compare(front(SMALL), front(SMALL), profiles=tiny)) == {"tiny": "none"}


def test_every_profile_says_a_budget():
    assert set(PROFILES) == {"phone", "edge", "server"}
    for profile in PROFILES.values():
        bounds = (profile.max_size_bytes, profile.max_latency_ms, profile.min_accuracy)
        assert any(bound is not None for bound in bounds)


def test_the_text_says_each_change_in_a_line():
    text = comparison_text(compare(front(BIG, SMALL), front(BIG, WORSE_SMALL)))
    lines = text.splitlines()
    assert lines[1] == "front: 1 joined, 1 left, 1 stayed"
    assert f"  - {SMALL.trial_id} (accuracy 0.900, 100 kB, 1.00 ms): not found again" in lines
    assert lines[-2].startswith(f"edge    worse: {SMALL.trial_id}")
    assert lines[-1].startswith(f"server  same: {BIG.trial_id}")


def test_the_record_is_json():
    record = json.loads(json.dumps(compare(front(SMALL), front()).to_dict()))
    assert record["worse"] is True
    assert record["picks"]["edge"]["then"]["trial_id"] == SMALL.trial_id
    assert record["picks"]["edge"]["now"] is None


def test_doctests():
    assert doctest.testmod(module).failed == 0
