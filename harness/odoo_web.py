"""Odoo as a browser uses it: the login page, the session's cookie, and calls of models over JSON-RPC."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from http.cookies import CookieError, SimpleCookie
from typing import Any, ClassVar
from urllib.parse import urlencode

from harness import wire
from harness.odoo_calls import Call, Expect, positional
from harness.wire import Hole, Reply, Request, Template

# The slot of every template that holds the session's cookie; bound when the session is known.
SESSION = "Cookie: session_id"
_COOKIE: wire.Parts = [b"session_id=", Hole(SESSION, wire.cookie_value)]

_LOGIN_PAGE = re.compile(rb'name="csrf_token"')
# Where the browser is sent after a log-in: anywhere but back to the page, or to its question for a second factor.
_LOGGED_IN = re.compile(rb"(?im)^location:[ \t]*(?!\S*/web/login(?:[/?#\s]|\Z))\S")
_EXPECTED = {
    Expect.ROWS: re.compile(rb"(?s:.)\{"),  # any but the one around the reply
    Expect.NEW_ID: re.compile(rb'"result": ?\[?[1-9]'),
    Expect.TRUE: re.compile(rb'"result": ?true\b'),
}
_FAULTS = {100: "SessionExpired"}  # Odoo tells an expired session by the code; the class depends on how it was found


@dataclass(frozen=True)
class WebRpc:
    """A browser at host (`127.0.0.1:8069`). The server has one database, or it would ask which.

    keep_alive: Odoo itself closes every connection after its reply; a proxy before it may not.
    """

    request_type: ClassVar[str] = "Web"
    host: str
    keep_alive: bool = False

    def login_page(self) -> Request:
        """The page whose reply holds the `csrf_token` and the `session_id` that `login` needs."""
        return self._template("odoo web GET /web/login", b"GET /web/login", {}, None, _LOGIN_PAGE).fill({})

    def login(self, csrf_token: str, login: str, password: str, session_id: str) -> Request:
        """The form of the login page. A good reply has the cookie of a new session in its head.

        InputError: session_id is not a cookie's value.
        """
        form = {"csrf_token": csrf_token, "login": login, "password": password, "type": "password", "redirect": ""}
        template = self._template(
            "odoo web POST /web/login",
            b"POST /web/login",
            {"Content-Type": "application/x-www-form-urlencoded", "Cookie": _COOKIE},
            [urlencode(form).encode()],
            _LOGGED_IN,
        )
        return template.bind({SESSION: session_id}).fill({})

    def encode(self, call: Call) -> Template:
        """To be bound to a session: `encode(call).bind({SESSION: session_id})`. InputError: as for XmlRpc."""
        endpoint = call.endpoint.replace("odoo ", "odoo web ", 1)
        with wire.encoding(endpoint):
            args, kwargs = positional(call)
            params = {"model": call.model, "method": call.method, "args": args, "kwargs": kwargs}
            expect = call.expect
            return self._template(
                endpoint,
                f"POST /web/dataset/call_kw/{call.model}/{call.method}".encode(),
                {"Content-Type": "application/json", "Cookie": _COOKIE},
                wire.json_parts({"jsonrpc": "2.0", "method": "call", "params": params, "id": 1}),
                _EXPECTED[expect] if isinstance(expect, Expect) else expect.pattern(),
                call.check,
            )

    def outcome(self, reply: Reply, expect: re.Pattern[bytes]) -> str:
        """The name of what happened, to a page or a call. Calls are answered with HTTP 200 whatever happens."""
        if reply.failure is not None:
            return reply.failure
        if expect is _LOGGED_IN and reply.status == 303:
            return wire.OK if expect.search(reply.head) else "unexpected"
        if reply.status != 200:
            return f"http:{reply.status}"
        if expect is _LOGGED_IN:  # the page again, with a complaint
            return "unexpected"
        body = reply.body
        if expect is not _LOGIN_PAGE:
            if body.find(b'"error"', 0, 200) >= 0 and (fault := _fault_name(body)):
                return fault
            if not (body.startswith(b"{") and body.endswith(b"}")):
                return "body"
        return wire.OK if expect.search(body) else "unexpected"

    def result(self, reply: Reply) -> Any:
        """The value of a call's reply whose outcome is ok; None has no place in it. ValueError: damaged after all."""
        return json.loads(reply.body).get("result")

    def _template(
        self,
        endpoint: str,
        request_line: bytes,
        headers: Mapping[str, str | wire.Parts],
        body: wire.Parts | None,
        expect: re.Pattern[bytes],
        check: wire.Check | None = None,
    ) -> Template:
        return wire.http_template(
            endpoint,
            [request_line],
            {"Host": self.host, **headers},
            body,
            keep_alive=self.keep_alive,
            expect=expect,
            check=check,
        )


def csrf_token(page: bytes) -> str | None:
    """The token of the form in a login page."""
    form = _Form()
    form.feed(page.decode(errors="replace"))
    return form.csrf_token


def session_id(head: bytes) -> str | None:
    """The session's cookie that a reply's head sets; None when it sets none, or takes it away."""
    found = None
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "set-cookie":
            cookies = SimpleCookie()
            with contextlib.suppress(CookieError):
                cookies.load(value)
            if "session_id" in cookies:
                found = cookies["session_id"].value or None
    return found


class _Form(HTMLParser):
    csrf_token: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "input" and attributes.get("name") == "csrf_token":
            self.csrf_token = attributes.get("value")


def _fault_name(body: bytes) -> str | None:
    """`fault:CODE:CLASS`, never free text; None when the reply is no fault."""
    try:
        error = json.loads(body).get("error")
        if error is None:
            return None
        code, name = error["code"], error["data"]["name"]
    except (ValueError, TypeError, LookupError, AttributeError):
        return "body"
    if type(code) is not int:
        return "fault"
    return f"fault:{code}:{_FAULTS.get(code) or wire.exception_class(name) or 'Exception'}"
