"""TLS certificates of one stack: an authority of its own, and by it one server certificate for each service."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.services.process import User

# A stack makes new ones at each start; nobody has one up for longer.
VALID_DAYS = 365
# Clocks of machines that look at a copied stack may differ.
VALID_BEFORE = timedelta(days=1)


def create(folder: Path, services: Sequence[str], hosts: Sequence[str], owner: User | None) -> Path:
    """Makes `folder` with root.crt, which clients trust, and for each service SERVICE.crt and SERVICE.key (0600, of
    `owner`). Returns the path of root.crt.

    hosts: IP addresses and names that the services are reached by. The authority's own key is never written: nobody
    can make a certificate that this stack's clients would trust besides.
    """
    folder.mkdir(mode=0o755)
    authority_key = ec.generate_private_key(ec.SECP256R1())  # P-256: the cheapest handshake that all three can do
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dairyperf {os.urandom(8).hex()}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _unsigned(name, name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority_key, SHA256())
    )
    root = folder / "root.crt"
    root.write_bytes(authority.public_bytes(Encoding.PEM))
    for service in services:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _unsigned(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)]), name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(authority_key, SHA256())
        )
        (folder / f"{service}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = folder / f"{service}.key"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        if owner:
            os.chown(path, owner.uid, owner.gid)
    return root


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_BEFORE)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
