"""The client against real sockets: what goes wrong is named, nothing is sent twice, nothing is left behind."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent.hub import get_hub
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import transport
from harness.errors import InputError
from harness.transport import Connection
from harness.wire import Reply

CERTIFICATE = Path(__file__).parents[1] / "data/tls/localhost.pem"  # for localhost and 127.0.0.1, until 2120
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LAST_REPLY = REPLY.replace(b"1.1", b"1.0")


def request(body: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


Serve = Callable[["Peer"], None]


class Peer:
    """The server's side of one connection."""

    def __init__(self, connection: socket.socket, bodies: list[bytes]) -> None:
        self.socket = connection
        self.bodies = bodies
        self.ended = threading.Event()  # the client closed its side

    def take(self) -> bool:
        """Reads one request; its body is kept. False: the client ended the connection instead."""
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionResetError:  # it closed without having read all
                chunk = b""
            if not chunk:
                self.ended.set()
                return False
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.rpartition(b" ")[2])
        parts, missing = [body], size - len(body)
        while missing:
            parts.append(self.socket.recv(1 << 20))
            missing -= len(parts[-1])
        self.bodies.append(b"".join(parts))
        return True

    def put(self, data: bytes) -> None:
        self.socket.sendall(data)

    def end(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class Server:
    """A listener that gives each connection in turn to the next of `serves`, the last of them to all further ones."""

    def __init__(self, serves: tuple[Serve, ...], tls: ssl.SSLContext | None) -> None:
        self.bodies: list[bytes] = []  # of all requests that came
        self.peers: list[Peer] = []
        self.problems: list[BaseException] = []
        self._serves, self._tls = serves, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listener.close()
        if self.problems:
            raise self.problems[0]

    def _accept(self) -> None:
        for number in range(1 << 30):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            serve = self._serves[min(number, len(self._serves) - 1)]
            self._threads.append(threading.Thread(target=self._run, args=(connection, serve)))
            self._threads[-1].start()

    def _run(self, connection: socket.socket, serve: Serve) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                peer = Peer(connection, self.bodies)
                self.peers.append(peer)
                try:
                    with connection:
                        serve(peer)
                except OSError:
                    raise
                except BaseException as error:
                    self.problems.append(error)


@contextlib.contextmanager
def serving(*serves: Serve, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """All connections are over, and nothing is left in the loop, when the block ends well."""
    server = Server(serves, tls)
    try:
        yield server
    finally:
        server.close()
    assert get_hub().loop.activecnt == 0


@contextlib.contextmanager
def connected(url: str, *, keep_alive: bool = True, **options: object) -> Iterator[Connection]:
    connection = Connection(url, keep_alive=keep_alive, **options)  # type: ignore[arg-type]
    try:
        yield connection
    finally:
        connection.close()


def replying(*replies: bytes) -> Serve:
    """One reply to each request, then the end."""

    def serve(peer: Peer) -> None:
        for reply in replies:
            if not peer.take():
                return
            peer.put(reply)

    return serve


def always(reply: bytes) -> Serve:
    def serve(peer: Peer) -> None:
        while peer.take():
            peer.put(reply)

    return serve


def silent(peer: Peer) -> None:
    """Reads and never answers."""
    while peer.take():
        pass


def turn_until(met: Callable[[], bool]) -> None:
    """Lets the loop turn, as a user's thinking does."""
    with gevent.Timeout(20):
        while not met():
            gevent.sleep(0.001)


def test_a_reply_with_its_sizes() -> None:
    message = request(b"abc")
    with serving(always(REPLY)) as server, connected(server.url()) as connection:
        for number in (1, 2):
            reply = connection.exchange(message)
            assert reply == Reply(None, 200, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", b"{}", len(REPLY))
            assert connection.bytes_out == number * len(message)
            assert connection.bytes_in == number * len(REPLY)
        assert (connection.connects, connection.reconnects) == (1, 0)
        assert server.bodies == [b"abc"] * 2


def then_reset(peer: Peer) -> None:
    peer.take()
    peer.reset()


def reset_in_the_middle(peer: Peer) -> None:
    peer.take()
    peer.put(REPLY[:-1])
    peer.reset()


@pytest.mark.parametrize(
    ("serve", "failure"),
    [
        (replying(REPLY), None),
        (replying(REPLY[:-1]), "short"),
        (replying(REPLY[:9]), "short"),
        (replying(b"HTTP/1.0 200 OK\r\n\r\n{}"), None),
        (replying(b""), "reset"),
        (then_reset, "reset"),
        (reset_in_the_middle, "reset"),
        (replying(b"nonsense\r\n\r\n"), "protocol"),
        (silent, "timeout"),
    ],
)
def test_whatever_happens_is_named_and_sent_once(serve: Serve, failure: str | None) -> None:
    with serving(serve) as server, connected(server.url(), timeout_s=0.3) as connection:
        reply = connection.exchange(request(b"once"))
        assert reply.failure == failure
        assert (reply.status, reply.body) == ((200, b"{}") if failure is None else (0, b""))
        assert server.bodies == [b"once"]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), max_size=12), st.booleans())
def test_replies_come_whole_however_they_are_sent(sizes: list[int], keep_alive: bool) -> None:
    raw = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1f\r\n" + b"x" * 31 + b"\r\n3;a=b\r\nabc\r\n0\r\nTrailer: t\r\n\r\n"
    )

    def serve(peer: Peer) -> None:
        while peer.take():
            rest = raw
            for size in sizes:
                peer.put(rest[:size])
                rest = rest[size:]
            peer.put(rest)

    with serving(serve) as server, connected(server.url(), keep_alive=keep_alive) as connection:
        for _ in range(2):
            reply = connection.exchange(request())
            assert (reply.failure, reply.body, reply.wire_bytes) == (None, b"x" * 31 + b"abc", len(raw))
        assert connection.connects == (1 if keep_alive else 2)
        assert connection.reconnects == 0


@pytest.mark.parametrize("reply", [LAST_REPLY, REPLY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_a_server_that_says_it_closes_causes_no_reconnect(reply: bytes) -> None:
    with serving(replying(reply)) as server, connected(server.url()) as connection:
        for _ in range(3):
            assert connection.exchange(request()).body == b"{}"
        assert (connection.connects, connection.reconnects) == (3, 0)


def test_a_server_that_says_it_closes_may_close_first() -> None:
    """Else the port would be lost to TIME_WAIT. A server that only says so is left all the same."""
    with serving(always(LAST_REPLY)) as server, connected(server.url()) as connection:
        for _ in range(5):
            assert connection.exchange(request()).failure is None
        for peer in server.peers[:3]:
            assert peer.ended.wait(20)
        assert not any(peer.ended.is_set() for peer in server.peers[3:])
    assert all(peer.ended.is_set() for peer in server.peers)


def test_an_unwanted_connection_is_closed_although_the_server_would_keep_it() -> None:
    with serving(always(REPLY)) as server, connected(server.url(), keep_alive=False) as connection:
        for _ in range(3):
            assert connection.exchange(request()).failure is None
        assert (connection.connects, connection.reconnects) == (3, 0)
        for peer in server.peers:
            assert peer.ended.wait(20)


def test_a_dropped_connection_loses_its_request_once_and_is_replaced() -> None:
    def drop_the_second(peer: Peer) -> None:
        peer.take()
        peer.put(REPLY)
        peer.take()

    with serving(drop_the_second, always(REPLY)) as server, connected(server.url()) as connection:
        failures = [connection.exchange(request(body)).failure for body in (b"1", b"2", b"3")]
        assert failures == [None, "reset", None]
        assert server.bodies == [b"1", b"2", b"3"]
        assert (connection.connects, connection.reconnects) == (2, 1)


@pytest.mark.parametrize("left", [b"", REPLY])
def test_an_idle_connection_that_ends_or_speaks_is_replaced_before_it_is_used(left: bytes) -> None:
    """Its server has closed it, or the next request would meet what answers another."""

    def leave(peer: Peer) -> None:
        peer.take()
        peer.put(REPLY)
        if left:
            peer.put(left)
        else:
            peer.end()
        assert not peer.take()

    with serving(leave, always(REPLY.replace(b"{}", b"[]"))) as server, connected(server.url()) as connection:
        assert connection.exchange(request(b"1")).body == b"{}"
        turn_until(lambda: server.peers[0].ended.is_set())
        assert connection.exchange(request(b"2")).body == b"[]"
        assert server.bodies == [b"1", b"2"]
        assert (connection.connects, connection.reconnects) == (2, 1)


def test_a_connection_is_not_used_again_when_more_than_the_reply_came() -> None:
    with serving(replying(REPLY + b"x"), always(REPLY)) as server, connected(server.url()) as connection:
        assert [connection.exchange(request()).failure for _ in range(3)] == [None] * 3
        assert connection.connects == 2


def test_an_old_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(REPLY)) as server, connected(server.url()) as connection:
        connection.exchange(request())
        monkeypatch.setattr(transport, "KEEP_ALIVE_S", -1.0)
        connection.exchange(request())
        assert (connection.connects, connection.reconnects) == (2, 1)
        assert server.peers[0].ended.wait(20)


def test_the_whole_exchange_is_bounded() -> None:
    """A reply that never ends never pauses either: a bound on each read would wait for ever."""

    def trickle(peer: Peer) -> None:
        peer.take()
        peer.put(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            peer.put(b"x")
            threading.Event().wait(0.02)

    with serving(trickle) as server, connected(server.url(), timeout_s=0.3) as connection:
        reply = connection.exchange(request())
        assert reply.failure == "timeout"
        assert reply.wire_bytes > 0


def test_a_time_out_counts_from_the_request() -> None:
    """The loop's clock stands still while Python computes; a time-out must not begin at its last turn."""
    with serving(always(REPLY)) as server, connected(server.url(), timeout_s=1.0) as connection:
        gevent.sleep(0)
        busy_until = time.monotonic() + 1.1
        while time.monotonic() < busy_until:
            pass
        assert connection.exchange(request()).failure is None


@pytest.mark.parametrize("keep_alive", [True, False])
def test_every_exchange_has_the_whole_time(keep_alive: bool) -> None:
    """What earlier ones took of it does not count."""

    def slow(peer: Peer) -> None:
        while peer.take():
            threading.Event().wait(0.15)
            peer.put(REPLY)

    with serving(slow) as server, connected(server.url(), keep_alive=keep_alive, timeout_s=1.0) as connection:
        assert [connection.exchange(request()).failure for _ in range(8)] == [None] * 8


def test_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with connected(f"http://127.0.0.1:{port}") as connection:
        assert connection.exchange(request()).failure == "connect"
        assert (connection.connects, connection.bytes_out) == (0, 0)
    assert get_hub().loop.activecnt == 0


@pytest.mark.parametrize("times", [{"connect_timeout_s": 0.2}, {"timeout_s": 0.2}])
def test_connecting_is_bounded(times: dict[str, float]) -> None:
    """A full backlog drops what comes, as a dead host does."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        opened.enter_context(socket.create_connection(address))
        with connected(f"http://127.0.0.1:{address[1]}", **times) as connection:
            assert connection.exchange(request()).failure == "timeout"
            assert connection.connects == 0
    assert get_hub().loop.activecnt == 0


def test_the_address_that_takes_connections_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(REPLY)) as server:
        found = [(socket.AF_INET, 1, 6, "", (host, server.port)) for host in ("127.0.0.9", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with connected(f"http://two.test:{server.port}", keep_alive=False) as connection:
            assert [connection.exchange(request()).failure for _ in range(2)] == [None, None]
            assert connection.connects == 2


@pytest.mark.parametrize("url", ["ftp://here", "127.0.0.1:80", "http://", "http://here:port", "http://no.invalid"])
def test_a_bad_url_is_the_users_mistake(url: str) -> None:
    with pytest.raises(InputError, match="^" + url):
        Connection(url, keep_alive=True)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("thrown", [gevent.GreenletExit, gevent.Timeout, ValueError])
def test_what_is_thrown_in_passes_and_no_later_request_meets_the_reply(thrown: type[BaseException]) -> None:
    asked, killed = threading.Event(), threading.Event()

    def late(peer: Peer) -> None:
        peer.take()
        asked.set()
        killed.wait(20)
        peer.put(REPLY)

    with serving(late, always(REPLY.replace(b"{}", b"[]"))) as server, connected(server.url()) as connection:
        before = open_files()
        user = gevent.spawn(connection.exchange, request(b"1"))
        turn_until(asked.is_set)
        assert get_hub().loop.activecnt > 0
        with contextlib.suppress(gevent.Timeout):
            user.kill(thrown())
        assert user.dead
        assert get_hub().loop.activecnt == 0
        assert open_files() == before + 1  # the server's side
        killed.set()
        assert connection.exchange(request(b"2")).body == b"[]"
        assert server.bodies == [b"1", b"2"]


def test_a_request_that_no_buffer_holds_is_sent_whole_and_once() -> None:
    body = os.urandom(1 << 20) * 24
    with serving(always(REPLY)) as server, connected(server.url()) as connection:
        assert connection.exchange(request(body)).failure is None
        assert server.bodies == [body]
        assert connection.bytes_out == len(request(body))


def test_many_files_are_open() -> None:
    """select() refuses files from number 1024 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = opened.enter_context(serving(always(REPLY)))
        files = [os.open("/dev/null", os.O_RDONLY)]
        opened.callback(lambda: [os.close(file) for file in files])
        while files[-1] < 1100:
            files.append(os.dup(files[0]))
        with connected(server.url()) as connection:
            assert [connection.exchange(request()).failure for _ in range(2)] == [None, None]
            assert connection.connects == 1


@functools.cache
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@functools.cache
def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE)


@pytest.mark.parametrize("keep_alive", [True, False])
def test_tls_moves_large_messages_both_ways(keep_alive: bool) -> None:
    body = os.urandom(300_000)
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with (
        serving(always(reply), tls=server_tls()) as server,
        connected(server.url("https", "localhost"), keep_alive=keep_alive, tls=trusting()) as connection,
    ):
        for _ in range(2):
            assert connection.exchange(request(body)).body == body
        assert server.bodies == [body, body]
        assert (connection.connects, connection.reconnects) == (1 if keep_alive else 2, 0)
        assert connection.bytes_in == 2 * len(reply)


@pytest.mark.parametrize(("host", "tls"), [("127.0.0.1", None), ("127.0.0.2", trusting())])
def test_tls_refuses_whom_it_does_not_know(host: str, tls: ssl.SSLContext | None) -> None:
    """A certificate that this machine does not trust; a trusted one of another name."""
    with socket.create_server((host, 0)) as listener:
        port = listener.getsockname()[1]

        def accept() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                server_tls().wrap_socket(connection, server_side=True).recv(1)

        thread = threading.Thread(target=accept)
        thread.start()
        with connected(f"https://{host}:{port}", tls=tls) as connection:
            assert connection.exchange(request()).failure == "connect"
            assert (connection.connects, connection.bytes_out) == (0, 0)
        thread.join(20)


def greet_in_plain_text(peer: Peer) -> None:
    peer.put(b"220 mail.test ESMTP\r\n")
    peer.socket.recv(65536)


def hang_up(peer: Peer) -> None:
    peer.socket.recv(65536)


def read_all(peer: Peer) -> None:
    while peer.socket.recv(65536):
        pass


@pytest.mark.parametrize(
    ("serve", "failure"), [(greet_in_plain_text, "connect"), (hang_up, "connect"), (read_all, "timeout")]
)
def test_tls_that_never_begins(serve: Serve, failure: str) -> None:
    with serving(serve) as server, connected(server.url("https"), connect_timeout_s=0.3, tls=trusting()) as connection:
        assert connection.exchange(request()).failure == failure


def cut_off(reply: bytes) -> Serve:
    def serve(peer: Peer) -> None:
        peer.take()
        peer.put(reply)
        peer.end()  # of TCP, without a word in TLS
        peer.socket.recv(1)

    return serve


def end_properly(peer: Peer) -> None:
    peer.take()
    peer.put(b"HTTP/1.0 200 OK\r\n\r\n{}")
    assert isinstance(peer.socket, ssl.SSLSocket)
    peer.socket.unwrap()


@pytest.mark.parametrize(
    ("serve", "failure"),
    [
        (end_properly, None),
        (cut_off(b""), "reset"),
        (cut_off(REPLY[:-1]), "short"),
        (cut_off(b"HTTP/1.0 200 OK\r\n\r\n{}"), "short"),
        (silent, "timeout"),
    ],
)
def test_tls_that_ends_early(serve: Serve, failure: str | None) -> None:
    with (
        serving(serve, tls=server_tls()) as server,
        connected(server.url("https"), timeout_s=1.0, tls=trusting()) as connection,
    ):
        assert connection.exchange(request(b"once")).failure == failure
        assert server.bodies == [b"once"]


def test_tls_shows_what_follows_a_reply() -> None:
    """It may hide in a record that was received and not yet decrypted."""

    def two_records(peer: Peer) -> None:
        peer.take()
        peer.put(REPLY)
        peer.put(REPLY)
        peer.take()

    with (
        serving(two_records, always(REPLY.replace(b"{}", b"[]")), tls=server_tls()) as server,
        connected(server.url("https"), tls=trusting()) as connection,
    ):
        assert connection.exchange(request()).body == b"{}"
        turn_until(lambda: server.peers[0].ended.is_set())
        assert connection.exchange(request()).body == b"[]"


def test_it_works_in_a_process_that_gevent_has_patched() -> None:
    """As Locust does. The server is another greenlet of the same loop."""
    script = f"""
import gevent.monkey
gevent.monkey.patch_all()
import ssl
import gevent
from gevent.server import StreamServer
from harness.transport import Connection

def serve(connection, address):
    while connection.recv(65536):
        connection.sendall({REPLY!r})
    connection.close()

for tls in (None, ssl.create_default_context(cafile={str(CERTIFICATE)!r})):
    options = {{}} if tls is None else {{"certfile": {str(CERTIFICATE)!r}}}
    server = StreamServer(("127.0.0.1", 0), serve, **options)
    server.start()
    url = f"{{'https' if tls else 'http'}}://localhost:{{server.server_port}}"
    users = [Connection(url, keep_alive=number % 2 == 0, timeout_s=20, tls=tls) for number in range(4)]
    def use(user):
        for _ in range(3):
            assert user.exchange({request()!r}).body == b"{{}}"
        user.close()
        return user.connects
    running = [gevent.spawn(use, user) for user in users]
    assert [greenlet.get() for greenlet in running] == [1, 3, 1, 3]
    server.stop()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
