from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.csv_text import csv_text


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (-5, "-5"),
        (-5.25, "-5.25"),
        (math.nan, ""),
        (math.inf, ""),
        ("-1", "-1"),  # a setting's value
        ("+1.5e-3", "+1.5e-3"),
        ("=1+1", "'=1+1"),
        ("-- a comment\nSELECT 1", "'-- a comment\nSELECT 1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'\t=1+1"),
        ("\r\n +cmd|' /C calc'!A0", "'\r\n +cmd|' /C calc'!A0"),
        ("＝1+1", "'＝1+1"),
        ("a, \"b\"\n='c'", "a, \"b\"\n='c'"),
        ("a\0=1", "a\N{REPLACEMENT CHARACTER}=1"),
    ],
)
def test_numbers_stay_numbers_and_no_text_is_a_formula(value, cell):
    assert read(csv_text(("x", "y"), [(value, "end")])) == [["x", "y"], [cell, "end"]]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.integers(-(2**53), 2**53) | st.floats()
        )
    )
)
def test_whatever_comes_in_is_one_row_that_starts_no_formula(rows):
    found = read(csv_text(("text", "number"), rows))
    assert len(found) == 1 + len(rows)
    for (text, number), (first, second) in zip(rows, found[1:], strict=True):
        assert first in (text, f"'{text}")
        start = first.lstrip()[:1]
        assert start not in {"=", "@", "＝", "＋", "－", "＠"}
        assert start not in {"+", "-"} or math.isfinite(float(first)) or "e" in first.lower()
        assert not math.isfinite(number) or float(second) == float(number)
