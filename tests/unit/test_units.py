"""The doctests of harness.units, and what its parser refuses."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import summary, units
from harness.errors import InputError


@pytest.mark.parametrize("module", [units, summary])
def test_examples_in_docstrings(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("text", ["", " ", "5 m", "m", "-5", "1m1h", "5x", "1,5s", "nan", "inf"])
def test_no_duration(text):
    with pytest.raises(InputError, match=r"is not a duration; write 90s"):
        units.parse_duration(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_durations_are_sums_of_their_parts(hours, minutes, seconds):
    assert units.parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_bytes_never_outgrow_their_units():
    assert units.format_bytes(2 * 1024**5) == "2,048.0 TiB"
