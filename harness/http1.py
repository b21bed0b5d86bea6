"""Where a reply of HTTP/1.x ends and what it holds (RFC 9112). Pure: the bytes come from a function."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

MAX_HEAD_BYTES = 65536  # as http.client and nginx allow for one line; a server that sends more speaks something else
MAX_BODY_BYTES = 64 * 1024 * 1024  # as it is on the wire; larger ones would measure the generator's memory
_MAX_LINE_BYTES = 4096  # of a chunk's size with its extensions
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9][0-9])[ \r]")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;.*)?", re.DOTALL)
_BODILESS = (204, 304)

Receive = Callable[[], bytes]  # waits for the reply's next bytes; none at its end


class Broken(Exception):
    """No usable reply. failure: as in wire.Reply."""

    def __init__(self, failure: str) -> None:
        super().__init__(failure)
        self.failure = failure


class Received(NamedTuple):
    """A whole reply. stays_open: the server promised to wait for another request on this connection. excess: more
    bytes came than the reply has, so whatever comes next belongs to no request.
    """

    status: int
    head: bytes
    body: bytes
    stays_open: bool
    excess: bool


def read_reply(receive: Receive) -> Received:
    """The next reply, interim ones (1xx) skipped. Right for any method but HEAD.

    Broken: "reset" where nothing came, "short" where the end came too early, "protocol" where it is no HTTP/1.x
    or larger than the limits.
    """
    data = receive()
    if not data:
        raise Broken("reset")
    while True:
        while (end := data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)) < 0:
            if not b"HTTP/1.".startswith(data[:7]) or len(data) >= MAX_HEAD_BYTES:
                raise Broken("protocol")
            data += _more(receive)
        status = _status(data)
        if status >= 200:
            break
        data = data[end + 4 :] or _more(receive)
    head = data[: end + 2]
    start = end + 4
    fields = head.lower()
    connection = _field(fields, b"\r\nconnection:")
    if data.startswith(b"HTTP/1.0"):
        stays_open = connection is not None and b"keep-alive" in connection
    else:
        stays_open = connection is None or b"close" not in connection
    if status in _BODILESS:
        return Received(status, head, b"", stays_open, len(data) > start)
    coding = _field(fields, b"\r\ntransfer-encoding:")
    length = _field(fields, b"\r\ncontent-length:")
    if coding is not None:
        if coding != b"chunked":
            raise Broken("protocol")
        body, excess = _chunked(data[start:], receive)
        # both framings at once is how replies are smuggled past proxies (RFC 9112, 6.3): such a connection ends here
        return Received(status, head, body, stays_open, excess or length is not None)
    if length is None:
        return Received(status, head, _until_end(data[start:], receive), False, False)
    stop = start + _length(length)
    if len(data) < stop:
        data = _at_least(data, stop, receive)
    return Received(status, head, data[start:stop], stays_open, len(data) > stop)


def _field(fields: bytes, name: bytes) -> bytes | None:
    """A header's value, from a head in lower case; of a repeated one all values, joined by commas."""
    start = fields.find(name)
    if start < 0:
        return None
    start += len(name)
    end = fields.find(b"\r\n", start)
    value = fields[start:end].strip()
    again = fields.find(name, end)
    return value if again < 0 else value + b"," + (_field(fields[again:], name) or b"")


def _status(data: bytes) -> int:
    line = _STATUS_LINE.match(data)
    if line is None or line[1] == b"101":  # no request of ours asks for another protocol
        raise Broken("protocol")
    return int(line[1])


def _length(value: bytes) -> int:
    if not value.isdigit():  # perhaps one length said twice, which is allowed
        values = {part.strip() for part in value.split(b",")}
        value = values.pop()
        if values or not value.isdigit():
            raise Broken("protocol")
    if len(value) > 15 or int(value) > MAX_BODY_BYTES:
        raise Broken("protocol")
    return int(value)


def _more(receive: Receive) -> bytes:
    data = receive()
    if not data:
        raise Broken("short")
    return data


def _at_least(data: bytes, size: int, receive: Receive) -> bytes:
    parts, missing = [data], size - len(data)
    while missing > 0:
        parts.append(_more(receive))
        missing -= len(parts[-1])
    return b"".join(parts)


def _until_end(data: bytes, receive: Receive) -> bytes:
    parts, size = [data], len(data)
    while data := receive():
        parts.append(data)
        size += len(data)
        if size > MAX_BODY_BYTES:
            raise Broken("protocol")
    return b"".join(parts)


def _chunked(data: bytes, receive: Receive) -> tuple[bytes, bool]:
    """The body without its chunks' framing and trailers, and whether more came than belongs to it."""
    buffer, parts, at = bytearray(data), [], 0

    def line() -> bytes:
        nonlocal at
        while (end := buffer.find(b"\r\n", at, at + _MAX_LINE_BYTES)) < 0:
            if len(buffer) - at >= _MAX_LINE_BYTES:
                raise Broken("protocol")
            buffer.extend(_more(receive))
        start, at = at, end + 2
        return bytes(buffer[start:end])

    while True:
        size_line = _CHUNK_SIZE.fullmatch(line())
        if size_line is None:
            raise Broken("protocol")
        size = int(size_line[1], 16)
        if size == 0:
            break
        end = at + size
        if end > MAX_BODY_BYTES:
            raise Broken("protocol")
        while len(buffer) < end + 2:
            buffer.extend(_more(receive))
        if buffer[end : end + 2] != b"\r\n":
            raise Broken("protocol")
        parts.append(bytes(buffer[at:end]))
        at = end + 2
    trailers_at = at
    while line():
        if at - trailers_at > MAX_HEAD_BYTES:
            raise Broken("protocol")
    return b"".join(parts), len(buffer) > at
