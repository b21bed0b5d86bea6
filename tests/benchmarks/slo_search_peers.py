"""The search for the largest number of users beside MLRsearch's, on the same simulated stacks: half a minute.

    .venv/bin/python -m pip install --no-deps --target /some/where MLRsearch==1.2.1
    PYTHONPATH=/some/where:. .venv/bin/python tests/benchmarks/slo_search_peers.py

Per search: how often the bracket held the truth, its mean and largest width relative to its lower end (rounded outwards
to whole users), trials, and the time that they would have taken.
"""

from __future__ import annotations

import sys
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
from MLRsearch import AbstractMeasurer, Config, MeasurementResult, MultipleLossRatioSearch, SearchGoal

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from simulated_stack import SimulatedStack, drawn

from harness.slo_search import SearchPlan, Trial, run

STACKS = 60
PLAN = SearchPlan(start_users=10, min_users=1, max_users=1000, settle_s=10, duration_s=30, reset_s=3, budget_s=43 * 40)
# name -> first trials' duration, sum of durations at a load that decides about it
MLRSEARCH = {"30 s once": (30, 30), "30 s, 3 of 5": (30, 150), "10 to 30 s, 3 of 5": (10, 150)}


class Measurer(AbstractMeasurer):  # type: ignore[misc]
    def __init__(self, stack: SimulatedStack, random: np.random.Generator) -> None:
        self.stack, self.random, self.trials, self.elapsed_s = stack, random, 0, 0.0

    def measure(self, intended_duration: float, intended_load: float) -> Any:
        users = max(1, round(intended_load))
        result = self.stack.trial(Trial(users, PLAN.settle_s, intended_duration), self.random)
        self.trials, self.elapsed_s = self.trials + 1, self.elapsed_s + result.elapsed_s
        return MeasurementResult(
            intended_duration=intended_duration,
            intended_load=intended_load,
            offered_count=result.requests,
            loss_count=result.late,
            duration_with_overheads=result.elapsed_s,
        )


def ours(stack: SimulatedStack, random: np.random.Generator) -> tuple[int, int, int, float]:
    """The bracket, trials, seconds."""
    result = run(PLAN, lambda trial: stack.trial(trial, random))
    assert result.passing is not None
    assert result.failing is not None
    return result.passing, result.failing, len(result.measured), result.elapsed_s


def theirs(
    stack: SimulatedStack, random: np.random.Generator, first_s: float, sum_s: float
) -> tuple[int, int, int, float]:
    config = Config()
    config.min_load, config.max_load = float(PLAN.min_users), float(PLAN.max_users)
    config.search_duration_max, config.warmup_duration = 1e6, 0.0
    goal = SearchGoal(
        loss_ratio=PLAN.goal.late_ratio,
        exceed_ratio=0.5,
        relative_width=0.09,
        initial_trial_duration=first_s,
        final_trial_duration=PLAN.duration_s,
        duration_sum=sum_s,
        fail_fast=False,
    )
    config.goals = [goal]
    measurer = Measurer(stack, random)
    found = MultipleLossRatioSearch(config=config).search(measurer=measurer, debug=lambda *_: None)
    bounds = next(iter(found.values()))
    low, high = float(bounds.relevant_lower_bound), float(bounds.relevant_upper_bound)
    return floor(low), ceil(high), measurer.trials, measurer.elapsed_s


def main() -> None:
    searches: dict[str, tuple[float, ...]] = {"dairyperf": (), **MLRSEARCH}
    for name, settings in searches.items():
        held, widths, trials, elapsed_s = 0, [], [], []
        for seed in range(STACKS):
            stack, random = drawn(seed), np.random.default_rng(seed + 1000)
            passing, failing, made, took_s = theirs(stack, random, *settings) if settings else ours(stack, random)
            held += passing <= stack.truth() < failing
            widths.append(100 * (failing - passing) / passing)
            trials.append(made)
            elapsed_s.append(took_s)
        print(
            f"{name}: held {held} of {STACKS}, width {np.mean(widths):.1f} % (most {max(widths):.1f}), "
            f"trials {np.mean(trials):.1f} (most {max(trials)}), {np.mean(elapsed_s):.0f} s"
        )


if __name__ == "__main__":
    main()
