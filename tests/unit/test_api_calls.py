"""What the service is asked, and what its replies amount to."""

import json
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.api_calls import Api, Route
from harness.errors import InputError
from harness.wire import Reply, Request, Slot

API = Api("127.0.0.1:8000", "s3cret")
SEARCH = Route(
    "GET",
    "/herds/{herd}/animals/{tag_number}",
    query={"limit": 50, "q": Slot("q"), "active": True, "a b&": "ü=&"},
    expect=b'"id":',
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT


def in_url(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def target(request: Request) -> str:
    method, path, version = request.message.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    assert (method, version) == ("GET", "HTTP/1.1")
    return path


@given(herd=SCALARS.filter(lambda value: value not in ("", ".", "..")), tag=TEXT.map("T{}".format), q=SCALARS)
def test_path_and_query_arrive_as_they_were_given(herd: object, tag: str, q: object) -> None:
    parts = urlsplit(target(API.encode(SEARCH).fill({"herd": herd, "tag_number": tag, "q": q})))
    assert [unquote(part) for part in parts.path.split("/")] == ["", "herds", in_url(herd), "animals", tag]
    pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
    assert pairs == [("limit", "50"), ("q", in_url(q)), ("active", "true"), ("a b&", "ü=&")]


def test_a_body_is_json_and_the_key_is_a_header() -> None:
    post = Route("POST", "/milk", body={"animal_id": Slot("animal_id"), "litres": 4.5}, expect=b'"id":')
    message = API.encode(post).fill({"animal_id": 3}).message
    head, _, body = message.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /milk HTTP/1.1",
        b"Host: 127.0.0.1:8000",
        b"X-API-Key: s3cret",
        b"Accept: application/json",
        b"Content-Type: application/json",
        b"User-Agent: dairyperf",
        b"Accept-Encoding: identity",
        b"Connection: keep-alive",
        b"Content-Length: %d" % len(body),
    ]
    assert json.loads(body) == {"animal_id": 3, "litres": 4.5}


def test_endpoints_name_the_route_and_nothing_shows_the_key() -> None:
    template = API.encode(SEARCH)
    request = template.fill({"herd": 1, "tag_number": "T", "q": "x"})
    assert request.endpoint == "api GET /herds/{herd}/animals/{tag_number}"
    assert "s3cret" not in repr((API, template, request))
    assert API.keep_alive
    assert (
        b"Connection: close" in Api("h", "k", keep_alive=False).encode(Route("GET", "/", expect=b"")).fill({}).message
    )


@pytest.mark.parametrize("value", ["", ".", "..", None, ["a"], {"a": 1}, float("nan"), "\ud800"])
def test_a_path_refuses_what_would_be_another_route(value: object) -> None:
    with pytest.raises(InputError, match=r"^api GET /a/\{tag\}: slot 'tag': "):
        API.encode(Route("GET", "/a/{tag}", expect=b"")).fill({"tag": value})


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, float("inf")])
def test_a_query_takes_scalars(value: object) -> None:
    with pytest.raises(InputError, match=r"^api GET /a: slot 'q': "):
        API.encode(Route("GET", "/a", query={"q": Slot("q")}, expect=b"")).fill({"q": value})
    with pytest.raises(InputError, match=r"^api GET /a: "):
        API.encode(Route("GET", "/a", query={"q": value}, expect=b""))


@pytest.mark.parametrize(
    ("failure", "status", "body", "outcome"),
    [
        (None, 200, b'{"items":[{"id":1}]}', "ok"),
        (None, 201, b'{"id":1}', "ok"),
        (None, 200, b'{"items":[]}', "unexpected"),
        (None, 200, b'{"id":1', "body"),
        (None, 200, b"<html>", "body"),
        (None, 204, b"", "body"),
        (None, 500, b'{"id":1}', "http:500"),
        ("reset", 0, b"", "reset"),
    ],
)
def test_outcome(failure: str | None, status: int, body: bytes, outcome: str) -> None:
    reply = Reply(failure, status, b"", body, len(body))
    assert API.outcome(reply, API.encode(Route("GET", "/", expect=b'"id":')).expect) == outcome


def test_result() -> None:
    assert API.result(Reply(None, 200, b"", b'{"id":1}', 8)) == {"id": 1}
    with pytest.raises(ValueError, match="Expecting"):
        API.result(Reply(None, 200, b"", b'{"id":}', 7))
