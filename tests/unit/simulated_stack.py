"""A stack of closed users whose limit is known exactly: what the search for that limit is tried on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter
from scipy.stats import norm

from harness.slo_search import Trial, TrialResult

RESET_S = 3.0


@dataclass(frozen=True, slots=True)
class SimulatedStack:
    """N users who think for think_s before a server of capacity_rps. Mean response R = work_s / (1 - X / capacity_rps),
    with X = N / (think_s + R). Latencies are log-normal with shape `sigma`, each correlated with the one before;
    every run has a capacity of its own, a log-normal step of run_spread away.
    """

    capacity_rps: float
    work_s: float
    think_s: float
    sigma: float
    correlation: float
    run_spread: float
    limit_s: float = 0.2

    def response_s(self, users: int, capacity_rps: float) -> float:
        half = (self.think_s - users / capacity_rps - self.work_s) / 2
        return math.sqrt(half**2 + self.work_s * self.think_s) - half

    def late_ratio(self, users: int) -> float:
        """In a run in which nothing drifts, for ever."""
        median_s = self.response_s(users, self.capacity_rps) * math.exp(-(self.sigma**2) / 2)
        return float(norm.sf(math.log(self.limit_s / median_s) / self.sigma))

    def truth(self, late_ratio: float = 0.05) -> int:
        """The largest number of users that keeps the level."""
        low, high = 0, 4096
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.late_ratio(middle) < late_ratio else (low, middle)
        return low

    def trial(self, trial: Trial, random: np.random.Generator) -> TrialResult:
        capacity_rps = self.capacity_rps * math.exp(self.run_spread * random.standard_normal())
        mean_s = self.response_s(trial.users, capacity_rps)
        requests = max(int(trial.users / (self.think_s + mean_s) * trial.duration_s), 1)
        steps = random.standard_normal(requests) * math.sqrt(1 - self.correlation**2)
        steps[0] /= math.sqrt(1 - self.correlation**2)
        wave = lfilter([1.0], [1.0, -self.correlation], steps)
        latencies_s = mean_s * np.exp(self.sigma * wave - self.sigma**2 / 2)
        late = int((latencies_s > self.limit_s).sum())
        return TrialResult(requests, late, 0, trial.settle_s + trial.duration_s + RESET_S)


def drawn(seed: int) -> SimulatedStack:
    """One of many: capacity, shape of latency, correlation, 1 to 3 % between runs."""
    random = np.random.default_rng(seed)
    return SimulatedStack(
        capacity_rps=float(np.exp(random.uniform(np.log(30), np.log(500)))),
        work_s=random.uniform(0.02, 0.05),
        think_s=1.0,
        sigma=random.uniform(0.2, 0.4),
        correlation=random.uniform(0.5, 0.95),
        run_spread=random.uniform(0.01, 0.03),
    )
