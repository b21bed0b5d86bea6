"""The stack that runs use: embedded, compose or external. It is chosen once; nobody else asks which one it is.

The command line's --stack chooses; DAIRYPERF_STACK carries the choice to child processes, and is how plain `locust`
is told. All three kinds are alike to their users: something that yields StackAddresses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from harness.errors import InputError
from harness.model import Profile, StackAddresses
from harness.services import compose, embedded, provision
from harness.services.embedded import DEFAULT_AS_OF, DEFAULT_HERD, DEFAULT_SEED
from harness.services.external import External

__all__ = ["DEFAULT_AS_OF", "DEFAULT_HERD", "DEFAULT_SEED"]

VARIABLE = "DAIRYPERF_STACK"
KINDS = "embedded, compose or external:FILE"


class Stack(Protocol):
    """What a kind of stack can do; the modules `embedded` and `compose` and each External are one."""

    def is_up(self, profile: Profile) -> bool: ...

    def read(self, profile: Profile) -> StackAddresses:
        """Its addresses. InputError when it is not up, with what brings it up."""

    def up(
        self,
        profile: Profile,
        say: Callable[[str], None],
        *,
        herd: int,
        seed: int,
        ports: Mapping[str, int] | None,
        odoo_source: Path | None,
        detach: bool,
    ) -> AbstractContextManager[StackAddresses]:
        """Starts it for the length of the block, or beyond with `detach`. InputError when it is up already or cannot
        be started from here, StackError when a server does not start."""

    def down(self, profile: Profile) -> bool:
        """Stops it; False when none was up. InputError when it is not ours to stop."""

    def status(self, profile: Profile) -> dict[str, object]:
        """profile, state (up, down, starting, degraded), and when up every address and how to log in."""


def choose(text: str) -> None:
    """Makes `text` the stack of this process and of those that it starts. Raises InputError."""
    _parse(text)
    kind, colon, file = text.partition(":")
    # child processes run elsewhere
    os.environ[VARIABLE] = f"{kind}{colon}{Path(file).resolve()}" if colon else kind


def chosen() -> Stack:
    """Raises InputError when DAIRYPERF_STACK names none."""
    return _parse(name())


def _parse(text: str) -> Stack:
    kind, _, file = text.partition(":")
    if text == "embedded":
        return embedded
    if text == "compose":
        return compose
    if kind == "external" and file:
        return External(Path(file))
    raise InputError(f"stack {text!r}: no such kind; give {KINDS}")


def is_up(profile: Profile) -> bool:
    return chosen().is_up(profile)


def read(profile: Profile) -> StackAddresses:
    """The addresses of the stack that is up. InputError when it is not."""
    return chosen().read(profile)


def up(
    profile: Profile,
    say: Callable[[str], None],
    *,
    herd: int = DEFAULT_HERD,
    seed: int = DEFAULT_SEED,
    ports: Mapping[str, int] | None = None,
    odoo_source: Path | None = None,
    detach: bool = False,
) -> AbstractContextManager[StackAddresses]:
    """See `Stack.up`. ports: service -> published port, where a free one will not do."""
    return chosen().up(profile, say, herd=herd, seed=seed, ports=ports, odoo_source=odoo_source, detach=detach)


def down(profile: Profile) -> bool:
    return chosen().down(profile)


def status(profile: Profile) -> dict[str, object]:
    return chosen().status(profile)


def name() -> str:
    """Which stack is chosen, as --stack takes it."""
    return os.environ.get(VARIABLE) or "embedded"


@contextmanager
def reserved(profile: Profile, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """The stack for one run alone: a second would reset the database under the first. While another run has it:
    StackError, or with `waiting` that is called and the run's end waited for."""
    kind, _, file = name().partition(":")
    stem = f"{kind}-{hashlib.sha256(file.encode()).hexdigest()[:12]}" if file else kind
    lock = embedded.STATE / f"{stem}-{profile}.run"
    taken = f"profile {profile}: another run is using this stack; wait for its end"
    with provision.locked(lock, waiting=waiting) if waiting else provision.locked(lock, refusal=taken):
        yield
