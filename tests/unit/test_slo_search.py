"""The search for the largest number of users, tried on simulated stacks whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_stack import SimulatedStack, drawn

from harness.slo_search import Goal, SearchPlan, SearchResult, Trial, TrialResult, margin, run, search

PLAN = SearchPlan(start_users=10, min_users=1, max_users=1000, settle_s=10, duration_s=30, reset_s=3, budget_s=43 * 40)
STACK = SimulatedStack(capacity_rps=400, work_s=0.03, think_s=1, sigma=0.3, correlation=0.95, run_spread=0.03)


def searched(stack: SimulatedStack, seed: int, plan: SearchPlan = PLAN) -> SearchResult:
    random = np.random.default_rng(seed)
    return run(plan, lambda trial: stack.trial(trial, random))


def steep(limit: int, failing_from: int | None = None) -> object:
    """A stack without noise: all late from `limit` + 1 users on; generator faults from failing_from on."""

    def measure(trial: Trial) -> TrialResult:
        fault = "CPU above 90 %" if failing_from is not None and trial.users >= failing_from else None
        return TrialResult(1000, 1000 if trial.users > limit else 0, 0, 43, fault)

    return measure


def test_the_bracket_holds_the_truth_of_200_searches() -> None:
    """At least 190 brackets of stacks drawn at random hold the truth; those that were found are at most 10 % wide, or
    two users; every search kept its budget."""
    held, found, trials = 0, 0, []
    for seed in range(200):
        stack = drawn(seed)
        result = searched(stack, seed + 1000)
        assert result.elapsed_s <= PLAN.budget_s
        assert result.passing is not None
        assert result.failing is not None
        held += result.passing <= stack.truth() < result.failing
        if result.stopped_by == "found":
            found += 1
            assert result.failing - result.passing <= max(2, 0.1 * result.passing)
        trials.append(len(result.measured))
    assert held >= 190, held
    assert found >= 190, found
    assert np.mean(trials) <= 16


def test_two_searches_of_one_stack_agree() -> None:
    first, second = searched(STACK, 1), searched(STACK, 2)
    assert first.passing is not None
    assert second.passing is not None
    assert first.failing is not None
    assert second.failing is not None
    assert max(first.passing, second.passing) < min(first.failing, second.failing)


def test_the_budget_is_kept_and_what_is_known_is_said() -> None:
    result = searched(STACK, 3, replace(PLAN, budget_s=8 * 43))
    assert result.stopped_by == "budget"
    assert result.elapsed_s <= 8 * 43
    assert result.passing is not None
    assert result.failing is not None
    assert result.passing <= STACK.truth() < result.failing
    assert result.reason == (
        f"344 s are up; the limit lies at {result.passing} users or above and below {result.failing}; give more time"
    )


def test_a_budget_that_ends_before_any_load_fails_tells_one_side() -> None:
    result = run(replace(PLAN, budget_s=2 * 43), steep(500))  # type: ignore[arg-type]
    assert (result.stopped_by, result.passing, result.failing, result.confidence) == ("budget", 20, None, None)
    assert result.reason == "86 s are up; the limit lies at 20 users or above; give more time"


def test_a_trial_that_took_longer_than_expected_counts_for_those_to_come() -> None:
    slow = replace(PLAN, reset_s=0, budget_s=500)
    result = run(slow, lambda trial: replace(STACK.trial(trial, np.random.default_rng(1)), elapsed_s=90))
    assert len(result.measured) == 5
    assert result.elapsed_s == 450


def test_nothing_found_below_or_above() -> None:
    below = run(replace(PLAN, min_users=5), steep(3))  # type: ignore[arg-type]
    assert (below.stopped_by, below.passing, below.failing) == ("below", None, 5)
    above = run(PLAN, steep(2000))  # type: ignore[arg-type]
    assert (above.stopped_by, above.passing, above.failing) == ("above", 1000, None)
    assert above.highest_passed == 1000


def test_a_load_generator_that_gives_out_first_ends_the_search() -> None:
    result = run(PLAN, steep(500, failing_from=200))  # type: ignore[arg-type]
    assert result.stopped_by == "generator"
    assert result.passing is not None
    assert result.failing is None
    assert 150 <= result.passing < 200
    assert "CPU above 90 %" in result.reason


def test_a_load_generator_that_gives_out_beyond_the_limit_does_not_matter() -> None:
    result = run(PLAN, steep(100, failing_from=300))  # type: ignore[arg-type]
    assert result.stopped_by == "found"
    assert result.passing is not None
    assert result.failing is not None
    assert result.passing <= 100 < result.failing


def test_one_fault_of_the_load_generator_is_tried_again() -> None:
    faults = iter(["loop lag 80 ms"])
    measure = steep(40)
    result = run(PLAN, lambda trial: replace(measure(trial), generator_fault=next(faults, None)))  # type: ignore[operator]
    assert [m.trial.users for m in result.measured][:3] == [10, 10, 20]
    assert result.measured[0].passed is None
    assert result.stopped_by == "found"


@pytest.mark.parametrize("limit", [1, 2, 7, 40, 333])
def test_without_noise_few_trials_find_the_limit(limit: int) -> None:
    result = run(PLAN, steep(limit))  # type: ignore[arg-type]
    assert result.passing is not None
    assert result.failing is not None
    assert result.passing <= limit < result.failing
    assert len(result.measured) <= 30


def test_failures_fail_a_load_that_is_quick_enough() -> None:
    result = run(PLAN, lambda trial: TrialResult(1000, 12, 12 if trial.users > 60 else 0, 43))
    assert result.passing is not None
    assert result.failing is not None
    assert result.passing <= 60 < result.failing


def test_a_trial_is_judged_by_the_worse_of_its_limits() -> None:
    goal = Goal()
    assert margin(TrialResult(1000, 49, 0, 1), goal) < 0 < margin(TrialResult(1000, 51, 0, 1), goal)
    assert margin(TrialResult(1000, 20, 11, 1), goal) > 0
    assert margin(TrialResult(0, 0, 0, 1), goal) > 0


def test_the_generator_of_trials_is_driven_by_hand() -> None:
    trials = search(PLAN)
    assert next(trials) == Trial(users=10, settle_s=10, duration_s=30)
    assert trials.send(TrialResult(300, 0, 0, 43)).users == 20
    assert trials.send(TrialResult(600, 600, 0, 43)).users in range(10, 21)


@pytest.mark.parametrize(
    "plan",
    [replace(PLAN, start_users=0), replace(PLAN, max_users=5), replace(PLAN, budget_s=40), replace(PLAN, confidence=1)],
)
def test_a_plan_that_contradicts_itself_is_refused(plan: SearchPlan) -> None:
    with pytest.raises(ValueError, match=r"start within|give shares|give more time"):
        next(search(plan))
