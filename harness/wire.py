"""One request on the wire: what is sent, over which connection, and what its reply amounts to.

Plain standard-library sockets, so that it cooperates under gevent's patching and works without it.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from harness.errors import InputError

# A request that got no answer within this is a failure; k6, whose scripts the specification holds, uses 60 s, but
# Odoo itself ends a request far earlier, and the drain at the end of a run has to wait this long.
TIMEOUT_S = 30.0
# An idle connection that a server drops by itself meets the next request on its way, which is not resent (a POST may
# have been executed). uvicorn's default is to drop after 5 s (ours: 75 s): a reused connection is younger than that.
KEEP_ALIVE_S = 4.0

OK = "ok"
_FAULTS = {2: "UserError", 3: "AccessDenied", 4: "AccessError"}  # Odoo's faultString is the bare message for these
_EXCEPTION_LINE = re.compile(r"(?:\w+\.)*([A-Za-z_]\w{0,59})(?::|$)")


@dataclass(frozen=True, slots=True)
class Request:
    """Everything needed to send once. expect: bytes that a successful reply contains.

    Body and headers hold the password or the API key, hence no repr.
    """

    endpoint: str
    method: str
    path: str
    expect: bytes
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. failure names why nothing usable did (timeout, connect, reset, short, protocol), else None."""

    failure: str | None
    status: int
    body: bytes


def xmlrpc_request(endpoint: str, service: str, method: str, params: Sequence[Any], expect: bytes) -> Request:
    """A call of Odoo's external interface. service is "object" or "common"."""
    body = xmlrpc.client.dumps(tuple(params), method, encoding="utf-8").encode("utf-8", "xmlcharrefreplace")
    headers = {"Content-Type": "text/xml", "Accept-Encoding": "identity"}
    return Request(endpoint, "POST", f"/xmlrpc/2/{service}", expect, body, headers)


def api_request(
    method: str,
    route: str,
    api_key: str,
    expect: bytes,
    *,
    path: Mapping[str, object] | None = None,
    query: Mapping[str, object] | None = None,
    body: object = None,
) -> Request:
    """A call of the FastAPI service. route is the template ("/animals/{tag_number}"), path fills its slots."""
    target = route.format(**{slot: quote(str(value), safe="") for slot, value in (path or {}).items()})
    if query:
        target += "?" + urlencode(query)
    headers = {"X-API-Key": api_key, "Accept": "application/json", "Accept-Encoding": "identity"}
    if body is None:
        return Request(f"api {method} {route}", method, target, expect, None, headers)
    headers["Content-Type"] = "application/json"
    return Request(f"api {method} {route}", method, target, expect, json.dumps(body).encode(), headers)


def odoo_outcome(reply: Reply, expect: bytes) -> str:
    """The name of what happened. Odoo answers faults with HTTP 200, hence the look inside; a reply is parsed only
    when it is a fault, because parsing costs more CPU than the request itself."""
    if reply.failure is not None:
        return reply.failure
    if reply.status != 200:
        return f"http:{reply.status}"
    if b"<fault>" in reply.body[:200]:
        return _fault_name(reply.body)
    if not reply.body[-40:].rstrip().endswith(b"</methodResponse>"):
        return "body"
    return OK if expect in reply.body else "unexpected"


def api_outcome(reply: Reply, expect: bytes) -> str:
    """The name of what happened: any 2xx with a whole JSON object or array that contains what was expected is ok."""
    if reply.failure is not None:
        return reply.failure
    if not 200 <= reply.status < 300:
        return f"http:{reply.status}"
    if (reply.body[:1], reply.body[-1:]) not in ((b"{", b"}"), (b"[", b"]")):
        return "body"
    return OK if expect in reply.body else "unexpected"


def xmlrpc_result(reply: Reply) -> Any:
    """The value of a reply whose outcome is ok."""
    (value,), _method = xmlrpc.client.loads(reply.body, use_builtin_types=True)
    return value


def _fault_name(body: bytes) -> str:
    """`fault:CODE:CLASS`; never free text, which would make the set of outcomes unbounded and could hold data."""
    try:
        xmlrpc.client.loads(body)
    except xmlrpc.client.Fault as fault:
        if not isinstance(fault.faultCode, int):
            return "fault"
        return f"fault:{fault.faultCode}:{_FAULTS.get(fault.faultCode) or _exception_class(str(fault.faultString))}"
    except Exception:  # expat and the unmarshaller raise many kinds on a damaged reply
        return "body"
    return "body"


def _exception_class(traceback: str) -> str:
    """Class at the end of a Python traceback: the first line after its last frame, as messages can have many lines."""
    _, header, frames = traceback.rpartition("Traceback (most recent call last):\n")
    for line in frames.splitlines():
        if header and line.startswith(" "):
            continue
        found = _EXCEPTION_LINE.match(line)
        return found.group(1) if found else "Exception"
    return "Exception"


class Connection:
    """One user's way to one server. Nothing is ever sent twice: the reply to a lost POST is unknown, not absent."""

    def __init__(self, url: str, *, keep_alive: bool, timeout_s: float = TIMEOUT_S) -> None:
        """url: http(s)://host[:port]. The host is resolved here, once. timeout_s bounds connecting and every single
        read; who needs a bound on the whole exchange raises TimeoutError into it, as locust_plugin does.

        InputError: not such a URL, or the host has no address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url}: not an http(s) URL; give one such as http://127.0.0.1:8069")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise InputError(f"{url}: {error}; correct the host name") from error
        self._family, self._address = found[0], found[4]
        self._keep_alive = keep_alive
        self._timeout_s = timeout_s
        self._http: http.client.HTTPConnection | None = None
        self._used_at = 0.0

    def exchange(self, request: Request) -> Reply:
        """Send once and read the whole reply. Connecting counts; what the network does wrong is in the Reply."""
        try:
            reply = self._exchange(request)
        except TimeoutError:
            reply = Reply("timeout", 0, b"")
        except http.client.IncompleteRead as error:
            reply = Reply("short", 0, error.partial)
        except ConnectionError:
            reply = Reply("reset", 0, b"")
        except (http.client.HTTPException, OSError):
            reply = Reply("protocol", 0, b"")
        if reply.failure is not None:
            self.close()
        return reply

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _exchange(self, request: Request) -> Reply:
        if self._http is not None and time.monotonic() - self._used_at > KEEP_ALIVE_S:
            self.close()
        if self._http is None:
            try:
                self._http = self._connect()
            except TimeoutError:
                raise
            except OSError:
                return Reply("connect", 0, b"")
        self._http.request(request.method, request.path, request.body, dict(request.headers))
        response = self._http.getresponse()
        body = response.read()
        self._used_at = time.monotonic()
        if response.will_close or not self._keep_alive:
            self.close()
        return Reply(None, response.status, body)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.auto_open = 0  # a half-dead connection must not heal itself in the middle of a request
        raw = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            raw.settimeout(self._timeout_s)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.connect(self._address)
            connection.sock = self._tls.wrap_socket(raw, server_hostname=self._host) if self._tls else raw
        except BaseException:
            raw.close()
            raise
        return connection
