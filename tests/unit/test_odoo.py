"""harness.services.odoo and launch.py without an Odoo: hashes, configuration, commands, pruning, warm-up."""

from __future__ import annotations

import configparser
import re
import socket
import subprocess
import sys
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness import CHECKOUT
from harness.errors import InputError, StackError
from harness.model import Account
from harness.services import odoo

LAUNCH = odoo.CONFIG / "launch.py"
FARMER = Account(login="farmer", uid=7, role="worker")


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    """What prune and release look at, of an unpacked Debian package."""
    packages = tmp_path / "usr/lib/python3/dist-packages"
    files = ["odoo/http.py", "addons/web/__init__.py", "odoo/addons/account/__manifest__.py"]
    files += ["odoo/addons/account/models/account.py", "odoo/addons/account/__init__.py", "odoo/addons/web/models.py"]
    files += ["odoo/addons/web/i18n/bn.po", "odoo/addons/web/static/tests/a.js", "odoo/addons/web/static/src/a.js"]
    for file in files:
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).touch()
    (packages / "odoo/addons/web/static/jquery.js").symlink_to("../../../../../../../share/javascript/jquery.js")
    (packages / "odoo/addons/web/static/a.js").symlink_to("src/a.js")
    (packages / "odoo/release.py").write_text("FINAL = 'final'\nversion_info = (19, 0, 0, FINAL, 0, '')\n")
    return tmp_path


def test_hash_is_what_passlib_makes() -> None:
    # by passlib 1.7.4: pbkdf2_sha512.using(rounds=600000, salt=bytes(range(240, 256))).hash(...)
    assert odoo.secret_hash("farm_manager pässword", bytes(range(240, 256)), odoo.HASH_ROUNDS) == (
        "$pbkdf2-sha512$600000$8PHy8/T19vf4.fr7/P3./w$"
        "YNy.j9J5ifi0GdKh8vDsMBJz8crAPd5jQbXrTxgO/UfrCXfWkmM0H3SjToqyTj2AM.lu5tamNCkO026uCs3D4w"
    )
    # and pbkdf2_sha512.using(rounds=6000, salt=bytes(range(16))).hash(...)
    key = "0123456789abcdef0123456789abcdef01234567"
    assert odoo.secret_hash(key, bytes(range(16)), odoo.KEY_HASH_ROUNDS) == (
        "$pbkdf2-sha512$6000$AAECAwQFBgcICQoLDA0ODw$"
        "mi5LGW9qszqFb2e2hQCGiw1BOSkqeOc9PxJzSBMDM0aBX1r0bTlxQaWkuSEStC0tyULu25HAZTaEZpdqlQ5t5Q"
    )


def test_api_keys_have_the_form_of_odoos_own() -> None:
    keys = {odoo.new_api_key() for _ in range(10)}
    assert len(keys) == 10
    assert all(re.fullmatch("[0-9a-f]{40}", key) for key in keys)


def test_config_is_complete_and_holds_no_password(tmp_path: Path) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(
        odoo.config_text(
            database="d", postgres_port=6432, http_port=8069, gevent_port=8072, data_dir=tmp_path, workers=3
        )
    )
    options = dict(parser["options"])
    expected = {"db_name": "d", "db_port": "6432", "http_port": "8069", "gevent_port": "8072", "workers": "3"}
    expected |= {"data_dir": str(tmp_path), "addons_path": str(odoo.ADDONS), "list_db": "False", "admin_passwd": ""}
    assert options.items() >= expected.items()
    assert "db_password" not in options
    assert options["server_wide_modules"] == "base,rpc,web"


def test_sessions_are_kept_in_redis_where_it_is_said(tmp_path: Path) -> None:
    text = odoo.config_text(
        database="d", postgres_port=1, http_port=2, gevent_port=3, data_dir=tmp_path, sessions_in_redis=True
    )
    assert "\nserver_wide_modules = base,rpc,web,smart_dairy_session\n" in text


def test_environment_is_not_the_callers(deb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATABASE", "other")
    assert set(odoo.environment(deb, deb, deb / "passfile")) == {
        "PATH",
        "LC_ALL",
        "HOME",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "PGPASSFILE",
    }


def test_environment_with_a_result_cache_names_it_without_its_password(deb: Path) -> None:
    given = odoo.environment(deb, deb, deb / "passfile", redis_url="redis://h:1/0", secrets_file=deb / "secrets.json")
    assert given["DAIRYPERF_REDIS_URL"] == "redis://h:1/0"
    assert given["DAIRYPERF_SECRETS"] == str(deb / "secrets.json")
    assert given.keys() - odoo.environment(deb, deb, deb).keys() == {"DAIRYPERF_REDIS_URL", "DAIRYPERF_SECRETS"}


def test_package_and_checkout(deb: Path) -> None:
    checkout = deb / "usr/lib/python3/dist-packages"
    for tree, program in ((deb, deb / "usr/bin/odoo"), (checkout, checkout / "odoo-bin")):
        assert odoo.release(tree) == "19.0"
        assert odoo.install_command(Path("python"), tree, Path("c"))[1] == str(program)
        assert str(program) in odoo.serve_command(Path("python"), tree, Path("c"), 8069)
        assert odoo.environment(tree, deb, deb)["PYTHONPATH"] == f"{checkout}:{CHECKOUT}"


@pytest.mark.parametrize("version", ["(18, 0, 0, FINAL, 0, '')", "('saas~18', 4, 0, FINAL, 0, '')", None])
def test_other_versions_are_refused(deb: Path, version: str | None) -> None:
    file = deb / "usr/lib/python3/dist-packages/odoo/release.py"
    file.unlink() if version is None else file.write_text(f"version_info = {version}\n")
    with pytest.raises(InputError, match=r"Odoo 19\.0"):
        odoo.release(deb)


def test_prune(deb: Path) -> None:
    odoo.prune(deb)
    assert {
        str(file.relative_to(deb / "usr/lib/python3/dist-packages")) for file in deb.rglob("*") if file.is_file()
    } == {
        "odoo/http.py",
        "odoo/release.py",
        "odoo/addons/account/__manifest__.py",
        "odoo/addons/web/models.py",
        "odoo/addons/web/static/a.js",
        "odoo/addons/web/static/src/a.js",
    }
    assert not (deb / "usr/lib/python3/dist-packages/odoo/addons/web/static/jquery.js").is_symlink()
    odoo.prune(deb)


# --- launch.py -----------------------------------------------------------------------------------------------------


def test_launch_hands_over_a_long_queue(tmp_path: Path) -> None:
    """The program gets the listening socket before it accepts anything; far more clients than Odoo's 16 may wait."""
    program = tmp_path / "program.py"
    program.write_text("import os, sys; print(os.environ['ODOO_HTTP_SOCKET_FD'], *sys.argv[1:], flush=True); input()")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, LAUNCH, "127.0.0.1", str(port), program, "--config=c"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[1:] == ["--config=c"]
        clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(200)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30)
        for client in clients:
            client.close()
        process.communicate("\n")
    assert second.returncode == odoo.PORT_TAKEN_EXIT_CODE
    assert second.stderr == f"odoo: 127.0.0.1:{port} is taken by another process; stop it or choose another port\n"


# --- warm-up -------------------------------------------------------------------------------------------------------

Answer = Callable[[tuple[object, ...]], tuple[int, str]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Starts a server that answers XML-RPC calls (their arguments) with (status, body); gives its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                arguments, _ = xmlrpc.client.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = answer(arguments)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


OK = xmlrpc.client.dumps((255,), methodresponse=True)


def test_warm_up_calls_until_no_worker_hashes(serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was missed at first is met by a later round: rounds go on until several in a row were quick."""
    monkeypatch.setattr(odoo, "HASH_ROUNDS", 100_000)
    calls = []
    cold = iter([True, False, False, False, True])

    def answer(arguments: tuple[object, ...]) -> tuple[int, str]:
        calls.append(arguments[:3])
        if next(cold, False):
            odoo.secret_hash("", b"0" * 16, odoo.HASH_ROUNDS)
        return 200, OK

    odoo.warm_up(serve(answer), "d", [FARMER], {"farmer": "secret"}, workers=2)
    assert set(calls) == {("d", 7, "secret")}
    assert len(calls) >= 2 * 8


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, "", "HTTP 500"),
        (200, "<html>", "ExpatError"),
        (
            200,
            xmlrpc.client.dumps(xmlrpc.client.Fault(3, "Access Denied")),
            "fault 3, Access Denied; check its password",
        ),
    ],
)
def test_warm_up_says_what_failed(
    serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch, status: int, body: str, message: str
) -> None:
    monkeypatch.setattr(odoo, "HASH_ROUNDS", 1000)
    url = serve(lambda _: (status, body))
    with pytest.raises(StackError, match=message) as caught:
        odoo.warm_up(url, "d", [FARMER], {"farmer": "secret"}, workers=1)
    assert "secret" not in str(caught.value).replace("secrets file", "")


def test_warm_up_ends_in_time(serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odoo, "HASH_ROUNDS", 1)  # nothing is as quick as that: no round counts as quiet
    url = serve(lambda _: (200, OK))
    with pytest.raises(StackError, match="end other programs"):
        odoo.warm_up(url, "d", [FARMER], {"farmer": "secret"}, workers=1, timeout_s=0.2)


def test_warm_up_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odoo, "HASH_ROUNDS", 1000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(StackError, match="ConnectionRefusedError"):
        odoo.warm_up(url, "d", [FARMER], {"farmer": "secret"}, workers=1)
