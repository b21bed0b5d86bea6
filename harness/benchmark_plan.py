"""What a benchmark, or a noise session, is to be made of, and which of its pairs of runs are made. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.model import Profile, RunMeta, Scenario

Kind = Literal["benchmark", "noise"]
Pair = tuple[Profile, Profile]
SIDES: Mapping[Kind, Pair] = {
    "benchmark": ("day31", "day40"),
    # the faster one: the same jitter of a machine is a larger share of its times
    "noise": ("day40", "day40"),
}


# 30 s of each make the specification's 5 minutes a side, and fewer can reject nothing once 20 endpoints are corrected
# for. A noise session has as many, as it is to show what an effect over so many pairs comes to without a cause.
PAIRS = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """plan.json. order: of each pair, the profiles of its two runs as they are made. begun: profile -> what a run of it
    began with when the first one did. stack: which, as --stack takes it."""

    schema_version: int
    kind: Kind
    stack: str
    order: tuple[Pair, ...]
    begun: Mapping[Profile, RunMeta]

    @property
    def scenario(self) -> Scenario:
        return next(iter(self.begun.values())).scenario


@dataclass(frozen=True, slots=True)
class Made:
    """A run that was begun. number: from 1, in the order of the plan; complete: it came to its end, and is valid."""

    number: int
    profile: Profile
    complete: bool


def order(pairs: int, sides: Pair) -> tuple[Pair, ...]:
    """A B, B A, A B, …: a machine that drifts does so against both sides alike."""
    first, second = sides
    return tuple((first, second) if pair % 2 == 0 else (second, first) for pair in range(pairs))


def numbers(pair: int) -> tuple[int, int]:
    """Of the two runs of a pair (from 0), in the order they are made."""
    return 2 * pair + 1, 2 * pair + 2


def sides(pair: int) -> tuple[int, int]:
    """The numbers of a pair's runs, side A first."""
    first, second = numbers(pair)
    return (first, second) if pair % 2 == 0 else (second, first)


def whole_pairs(made: Sequence[Made]) -> tuple[int, ...]:
    """The pairs (from 0) of which both runs are complete. What one is without the other says nothing."""
    complete = {one.number for one in made if one.complete}
    return tuple(sorted({(number - 1) // 2 for number in complete if set(numbers((number - 1) // 2)) <= complete}))


def broken(made: Sequence[Made]) -> tuple[Made, ...]:
    """The runs of all other pairs: a complete one too, for its pair's runs are to be made one after the other."""
    whole = whole_pairs(made)
    return tuple(one for one in made if (one.number - 1) // 2 not in whole)


def to_make(plan: Plan, made: Sequence[Made]) -> tuple[int, ...]:
    """The pairs that the plan still lacks."""
    whole = whole_pairs(made)
    return tuple(pair for pair in range(len(plan.order)) if pair not in whole)
