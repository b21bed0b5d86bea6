"""A stack's certificates, tried by a real handshake in memory."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from harness.services import certificates


def shake_hands(folder: Path, service: str, host: str, trusted: Path) -> None:
    """Raises ssl.SSLError where the client refuses the server."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / f"{service}.crt", folder / f"{service}.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=str(trusted)).wrap_bio(to_client, to_server, server_hostname=host)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls") / "of a stack"
    root = certificates.create(place, ("postgresql", "pgbouncer"), ("127.0.0.1", "db"), None)
    assert root == place / "root.crt"
    return place


@pytest.mark.parametrize("service", ["postgresql", "pgbouncer"])
@pytest.mark.parametrize("host", ["127.0.0.1", "db"])
def test_a_client_trusts_the_service_under_its_addresses(folder: Path, service: str, host: str) -> None:
    shake_hands(folder, service, host, folder / "root.crt")


def test_no_other_address_and_no_other_authority_is_trusted(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(folder, "postgresql", "127.0.0.2", folder / "root.crt")
    other = certificates.create(tmp_path / "tls", ("postgresql",), ("127.0.0.1",), None)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folder, "postgresql", "127.0.0.1", other)


def test_keys_are_private_and_the_authoritys_is_nowhere(folder: Path) -> None:
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert files == {
        "root.crt": 0o644,
        "postgresql.crt": 0o644,
        "postgresql.key": 0o600,
        "pgbouncer.crt": 0o644,
        "pgbouncer.key": 0o600,
    }
    assert [path.name for path in folder.glob("*.crt") if b"PRIVATE KEY" in path.read_bytes()] == []
