"""Endpoints and their roles: one name each way, and the same list as the routes and locustfiles have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures import endpoints
from fixtures.api import routes

ROOT = Path(__file__).parents[2]


def test_every_role_names_its_endpoint_and_fits_an_identifier() -> None:
    roles = {endpoints.role(slug, kind): slug for slug in endpoints.SLUGS for kind in endpoints.SECURITY_ROLES}
    assert len(roles) == 3 * len(endpoints.SLUGS)
    for role, slug in roles.items():
        assert re.fullmatch(r"ep_(api|odoo)_[a-z_]+", role)
        assert len(role) <= 63, "PostgreSQL would cut it"
        assert endpoints.endpoint_of(role) == endpoints.ENDPOINTS.get(slug)
    for endpoint in endpoints.ENDPOINTS.values():
        assert endpoints.ENDPOINTS[endpoints.slug_of(endpoint)] == endpoint
    assert [endpoints.endpoint_of(name) for name in ("api", "odoo", "farm_manager_role", "ep_none_manager")] == [
        None
    ] * 4


@pytest.mark.parametrize(("slug", "kind"), [("api_nothing", "manager"), ("api_animals", "owner")])
def test_no_role_is_made_up(slug: str, kind: str) -> None:
    with pytest.raises(KeyError):
        endpoints.role(slug, kind)


def test_every_route_of_the_api_has_a_role() -> None:
    served = {f"api {method} {route.path}" for route in routes.router.routes for method in route.methods}  # type: ignore[attr-defined]
    assert served == {name for name in endpoints.ENDPOINTS.values() if name.startswith("api ")}


def test_every_call_of_the_locustfiles_on_a_farm_model_has_a_role() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "locustfiles").glob("odoo_*.py"))
    called = {f"odoo {model}.{method}" for model, method in re.findall(r'Call\(\s*"(farm\.\w+)",\s*"(\w+)"', text)}
    assert called
    assert called <= set(endpoints.ENDPOINTS.values())
