"""Samples to statistics: which samples count, exact percentiles with intervals, ratios, throughput, a timeline.

Pure: sample bytes and names in, `Summary` out. Opens no file, reads no clock, draws from a given seed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.errors import InputError
from harness.model import (
    OUTCOME_OK,
    SAMPLE,
    SAMPLE_FIELDS,
    EndpointStats,
    Estimate,
    Latency,
    Metrics,
    Phases,
    Summary,
    TimeBucket,
)
from harness.threshold import METRICS

SAMPLE_DTYPE = np.dtype(list(SAMPLE_FIELDS))
PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95
RESAMPLES = 1000

# the least width that keeps the timeline at or below this many points, which is what a plot can show
_BUCKETS_S = (1, 5, 15, 60, 300, 3600)
_MOST_BUCKETS = 720
# elements of one bootstrap chunk: what stays in a processor's cache (200,000 ran fastest of 60,000 to 1,000,000)
_CHUNK = 200_000

Samples = NDArray[np.void]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RunSamples:
    """The samples of one run (SAMPLE_DTYPE, any order) with the names that its indices mean and its clock."""

    samples: Samples
    endpoints: tuple[str, ...]
    outcomes: tuple[str, ...]
    phases: Phases


def read_samples(blobs: Iterable[bytes]) -> tuple[Samples, int]:
    """All whole records of the files' bytes, and how many files ended in a torn one, which is dropped."""
    arrays, torn = [np.empty(0, SAMPLE_DTYPE)], 0
    for blob in blobs:
        whole, rest = divmod(len(blob), SAMPLE.size)
        torn += rest > 0
        arrays.append(np.frombuffer(blob, SAMPLE_DTYPE, count=whole))
    return np.concatenate(arrays), torn


def summarise(
    samples: Samples,
    endpoint_names: Sequence[str],
    outcome_names: Sequence[str],
    phases: Phases,
    load: Literal["closed", "stages"],
    late_limit_ms: float,
    seed: int,
) -> Summary:
    """The summary of one run; see `combine`."""
    run = RunSamples(samples, tuple(endpoint_names), tuple(outcome_names), phases)
    return combine([run], load, late_limit_ms, seed)


def combine(runs: Sequence[RunSamples], load: Literal["closed", "stages"], late_limit_ms: float, seed: int) -> Summary:
    """One summary of several runs of the same side; the order of runs and of their samples changes nothing.

    Counted are the samples of the steady state ("closed", by scheduled start) or all ("stages"). Endpoints are those
    with a counted request, by name. Throughput = counted requests, failures included, / counted seconds of all runs.
    The timeline holds every phase; several runs are laid over one another from their origins, their counts summed.
    Raises InputError if samples refer to names that are not there.
    """
    runs = sorted(runs, key=lambda run: (run.phases.origin_at, run.phases.origin_monotonic_us))
    endpoints = sorted({name for run in runs for name in run.endpoints})
    outcomes = sorted({name for run in runs for name in run.outcomes})
    everything = [_Columns.of(run, endpoints, outcomes) for run in runs]
    counted = _Columns.join(
        [columns.where(_counts(columns, run.phases, load)) for columns, run in zip(everything, runs, strict=True)]
    )
    counted_s = math.fsum(_counted_s(columns, run.phases, load) for columns, run in zip(everything, runs, strict=True))
    present = np.unique(counted.endpoint)
    return Summary(
        counted_s=counted_s,
        late_limit_ms=late_limit_ms,
        pooled=_endpoint_stats(None, counted, outcomes, counted_s, late_limit_ms, seed),
        endpoints=tuple(
            _endpoint_stats(
                endpoints[i], counted.where(counted.endpoint == i), outcomes, counted_s, late_limit_ms, seed
            )
            for i in present
        ),
        timeline=_timeline(_Columns.join(everything)),
    )


def metrics(summary: Summary) -> Metrics:
    """The summary as thresholds name it: metric -> endpoint (None = pooled) -> estimate.

    Ratios carry a Wilson interval (Wilson 1927; scipy's binomtest), which takes requests as independent.
    """
    table: dict[str, dict[str | None, Estimate | None]] = {}
    for row in (summary.pooled, *summary.endpoints):
        for name, estimate in _endpoint_metrics(row, summary.counted_s).items():
            table.setdefault(name, {})[row.endpoint] = estimate
    return table


def _endpoint_metrics(row: EndpointStats, counted_s: float) -> Mapping[str, Estimate | None]:
    latency, n = row.latency, row.requests
    return {
        "p50_ms": latency.p50_ms if latency else None,
        "p90_ms": latency.p90_ms if latency else None,
        "p95_ms": latency.p95_ms if latency else None,
        "p99_ms": latency.p99_ms if latency else None,
        "mean_ms": Estimate(latency.mean_ms, None, None, latency.count) if latency else None,
        "max_ms": Estimate(latency.max_ms, None, None, latency.count) if latency else None,
        "failure_ratio": _proportion(row.failures, n),
        "late_ratio": _proportion(row.late, n),
        "throughput_rps": Estimate(row.throughput_rps, None, None, n) if counted_s > 0 else None,
        "requests": Estimate(n, None, None, n) if counted_s > 0 else None,
    }


def _proportion(count: int, n: int) -> Estimate | None:
    if n == 0:
        return None
    interval = stats.binomtest(count, n).proportion_ci(CONFIDENCE, "wilson")
    value = count / n
    return Estimate(value, min(float(interval.low), value), max(float(interval.high), value), n)


# --- samples as columns --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Columns:
    """Samples in order of run, then of scheduled start; endpoint and outcome index names shared by all runs."""

    run: Ints
    scheduled_us: Ints
    ended_us: Ints
    latency_ms: Floats
    service_ms: Floats
    endpoint: Ints
    outcome: Ints
    ok: NDArray[np.bool_]
    bytes_in: Ints

    @classmethod
    def of(cls, run: RunSamples, endpoints: Sequence[str], outcomes: Sequence[str]) -> _Columns:
        rows = run.samples
        # every field breaks ties, so that the order in which files were merged cannot show
        rows = rows[np.lexsort([rows[name] for name in reversed(SAMPLE_DTYPE.names or ())])]
        start, service = rows["start_us"].astype(np.int64), rows["service_us"].astype(np.int64)
        # a request that began before its schedule was not queued
        queued = np.maximum(start - rows["scheduled_us"], 0)
        return cls(
            run=np.zeros(len(rows), np.int64),
            scheduled_us=rows["scheduled_us"].astype(np.int64),
            ended_us=start + service,
            latency_ms=(queued + service) / 1000.0,
            service_ms=service / 1000.0,
            endpoint=_renumber(rows["endpoint"], run.endpoints, endpoints),
            outcome=_renumber(rows["outcome"], run.outcomes, outcomes),
            ok=rows["outcome"] == OUTCOME_OK,
            bytes_in=rows["bytes_in"].astype(np.int64),
        )

    @classmethod
    def join(cls, parts: Sequence[_Columns]) -> _Columns:
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__
        }
        return cls(**columns | {"run": np.repeat(np.arange(len(parts)), [len(part.run) for part in parts])})

    def where(self, mask: NDArray[np.bool_]) -> _Columns:
        return _Columns(**{name: getattr(self, name)[mask] for name in self.__slots__})


def _renumber(indices: NDArray[np.uint16], names: Sequence[str], shared: Sequence[str]) -> Ints:
    """`indices` into `names` as indices into `shared`."""
    if len(indices) and int(indices.max()) >= len(names):
        raise InputError(
            f"samples: index {indices.max()} has no name among {len(names)}; restore the run's file of names"
        )
    place = {name: i for i, name in enumerate(shared)}
    return np.array([place[name] for name in names], np.int64)[indices]


def _counts(columns: _Columns, phases: Phases, load: str) -> NDArray[np.bool_]:
    if load == "stages":
        return np.ones(len(columns.run), np.bool_)
    if phases.steady_start_us is None or phases.steady_end_us is None:
        return np.zeros(len(columns.run), np.bool_)
    return (columns.scheduled_us >= phases.steady_start_us) & (columns.scheduled_us < phases.steady_end_us)


def _counted_s(columns: _Columns, phases: Phases, load: str) -> float:
    if phases.steady_start_us is not None and phases.steady_end_us is not None:
        return (phases.steady_end_us - phases.steady_start_us) / 1e6
    if load == "stages" and len(columns.run):
        return int(columns.ended_us.max() - columns.scheduled_us.min()) / 1e6
    return 0.0


# --- statistics of one endpoint ------------------------------------------------------------------------------------


def _endpoint_stats(
    endpoint: str | None,
    rows: _Columns,
    outcomes: Sequence[str],
    counted_s: float,
    late_limit_ms: float,
    seed: int,
) -> EndpointStats:
    requests, good = len(rows.run), rows.where(rows.ok)
    failures = requests - len(good.run)
    late = failures + int(np.count_nonzero(good.latency_ms > late_limit_ms))
    latency, service = _latencies(good, [seed, zlib.crc32((endpoint or "").encode())])
    counts = np.bincount(rows.outcome, minlength=len(outcomes))
    return EndpointStats(
        endpoint=endpoint,
        requests=requests,
        failures=failures,
        late=late,
        failure_ratio=failures / requests if requests else None,
        late_ratio=late / requests if requests else None,
        throughput_rps=requests / counted_s if counted_s > 0 else 0.0,
        bytes_in=int(rows.bytes_in.sum()),
        outcomes={name: int(n) for name, n in zip(outcomes, counts, strict=True) if n},
        latency=latency,
        service=service,
    )


def _latencies(good: _Columns, seed: Sequence[int]) -> tuple[Latency | None, Latency | None]:
    """Latency and service time of the same successes; both share the bootstrap's draws."""
    if not len(good.run):
        return None, None
    lengths = np.unique(good.run, return_counts=True)[1]
    series = [good.latency_ms, good.service_ms]
    intervals = bootstrap_percentiles(series, lengths, block_length(good.latency_ms, lengths), seed)
    latency, service = (_latency(values, bounds) for values, bounds in zip(series, intervals, strict=True))
    return latency, service


def _latency(values: Floats, bounds: Mapping[int, tuple[float, float]]) -> Latency:
    n = len(values)

    def estimate(percentile: int) -> Estimate | None:
        if n < METRICS[f"p{percentile}_ms"].min_count:
            return None
        value = float(np.percentile(values, percentile, method="inverted_cdf"))
        if n < interval_min_count(percentile):
            return Estimate(value, None, None, n)
        low, high = bounds[percentile]
        return Estimate(value, min(low, value), max(high, value), n)

    return Latency(
        count=n,
        min_ms=float(values.min()),
        mean_ms=float(values.mean()),
        max_ms=float(values.max()),
        p50_ms=estimate(50),
        p90_ms=estimate(90),
        p95_ms=estimate(95),
        p99_ms=estimate(99),
    )


def interval_min_count(percentile: int) -> int:
    """Observations below which even the maximum is no upper 97.5 % bound of the percentile: p^n > 0.025.

    >>> [interval_min_count(p) for p in PERCENTILES]
    [6, 36, 72, 368]
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(percentile / 100))


# --- moving-block bootstrap ----------------------------------------------------------------------------------------


def block_length(values: Floats, run_lengths: Ints) -> int:
    """Observations per block: the automatic rule of Politis & White (2004), corrected by Patton, Politis & White
    (2009), on the ranks of `values`, which heavy tails cannot move.

    `values` are in time order, run after run. Autocovariances never reach across a run. At most a third of the
    shortest run and 3 sqrt(n), the cap of the same authors.
    """
    n = len(values)
    most = max(1, math.ceil(min(3 * math.sqrt(n), int(run_lengths.min()) / 3)))
    ranks = stats.rankdata(values) - (n + 1) / 2
    covariance = _autocovariance(ranks, run_lengths, int(math.sqrt(n)) + max(5, math.ceil(math.log10(n))) + 1)
    if covariance[0] <= 0:
        return 1
    # m = the first lag after which K_n correlations in a row are indistinguishable from 0 (c = 2 there)
    quiet = np.abs(covariance[1:] / covariance[0]) < 2 * math.sqrt(math.log10(max(n, 10)) / n)
    k = max(5, math.ceil(math.sqrt(math.log10(max(n, 10)))))
    runs_of_quiet = np.convolve(quiet, np.ones(k), "valid") == k if len(quiet) >= k else np.zeros(0, np.bool_)
    found = np.flatnonzero(runs_of_quiet)
    m = int(found[0]) if len(found) else len(quiet)
    lags = np.arange(1, min(2 * max(m, 1), len(covariance) - 1) + 1)
    # flat-top window: 1 up to m, then down to 0 at 2m
    window = np.clip(2 - lags / max(m, 1), 0, 1)
    weighted = window * covariance[lags]
    g = 2 * float(np.sum(lags * weighted))
    spectrum = float(covariance[0] + 2 * np.sum(weighted))
    if spectrum <= 0:
        return most
    # b = (2 g^2 / D)^(1/3) n^(1/3) with D = 4/3 spectrum^2 for blocks of fixed length
    return min(most, max(1, math.ceil(math.cbrt(1.5 * g * g / spectrum**2 * n))))


def _autocovariance(values: Floats, run_lengths: Ints, lags: int) -> Floats:
    total = np.zeros(lags + 1)
    for part in np.split(values, np.cumsum(run_lengths)[:-1]):
        # padded to twice its length, so that the end does not wrap round to the start
        transformed = np.fft.rfft(part, 2 * len(part))
        products = np.fft.irfft(np.abs(transformed) ** 2, 2 * len(part))[: min(lags + 1, len(part))]
        total[: len(products)] += products
    return total / len(values)


def bootstrap_percentiles(
    series: Sequence[Floats], run_lengths: Ints, block: int, seed: Sequence[int]
) -> list[dict[int, tuple[float, float]]]:
    """95 % intervals of PERCENTILES for each of `series` (equally long, in time order, run after run).

    Moving-block bootstrap (Künsch 1989): whole blocks of consecutive observations are drawn, so that correlation
    within a block survives; every run is resampled by itself, so that no block crosses a run's end. It mends
    correlation within runs, never the difference between runs.

    A resample is held as how often it contains each observation: in sorted order the running sum of those counts
    gives its order statistics without sorting it.
    """
    n, rng = len(series[0]), np.random.default_rng(seed)
    orders = [np.argsort(values, kind="stable") for values in series]
    draws = [_draws(int(length), block) for length in run_lengths]
    size = sum(count * width for count, width in draws)
    ranks = [-(-size * percentile // 100) for percentile in PERCENTILES]
    found = [np.empty((RESAMPLES, len(PERCENTILES))) for _ in series]
    step = max(1, _CHUNK // n)
    for first in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - first)
        counts = np.concatenate(
            [_coverage(rng, rows, int(length), *draw) for length, draw in zip(run_lengths, draws, strict=True)],
            axis=1,
        )
        for values, order, results in zip(series, orders, found, strict=True):
            running = np.cumsum(counts[:, order], axis=1, dtype=np.int32)
            for row in range(rows):
                results[first + row] = values[order[np.searchsorted(running[row], ranks)]]
    tail = 50 * (1 - CONFIDENCE)
    bounds = [np.percentile(results, [tail, 100 - tail], axis=0, method="inverted_cdf") for results in found]
    return [
        {percentile: (float(low), float(high)) for percentile, low, high in zip(PERCENTILES, *pair, strict=True)}
        for pair in bounds
    ]


def _draws(length: int, block: int) -> tuple[int, int]:
    """How many blocks of which width resample a run of `length` observations."""
    width = min(block, length)
    return math.ceil(length / width), width


def _coverage(rng: np.random.Generator, rows: int, length: int, count: int, width: int) -> NDArray[np.int32]:
    """For each of `rows` resamples of one run, how many of `count` random blocks cover each observation."""
    starts = rng.integers(0, length - width + 1, size=(rows, count))
    flat = starts + np.arange(rows)[:, None] * length
    begun = np.bincount(flat.ravel(), minlength=rows * length).reshape(rows, length).astype(np.int32)
    covered = np.cumsum(begun, axis=1, dtype=np.int32)
    covered[:, width:] -= covered[:, :-width].copy()
    return covered


# --- timeline ------------------------------------------------------------------------------------------------------


def _timeline(rows: _Columns) -> tuple[TimeBucket, ...]:
    """All requests by scheduled start, from the origin or the first request, empty buckets included."""
    if not len(rows.run):
        return ()
    first_us, last_us = min(0, int(rows.scheduled_us.min())), int(rows.scheduled_us.max())
    span_s = (last_us - first_us) / 1e6
    width_s = next((width for width in _BUCKETS_S if span_s / width <= _MOST_BUCKETS), _BUCKETS_S[-1])
    order = np.argsort(rows.scheduled_us, kind="stable")
    bucket = rows.scheduled_us[order] // (width_s * 1_000_000)
    latency, ok = rows.latency_ms[order], rows.ok[order]
    numbers = np.arange(bucket[0] if bucket[0] < 0 else 0, bucket[-1] + 1)
    edges = np.searchsorted(bucket, [*numbers, numbers[-1] + 1])
    return tuple(
        _bucket(float(number * width_s), latency[low:high], ok[low:high])
        for number, low, high in zip(numbers, edges[:-1], edges[1:], strict=True)
    )


def _bucket(start_s: float, latency_ms: Floats, ok: NDArray[np.bool_]) -> TimeBucket:
    good = latency_ms[ok]

    def percentile(q: int) -> float | None:
        enough = len(good) >= METRICS[f"p{q}_ms"].min_count
        return float(np.percentile(good, q, method="inverted_cdf")) if enough else None

    return TimeBucket(start_s, len(ok), int(np.count_nonzero(~ok)), percentile(50), percentile(95))
