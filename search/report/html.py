"""Building HTML from texts that nobody has checked: everything is escaped here, once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


class Html(str):
    """Text that is HTML already. Only this module and templates of the package make it."""


def text(value: object) -> Html:
    """Give a value as HTML: escaped, unless it is HTML already."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Put parts one after the other."""
    return Html(between.join(text(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """Give an element.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    marks = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{marks}>{join(content)}</{name}>")


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, numbers: int = 0) -> Html:
    """Give a table in a frame that scrolls; the last `numbers` columns are set to the right."""
    first = len(heads) - numbers

    def cells(kind: str, values: Sequence[object]) -> Html:
        return join(
            tag(kind, value, class_="number" if i >= first else None)
            for i, value in enumerate(values)
        )

    head = tag("thead", tag("tr", cells("th", heads)))
    body = tag("tbody", *(tag("tr", cells("td", row)) for row in rows))
    return tag("div", tag("table", head, body), class_="scroll", tabindex="0")


def json_script(name: str, value: Any) -> Html:
    """Give data for the page's script; no text in it can end the element."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{data}</script>')
