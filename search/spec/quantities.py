"""Numbers with units, as people write them: `500kB`, `5ms`, `90%`."""

from __future__ import annotations

import math
import re
from decimal import Decimal

UNITS: dict[str, dict[str, Decimal]] = {
    "B": {
        "B": Decimal(1),
        "kB": Decimal(10**3),
        "MB": Decimal(10**6),
        "GB": Decimal(10**9),
        "KiB": Decimal(2**10),
        "MiB": Decimal(2**20),
        "GiB": Decimal(2**30),
    },
    "ms": {
        "ns": Decimal("1e-6"),
        "us": Decimal("1e-3"),
        "ms": Decimal(1),
        "s": Decimal(1000),
    },
    "s": {"ms": Decimal("1e-3"), "s": Decimal(1), "min": Decimal(60), "h": Decimal(3600)},
    "": {"%": Decimal("0.01"), "k": Decimal(10**3), "M": Decimal(10**6)},
}
"""Factor of every unit that may stand after a number, by the unit that it is turned into."""

_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\s\d]*)\s*")


def parse_quantity(value: object, unit: str) -> float:
    """Give a number in `unit`, which is a key of UNITS.

    >>> parse_quantity("500kB", "B"), parse_quantity("250us", "ms"), parse_quantity("90%", "")
    (500000.0, 0.25, 0.9)

    Raises:
        ValueError: it is not a finite number, or its unit is unknown; the text says what is
            allowed.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = _finite(value)
    elif isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        digits, suffix = match.groups()
        if suffix and suffix not in UNITS[unit]:
            raise ValueError(_allowed(unit))
        number = _finite(Decimal(digits) * UNITS[unit].get(suffix, Decimal(1)))
    else:
        number = None
    if number is None:
        raise ValueError(_allowed(unit))
    return number


def format_quantity(value: float, unit: str) -> str | float:
    """Give what `parse_quantity` reads back to exactly `value`; without a unit, the number.

    >>> format_quantity(500000.0, "B"), format_quantity(0.25, "ms"), format_quantity(0.9, "")
    ('500kB', '250us', 0.9)
    """
    if not unit:
        return value
    exact = Decimal(repr(value))
    # Only powers of ten divide a decimal number without a rest.
    decimal = [(f, u) for u, f in UNITS[unit].items() if f.normalize().as_tuple().digits == (1,)]
    fitting = [(f, u) for f, u in decimal if abs(exact) >= f] or [min(decimal)]
    factor, suffix = max(fitting)
    return f"{(exact / factor).normalize():f}{suffix}"


def _finite(value: float | Decimal) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _allowed(unit: str) -> str:
    units = ", ".join(UNITS[unit])
    base = f" of {unit}" if unit else ""
    return f"allowed: a number{base}, or a number with one of the units {units}"
