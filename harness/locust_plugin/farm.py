"""What all users of a process share: whom requests are about, how the stack is reached, who may see what."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gevent.hub import get_hub

from fixtures import herd
from fixtures.answers.seeded import Answers
from harness import wire
from harness.api_calls import Api
from harness.errors import StackError
from harness.model import Account, Scenario, StackAddresses
from harness.odoo_calls import Call, Expect, Json2, XmlRpc
from harness.odoo_web import WebRpc
from harness.transport import Connection

# uid -> ((id, tag), ...) of the active animals that an account may see, by id
Visible = Mapping[int, tuple[tuple[int, str], ...]]

_ACTIVE_ANIMALS = Call(
    "farm.animal",
    "search_read",
    {"domain": [["status", "=", "active"]], "fields": ["tag_number"], "order": "id"},
    expect=Expect.ROWS,
)


class Farm:
    """Secrets are read once, from this machine's own file, and never shown."""

    def __init__(
        self,
        asked: Scenario,
        addresses: StackAddresses,
        visible: Visible | None = None,
        secrets_file: str | None = None,
    ) -> None:
        """visible: None = Odoo is asked. secrets_file: instead of the one that `addresses` name.

        StackError: the secrets cannot be read, or an account sees no animal to milk.
        """
        self.scenario = asked
        self.addresses = addresses
        self.inputs = herd.inputs(addresses.herd, addresses.seed, date.fromisoformat(addresses.as_of))
        # what the seed says that calls return; made now, as it takes a moment
        self.answers = Answers(addresses.herd, addresses.seed, self.inputs.as_of)
        get_hub().threadpool.apply(self.answers.prepare)  # heartbeats go on meanwhile
        self._secrets = _read_secrets(secrets_file or addresses.secrets_file)
        self.visible = visible or {account.uid: self._active_animals(account) for account in addresses.accounts}
        self._answers_to = {
            account.uid: self._seen_by(account) if _is_policed(account, addresses) else self.answers
            for account in addresses.accounts
        }
        lactating = frozenset(self.inputs.lactating_ids)
        self.milked = {
            uid: tuple(animal_id for animal_id, _tag in seen if animal_id in lactating)
            for uid, seen in self.visible.items()
        }
        for account in addresses.accounts:
            if not self.milked[account.uid]:
                raise StackError(
                    f"odoo: {account.login} sees no animal that is milked on {addresses.as_of}; check its sections in "
                    "core.user_section_assignment"
                )

    def answers_to(self, account: Account) -> Answers:
        """What the seed says that calls of this account return."""
        return self._answers_to[account.uid]

    def _seen_by(self, account: Account) -> Answers:
        seen = self.answers.seen_by(frozenset(animal_id for animal_id, _tag in self.visible[account.uid]))
        get_hub().threadpool.apply(seen.prepare)
        return seen

    def xmlrpc(self, account: Account) -> XmlRpc:
        return XmlRpc(self._odoo_host, self.addresses.database, account.uid, self.password(account))

    def json2(self, account: Account) -> Json2:
        return Json2(self._odoo_host, self.addresses.database, self._secrets["odoo_keys"][account.login])

    def web(self) -> WebRpc:
        return WebRpc(self._odoo_host)

    def password(self, account: Account) -> str:
        return str(self._secrets["odoo"][account.login])

    def api(self, account: Account) -> Api:
        """StackError: the secrets have no key for the account."""
        try:
            key = self._secrets["api_keys"][account.login]
        except KeyError:
            raise StackError(
                f"secrets: no API key for {account.login} in api_keys; add one, or renew the copy"
            ) from None
        return Api(urlsplit(self.addresses.api_url).netloc, key)

    @property
    def _odoo_host(self) -> str:
        return urlsplit(self.addresses.odoo_url).netloc

    def _active_animals(self, account: Account) -> tuple[tuple[int, str], ...]:
        """Policies decide it, and the seeded state makes it the same in every run."""
        protocol = self.xmlrpc(account)
        request = protocol.encode(_ACTIVE_ANIMALS).fill({})
        with contextlib.closing(Connection(self.addresses.odoo_url, keep_alive=protocol.keep_alive)) as connection:
            reply = connection.exchange(request.message)
        if (outcome := protocol.outcome(reply, request.expect)) != wire.OK:
            raise StackError(
                f"odoo: {account.login} asked for the active animals: {outcome}; see Odoo's log, and what the account "
                "may see"
            )
        return tuple((row["id"], row["tag_number"]) for row in protocol.result(reply))


def _is_policed(account: Account, addresses: StackAddresses) -> bool:
    """Day 35: a worker sees the active animals of some sections, and what belongs to these."""
    return addresses.profile == "day40" and account.role == "worker"


def _read_secrets(path: str) -> dict[str, Any]:
    try:
        secrets: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StackError(
            f"{path}: {error}; run ./dairyperf up again, or on another machine than the stack's give --secrets FILE"
        ) from None
    return secrets
