"""Calls of the FastAPI service: what is sent, and what a reply amounts to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus, urlencode

from harness import wire
from harness.wire import Check, Reply, Slot, Template

_PATH_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, eq=False)
class Route:
    """A call by HTTP method and path. `{name}` in the path is a slot; query and body may hold `Slot`s.

    query: by name, scalars only; body: what JSON can hold, None for no body; expect: bytes of every good reply.
    """

    method: str
    path: str
    _: KW_ONLY
    query: Mapping[str, object] = field(default_factory=dict)
    body: object = None
    expect: bytes
    check: Check | None = None

    @property
    def endpoint(self) -> str:
        return f"api {self.method} {self.path}"


@dataclass(frozen=True)
class Api:
    """The service at host (`127.0.0.1:8000`)."""

    request_type: ClassVar[str] = "HTTP"
    host: str
    key: str = field(repr=False)
    keep_alive: bool = True

    def encode(self, call: Route) -> Template:
        """InputError: something in the call cannot be written."""
        with wire.encoding(call.endpoint):
            headers = {"Host": self.host, "X-API-Key": self.key, "Accept": "application/json"}
            if call.body is not None:
                headers["Content-Type"] = "application/json"
            return wire.http_template(
                call.endpoint,
                [f"{call.method} ".encode(), *_target(call.path, call.query)],
                headers,
                None if call.body is None else wire.json_parts(call.body),
                keep_alive=self.keep_alive,
                expect=re.compile(re.escape(call.expect)),
                check=call.check,
            )

    def outcome(self, reply: Reply, expect: re.Pattern[bytes]) -> str:
        """The name of what happened: any 2xx with a whole JSON value in which `expect` is found is ok."""
        if reply.failure is not None:
            return reply.failure
        if not 200 <= reply.status < 300:
            return f"http:{reply.status}"
        if not wire.is_whole_json(reply.body):
            return "body"
        return wire.OK if expect.search(reply.body) else "unexpected"

    def result(self, reply: Reply) -> Any:
        """The value of a reply whose outcome is ok. ValueError: it is damaged after all."""
        return json.loads(reply.body)


def _target(path: str, query: Mapping[str, object]) -> wire.Parts:
    marked = _PATH_SLOT.sub(lambda found: wire.mark(Slot(found.group(1))), path)
    parts = [*wire.cut(quote(marked).encode(), _path_segment)]
    if query:
        # A marked slot is plain letters and digits, which a query's encoding leaves alone.
        pairs = {name: wire.mark(value) if isinstance(value, Slot) else _text(value) for name, value in query.items()}
        parts += [b"?", *wire.cut(urlencode(pairs).encode(), _query_value)]
    return parts


def _text(value: object) -> str:
    """As a person would write it in a URL: true, not True."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) in (int, float):
        return str(wire.plain(value))
    raise TypeError(f"a {type(value).__name__} does not fit into a URL; give a str, int, float or bool")


def _path_segment(value: object) -> bytes:
    text = _text(value)
    if text in ("", ".", ".."):  # another path, and so another endpoint
        raise ValueError(f"{text!r} is no part of a path; give a name or a number")
    return quote(text, safe="").encode()


def _query_value(value: object) -> bytes:
    return quote_plus(_text(value)).encode()
