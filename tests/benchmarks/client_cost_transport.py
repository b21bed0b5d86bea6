"""The "transport alone" of client_cost.py: dairyperf's connections without Locust, template, check and record.

client_cost_transport.py URL KEEP_ALIVE USERS REQUESTS BODY_FILE
"""

import sys
from pathlib import Path

import gevent

from harness.transport import Connection

url, keep_alive, users, requests, body_file = sys.argv[1:]
body = Path(body_file).read_bytes()
head = (
    f"POST /xmlrpc/2/object HTTP/1.1\r\nHost: {url.removeprefix('http://')}\r\nContent-Type: text/xml\r\n"
    f"Content-Length: {len(body)}\r\n\r\n"
)
message = head.encode() + body


def use() -> None:
    connection = Connection(url, keep_alive=keep_alive == "1")
    for _ in range(int(requests) // int(users)):
        assert connection.exchange(message).status == 200
    connection.close()


gevent.joinall([gevent.spawn(use) for _ in range(int(users))], raise_error=True)
