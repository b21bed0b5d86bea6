"""Templates write what a direct encoding would, say their length, and show no secret."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import wire
from harness.errors import InputError
from harness.wire import Hole, Slot, Template

ANY = re.compile(b"")


def template(document: object, target: wire.Parts = (b"POST /x",), cookie: str = "c") -> Template:
    headers = {"Host": "h", "Cookie": [b"sid=", Hole("cookie", wire.cookie_value)]}
    body = None if document is None else wire.json_parts(document)
    made = wire.http_template("api POST /x", target, headers, body, keep_alive=True, expect=ANY, check=None)
    return made.bind({"cookie": cookie})


def test_a_message_is_written_in_full() -> None:
    request = template({"id": Slot("id"), "of": [Slot("id"), "é"]}).fill({"id": 17})
    body = b'{"id":17,"of":[17,"\\u00e9"]}'
    assert request.message == (
        b"POST /x HTTP/1.1\r\nHost: h\r\nCookie: sid=c\r\nUser-Agent: dairyperf\r\nAccept-Encoding: identity\r\n"
        b"Connection: keep-alive\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert (request.endpoint, request.expect, request.check, request.values) == ("api POST /x", ANY, None, {"id": 17})


def test_without_a_body_there_is_no_length() -> None:
    message = template(None, [b"GET /x/", Hole("id", wire.json_value)]).fill({"id": 17}).message
    assert message.startswith(b"GET /x/17 HTTP/1.1\r\n")
    assert message.endswith(b"Connection: keep-alive\r\n\r\n")
    assert b"Content-Length" not in message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(fixed=VALUES, first=VALUES, second=VALUES)
def test_filling_equals_encoding_the_values_in_place(fixed: object, first: object, second: object) -> None:
    slotted = {"fixed": fixed, "first": Slot("first"), "deep": [[Slot("sécond \"'")], fixed, Slot("first")]}
    in_place = {"fixed": fixed, "first": first, "deep": [[second], fixed, first]}
    message = template(slotted).fill({"first": first, "sécond \"'": second}).message
    assert message == template(in_place).fill({}).message
    head, _, body = message.partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nContent-Length: %d" % len(body))
    assert json.loads(body) == in_place


def test_a_value_that_looks_like_a_mark_stays_one() -> None:
    text = wire.mark(Slot("a"))
    message = template([Slot("a"), Slot("b")]).fill({"a": text, "b": "x"}).message
    assert json.loads(message.partition(b"\r\n\r\n")[2]) == [text, "x"]


@pytest.mark.parametrize("values", [{}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}])
def test_every_slot_has_one_value(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^api POST /x: .*'a', 'b'"):
        template([Slot("a"), Slot("b")]).fill(values)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), b"bytes", {1, 2}, {1: "one"}, Slot("b"), [Slot("b")], [[object()]], [float("-inf")]],
)
def test_what_cannot_be_written_names_endpoint_and_slot(value: object) -> None:
    with pytest.raises(InputError, match=r"^api POST /x: slot 'a': .*; "):
        template([Slot("a")]).fill({"a": value})
    with pytest.raises(InputError, match=r"^here: .*; "), wire.encoding("here"):
        wire.plain(["fixed", {"a": value}])


def test_some_slots_are_bound_for_good_and_not_shown() -> None:
    bound = template([Slot("a"), Slot("b")]).bind({"a": "secret"})
    request = bound.fill({"b": 2})
    assert request.message.endswith(b'["secret",2]')
    assert request.values == {"b": 2}
    assert "secret" not in repr(bound) + repr(request)
    with pytest.raises(InputError, match="no slot 'c'"):
        bound.bind({"c": 1})


@pytest.mark.parametrize("cookie", ["", "a b", "a;b", "a\r\nX: 1", "é", 7, None])
def test_a_cookie_cannot_break_the_head_nor_show_in_the_complaint(cookie: str) -> None:
    with pytest.raises(InputError, match=r"^api POST /x: slot 'cookie': not a cookie's value; "):
        template({}, cookie=cookie)


@pytest.mark.parametrize("value", ["", "a\r\nX: 1", "key\n", "é"])
def test_a_header_cannot_break_the_head_nor_show_in_the_complaint(value: str) -> None:
    with (
        pytest.raises(InputError, match=r"^here: header X-Key is empty or not printable ASCII; [a-z ]+$"),
        wire.encoding("here"),
    ):
        wire.http_template("here", [b"GET /"], {"X-Key": value}, None, keep_alive=True, expect=ANY, check=None)


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (b"", False),
        (b"{}", True),
        (b'{"a":1', False),
        (b"[1]", True),
        (b"[1}", False),
        (b'"a"', True),
        (b'"', False),
        (b"true", True),
        (b"null", True),
        (b"tru", False),
        (b"-1.5e+3", True),
        (b"<html></html>", False),
    ],
)
def test_is_whole_json(body: bytes, whole: bool) -> None:
    assert wire.is_whole_json(body) is whole


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("odoo.exceptions.AccessError", "AccessError"),
        ("KeyError", "KeyError"),
        ("Cow 17 is not yours", None),
        ("x." + "A" * 61, None),
        ("", None),
        (None, None),
    ],
)
def test_exception_class(name: object, found: str | None) -> None:
    assert wire.exception_class(name) == found
