"""Fills the API's result cache with what users read, before the clock: hit ratios are judged "after warm-up".

Without it, a run of five minutes under a time to live of five minutes mostly counts first reads.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from harness.errors import StackError
from harness.model import StackAddresses

_READERS = 4
_TIMEOUT_S = 30.0
_DAYS = 8  # the last day of data and the week before, as the load's users ask
_PAGE = 50


def warm_up(addresses: StackAddresses, secrets: Mapping[str, Any]) -> int:
    """Reads every animal, its milk history, the days and pages that users ask for, once for each who shares no results
    with the others: an account of each role, and each worker. Returns how often.

    secrets: "api_keys" {login: key}. An animal without milkings answers 404, which is no fault. Raises StackError when
    the API does not answer.
    """
    readers = {one.login if one.role == "worker" else one.role: one.login for one in addresses.accounts}
    keys = [secrets["api_keys"][login] for login in readers.values()]
    herd = json.loads(_get(addresses.api_url, keys[0], "/api/v1/animals?limit=500"))["items"]
    reads = [(key, path) for key in keys for path in _paths(herd, dt.date.fromisoformat(addresses.as_of))]
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in pool.map(lambda read: _get(addresses.api_url, *read), reads):
            pass
    return len(reads)


def _paths(herd: list[Mapping[str, Any]], as_of: dt.date) -> Iterator[str]:
    for animal in herd:
        yield f"/api/v1/animals/{animal['tag_number']}"
        yield f"/api/v1/milk-production/{animal['id']}/history"
    for ago in range(_DAYS):
        yield f"/api/v1/milk-production/daily?date={as_of - dt.timedelta(ago)}"
    for offset in range(0, len(herd), _PAGE):
        yield f"/api/v1/animals?limit={_PAGE}&offset={offset}"


def _get(url: str, key: str, path: str) -> bytes:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"X-API-Key": key})
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise StackError(f"api: {url}{path}: {error!r} while warming its cache; see its log") from error
    finally:
        connection.close()
    if reply.status not in (200, 404):
        raise StackError(f"api: {url}{path}: HTTP {reply.status} while warming its cache; see its log")
    return body
