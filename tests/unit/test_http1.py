"""Where replies end, however they were cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import http1
from harness.http1 import Broken, Received, read_reply

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def outcome(pieces: Iterable[bytes]) -> Received | str:
    """What is made of these pieces and the end after them."""
    coming = iter([piece for piece in pieces if piece])
    try:
        return read_reply(lambda: next(coming, b""))
    except Broken as error:
        return error.failure


def sized(status: int, size: int | str, body: bytes, *, version: str = "1.1", more: str = "") -> bytes:
    return f"HTTP/{version} {status} Why\r\nContent-Length: {size}\r\n{more}\r\n".encode() + body


# (bytes until the end of the stream, status, body, stays open)
WHOLE = [
    (sized(200, 2, b"{}"), 200, b"{}", True),
    (sized(200, 0, b""), 200, b"", True),
    (sized(404, 2, b"{}", more="Connection: close\r\n"), 404, b"{}", False),
    (sized(200, 2, b"{}", more="connection: Foo, CLOSE\r\n"), 200, b"{}", False),
    (sized(200, 2, b"{}", version="1.0"), 200, b"{}", False),
    (sized(200, 2, b"{}", version="1.0", more="Connection: Keep-Alive\r\n"), 200, b"{}", True),
    (sized(200, 2, b"{}", more="content-length:  2 \r\n"), 200, b"{}", True),
    (b"HTTP/1.1 200 \r\ncOnTeNt-LeNgTh:3\r\n\r\nabc", 200, b"abc", True),
    (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", 200, b"a", True),
    (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, b"to the end", False),
    (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", 200, b"", False),
    (b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", 204, b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 700\r\n\r\n", 304, b"", True),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + sized(201, 1, b"a"), 201, b"a", True),
    (CHUNKED + b"0\r\n\r\n", 200, b"", True),
    (CHUNKED + b'3\r\nabc\r\n00A;x="y"\r\n0123456789\r\n0\r\n\r\n', 200, b"abc0123456789", True),
    (CHUNKED + b"2 \r\n\r\n\r\n0\r\nExpires: never\r\nX: y\r\n\r\n", 200, b"\r\n", True),
]
BROKEN = [
    (b"", "reset"),
    (b"HTT", "short"),
    (b"HTTP/1.1 200 OK\r\nContent-Le", "short"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", "short"),
    (sized(200, 3, b"{}"), "short"),
    (CHUNKED + b"3\r\nab", "short"),
    (CHUNKED + b"3\r\nabc\r\n0\r\n", "short"),
    (b"nonsense", "protocol"),
    (b"nonsense\r\n\r\n", "protocol"),
    (b"HTTP/2.0 200 OK\r\n\r\n", "protocol"),
    (b"HTTP/1.1 20 OK\r\n\r\n", "protocol"),
    (b"HTTP/1.1 2000 OK\r\n\r\n", "protocol"),
    (b"HTTP/1.1 099 OK\r\n\r\n", "protocol"),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "protocol"),
    (sized(200, "-1", b"{}"), "protocol"),
    (sized(200, "+2", b"{}"), "protocol"),
    (sized(200, "", b"{}"), "protocol"),
    (sized(200, 2, b"{}", more="Content-Length: 3\r\n"), "protocol"),
    (sized(200, http1.MAX_BODY_BYTES + 1, b"{}"), "protocol"),
    (sized(200, "9" * 5000, b"{}"), "protocol"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * http1.MAX_HEAD_BYTES, "protocol"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "protocol"),
    (CHUNKED + b"g\r\n", "protocol"),
    (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", "protocol"),
    (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", "protocol"),
    (CHUNKED + b"\r\n", "protocol"),
    (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", "protocol"),
    (CHUNKED + b"FFFFFFFF\r\n", "protocol"),
    (CHUNKED + b"1;" + b"x" * 5000, "protocol"),
    (CHUNKED + b"0\r\n" + b"X: y\r\n" * 20_000, "protocol"),
]


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """`raw` in pieces."""
    places = sorted(draw(st.sets(st.integers(0, len(raw)), max_size=8)))
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]


@given(st.data(), st.sampled_from(WHOLE))
def test_a_reply_is_the_same_however_it_is_cut(data: st.DataObject, case: tuple[bytes, int, bytes, bool]) -> None:
    raw, status, body, stays_open = case
    head = raw[raw.rindex(b"HTTP/1.") :].partition(b"\r\n\r\n")[0] + b"\r\n"
    assert outcome(data.draw(cut(raw))) == Received(status, head, body, stays_open, excess=False)


@given(st.data(), st.sampled_from(BROKEN))
def test_a_broken_reply_is_named_however_it_is_cut(data: st.DataObject, case: tuple[bytes, str]) -> None:
    raw, failure = case
    assert outcome(data.draw(cut(raw))) == failure


@pytest.mark.parametrize("case", WHOLE)
def test_a_reply_in_single_bytes_and_at_once(case: tuple[bytes, int, bytes, bool]) -> None:
    raw, status, body, stays_open = case
    for pieces in ([raw[at : at + 1] for at in range(len(raw))], [raw]):
        received = outcome(pieces)
        assert isinstance(received, Received)
        assert (received.status, received.body, received.stays_open) == (status, body, stays_open)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_reply_at_once(case: tuple[bytes, str]) -> None:
    assert outcome([case[0]]) == case[1]


@given(st.data(), st.lists(st.binary(min_size=1, max_size=300), max_size=6))
def test_chunks_make_the_body(data: st.DataObject, chunks: list[bytes]) -> None:
    raw = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    received = outcome(data.draw(cut(raw)))
    assert isinstance(received, Received)
    assert received.body == b"".join(chunks)


@given(st.data(), st.sampled_from(WHOLE), st.binary(max_size=4))
def test_damage_is_named_or_read_alike_however_it_is_cut(
    data: st.DataObject, case: tuple[bytes, int, bytes, bool], damage: bytes
) -> None:
    """Nothing but Broken is raised, and where a packet ends decides nothing but what is known to follow."""
    raw = case[0]
    start = data.draw(st.integers(0, len(raw)))
    raw = raw[:start] + damage + raw[data.draw(st.integers(start, min(len(raw), start + 4))) :]
    at_once, in_pieces = outcome([raw]), outcome(data.draw(cut(raw)))
    if isinstance(at_once, Received) and isinstance(in_pieces, Received):
        at_once, in_pieces = at_once._replace(excess=False), in_pieces._replace(excess=False)
    assert at_once == in_pieces


@pytest.mark.parametrize(
    "raw",
    [
        sized(200, 2, b"{}") + b"x",
        b"HTTP/1.1 204 No Content\r\n\r\nx",
        CHUNKED + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"0\r\n\r\n",
    ],
)
def test_what_follows_a_reply_or_frames_it_twice_spoils_the_connection(raw: bytes) -> None:
    received = outcome([raw])
    assert isinstance(received, Received)
    assert received.excess


def test_a_body_to_the_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "MAX_BODY_BYTES", 10)
    assert outcome([b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 10, b"y"]) == "protocol"
    assert outcome([CHUNKED + b"1\r\na\r\n" * 3]) == "protocol"
