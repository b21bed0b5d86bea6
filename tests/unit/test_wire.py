"""What replies amount to, and that nothing is sent twice."""

import contextlib
import socket
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator

import pytest

from harness import wire
from harness.errors import InputError
from harness.wire import Connection, Reply, Request

TRACEBACK = """Traceback (most recent call last):
  File "/odoo/models.py", line 1, in call
    return 1 / 0
ValueError: before

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/odoo/sql_db.py", line 2, in execute
    self._obj.execute(query)
psycopg2.errors.UndefinedColumn: column "x" does not exist
LINE 1: SELECT x
        ^
"""


def fault(code: object, text: str) -> bytes:
    return xmlrpc.client.dumps(xmlrpc.client.Fault(code, text), methodresponse=True).encode()


ROWS = xmlrpc.client.dumps(([{"id": 1}],), methodresponse=True).encode()
NO_ROWS = xmlrpc.client.dumps(([],), methodresponse=True).encode()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(None, 200, ROWS), "ok"),
        (Reply(None, 200, NO_ROWS), "unexpected"),
        (Reply(None, 200, ROWS[:-10]), "body"),
        (Reply(None, 200, b""), "body"),
        (Reply(None, 503, ROWS), "http:503"),
        (Reply("timeout", 0, b""), "timeout"),
        (Reply(None, 200, fault(1, TRACEBACK)), "fault:1:UndefinedColumn"),
        (Reply(None, 200, fault(1, "something else happened")), "fault:1:Exception"),
        (Reply(None, 200, fault(1, "cannot marshal None")), "fault:1:Exception"),
        (Reply(None, 200, fault(2, "Cow 17 is not yours")), "fault:2:UserError"),
        (Reply(None, 200, fault(3, "Access Denied")), "fault:3:AccessDenied"),
        (Reply(None, 200, fault(4, "You are not allowed")), "fault:4:AccessError"),
        (Reply(None, 200, fault(99, "Cow 17: no")), "fault:99:Exception"),
        (Reply(None, 200, fault("warning -- Cow 17", "text")), "fault"),
        (Reply(None, 200, fault(1, "x")[:-40]), "body"),
    ],
)
def test_odoo_outcome(reply: Reply, outcome: str) -> None:
    assert wire.odoo_outcome(reply, b"<struct>") == outcome


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(None, 200, b'{"items":[{"id":1}]}'), "ok"),
        (Reply(None, 201, b'{"id":1}'), "ok"),
        (Reply(None, 200, b'{"items":[]}'), "unexpected"),
        (Reply(None, 200, b'{"id":1'), "body"),
        (Reply(None, 200, b"<html>"), "body"),
        (Reply(None, 500, b'{"id":1}'), "http:500"),
        (Reply("reset", 0, b""), "reset"),
    ],
)
def test_api_outcome(reply: Reply, outcome: str) -> None:
    assert wire.api_outcome(reply, b'"id":') == outcome


def test_requests_carry_their_parameters_and_show_no_secret() -> None:
    call = wire.xmlrpc_request("odoo m.read", "object", "execute_kw", ("db", 2, "pässword", "m", "read", [[1]]), b"x")
    assert xmlrpc.client.loads(call.body)[0] == ("db", 2, "pässword", "m", "read", [[1]])
    assert call.path == "/xmlrpc/2/object"
    get = wire.api_request("GET", "/a/{tag}", "key", b"x", path={"tag": "SD 1"}, query={"q": "milk fever"})
    assert (get.endpoint, get.path) == ("api GET /a/{tag}", "/a/SD%201?q=milk+fever")
    assert get.headers["X-API-Key"] == "key"
    assert "word" not in repr(call)
    assert "key" not in repr(get)


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Hands each connection to `answer` after its first request came in; yields the URL and the requests seen."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                while chunk := connection.recv(65536):
                    seen.append(chunk)
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


GET = Request("api GET /x", "GET", "/x", b"")
OK_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (lambda c: c.sendall(OK_REPLY), None),
        (lambda c: c.sendall(OK_REPLY[:-1]) or c.shutdown(socket.SHUT_RDWR), "short"),
        (lambda c: c.sendall(b"HTTP/1.0 200 OK\r\n\r\n{}") or c.shutdown(socket.SHUT_RDWR), None),
        (lambda c: c.shutdown(socket.SHUT_RDWR), "reset"),
        (reset, "reset"),
        (lambda c: c.sendall(b"nonsense\r\n\r\n"), "protocol"),
        (lambda c: None, "timeout"),
    ],
)
def test_whatever_happens_is_named_and_sent_once(answer: Callable[[socket.socket], None], failure: str | None) -> None:
    with server(answer) as (url, seen):
        connection = Connection(url, keep_alive=True, timeout_s=0.3)
        reply = connection.exchange(GET)
        connection.close()
        assert reply.failure == failure
        assert len(seen) == 1


def test_connections_are_kept_or_not_and_replaced_when_old(monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []

    def answer(connection: socket.socket) -> None:
        ports.append(connection.getpeername()[1])
        connection.sendall(OK_REPLY)

    with server(answer) as (url, _seen):
        kept = Connection(url, keep_alive=True)
        assert [kept.exchange(GET).body for _ in range(2)] == [b"{}", b"{}"]
        assert ports[0] == ports[1]
        monkeypatch.setattr(wire, "KEEP_ALIVE_S", 0.0)
        kept.exchange(GET)
        assert ports[2] != ports[1]
        kept.close()
        single = Connection(url, keep_alive=False)
        single.exchange(GET)
        single.exchange(GET)
        assert len(set(ports[3:])) == 2


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert Connection(url, keep_alive=False).exchange(GET).failure == "connect"


@pytest.mark.parametrize("url", ["127.0.0.1:8069", "ftp://x", "http://", "http://no-such-host.invalid"])
def test_a_bad_address_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        Connection(url, keep_alive=False)
