"""The server of client_cost.py: answers every request at once with the same XML-RPC reply, in one thread on epoll.

Prints its port, then serves until it is killed. GET /count answers how many other requests it answered.
"""

from __future__ import annotations

import select
import socket
import sys
import xmlrpc.client


def search_read_reply(size_bytes: int) -> bytes:
    """A whole <methodResponse> of exactly this size (from 310 bytes on), as Odoo writes a list of records."""
    row = {
        "id": 17,
        "tag_number": "SD-0017",
        "status": "active",
        "breed_id": [3, "Holstein"],
        "birth_date": "2021-03-04",
    }
    small = {"id": 17}
    rows: list[dict[str, object]] = [{**small, "name": ""}]
    for extra in (row, small):
        while len(_document([*rows, extra])) <= size_bytes:
            rows.append(extra)
    rows[0]["name"] = "x" * (size_bytes - len(_document(rows)))
    return _document(rows)


def _document(rows: list[dict[str, object]]) -> bytes:
    return xmlrpc.client.dumps((rows,), methodresponse=True).encode()


def reply(body: bytes, keep_alive: bool) -> bytes:
    """With keep_alive as uvicorn would, without as Odoo does."""
    version, ends = ("1.1", "") if keep_alive else ("1.0", "Connection: close\r\n")
    head = (
        f"HTTP/{version} 200 OK\r\nServer: Werkzeug/3.0.6 Python/3.11.2\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\n"
        f"Content-Type: text/xml; charset=utf-8\r\nContent-Length: {len(body)}\r\n{ends}\r\n"
    )
    return head.encode() + body


def request_size(data: bytes) -> int | None:
    """Of the request that begins here, head and body; None while the head is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower() + b"\r\n"
    at = head.find(b"\r\ncontent-length:")
    return end + 4 + (int(head[at + 17 : head.index(b"\r\n", at + 2)]) if at >= 0 else 0)


def serve(size_bytes: int, keep_alive: bool) -> None:
    answer = reply(search_read_reply(size_bytes), keep_alive)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, bytearray]] = {}
    count = 0
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                while True:
                    try:
                        connection, _ = listener.accept()
                    except BlockingIOError:
                        break
                    connection.settimeout(10)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connections[connection.fileno()] = connection, bytearray()
                    poll.register(connection, select.EPOLLIN)
                continue
            connection, buffer = connections[descriptor]
            try:
                data = connection.recv(65536)
                buffer += data
                ends = not data
                while not ends and (size := request_size(buffer)) is not None and len(buffer) >= size:
                    if buffer.startswith(b"GET /count "):
                        connection.sendall(reply(b"%d" % count, False))
                        ends = True
                    else:
                        connection.sendall(answer)
                        count += 1
                        ends = not keep_alive
                    del buffer[:size]
            except OSError:
                ends = True
            if ends:
                del connections[descriptor]
                connection.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2] == "keep-alive")
