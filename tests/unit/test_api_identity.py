"""Visibility scopes: who shares cached results, and how soon a worker's move shows."""

from __future__ import annotations

import asyncio

from fixtures.api.identity import SECTIONS_TTL_S, Account, Scopes, identity

WORKER, OTHER = Account("a", 6, "worker"), Account("b", 7, "worker")


def test_who_may_see_the_same_shares_a_scope_and_nobody_else() -> None:
    reads = []

    async def read():
        reads.append(1)
        return {6: (1, 5), 7: (1, 5), 8: (15,)}

    async def play():
        scopes = Scopes(read, clock=lambda: 0.0)
        accounts = [WORKER, OTHER, Account("c", 8, "worker"), Account("d", 9, "worker")]
        accounts += [Account("e", 6, "manager"), Account("f", 7, "manager"), Account("g", 6, "auditor")]
        return [await scopes.of(one) for one in accounts]

    expected = ["worker:1,5", "worker:1,5", "worker:15", "worker:", "manager", "manager", "auditor"]
    assert asyncio.run(play()) == expected
    assert len(reads) == 1


def test_a_move_to_another_section_shows_in_time() -> None:
    now, sections = 100.0, {6: (1,)}

    async def read():
        return dict(sections)

    async def play():
        nonlocal now
        scopes = Scopes(read, clock=lambda: now)
        seen = [await scopes.of(WORKER)]
        sections[6] = (2,)
        now += SECTIONS_TTL_S - 1
        seen.append(await scopes.of(WORKER))
        now += 1
        seen.append(await scopes.of(WORKER))
        return seen

    assert asyncio.run(play()) == ["worker:1", "worker:1", "worker:2"]


def test_what_is_to_be_shared_is_asked_of_the_database_again() -> None:
    sections, reads = {6: (1,)}, []

    async def read():
        reads.append(1)
        return dict(sections)

    async def play():
        scopes = Scopes(read, clock=lambda: 0.0)
        seen = [await scopes.of(WORKER), await scopes.still(WORKER, "worker:1")]
        sections[6] = (2,)
        seen += [await scopes.still(WORKER, "worker:1"), await scopes.of(WORKER)]
        return [*seen, await scopes.still(Account("e", 6, "manager"), "manager")]

    assert asyncio.run(play()) == ["worker:1", True, False, "worker:2", True]
    assert len(reads) == 3, "what a manager sees is in the key's account"


def test_the_opening_is_one_message() -> None:
    assert identity(WORKER, "api POST /api/v1/milk-production").opening() == (
        "BEGIN; SET LOCAL ROLE ep_api_milk_create_worker; SET LOCAL app.current_user_id = '6'"
    )
