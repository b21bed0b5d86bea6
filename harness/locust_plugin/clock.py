"""One clock for a run, CLOCK_MONOTONIC, across its processes and machines."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path


def now_us() -> int:
    """Microseconds of this machine's CLOCK_MONOTONIC."""
    return time.monotonic_ns() // 1000


def boot_id() -> str:
    """The same for all processes that share CLOCK_MONOTONIC, containers included."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def offset_us(exchanges: Iterable[tuple[int, int, int]]) -> tuple[int, int]:
    """(our clock minus the other's, error) in µs, from (sent, read there, received) of several exchanges: the fastest
    one tells best, and cannot be further off than half its round trip (Cristian 1989).

    >>> offset_us([(1000, 400, 1900), (2000, 1500, 2200)])
    (600, 100)
    """
    sent_us, there_us, received_us = min(exchanges, key=lambda one: one[2] - one[0])
    return (sent_us + received_us) // 2 - there_us, (received_us - sent_us + 1) // 2
