import json

import pytest
from made_rows import default_objectives, made_row

from search.front.front import ParetoFront, record
from search.objectives import Constraint
from search.study import storage
from search.study.study import Study
from trainables.contract import METRICS, Status

OBJECTIVES = default_objectives()


def ids(front):
    return [row.number for row in front.rows]


def test_members_are_the_non_dominated_ones_best_accuracy_first():
    rows = [
        made_row(1, 0.90, 10_000, 0.05),
        made_row(2, 0.99, 50_000, 0.50),
        made_row(3, 0.89, 20_000, 0.06),  # worse than 1 in everything
        made_row(4, 0.95, 20_000, 0.20),
    ]
    assert ids(ParetoFront.of(rows, OBJECTIVES)) == [2, 4, 1]


def test_only_measured_rows_count_whatever_the_others_claim():
    rows = [
        made_row(1, 0.5, 50_000, 1.0),
        made_row(2, 0.99, 1_000, 0.01, status=Status.STOPPED, reason="rung 1"),
        made_row(3, None, 1_000, 0.01, status=Status.INFEASIBLE),
        made_row(4, status=Status.FAILED),
    ]
    front = ParetoFront.of(rows, OBJECTIVES)
    assert ids(front) == [1]
    assert front.counts == {
        Status.MEASURED: 1, Status.STOPPED: 1, Status.INFEASIBLE: 1, Status.FAILED: 1,
    }  # fmt: skip


def test_a_row_that_breaks_a_constraint_neither_joins_nor_keeps_others_out():
    rows = [
        made_row(1, 0.99, 90_000, 0.05),
        made_row(2, 0.90, 95_000, 0.05),
        made_row(3, 0.80, 40_000, 0.06),
        made_row(4, None, 99_000, status=Status.INFEASIBLE),
    ]
    bound = Constraint(METRICS["size_bytes"], high=50_000)
    front = ParetoFront.of(rows, OBJECTIVES, [bound])
    assert ids(front) == [3]
    assert front.infeasible == 3
    assert front.hypervolume == ParetoFront.of([rows[2]], OBJECTIVES).hypervolume > 0


def test_of_rows_equal_in_every_loss_the_faster_stays():
    # Latencies within the resolution are one loss.
    slower, faster = made_row(1, 0.9, 10_000, 0.1002), made_row(2, 0.9, 10_000, 0.1001)
    for rows in ([slower, faster], [faster, slower]):
        assert ids(ParetoFront.of(rows, OBJECTIVES)) == [2]


def test_a_row_that_lacks_an_objective_is_not_on_the_front():
    rows = [made_row(1, 0.99, 10_000), made_row(2, 0.5, 20_000, 1.0)]
    assert ids(ParetoFront.of(rows, OBJECTIVES)) == [2]


def test_no_rows_give_an_empty_front():
    front = ParetoFront.of([], OBJECTIVES)
    assert front.rows == ()
    assert front.hypervolume == 0.0
    assert front.counts == {}
    assert front.infeasible == 0


def test_more_rows_never_shrink_the_hypervolume():
    rows = [made_row(i, 0.5 + i / 20, 10_000 * 1.5**i, 0.05 * 1.3**i) for i in range(8)]
    volumes = [ParetoFront.of(rows[:n], OBJECTIVES).hypervolume for n in range(9)]
    assert volumes == sorted(volumes)
    assert len(set(volumes)) == 9


@pytest.fixture
def study(tmp_path):
    return Study(str(tmp_path / "study"))


def test_a_record_is_plain_json_with_the_path_of_a_file_that_exists(study):
    row = made_row(
        1, 0.9, 10_000, 0.05,
        artifact="a.onnx",
        test_accuracy=0.88,
        latency={"ms": 0.05, "low_ms": 0.049, "high_ms": 0.051},
        operators={"Conv": 3},
        seconds={"train": 1.5},
    )  # fmt: skip
    storage.write_whole(study.artifact_path(row), b"model")
    front = ParetoFront.of([row], OBJECTIVES)
    (found,) = json.loads(json.dumps(front.records(study)))
    assert found["trial_id"] == row.trial_id
    assert found["status"] == "measured"
    assert (found["accuracy"], found["test_accuracy"]) == (0.9, 0.88)
    assert (found["latency_low_ms"], found["latency_high_ms"]) == (0.049, 0.051)
    assert found["size_bytes"] == 10_000
    assert isinstance(found["size_bytes"], int)
    assert found["config"]["learning_rate"] == row.config.learning_rate
    assert found["artifact"] == f"{study.location}/artifacts/a.onnx"
    assert found["operators"] == {"Conv": 3}


@pytest.mark.parametrize("artifact", [None, "gone.onnx"])
def test_a_record_names_no_file_that_is_not_there(study, artifact):
    assert record(made_row(1, 0.9, artifact=artifact), study)["artifact"] is None
