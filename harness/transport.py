"""One user's HTTP/1.x connection on a raw socket of gevent's loop: moves whole messages, sends nothing twice.

Works in a process that gevent has patched and in one that it has not.
"""

from __future__ import annotations

import _socket  # the C base of socket.socket: gevent's own socket costs twice as much for a reply, kept open or not
import contextlib
import errno
import functools
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent import getcurrent
from gevent.hub import get_hub

from harness.errors import InputError
from harness.http1 import Broken, read_reply
from harness.wire import CONNECT_TIMEOUT_S, KEEP_ALIVE_S, TIMEOUT_S, Reply

_RECEIVE_BYTES = 65536
_READ, _WRITE = 1, 2  # libev's names for the events


class _Expired(Exception):
    """Thrown into the greenlet that waits when its time is over."""


class Connection:
    """One user's way to one server, for one greenlet at a time. The counters count since it was made.

    connects: connections that came about. reconnects: those of them that replaced one which was to be kept and whose
    server had not said that it would close it. bytes_out: of requests sent whole. bytes_in: of all that came. Both are
    HTTP's, without what TLS adds.
    """

    def __init__(
        self,
        url: str,
        *,
        keep_alive: bool,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """url: http(s)://host[:port]; the host is resolved here, once; proxies are ignored. timeout_s bounds a whole
        exchange, connect_timeout_s the way to one address of the host. tls: None trusts what this machine trusts.

        InputError: not such a URL, or the host has no address.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise InputError(f"{url}: not an http(s) URL; give one such as http://127.0.0.1:8069")
        secure = parts.scheme == "https"
        try:
            found = socket.getaddrinfo(parts.hostname, port or (443 if secure else 80), type=socket.SOCK_STREAM)
        except OSError as error:
            raise InputError(f"{url}: {error}; correct the host name") from error
        self._addresses = deque((entry[0], entry[4]) for entry in found)
        self._host = parts.hostname
        self._tls = (tls or _machine_tls()) if secure else None
        self._keep_alive = keep_alive
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._timer: Any = None
        self._stream: _Stream | None = None
        self._ending: deque[_Stream] = deque()
        self._used_at_s = 0.0
        self._promised = False  # there was a connection before, and its server did not say that it would close it
        self.connects = self.reconnects = self.bytes_out = self.bytes_in = 0

    def exchange(self, message: bytes) -> Reply:
        """Sends a whole HTTP request once and returns the whole reply. Connecting belongs to it.

        What network and server do wrong is in the reply. Anything thrown into the greenlet meanwhile passes through;
        it ends the connection, so that no later request can meet this one's reply.
        """
        bytes_before = self.bytes_in
        timer = self._timer
        if timer is None:
            # one timer for all exchanges: a gevent.Timeout for each costs 4 µs, starting and stopping this one 0.3
            timer = self._timer = get_hub().loop.timer(self._timeout_s, self._timeout_s)
        # again: start() would go on from where the timer was stopped, and one day end a request that has just begun.
        # update: or the time would count from when the loop last looked at its clock.
        timer.again(getcurrent().throw, _Expired, update=True)
        try:
            self._send(message)
            status, head, body, stays_open, excess = read_reply(self._receive)
        except BaseException as error:
            self._drop()
            failure = _failure(error, self.bytes_in > bytes_before)
            if failure is None:
                raise
            return Reply(failure, 0, b"", b"", self.bytes_in - bytes_before)
        finally:
            timer.stop()
        self._settle(stays_open, excess)
        return Reply(None, status, head, body, self.bytes_in - bytes_before)

    def close(self) -> None:
        """Ends the connection, if there is one. A later exchange makes a new one."""
        self._drop()
        self._promised = False
        while self._ending:
            self._ending.popleft().close()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _send(self, message: bytes) -> None:
        stream = self._stream
        if stream is not None:
            stream.unwatch()
            if time.monotonic() - self._used_at_s > KEEP_ALIVE_S:
                self._drop()
                stream = None
        if stream is None:
            stream = self._stream = self._connect()
            self.connects += 1
            self.reconnects += self._promised
            self._promised = self._keep_alive
        stream.send(message)
        self.bytes_out += len(message)
        if len(self._ending) > 1:
            self._ending.popleft().close()

    def _receive(self) -> bytes:
        data = self._stream.receive()  # type: ignore[union-attr]
        self.bytes_in += len(data)
        return data

    def _settle(self, stays_open: bool, excess: bool) -> None:
        """Decides about the connection after a whole reply."""
        stream = self._stream
        assert stream is not None
        if not stays_open:
            # Who closes first keeps the port for a minute (TIME_WAIT), and 28 000 ports make 470 connections a second
            # to one server. So the server may: it has the whole next exchange for it, and our own part is done while
            # the one after that waits for its reply, where it delays nothing. Against a threaded HTTP/1.0 server in
            # Python, which closes 0.2 ms after its reply, closing at once kept the ports of 25 to 80 % of the
            # connections, this way of none; it costs 4 % more CPU per request.
            self._promised = False
            self._stream = None
            self._ending.append(stream)
        elif self._keep_alive and not excess:
            self._used_at_s = time.monotonic()
            # an idle connection that becomes readable was closed by its server, or holds what answers no request
            stream.watch(self._drop)
        else:
            self._drop()

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _connect(self) -> _Stream:
        """A connection to the first of the host's addresses that takes one; from then on the first to be tried."""
        for _ in range(len(self._addresses)):
            family, address = self._addresses[0]
            try:
                if self._tls is None:
                    return _Stream(family, address, self._connect_timeout_s)
                return _TlsStream(family, address, self._connect_timeout_s, self._tls, self._host)
            except OSError:  # also TLS' own, such as a certificate that is not trusted
                self._addresses.rotate(-1)
        raise Broken("connect")


class _Stream:
    """A connected socket. Waits end with whatever is thrown into the greenlet."""

    __slots__ = ("_hub", "_readable", "_socket")

    def __init__(self, family: int, address: Any, timeout_s: float) -> None:
        """OSError: no connection. _Expired: none within timeout_s."""
        self._hub = get_hub()
        self._socket = _socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._readable = self._hub.loop.io(self._socket.fileno(), _READ)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connect(address, timeout_s)
        except BaseException:
            self.close()
            raise

    def _connect(self, address: Any, timeout_s: float) -> None:
        code = self._socket.connect_ex(address)
        if code == errno.EINPROGRESS:
            try:
                self._socket.getpeername()  # on loopback it stands by now, and the loop need not turn
                return
            except OSError:
                with gevent.Timeout(timeout_s, _Expired):
                    self._wait_writable()
                code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, ""))

    def send(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, data: memoryview) -> None:
        while data:
            self._wait_writable()
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                continue

    def receive(self) -> bytes:
        """The next bytes; none at the end of the stream. It waits first: an answer is never there already."""
        while True:
            self._hub.wait(self._readable)
            try:
                return self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                continue

    def watch(self, callback: Callable[[], None]) -> None:
        """Calls back, from the loop, when there is something to receive, until unwatch."""
        self._readable.start(callback)

    def unwatch(self) -> None:
        self._readable.stop()

    def close(self) -> None:
        self._readable.stop()
        self._readable.close()
        self._socket.close()

    def _wait_writable(self) -> None:
        writable = self._hub.loop.io(self._socket.fileno(), _WRITE)
        try:
            self._hub.wait(writable)
        finally:
            writable.close()


class _TlsStream(_Stream):
    """TLS in memory over the same waits."""

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(self, family: int, address: Any, timeout_s: float, context: ssl.SSLContext, host: str) -> None:
        """OSError: no connection, or the peer is not who it should be. _Expired: none within timeout_s."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        super().__init__(family, address, timeout_s)

    def _connect(self, address: Any, timeout_s: float) -> None:
        with gevent.Timeout(timeout_s, _Expired):
            super()._connect(address, timeout_s)
            self._through(self._tls.do_handshake)

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def receive(self) -> bytes:
        data: bytes = self._through(self._decrypted)
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the farewell is never complete: the peer's half is not waited for
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._socket.send(self._outgoing.read())
        super().close()

    def _flush(self) -> None:
        if records := self._outgoing.read():
            super().send(records)

    def _decrypted(self) -> bytes:
        """All that can be read, so that whatever follows a reply is seen with it, not by the next request."""
        parts = []
        try:
            while part := self._tls.read(_RECEIVE_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                raise
        return b"".join(parts)

    def _through(self, step: Callable[[], Any]) -> Any:
        """The result of a step of TLS, whose records are moved until it is done."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()
            if not (records := super().receive()):
                raise ssl.SSLEOFError("the end came without TLS' farewell")
            self._incoming.write(records)


@functools.cache
def _machine_tls() -> ssl.SSLContext:
    """One for all: reading the machine's certificates takes 20 ms."""
    return ssl.create_default_context()


def _failure(error: BaseException, began: bool) -> str | None:
    """How an error of an exchange is named; None: not the network's. began: a part of the reply had come."""
    match error:
        case Broken():
            return error.failure
        case _Expired() | TimeoutError():
            return "timeout"
        case ssl.SSLEOFError():
            return "short" if began else "reset"
        case ssl.SSLError():
            return "protocol"
        case OSError():
            return "reset"
    return None
