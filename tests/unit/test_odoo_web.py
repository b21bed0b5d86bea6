"""A browser's requests, what it reads from the login page, and what replies amount to."""

import json
from urllib.parse import parse_qs

import pytest

from harness import odoo_web
from harness.errors import InputError
from harness.odoo_calls import Call, Expect, Text
from harness.odoo_web import SESSION, WebRpc
from harness.wire import Reply, Slot

WEB = WebRpc("127.0.0.1:8069")
COOKIE = "aZ09_-" * 14
ROWS = Call("farm.animal", "search_read", {"limit": Slot("limit")}, case="dashboard", expect=Expect.ROWS)

PAGE = b"""<!DOCTYPE html><html><head><meta name="csrf_token" content="no"/></head><body>
<form class="oe_login_form" action="/web/login" method="post">
<input value="12ab&amp;o9" name='csrf_token' type="hidden"/><input name="login"/></form></body></html>"""


def reply(body: bytes, status: int = 200, head: bytes = b"HTTP/1.0 200 OK\r\n\r\n") -> Reply:
    return Reply(None, status, head, body, len(head) + len(body))


def answer(**content: object) -> Reply:
    return reply(json.dumps({"jsonrpc": "2.0", "id": 1, **content}).encode())


def test_a_call_of_a_session() -> None:
    request = WEB.encode(ROWS).bind({SESSION: COOKIE}).fill({"limit": 5})
    assert request.endpoint == "odoo web farm.animal.search_read [dashboard]"
    head, _, body = request.message.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /web/dataset/call_kw/farm.animal/search_read HTTP/1.1",
        b"Host: 127.0.0.1:8069",
        b"Content-Type: application/json",
        f"Cookie: session_id={COOKIE}".encode(),
        b"User-Agent: dairyperf",
        b"Accept-Encoding: identity",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
    ]
    params = {"model": "farm.animal", "method": "search_read", "args": [], "kwargs": {"limit": 5}}
    assert json.loads(body) == {"jsonrpc": "2.0", "method": "call", "params": params, "id": 1}
    assert COOKIE not in repr(request)
    with pytest.raises(InputError, match=r"^odoo web farm\.animal\.search_read \[dashboard\]: .*Cookie: session_id"):
        WEB.encode(ROWS).fill({"limit": 5})


def test_arguments_go_where_odoo_looks() -> None:
    create = Call("m", "create", {"vals_list": {"a": 1}, "context": {}}, expect=Expect.NEW_ID)
    message = WEB.encode(create).bind({SESSION: COOKIE}).fill({}).message
    params = json.loads(message.partition(b"\r\n\r\n")[2])["params"]
    assert (params["args"], params["kwargs"]) == ([[{"a": 1}]], {"context": {}})


def test_logging_in() -> None:
    page = WEB.login_page()
    assert page.endpoint == "odoo web GET /web/login"
    assert page.message.startswith(b"GET /web/login HTTP/1.1\r\nHost: 127.0.0.1:8069\r\n")
    assert b"Cookie" not in page.message
    form = WEB.login("12ab&o9", "wörker", "pä&ss=word", COOKIE)
    assert form.endpoint == "odoo web POST /web/login"
    head, _, body = form.message.partition(b"\r\n\r\n")
    assert f"\r\nCookie: session_id={COOKIE}\r\n".encode() in head
    assert head.endswith(b"\r\nContent-Length: %d" % len(body))
    assert parse_qs(body.decode("ascii"), keep_blank_values=True) == {
        "csrf_token": ["12ab&o9"],
        "login": ["wörker"],
        "password": ["pä&ss=word"],
        "type": ["password"],
        "redirect": [""],
    }
    assert "word" not in repr(form)
    with pytest.raises(InputError, match=r"^odoo web POST /web/login: "):
        WEB.login("t", "l", "p", "x\r\ny")


@pytest.mark.parametrize(
    ("page", "token"),
    [(PAGE, "12ab&o9"), (b"<html><meta name='csrf_token'></html>", None), (b"", None), (b"\xff<input name=", None)],
)
def test_csrf_token(page: bytes, token: str | None) -> None:
    assert odoo_web.csrf_token(page) == token


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (b"Set-Cookie: session_id=abc_1; Expires=Sat, 01 Jan 2028 00:00:00 GMT; HttpOnly; Path=/", "abc_1"),
        (b"set-cookie: frontend_lang=en_US; Path=/\r\nSET-COOKIE: session_id=abc; Path=/", "abc"),
        (b"Set-Cookie: session_id=old\r\nSet-Cookie: session_id=new", "new"),
        (b"Set-Cookie: session_id=; Max-Age=0", None),
        (b"Set-Cookie: my_session_id=abc", None),
        (b"X-Cookie: session_id=abc", None),
    ],
)
def test_session_id(lines: bytes, found: str | None) -> None:
    assert odoo_web.session_id(b"HTTP/1.0 200 OK\r\nServer: x\r\n" + lines + b"\r\n\r\n") == found


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (reply(PAGE), "ok"),
        (reply(b"<html>"), "unexpected"),
        (reply(b"", 303), "http:303"),
        (reply(PAGE, 500), "http:500"),
    ],
)
def test_login_page_outcome(reply: Reply, outcome: str) -> None:
    assert WEB.outcome(reply, WEB.login_page().expect) == outcome


def sent_to(place: bytes) -> Reply:
    return reply(b"", 303, b"HTTP/1.0 303 SEE OTHER\r\nlocation: " + place + b"\r\nServer: /web/login\r\n\r\n")


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (sent_to(b"/odoo"), "ok"),
        (sent_to(b"http://127.0.0.1:8069/odoo?x=1"), "ok"),
        (sent_to(b"/web/login_successful"), "ok"),
        (sent_to(b"/web/login/totp"), "unexpected"),
        (sent_to(b"/web/login?redirect=x"), "unexpected"),
        (sent_to(b"http://127.0.0.1:8069/web/login"), "unexpected"),
        (reply(b"", 303), "unexpected"),
        (reply(PAGE), "unexpected"),
        (reply(b"", 400), "http:400"),
        (Reply("connect", 0, b"", b"", 0), "connect"),
    ],
)
def test_login_outcome(reply: Reply, outcome: str) -> None:
    assert WEB.outcome(reply, WEB.login("t", "l", "p", "c").expect) == outcome


def error(code: object, name: object) -> Reply:
    return answer(error={"code": code, "message": "Odoo Server Error", "data": {"name": name, "message": "Cow 17"}})


@pytest.mark.parametrize(
    ("expect", "reply", "outcome"),
    [
        (Expect.ROWS, answer(result=[{"id": 1}]), "ok"),
        (Expect.ROWS, answer(result=[]), "unexpected"),
        (Expect.ROWS, answer(), "unexpected"),
        (Expect.ROWS, answer(result=[{"error": "of a sensor"}]), "ok"),
        (Expect.ROWS, answer(result={"error": None}), "ok"),
        (Expect.NEW_ID, answer(result=[17]), "ok"),
        (Expect.NEW_ID, answer(result=17), "ok"),
        (Expect.NEW_ID, answer(result=[]), "unexpected"),
        (Expect.TRUE, answer(result=True), "ok"),
        (Expect.TRUE, answer(result=False), "unexpected"),
        (Text("morning"), answer(result={"shift": "morning"}), "ok"),
        (Text("morning"), answer(result={}), "unexpected"),
        (Expect.ROWS, error(0, "odoo.exceptions.AccessError"), "fault:0:AccessError"),
        (Expect.ROWS, error(200, "builtins.KeyError"), "fault:200:KeyError"),
        (Expect.ROWS, error(100, "odoo.http.SessionExpiredException"), "fault:100:SessionExpired"),
        (Expect.ROWS, error(0, "Cow 17 is not yours"), "fault:0:Exception"),
        (Expect.ROWS, error("Cow 17", "x"), "fault"),
        (Expect.ROWS, answer(error="Cow 17"), "body"),
        (Expect.ROWS, reply(error(0, "x").body[:-3]), "body"),
        (Expect.ROWS, reply(answer(result=[{"id": 1}]).body[:-1]), "body"),
        (Expect.ROWS, reply(b""), "body"),
        (Expect.ROWS, reply(b"<html>", 404), "http:404"),
        (Expect.ROWS, Reply("timeout", 0, b"", b"", 0), "timeout"),
    ],
)
def test_call_outcome(expect: Expect | Text, reply: Reply, outcome: str) -> None:
    template = WEB.encode(Call("m", "n", expect=expect))
    assert WEB.outcome(reply, template.expect) == outcome


def test_result() -> None:
    assert WEB.result(answer(result=[1])) == [1]
    assert WEB.result(answer()) is None
    with pytest.raises(ValueError, match="Expecting"):
        WEB.result(reply(b"{"))
