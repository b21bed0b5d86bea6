"""Samples to statistics: which samples count, exact percentiles with intervals, ratios, throughput, a timeline.

Pure: sample bytes and names in, `Summary` out. Opens no file, reads no clock, draws from a given seed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

from harness import bootstrap_limit
from harness.errors import InputError
from harness.model import (
    OUTCOME_OK,
    SAMPLE,
    SAMPLE_FIELDS,
    ArrivalStats,
    Distribution,
    EndpointStats,
    Estimate,
    Latency,
    LoadModel,
    Metrics,
    Phases,
    Summary,
    TimeBucket,
)
from harness.threshold import METRICS

SAMPLE_DTYPE = np.dtype(list(SAMPLE_FIELDS))
PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95
# of a distribution: edges 12 % apart
BINS_PER_DECADE = 20
# A request that began so much after it was due was held up by the load generator or by a user who still waited for a
# reply: 50 ms is the lag of the generator's own loop beyond which a run is invalid.
LATE_AFTER_MS = 50.0
# The specification's limit for every endpoint; late_ratio counts what is slower.
LATE_LIMIT_MS = 200.0

# the least width that keeps the timeline at or below this many points, which is what a plot can show
_BUCKETS_S = (1, 5, 15, 60, 300, 3600)
_MOST_BUCKETS = 720
# a line with fewer points shows no course, whatever its percentiles are worth
_FEWEST_PERCENTILE_BUCKETS = 12
# elements of one bootstrap chunk: what stays in a processor's cache (200,000 ran fastest of 60,000 to 1,000,000)
_CHUNK = 200_000
# What 1,000 resamples of more observations come to is computed: they would take seconds, and differ from it by less
# than from one another.
MOST_RESAMPLED = 5_000

_THREADS = 2

Samples = NDArray[np.void]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RunSamples:
    """The samples of one run (SAMPLE_DTYPE, any order) with the names that its indices mean and its clock.

    dropped: open load, per endpoint the arrivals of the counted phase that never became a request; None = not known.
    """

    samples: Samples
    endpoints: tuple[str, ...]
    outcomes: tuple[str, ...]
    phases: Phases
    dropped: Mapping[str, int] | None = None


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
    load: LoadModel,
    late_limit_ms: float,
    seed: int,
    dropped: Mapping[str, int] | None = None,
) -> Summary:
    """The summary of one run; see `combine`."""
    run = RunSamples(samples, tuple(endpoint_names), tuple(outcome_names), phases, dropped)
    return combine([run], load, late_limit_ms, seed)


def combine(
    runs: Sequence[RunSamples], load: LoadModel, late_limit_ms: float, seed: int, *, intervals: bool = True
) -> Summary:
    """One summary of several runs of the same side; the order of runs and of their samples changes nothing.

    Counted are the samples of the steady state ("closed", "open": by scheduled start) or all ("stages"). Endpoints are
    those with a counted request, by name. Throughput = counted requests, failures included, / counted seconds of all
    runs. The timeline holds every phase; several runs are laid over one another from their origins, their counts
    summed. arrivals: of an open load all of whose runs know what they dropped. intervals: without them percentiles
    have none and nothing is resampled or sorted by time, which is quick enough to repeat while the load runs.
    Raises InputError if samples refer to names that are not there.
    """
    runs = sorted(runs, key=lambda run: (run.phases.origin_at, run.phases.origin_monotonic_us))
    counted = [replace(run, samples=_counted(run, load)) for run in runs]
    counted_s = math.fsum(_counted_s(run, load) for run in runs)
    pooled, endpoints = _statistics(counted, counted_s, late_limit_ms, seed if intervals else None)
    timeline, percentile_timeline = _timelines([run.samples for run in runs])
    return Summary(
        counted_s=counted_s,
        late_limit_ms=late_limit_ms,
        pooled=pooled,
        endpoints=endpoints,
        timeline=timeline,
        arrivals=_arrivals(counted) if load == "open" else None,
        percentile_timeline=percentile_timeline,
    )


def recent(run: RunSamples, load: LoadModel, end_us: int, window_us: int, late_limit_ms: float) -> Metrics:
    """`metrics`, without percentiles' intervals, of the samples that ended in the `window_us` before `end_us`.

    Only samples that count do: of a load with a warm-up, those that were due after it. Nothing is known (an empty
    table) of a window that begins before run.phases.steady_start_us, which of stages is the start of the load. Both
    times are µs from the run's origin.
    """
    first_us, start_us = run.phases.steady_start_us, end_us - window_us
    if first_us is None or start_us < first_us:
        return {}
    ended_us = run.samples["start_us"] + run.samples["service_us"]
    chosen = (ended_us >= start_us) & (ended_us < end_us)
    if load != "stages":
        chosen &= run.samples["scheduled_us"] >= first_us
    pooled, endpoints = _statistics(
        [replace(run, samples=run.samples[chosen])], window_us / 1e6, late_limit_ms, seed=None
    )
    return metrics(Summary(window_us / 1e6, late_limit_ms, pooled, endpoints, ()))


def metrics(summary: Summary) -> Metrics:
    """The summary as thresholds name it: metric -> endpoint (None = pooled) -> estimate.

    Ratios carry a Wilson interval (Wilson 1927; scipy's binomtest), which takes requests as independent. Those of
    arrivals are pooled only, and None unless the load was open.
    """
    table: dict[str, dict[str | None, Estimate | None]] = {}
    for row in (summary.pooled, *summary.endpoints):
        for name, estimate in _endpoint_metrics(row, summary.counted_s).items():
            table.setdefault(name, {})[row.endpoint] = estimate
    arrivals = summary.arrivals
    table["late_arrival_ratio"] = {None: _proportion(arrivals.late, arrivals.due) if arrivals else None}
    table["dropped_arrival_ratio"] = {None: _proportion(arrivals.dropped, arrivals.due) if arrivals else None}
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


# --- which samples count --------------------------------------------------------------------------------------------


def _counted(run: RunSamples, load: LoadModel) -> Samples:
    rows, phases = run.samples, run.phases
    if load == "stages":
        return rows
    if phases.steady_start_us is None or phases.steady_end_us is None:
        return rows[:0]
    scheduled_us = rows["scheduled_us"]
    return rows[(scheduled_us >= phases.steady_start_us) & (scheduled_us < phases.steady_end_us)]


def _counted_s(run: RunSamples, load: LoadModel) -> float:
    rows, phases = run.samples, run.phases
    if phases.steady_start_us is not None and phases.steady_end_us is not None:
        return (phases.steady_end_us - phases.steady_start_us) / 1e6
    if load == "stages" and len(rows):
        return int((rows["start_us"] + rows["service_us"]).max() - rows["scheduled_us"].min()) / 1e6
    return 0.0


def _arrivals(counted: Sequence[RunSamples]) -> ArrivalStats | None:
    dropped = 0
    for run in counted:
        if run.dropped is None:
            return None
        dropped += sum(run.dropped.values())
    late = sum(
        int(np.count_nonzero(run.samples["start_us"] - run.samples["scheduled_us"] > LATE_AFTER_MS * 1000))
        for run in counted
    )
    return ArrivalStats(sum(len(run.samples) for run in counted) + dropped, late, dropped, LATE_AFTER_MS)


def answered_between(rows: Samples, start_us: int, end_us: int) -> Booleans:
    """Which requests were answered in [start_us, end_us) of the run's clock: those whose statements two snapshots at
    these times saw. Of the requests under way at a snapshot most still wait for a worker, and run theirs after it."""
    answered_us = rows["start_us"] + rows["service_us"]
    found: Booleans = (answered_us >= start_us) & (answered_us < end_us)
    return found


# --- samples as columns --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Columns:
    """What statistics need of samples; run numbers their runs, endpoint and outcome index names shared by all."""

    run: NDArray[np.uint32]
    latency_ms: Floats
    service_ms: Floats
    endpoint: NDArray[np.uint16]
    outcome: NDArray[np.uint16]
    ok: Booleans
    bytes_in: NDArray[np.uint32]

    @classmethod
    def of(cls, number: int, run: RunSamples, endpoints: Sequence[str], outcomes: Sequence[str]) -> _Columns:
        rows = run.samples
        return cls(
            run=np.full(len(rows), number, np.uint32),
            latency_ms=_latency_ms(rows),
            service_ms=rows["service_us"] / 1000.0,
            endpoint=_renumber(rows["endpoint"], run.endpoints, endpoints),
            outcome=_renumber(rows["outcome"], run.outcomes, outcomes),
            ok=rows["outcome"] == OUTCOME_OK,
            bytes_in=rows["bytes_in"],
        )

    @classmethod
    def join(cls, parts: Sequence[_Columns]) -> _Columns:
        if len(parts) == 1:
            return parts[0]
        columns: Any = {name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__}
        return cls(**columns)

    def where(self, mask: Booleans) -> _Columns:
        return self if mask.all() else _Columns(**{name: getattr(self, name)[mask] for name in self.__slots__})


def _in_order(rows: Samples) -> Samples:
    """By scheduled start; every field breaks ties, so that the order in which files were merged cannot show."""
    rows = rows[np.argsort(rows["scheduled_us"], kind="stable")]
    again = rows["scheduled_us"][1:] == rows["scheduled_us"][:-1]
    tied = np.flatnonzero(np.append(again, False) | np.append(False, again))
    if len(tied):
        # ties are few, and sorting by seven fields takes ten times as long as by one
        same = rows[tied]
        rows[tied] = same[np.lexsort([same[name] for name in reversed(SAMPLE_DTYPE.names or ())])]
    return rows


def _latency_ms(rows: Samples) -> Floats:
    # a request that began before its schedule was not queued
    latency_us: Ints = np.maximum(rows["start_us"] - rows["scheduled_us"], 0) + rows["service_us"]
    return latency_us / 1000.0


def _renumber(indices: NDArray[np.uint16], names: Sequence[str], shared: Sequence[str]) -> NDArray[np.uint16]:
    """`indices` into `names` as indices into `shared`."""
    if len(indices) and int(indices.max()) >= len(names):
        raise InputError(
            f"samples: index {indices.max()} has no name among {len(names)}; restore the run's file of names"
        )
    place = {name: i for i, name in enumerate(shared)}
    return np.array([place[name] for name in names], np.uint16)[indices]


# --- statistics of one endpoint ------------------------------------------------------------------------------------


def _statistics(
    runs: Sequence[RunSamples], counted_s: float, late_limit_ms: float, seed: int | None
) -> tuple[EndpointStats, tuple[EndpointStats, ...]]:
    """Of all samples pooled, and of each endpoint that has any. seed: of the intervals; None = without."""
    endpoints = sorted({name for run in runs for name in run.endpoints})
    outcomes = sorted({name for run in runs for name in run.outcomes})
    rows = _Columns.join(
        [
            # the bootstrap alone asks what came after what
            _Columns.of(i, run if seed is None else replace(run, samples=_in_order(run.samples)), endpoints, outcomes)
            for i, run in enumerate(runs)
        ]
    )

    def of(index: int | None) -> EndpointStats:
        name, own = (None, rows) if index is None else (endpoints[index], rows.where(rows.endpoint == index))
        return _endpoint_stats(name, own, outcomes, counted_s, late_limit_ms, seed)

    wanted = [None, *np.unique(rows.endpoint).tolist()]
    if len(rows.run) <= MOST_RESAMPLED:
        pooled, *each = map(of, wanted)
    else:  # numpy sorts and adds outside the interpreter's lock: the pooled samples beside those of the endpoints
        with ThreadPoolExecutor(_THREADS) as threads:
            pooled, *each = threads.map(of, wanted)
    return pooled, tuple(each)


def _endpoint_stats(
    endpoint: str | None,
    rows: _Columns,
    outcomes: Sequence[str],
    counted_s: float,
    late_limit_ms: float,
    seed: int | None,
) -> EndpointStats:
    requests, good = len(rows.run), rows.where(rows.ok)
    failures = requests - len(good.run)
    late = failures + int(np.count_nonzero(good.latency_ms > late_limit_ms))
    latency, service = _latencies(good, None if seed is None else [seed, zlib.crc32((endpoint or "").encode())])
    counts = np.bincount(rows.outcome, minlength=len(outcomes))
    return EndpointStats(
        endpoint=endpoint,
        requests=requests,
        failures=failures,
        late=late,
        failure_ratio=failures / requests if requests else None,
        late_ratio=late / requests if requests else None,
        throughput_rps=requests / counted_s if counted_s > 0 else 0.0,
        bytes_in=int(rows.bytes_in.sum(dtype=np.int64)),
        outcomes={name: int(n) for name, n in zip(outcomes, counts, strict=True) if n},
        latency=latency,
        service=service,
        distribution=_distribution(good.latency_ms),
    )


def _distribution(latency_ms: Floats) -> Distribution | None:
    if not len(latency_ms):
        return None
    # what took no measurable time is in the bin of 1 µs, the clock's resolution
    bins = np.floor(BINS_PER_DECADE * np.log10(np.maximum(latency_ms, 1e-3))).astype(np.int64)
    first = int(bins.min())
    return Distribution(BINS_PER_DECADE, first, tuple(np.bincount(bins - first).tolist()))


def _latencies(good: _Columns, seed: Sequence[int] | None) -> tuple[Latency | None, Latency | None]:
    """Latency and service time of the same successes; both share the bootstrap's draws. seed None: no intervals."""
    if not len(good.run):
        return None, None
    if seed is None:
        return _latency(good.latency_ms, None), _latency(good.service_ms, None)
    lengths = np.bincount(good.run)
    lengths = lengths[lengths > 0]
    series = [good.latency_ms, good.service_ms]
    block = block_length(good.latency_ms, lengths)
    if len(good.run) <= MOST_RESAMPLED:
        intervals = bootstrap_percentiles(series, lengths, block, seed)
    else:
        draws = [_draws(int(length), block) for length in lengths]
        intervals = [
            bootstrap_limit.percentile_bounds(values, lengths, draws, PERCENTILES, CONFIDENCE, seed)
            for values in series
        ]
    latency, service = (_latency(values, bounds) for values, bounds in zip(series, intervals, strict=True))
    return latency, service


def _latency(values: Floats, bounds: Mapping[int, tuple[float, float]] | None) -> Latency:
    n = len(values)
    exact = dict(zip(PERCENTILES, np.percentile(values, PERCENTILES, method="inverted_cdf").tolist(), strict=True))

    def estimate(percentile: int) -> Estimate | None:
        if n < METRICS[f"p{percentile}_ms"].min_count:
            return None
        value = exact[percentile]
        if bounds is None or n < interval_min_count(percentile):
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
        size = fft.next_fast_len(2 * len(part), real=True)
        transformed = fft.rfft(part, size)
        products = fft.irfft(transformed.real**2 + transformed.imag**2, size)[: min(lags + 1, len(part))]
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
    found = [np.empty((bootstrap_limit.RESAMPLES, len(PERCENTILES))) for _ in series]
    step = max(1, _CHUNK // n)
    for first in range(0, bootstrap_limit.RESAMPLES, step):
        rows = min(step, bootstrap_limit.RESAMPLES - first)
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


def _timelines(runs: Sequence[Samples]) -> tuple[tuple[TimeBucket, ...], tuple[TimeBucket, ...]]:
    """All requests by scheduled start, from the origin or the first request, empty buckets included: in buckets as
    narrow as a plot can show, and in the narrowest that mostly hold enough successes for a p99."""
    scheduled_us = np.concatenate([rows["scheduled_us"] for rows in runs])
    if not len(scheduled_us):
        return (), ()
    order = np.argsort(scheduled_us, kind="stable")
    scheduled_us = scheduled_us[order]
    latency_ms = np.concatenate([_latency_ms(rows) for rows in runs])[order]
    ok = np.concatenate([rows["outcome"] == OUTCOME_OK for rows in runs])[order]
    span_s = (int(scheduled_us[-1]) - min(0, int(scheduled_us[0]))) / 1e6
    widths = [width for width in _BUCKETS_S if span_s / width <= _MOST_BUCKETS] or [_BUCKETS_S[-1]]
    timeline = _timeline(widths[0], scheduled_us, latency_ms, ok)
    coarse, enough = timeline, METRICS["p99_ms"].min_count
    for width_s in widths[1:]:
        held = sorted(bucket.requests - bucket.failures for bucket in coarse if bucket.requests)
        if held[len(held) // 2] >= enough or span_s / width_s < _FEWEST_PERCENTILE_BUCKETS:
            break
        coarse = _timeline(width_s, scheduled_us, latency_ms, ok)
    return timeline, coarse


def _timeline(width_s: int, scheduled_us: Ints, latency_ms: Floats, ok: Booleans) -> tuple[TimeBucket, ...]:
    """Of requests in the order of their scheduled start."""
    width_us = width_s * 1_000_000
    numbers = range(min(0, int(scheduled_us[0])) // width_us, int(scheduled_us[-1]) // width_us + 1)
    edges = np.searchsorted(scheduled_us, [number * width_us for number in (*numbers, numbers.stop)]).tolist()
    return tuple(
        _bucket(float(number * width_s), latency_ms[low:high], ok[low:high])
        for number, (low, high) in zip(numbers, pairwise(edges), strict=True)
    )


def _bucket(start_s: float, latency_ms: Floats, ok: Booleans) -> TimeBucket:
    good = np.sort(latency_ms[ok])

    def percentile(q: int) -> float | None:
        # as numpy's inverted_cdf, which takes a hundred times as long for so few
        enough = len(good) >= METRICS[f"p{q}_ms"].min_count
        return float(good[-(-len(good) * q // 100) - 1]) if enough else None

    return TimeBucket(start_s, len(ok), len(ok) - len(good), percentile(50), percentile(95), percentile(99))
