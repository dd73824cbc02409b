import json
import math

import pytest
from made_rows import made_row
from pydantic import ValidationError

from search.study.rows import ResultRow
from trainables.contract import Status


def test_a_row_reads_back_as_it_was_written():
    row = made_row(
        3, 0.91, 12_345, 0.05,
        origin="sibling",
        parent="0123abcd",
        latency={"ms": 0.05, "low_ms": 0.04, "high_ms": 0.06, "clock": "thread_cpu"},
        curve=[{"epoch": 1, "accuracy": 0.5}],
        seconds={"wall": 1.25},
    )  # fmt: skip
    assert ResultRow.model_validate_json(row.model_dump_json()) == row


def test_a_diverged_row_keeps_its_losses_in_strict_json():
    row = made_row(
        1, status=Status.DIVERGED, curve=[{"epoch": 1, "loss": math.nan}, {"loss": math.inf}]
    )
    text = row.model_dump_json()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(text, parse_constant=refuse)
    back = ResultRow.model_validate_json(text)
    assert math.isnan(back.curve[0]["loss"])
    assert back.curve[1]["loss"] == math.inf


def test_a_row_of_newer_code_is_read():
    stored = json.loads(made_row(1, 0.9).model_dump_json()) | {"invented_later": [1, 2]}
    assert ResultRow.model_validate(stored).metrics == {"accuracy": 0.9}


def test_a_row_without_a_status_is_refused():
    stored = json.loads(made_row(1).model_dump_json())
    del stored["status"]
    with pytest.raises(ValidationError, match="status"):
        ResultRow.model_validate(stored)
