"""odoo_log: what a line of Odoo's access log says, and what many of them come to."""

from __future__ import annotations

import pytest

from harness.model import OdooUse
from harness.odoo_log import OdooRequest, by_method, parse


def line(request: str, perf: str = "4 0.018 0.044", status: int = 200) -> str:
    return (
        "2026-11-23 20:11:18,560 4466 INFO smart_dairy werkzeug: 127.0.0.1 - - [23/Nov/2026 20:11:18] "
        f'"{request} HTTP/1.1" {status} - {perf}\n'
    )


CALL = "POST /xmlrpc/2/object#farm.animal.search_read"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (line(CALL), [OdooRequest("farm.animal.search_read", 4, 18.0, 44.0)]),
        (line(CALL, status=500), [OdooRequest("farm.animal.search_read", 4, 18.0, 44.0)]),
        (line("POST /json/2/farm.animal/search_read"), [OdooRequest("farm.animal.search_read", 4, 18.0, 44.0)]),
        (
            line("POST /web/dataset/call_kw/farm.animal/search_count#farm.animal.search_count", "3 0.001 -0.000"),
            [OdooRequest("farm.animal.search_count", 3, 1.0, 0.0)],
        ),
        (line("GET /web/health"), []),
        (line("POST /xmlrpc/2/common"), []),
        (line(CALL, "- - -"), []),
        (line(CALL)[:-9], []),
        ("2026-11-23 20:11:18,560 4466 ERROR smart_dairy odoo.sql_db: bad query: SELECT 1 0.1 0.1\n", []),
        (
            "Traceback:\n" + line(CALL) + "  File x\n" + line(CALL, "0 0.000 0.001"),
            [
                OdooRequest("farm.animal.search_read", 4, 18.0, 44.0),
                OdooRequest("farm.animal.search_read", 0, 0.0, 1.0),
            ],
        ),
        ("", []),
    ],
)
def test_requests_that_call_a_method_are_read(text: str, found: list[OdooRequest]) -> None:
    assert list(parse(text)) == found


def test_requests_of_a_method_are_taken_together() -> None:
    requests = [
        OdooRequest("b.write", 7, 5.0, 2.0),
        OdooRequest("a.read", 3, 1.0, 4.0),
        OdooRequest("a.read", 18, 2.0, 5.0),
    ]
    assert by_method(requests) == (
        OdooUse("a.read", 2, 21, 3, 18, 3.0, 9.0),
        OdooUse("b.write", 1, 7, 7, 7, 5.0, 2.0),
    )
