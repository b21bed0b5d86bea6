"""The query files: what psycopg and pg_stat_statements need of them."""

from __future__ import annotations

import re

import pytest

from fixtures import queries
from harness.statements import named_fingerprints

TEXTS = queries.texts()


@pytest.mark.parametrize("stem", TEXTS)
def test_a_file_says_what_it_answers_and_names_schemas(stem):
    text = TEXTS[stem]
    assert re.match(r"-- [A-Z].*", text)
    assert "%" not in re.sub(r"%\(\w+\)s", "", text), "a % that is no placeholder is sent doubled or single by chance"
    tables = re.findall(r"\b(?:FROM|JOIN|INTO)\s+([\w.\"]+)", re.sub(r"--.*", "", text))
    assert tables or stem == "health_probe"
    assert all("." in table for table in tables)


def test_the_server_can_tell_all_queries_apart():
    names = set(named_fingerprints(TEXTS).values())
    assert len(names) == len(TEXTS)
    assert {"animal by tag", "daily milk report", "milk history"} <= names
