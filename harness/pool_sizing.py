"""The smallest pool (of database links, of Odoo workers) in which hardly anybody waits long: Erlang's C. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

# What waiting for a link may take of the service level's limit, at the 95th percentile.
WAIT_SHARE = 0.05
_PERCENTILE = 0.95
# More links than this per core of the server behind them move the queue into it (rule of thumb of pgBouncer's and
# PostgreSQL's users: 2 to 4 per core); said, not enforced.
LINKS_PER_CORE = 4


@dataclass(frozen=True, slots=True)
class PoolSize:
    """One size of a pool under the measured demand. p95_wait_ms, mean_wait_ms: None = the queue grows without end."""

    size: int
    utilisation_pct: float
    waiting_ratio: float | None
    mean_wait_ms: float | None
    p95_wait_ms: float | None


@dataclass(frozen=True, slots=True)
class PoolAdvice:
    """offered: links held on average, rate × hold time. smallest: the first size whose p95 wait is below
    wait_limit_ms. sizes: from the first stable one to two beyond the smallest. current: the size that was measured,
    None = not given. note: what speaks against the size, else empty."""

    arrivals_per_s: float
    hold_ms: float
    offered: float
    wait_limit_ms: float
    smallest: PoolSize
    current: PoolSize | None
    sizes: tuple[PoolSize, ...]
    note: str


def advise(
    arrivals_per_s: float, hold_ms: float, limit_ms: float, current: int | None = None, cores: int | None = None
) -> PoolAdvice:
    """arrivals_per_s: transactions (of Odoo's workers: requests) a second. hold_ms: mean time that one holds its link
    or worker, waiting for it left out. limit_ms: the service level's, of which p95 may wait 5 %. cores: of the server
    that the links lead to.

    M/M/c: arrivals at random, exponential hold times. Burstier arrivals wait longer, evener hold times shorter, so
    compare the prediction with a measured wait. Raises ValueError for demand that is not above 0.
    """
    if not (arrivals_per_s > 0 and hold_ms > 0 and limit_ms > 0):
        raise ValueError("arrivals_per_s, hold_ms, limit_ms: not above 0; measure under load")
    offered = arrivals_per_s * hold_ms / 1000
    wait_limit_ms = WAIT_SHARE * limit_ms
    sizes = []
    size = math.floor(offered) + 1
    while True:
        sizes.append(pool(size, arrivals_per_s, hold_ms))
        if (wait_ms := sizes[-1].p95_wait_ms) is not None and wait_ms < wait_limit_ms:
            break
        size += 1
    smallest = sizes[-1]
    sizes += [pool(smallest.size + more, arrivals_per_s, hold_ms) for more in (1, 2)]
    note = ""
    if cores is not None and smallest.size > LINKS_PER_CORE * cores:
        note = (
            f"{smallest.size} is more than {LINKS_PER_CORE} for each of {cores} cores, which would queue in the server"
            " instead; shorten the hold time or add cores"
        )
    return PoolAdvice(
        arrivals_per_s=arrivals_per_s,
        hold_ms=hold_ms,
        offered=offered,
        wait_limit_ms=wait_limit_ms,
        smallest=smallest,
        current=None if current is None else pool(current, arrivals_per_s, hold_ms),
        sizes=tuple(sizes),
        note=note,
    )


def pool(size: int, arrivals_per_s: float, hold_ms: float) -> PoolSize:
    """How a pool of this size would do. P(W > t) = C · exp(-(c / S - λ) · t); Kleinrock, Queueing Systems I, 3.5."""
    offered = arrivals_per_s * hold_ms / 1000
    if offered >= size:
        return PoolSize(size, 100.0, None, None, None)
    waiting = erlang_c(size, offered)
    drain_per_ms = (size - offered) / hold_ms
    beyond = 1 - _PERCENTILE
    return PoolSize(
        size=size,
        utilisation_pct=100 * offered / size,
        waiting_ratio=waiting,
        mean_wait_ms=waiting / drain_per_ms,
        p95_wait_ms=max(0.0, math.log(waiting / beyond) / drain_per_ms) if waiting > 0 else 0.0,
    )


def erlang_c(size: int, offered: float) -> float:
    """The share that has to wait, of a stable pool (offered < size). By Erlang B's recursion, which neither overflows
    nor cancels."""
    blocked = 1.0
    for links in range(1, size + 1):
        blocked = offered * blocked / (links + offered * blocked)
    return blocked / (1 - offered / size * (1 - blocked))
