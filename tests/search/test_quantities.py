"""Numbers with units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.spec.quantities import UNITS, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("500kB", "B", 500_000),
        ("1.5MB", "B", 1_500_000),
        ("64KiB", "B", 65_536),
        (" 2 MiB ", "B", 2_097_152),
        (1000, "B", 1000),
        ("1e6", "B", 1_000_000),
        ("5ms", "ms", 5),
        ("250us", "ms", 0.25),
        ("0.2s", "ms", 200),
        ("2h", "s", 7200),
        ("90%", "", 0.9),
        (".5", "", 0.5),
        ("1.2M", "", 1_200_000),
    ],
)
def test_it_is_turned_into_the_metric_s_unit(text, unit, value):
    assert parse_quantity(text, unit) == value


@pytest.mark.parametrize(
    ("text", "unit", "allowed"),
    [
        ("500kb", "B", "kB"),
        ("5 min", "ms", "us"),
        ("5%", "B", "KiB"),
        ("", "B", "a number"),
        ("kB", "B", "a number"),
        ("1 2kB", "B", "a number"),
        ("nan", "B", "a number"),
        ("1e999", "B", "a number"),
        (float("inf"), "B", "a number"),
        (10**400, "B", "a number"),
        (True, "B", "a number"),
        (None, "B", "a number"),
        ([1], "B", "a number"),
    ],
)
def test_what_is_no_quantity_is_refused_with_the_units(text, unit, allowed):
    with pytest.raises(ValueError, match="allowed") as refused:
        parse_quantity(text, unit)
    assert allowed in str(refused.value)


@given(value=st.floats(0, 1e15), unit=st.sampled_from(sorted(UNITS)))
def test_what_is_written_is_read_back_exactly(value, unit):
    assert parse_quantity(format_quantity(value, unit), unit) == value


def test_the_largest_fitting_unit_is_written():
    assert format_quantity(1_500_000.0, "B") == "1.5MB"
    assert format_quantity(0.0, "B") == "0B"
    assert format_quantity(7200.0, "s") == "7200s"
