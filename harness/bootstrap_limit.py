"""What a moving-block bootstrap of many observations comes to, without drawing them: intervals of percentiles. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# Sums of fewer blocks than this are drawn, since they may be far from normal; those of more are computed.
FEW_BLOCKS = 200
RESAMPLES = 1000
# Overlapping blocks say little that is new from one observation to the next: eight starts per width have all but 1 % of
# the information on a variance that every start has.
_STARTS_PER_WIDTH = 8
# and a variance over so many is known to 1 %
_STARTS = 50_000
_STEPS = 3

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ranks = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Run:
    """One run's part of a resample: `count` blocks of `width` out of the observations first to end, in time order."""

    first: int
    end: int
    count: int
    width: int

    def below(self, rank: Ranks, at: int) -> Ranks:
        """How many of its first 0, 1, 2, … observations have rank `at` or less."""
        found = np.zeros(self.end - self.first + 1, np.int32)
        np.cumsum(rank[self.first : self.end] <= at, out=found[1:])
        return found

    def blocks(self, below: Ranks, step: int = 1) -> Ranks:
        """The same of the block that begins at every step-th observation."""
        held: Ranks = below[self.width :: step] - below[: len(below) - self.width : step]
        return held


def percentile_bounds(
    values: Floats,
    run_lengths: Ints,
    draws: Sequence[tuple[int, int]],
    percentiles: Sequence[int],
    confidence: float,
    seed: Sequence[int],
) -> dict[int, tuple[float, float]]:
    """For each of `percentiles` the bounds that resampling tends to with ever more resamples.

    values: in time order, run after run. draws: how many blocks of which width resample each run. A resample's
    percentile is at most v exactly if it holds enough observations up to v (Woodruff 1952 builds intervals of
    quantiles on that), so that resamples need not be made, only counted.
    """
    n, size = len(values), sum(count * width for count, width in draws)
    order = np.argsort(values, kind="stable")
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(n, dtype=np.int32)
    ends = np.cumsum(run_lengths).tolist()
    runs = [_Run(end - int(length), end, *draw) for end, length, draw in zip(ends, run_lengths, draws, strict=True)]
    few = sum(run.count for run in runs) < FEW_BLOCKS
    rng = np.random.default_rng(seed)
    starts = [rng.integers(0, run.end - run.first - run.width + 1, size=(RESAMPLES, run.count)) for run in runs if few]
    tail = (1 - confidence) / 2
    found = {}
    for percentile in percentiles:
        wanted = -(-size * percentile // 100)
        if few:
            low, high = (_drawn(rank, runs, starts, wanted, share) for share in (tail, 1 - tail))
        else:
            middle = -(-n * percentile // 100) - 1
            low, high = (_computed(rank, runs, wanted, share, middle) for share in (tail, 1 - tail))
        found[percentile] = (float(values[order[low]]), float(values[order[high]]))
    return found


def _drawn(rank: Ranks, runs: Sequence[_Run], starts: Sequence[Ints], wanted: int, share: float) -> int:
    """The least rank that enough resamples, `share` of them, hold `wanted` observations up to; by bisection."""
    enough = math.ceil(share * RESAMPLES)
    low, high = 0, len(rank) - 1
    while low < high:
        at = (low + high) // 2
        held = sum(run.blocks(run.below(rank, at))[drawn].sum(axis=1) for run, drawn in zip(runs, starts, strict=True))
        if np.count_nonzero(held >= wanted) >= enough:
            high = at
        else:
            low = at + 1
    return low


def _computed(rank: Ranks, runs: Sequence[_Run], wanted: int, share: float, at: int) -> int:
    """The same without drawing, from the rank `at` of the percentile in a few steps, each as far as the count is off.

    How many observations a resample holds is a sum of blocks drawn independently: mean, variance and skewness of one
    block give the sum's quantiles (Cornish & Fisher 1938).
    """
    n, z = len(rank), NormalDist().inv_cdf(1 - share)
    size = sum(run.count * run.width for run in runs)
    for _ in range(_STEPS):
        mean = variance = third = 0.0
        for run in runs:
            below = run.below(rank, at)
            blocks = len(below) - run.width
            # exact, since it says where the bound is; the other moments only say how far off it may be
            centre = int(below[run.width :].sum(dtype=np.int64) - below[:blocks].sum(dtype=np.int64)) / blocks
            off = run.blocks(below, max(1, run.width // _STARTS_PER_WIDTH, blocks // _STARTS)) - np.float32(centre)
            squares = off * off
            mean += run.count * centre
            variance += run.count * float(squares.mean(dtype=np.float64))
            third += run.count * float((squares * off).mean(dtype=np.float64))
        held_by_share = mean
        if variance > 0:
            held_by_share += math.sqrt(variance) * (z + third / variance**1.5 * (z * z - 1) / 6)
        # half an observation: a count is whole, a normal quantile is not
        at = min(n - 1, max(0, round(at - (held_by_share + 0.5 - wanted) * n / size)))
    return at
