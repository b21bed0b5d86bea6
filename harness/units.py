"""Text to numbers and numbers to text, each with its unit. Reads nothing, knows no metric."""

from __future__ import annotations

import math
import re

from harness.errors import InputError

ABSENT = "–"

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str) -> float:
    """Seconds of `1h30m`, `5m`, `90s`, `1m30s` or a plain number of seconds. Raises InputError.

    >>> parse_duration("5m"), parse_duration("90s"), parse_duration("1h30m"), parse_duration("20")
    (300.0, 90.0, 5400.0, 20.0)
    """
    match = _DURATION.fullmatch(text.strip())
    parts = match.groups() if match else ()
    if not any(part is not None for part in parts):
        raise InputError(f'duration: "{text}" is not a duration; write 90s, 5m, 1h30m or a number of seconds')
    hours, minutes, seconds = (float(part or 0) for part in parts)
    return hours * 3600 + minutes * 60 + seconds


def format_duration(seconds: float | None) -> str:
    """
    >>> [format_duration(s) for s in (0.25, 12.5, 59.99, 90, 300, 5400, 3661, None)]
    ['0.25 s', '12.5 s', '1m', '1m 30s', '5m', '1h 30m', '1h 1m 1s', '–']
    """
    if seconds is None:
        return ABSENT
    if round(seconds, 1) < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return " ".join(f"{count}{unit}" for count, unit in parts if count)


def format_ms(ms: float | None) -> str:
    """Three significant digits below a second, seconds above ten.

    >>> [format_ms(ms) for ms in (0.0421, 4.567, 199.94, 1234.5, 12345, None)]
    ['0.042 ms', '4.57 ms', '199.9 ms', '1,234 ms', '12.3 s', '–']
    """
    if ms is None:
        return ABSENT
    if abs(ms) >= 10_000:
        return f"{ms / 1000:,.1f} s"
    if abs(ms) >= 1000:
        return f"{ms:,.0f} ms"
    return f"{ms:.1f} ms" if abs(ms) >= 100 else f"{ms:.2f} ms" if abs(ms) >= 1 else f"{ms:.3f} ms"


def format_bytes(count: float | None) -> str:
    """Binary multiples, as PostgreSQL and Redis count.

    >>> [format_bytes(n) for n in (0, 1023, 8192, 3 * 1024**2, 5.5 * 1024**3, None)]
    ['0 B', '1023 B', '8.0 KiB', '3.0 MiB', '5.5 GiB', '–']
    """
    if count is None:
        return ABSENT
    if abs(count) < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log(abs(count), 1024)), 4)
    return f"{count / 1024**power:,.1f} {'KMGT'[power - 1]}iB"


def format_pct(pct: float | None) -> str:
    """
    >>> [format_pct(p) for p in (0, 0.04, 69.96, 100, None)]
    ['0.0 %', '0.04 %', '70.0 %', '100.0 %', '–']
    """
    if pct is None:
        return ABSENT
    return f"{pct:.2g} %" if 0 < abs(pct) < 0.1 else f"{pct:.1f} %"


def format_ratio(ratio: float | None) -> str:
    """A 0-1 ratio, read as a percentage.

    >>> format_ratio(0.0123)
    '1.2 %'
    """
    return format_pct(None if ratio is None else ratio * 100)


def format_rps(rps: float | None) -> str:
    """
    >>> format_rps(41.234), format_rps(0.05)
    ('41.2/s', '0.050/s')
    """
    if rps is None:
        return ABSENT
    return f"{rps:,.1f}/s" if rps == 0 or abs(rps) >= 1 else f"{rps:.3f}/s"


def format_count(count: float | None) -> str:
    """
    >>> format_count(15234), format_count(2.5), format_count(None)
    ('15,234', '2.50', '–')
    """
    if count is None:
        return ABSENT
    return f"{count:,.0f}" if float(count).is_integer() else f"{count:,.2f}"
