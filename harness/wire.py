"""HTTP messages encoded ahead: constant bytes with holes for what changes. Pure: nothing is sent here.

`odoo_calls`, `odoo_web` and `api_calls` make the messages and judge the replies; `transport` moves the bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.errors import InputError

# A request without its whole reply by then is a failure; k6, whose scripts the specification holds, uses 60 s, but
# Odoo itself ends a request far earlier, and the drain at the end of a run has to wait this long.
TIMEOUT_S = 30.0
# Linux repeats an unanswered SYN after 1, 3 and 7 s. All three fit, so that a full backlog shows as the latency that
# it is; a host that drops everything shows soon enough.
CONNECT_TIMEOUT_S = 10.0
# An idle connection that a server drops by itself meets the next request on its way, which is not resent (a POST may
# have been executed). uvicorn's default is to drop after 5 s (ours: 75 s): a reused connection is younger than that.
KEEP_ALIVE_S = 4.0

OK = "ok"

# (what the seed says, the request's slot values, the parsed result) -> what is wrong with the result, or None.
Check = Callable[[Any, Mapping[str, object], Any], str | None]
# A slot's value as the bytes of the message; TypeError or ValueError says why it cannot be.
Encode = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands in a message for a value that every request chooses anew."""

    name: str


class Reply(NamedTuple):
    """What came back. failure: None, or why nothing usable did: timeout, connect, reset, short, protocol.

    head: status line and headers as they came; body: decoded from chunks; wire_bytes: size of it all as it came.
    """

    failure: str | None
    status: int
    head: bytes
    body: bytes
    wire_bytes: int


class Request(NamedTuple):
    """One message, ready to be sent. expect: searched in the body of a successful reply; values: what `fill` was given.

    The message holds a password, a key or a cookie, hence the repr.
    """

    endpoint: str
    message: bytes
    expect: re.Pattern[bytes]
    check: Check | None
    values: Mapping[str, object]

    def __repr__(self) -> str:
        return f"Request({self.endpoint!r}, values={self.values!r})"


class Hole(NamedTuple):
    """Where a slot's value goes, and how it is written there."""

    slot: str
    encode: Encode


Parts = Sequence[bytes | Hole]


class Template:
    """A request encoded once, to be filled again and again."""

    __slots__ = (
        "_body",
        "_fixed_bytes",
        "_head",
        "_holes",
        "_length_at",
        "_pieces",
        "_slots",
        "check",
        "endpoint",
        "expect",
    )

    def __init__(
        self, endpoint: str, head: Parts, body: Parts | None, expect: re.Pattern[bytes], check: Check | None
    ) -> None:
        """head: request line and headers without the last line end; body: None when the request has none."""
        self.endpoint = endpoint
        self.expect = expect
        self.check = check
        head = self._head = _joined(head)
        body = self._body = None if body is None else _joined(body)
        self._length_at = None if body is None else len(head) + 1
        body_at = len(head) + 3
        parts = [*head, b"\r\n\r\n"] if body is None else [*head, b"\r\nContent-Length: ", b"", b"\r\n\r\n", *body]
        self._holes = [(at, *part, at >= body_at) for at, part in enumerate(parts) if isinstance(part, Hole)]
        self._pieces = [b"" if isinstance(part, Hole) else part for part in parts]
        self._fixed_bytes = sum(map(len, self._pieces[body_at:]))
        self._slots = frozenset(slot for _, slot, _, _ in self._holes)

    def __repr__(self) -> str:
        return f"Template({self.endpoint!r}, slots={sorted(self._slots)!r})"

    def bind(self, values: Mapping[str, object]) -> Template:
        """The template with some slots filled for good; requests do not show what these hold, such as a cookie.

        InputError: an unknown slot, or a value that cannot be written.
        """
        if unknown := values.keys() - self._slots:
            raise InputError(f"{self.endpoint}: no slot {min(unknown)!r}; bind some of {sorted(self._slots)}")

        def bound(part: bytes | Hole) -> bytes | Hole:
            if not isinstance(part, Hole) or part.slot not in values:
                return part
            try:
                return part.encode(values[part.slot])
            except (TypeError, ValueError) as error:
                raise InputError(f"{self.endpoint}: slot {part.slot!r}: {error}") from None

        body = None if self._body is None else [bound(part) for part in self._body]
        return Template(self.endpoint, [bound(part) for part in self._head], body, self.expect, self.check)

    def fill(self, values: Mapping[str, object]) -> Request:
        """The request with these values, one for each slot. The mapping is kept, not copied.

        InputError: a slot is missing or unknown, or its value cannot be written.
        """
        if values.keys() != self._slots:
            raise InputError(
                f"{self.endpoint}: values for {sorted(values)}; give one for each of {sorted(self._slots)}"
            )
        pieces = self._pieces.copy()
        body_bytes = self._fixed_bytes
        for at, slot, encode, in_body in self._holes:
            try:
                pieces[at] = piece = encode(values[slot])
            except (TypeError, ValueError) as error:
                raise InputError(f"{self.endpoint}: slot {slot!r}: {error}") from None
            if in_body:
                body_bytes += len(piece)
        if self._length_at is not None:
            pieces[self._length_at] = b"%d" % body_bytes
        return Request(self.endpoint, b"".join(pieces), self.expect, self.check, values)


# --- putting messages together -------------------------------------------------------------------------------------

# What a slot looks like while its surroundings are encoded. Nobody writes these 128 bits by chance, and no encoding
# changes them: letters and digits need no escape in XML, JSON or a URL.
_MARK = secrets.token_hex(16)
_MARKED = f"{_MARK}((?:[0-9a-f]{{2}})*)z".encode()
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")  # RFC 9110 5.5 without the obsolete rest; above all no line end
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # cookie-octet of RFC 6265
_SCALARS = (str, int, float, bool, type(None))
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@contextlib.contextmanager
def encoding(endpoint: str) -> Iterator[None]:
    """Says of which endpoint a message cannot be written: InputError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"{endpoint}: {error}") from None


def http_template(
    endpoint: str,
    request_line: Parts,
    headers: Mapping[str, str | Parts],
    body: Parts | None,
    *,
    keep_alive: bool,
    expect: re.Pattern[bytes],
    check: Check | None,
) -> Template:
    """One HTTP/1.1 request. request_line: method and target; headers: Host first, without the framing ones.

    Replies are asked for uncompressed: unpacking costs the generator more CPU than the bytes cost a local network, and
    faults could not be seen at a glance. ValueError: a header that cannot be sent.
    """
    head: list[bytes | Hole] = [*request_line, b" HTTP/1.1"]
    always = {
        "User-Agent": "dairyperf",
        "Accept-Encoding": "identity",
        "Connection": "keep-alive" if keep_alive else "close",
    }
    for name, value in {**headers, **always}.items():
        head.append(f"\r\n{name}: ".encode())
        if not isinstance(value, str):
            head.extend(value)
        elif _HEADER_VALUE.fullmatch(value):
            head.append(value.encode())
        else:  # the value may be a secret
            raise ValueError(f"header {name} is empty or not printable ASCII; correct what it is made of")
    return Template(endpoint, head, body, expect, check)


def cookie_value(value: object) -> bytes:
    if not isinstance(value, str) or not _COOKIE_VALUE.fullmatch(value):  # never shown: it is a secret
        raise ValueError("not a cookie's value; take it from a Set-Cookie header")
    return value.encode()


def mark(slot: Slot) -> str:
    """Stands for the slot in what is encoded next; `cut` finds it there."""
    return f"{_MARK}{slot.name.encode().hex()}z"


def cut(encoded: bytes, encode: Encode, before: bytes = b"", after: bytes = b"") -> Parts:
    """The encoded bytes with holes for the marks in them. before, after: what the encoding put around a mark."""
    pieces = re.split(re.escape(before) + _MARKED + re.escape(after), encoded)
    return [
        Hole(bytes.fromhex(piece.decode()).decode(), encode) if at % 2 else piece for at, piece in enumerate(pieces)
    ]


def plain(value: object, slot: Callable[[Slot], object] | None = None) -> Any:
    """The value in lists, dicts and scalars alone, which every protocol can carry; slots become what `slot` makes of
    them. TypeError or ValueError: something in it that not every protocol carries."""
    if type(value) in _SCALARS:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is no number that can be sent; give a finite one")
        return value
    if isinstance(value, Mapping):
        if odd := [key for key in value if type(key) is not str]:
            raise TypeError(f"key {odd[0]!r} is no str; make it one")
        return {key: plain(item, slot) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, slot) for item in value]
    if isinstance(value, Slot) and slot is not None:
        return slot(value)
    raise TypeError(
        f"a {type(value).__name__} cannot be sent; give None, bool, int, float, str, lists and dicts of these"
    )


def json_value(value: Any) -> bytes:
    kind = type(value)
    if kind is int:
        return b"%d" % value
    if kind is float and math.isfinite(value):
        return repr(value).encode()
    return _JSON(value if kind is str else plain(value)).encode()


def json_parts(document: object) -> Parts:
    return cut(_JSON(plain(document, mark)).encode(), json_value, b'"', b'"')


def _joined(parts: Parts) -> Parts:
    """The same with neighbouring bytes in one piece."""
    joined: list[bytes | Hole] = []
    for part in parts:
        if joined and isinstance(part, bytes) and isinstance(joined[-1], bytes):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


# --- judging replies -----------------------------------------------------------------------------------------------

_JSON_ENDS = {ord("{"): b"}", ord("["): b"]", ord('"'): b'"'}
_JSON_SCALAR = re.compile(rb"true|false|null|-?\d[\d.eE+-]*")
_EXCEPTION_NAME = re.compile(r"(?:\w+\.)*([A-Za-z_]\w{0,59})")


def is_whole_json(body: bytes) -> bool:
    """Whether it begins and ends like one JSON value; cheap, as what lies between is not read."""
    if not body:
        return False
    end = _JSON_ENDS.get(body[0])
    return body.endswith(end) and len(body) > 1 if end else _JSON_SCALAR.fullmatch(body) is not None


def exception_class(name: object) -> str | None:
    """Last part of a dotted class name; None when it is none. Never free text, which is unbounded and may hold data."""
    found = _EXCEPTION_NAME.fullmatch(name) if isinstance(name, str) else None
    return found.group(1) if found else None
