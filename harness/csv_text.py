"""CSV that a spreadsheet may open: numbers stay numbers, and no text from outside becomes a formula. Pure."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

# What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection"), their full-width twins included.
_FORMULA = tuple("=+-@＝＋－＠")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """One line for the header and each row. None, and a number that is not finite, is an empty cell; a text that would
    be taken for a formula begins with an apostrophe."""
    text = io.StringIO()
    # RFC 4180's end of line, for which the writer also quotes a lone carriage return within a text
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(map(_cell, header))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, str):
        return value
    # NUL ends a line for some readers, and spreadsheets leave out white space before a formula
    text = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    harmless = not text.lstrip().startswith(_FORMULA) or _NUMBER.fullmatch(text)
    return text if harmless else f"'{text}"
