"""Benchmarks of runs that never were: what a machine that drifts and varies would have measured, seeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import built_results as built
import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from harness import effects
from harness.benchmark_plan import SIDES, order
from harness.model import PROFILES, EndpointStats, Estimate, Latency, NoiseFloor, Profile, RunResult
from harness.threshold import METRICS

Floats = NDArray[np.float64]

# Requests of each of the 20 endpoints in 30 s at 50 users, as `sustained` made them on day31, a tenth of its 300 s.
COUNTS = (206, 200, 154, 120, 112, 109, 108, 100, 74, 59, 38, 34, 28, 24, 23, 23, 19, 19, 17, 16)
ENDPOINTS = tuple(f"api GET /{count}-{number}" for number, count in enumerate(COUNTS))
# of the logarithm of latency within a run, as `sustained` showed on day31 (0.31 to 0.40)
LOG_SD = 0.35
RHO = 0.9
DRIFT = 0.08
FAILURE_RATIO = 0.002
CHUNK = 25
EMPTY = {profile: built.without_data(profile) for profile in PROFILES}


@dataclass(frozen=True)
class Simulated:
    """Figures of shape (benchmark, run, endpoint), the last of them all together; nan = too few requests. Runs are in
    the order of `benchmark_plan.order`."""

    p50_ms: Floats
    p95_ms: Floats
    requests: NDArray[np.int64]
    failures: NDArray[np.int64]
    profiles: tuple[Profile, ...]
    seconds: float

    def first(self, benchmarks: int) -> Simulated:
        """Only that many of them."""
        return replace(
            self,
            p50_ms=self.p50_ms[:benchmarks],
            p95_ms=self.p95_ms[:benchmarks],
            requests=self.requests[:benchmarks],
            failures=self.failures[:benchmarks],
        )

    def slowed(self, endpoint: int, factor: float) -> Simulated:
        """The same, had day40 taken `factor` times as long for one endpoint: percentiles scale with latencies."""
        factors = np.ones((len(self.profiles), self.p50_ms.shape[2]))
        factors[[profile == "day40" for profile in self.profiles], endpoint] = factor
        return replace(self, p50_ms=self.p50_ms * factors, p95_ms=self.p95_ms * factors)


def simulate(benchmarks: int, pairs: int, run_sd: float, seed: int, seconds: float = 30.0) -> Simulated:
    """`benchmarks` A/A benchmarks of `pairs` ABBA pairs: no run differs from another but by chance.

    Log latency = the endpoint's + a state that all requests of a run share in the order they are sent, AR(1) with RHO
    + a deviation of the run, half its variance (run_sd²) common to all its endpoints + a drift of DRIFT from the first
    run to the last. How often an endpoint is called varies from run to run (Poisson).
    """
    rng = np.random.default_rng(seed)
    profiles = tuple(profile for pair in order(pairs, SIDES["benchmark"]) for profile in pair)
    runs, all_together = len(profiles), len(COUNTS)
    figures = np.full((2, benchmarks, runs, all_together + 1), np.nan)
    counts = np.array(COUNTS) * round(seconds / 30)
    made = np.append(counts, counts.sum())
    medians = np.log(np.linspace(4, 30, all_together))
    for first in range(0, benchmarks, CHUNK):
        chunk = slice(first, min(first + CHUNK, benchmarks))
        width = chunk.stop - chunk.start
        for run in range(runs):
            sent = rng.permutation(np.repeat(np.arange(all_together), counts))
            common = rng.normal(0, run_sd * np.sqrt(0.5), (width, 1))
            own = rng.normal(0, run_sd * np.sqrt(0.5), (width, all_together))
            shift = medians + common + own + DRIFT * run / max(runs - 1, 1)
            latency_ms = np.exp(shift[:, sent] + LOG_SD * _states(rng, width, len(sent)))
            for endpoint in range(all_together + 1):
                chosen = latency_ms if endpoint == all_together else latency_ms[:, sent == endpoint]
                figures[:, chunk, run, endpoint] = np.percentile(chosen, (50, 95), axis=1, method="inverted_cdf")
    p50_ms, p95_ms = (
        np.where(made >= METRICS[name].min_count, found, np.nan)
        for name, found in zip(("p50_ms", "p95_ms"), figures, strict=True)
    )
    spread = rng.normal(0, 0.1 * np.sqrt(counts), (benchmarks, runs, len(counts)))
    requests = np.rint(counts + spread).astype(int)
    requests = np.concatenate([requests, requests.sum(axis=2, keepdims=True)], axis=2)
    return Simulated(p50_ms, p95_ms, requests, rng.binomial(requests, FAILURE_RATIO), profiles, seconds)


def _states(rng: np.random.Generator, runs: int, requests: int) -> Floats:
    """(runs, requests) of a stationary AR(1) process with variance 1."""
    innovations = rng.normal(0, np.sqrt(1 - RHO**2), (runs, requests))
    innovations[:, 0] /= np.sqrt(1 - RHO**2)
    states: Floats = lfilter([1.0], [1.0, -RHO], innovations, axis=1)
    return states


def results(simulated: Simulated, benchmark: int) -> list[RunResult]:
    """The runs of one benchmark, judged, in the order they were made."""
    return [_result(simulated, benchmark, run, EMPTY[profile]) for run, profile in enumerate(simulated.profiles)]


def _result(simulated: Simulated, benchmark: int, run: int, empty: RunResult) -> RunResult:
    rows = [
        _stats(
            name,
            int(simulated.requests[benchmark, run, endpoint]),
            int(simulated.failures[benchmark, run, endpoint]),
            [float(figures[benchmark, run, endpoint]) for figures in (simulated.p50_ms, simulated.p95_ms)],
            simulated.seconds,
        )
        for endpoint, name in enumerate((*ENDPOINTS, None))
    ]
    summary = replace(empty.summary, counted_s=simulated.seconds, pooled=rows[-1], endpoints=tuple(rows[:-1]))
    return replace(empty, summary=summary)


def _stats(
    name: str | None, requests: int, failures: int, percentiles_ms: Sequence[float], seconds: float
) -> EndpointStats:
    p50_ms, p95_ms = (None if np.isnan(value) else Estimate(value, None, None, requests) for value in percentiles_ms)
    return EndpointStats(
        endpoint=name,
        requests=requests,
        failures=failures,
        late=failures,
        failure_ratio=failures / requests if requests else None,
        late_ratio=None,
        throughput_rps=requests / seconds,
        bytes_in=0,
        outcomes={},
        latency=Latency(requests, 0.0, 0.0, 0.0, p50_ms, None, p95_ms, None),
        service=None,
    )


def noise_floors(sessions: Simulated) -> list[NoiseFloor]:
    """What each of these benchmarks, taken as an A/A session, says of the machine."""
    meta = EMPTY["day40"].meta
    return [
        NoiseFloor(
            "", meta.host, meta.versions, meta.herd, "day40", meta.scenario, len(pairs), effects.floor_pct(pairs)
        )
        for pairs in map(_pairs, repeat(sessions), range(len(sessions.p50_ms)))
    ]


def found(simulated: Simulated, floors: Sequence[NoiseFloor | None]) -> list[effects.Effects]:
    """The effects of each benchmark against the floor in its place."""
    return [
        effects.effects(_pairs(simulated, benchmark), floors[benchmark]) for benchmark in range(len(simulated.p50_ms))
    ]


def _pairs(simulated: Simulated, benchmark: int) -> Sequence[effects.Pair]:
    return effects.paired(results(simulated, benchmark)).pairs
