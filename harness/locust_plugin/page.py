"""The page in Locust's web interface that shows a run as it is judged: `/dairyperf`, beside Locust's own."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jinja2
from flask import Blueprint, Response, jsonify, make_response, request, send_file
from locust.env import Environment

from harness import CHECKOUT, units, verdict_text
from harness.rundir import RunDir

UNKNOWN = "cannot say"
EXIT_WORDS = {
    0: "passed",
    1: "failed: a limit was missed, had no data, or ended the load early",
    2: "refused: bad input",
    3: "failed: a part of the stack failed",
    4: "invalid: its numbers cannot be trusted",
}
_FIGURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("Pool utilisation", "pool_utilisation_pct", units.format_pct),
    ("Redis hits", "redis_hit_pct", units.format_pct),
    ("Database calls per request", "db_calls_per_request", units.format_count),
    ("Buffer hits", "buffer_hit_pct", units.format_pct),
    ("Throughput", "throughput_rps", units.format_rps),
    ("Requests", "requests", units.format_count),
    ("Failures", "failures", units.format_count),
    ("Median latency", "p50_ms", units.format_ms),
    ("95th percentile of latency", "p95_ms", units.format_ms),
)
# Locust's page is drawn by its script into one element; beside it, this stays.
_LINK = b"""<a href="dairyperf" style="position:fixed;right:1rem;bottom:1rem;z-index:2000;padding:.4rem .8rem;
border-radius:.4rem;background:#1d4ed8;color:#fff;font:600 .9rem system-ui,sans-serif">dairyperf: live verdicts</a>"""


def attach(environment: Environment, live: Callable[[], Mapping[str, Any]]) -> str:
    """Adds the page to Locust's web interface, below its base path and behind its login; returns the page's path.

    live: called in a web request, so it must not block; {"state": what the run is doing, in words} and, once there is
    one, "live": what `harness.live.Live.answer` gave last, "generator": {process: its health}, "run_dir": its path,
    "exit_code": of its judgement, "error": why it failed. None is the same as absent.
    """
    web_ui: Any = environment.web_ui
    prefix = web_ui.app.blueprints["locust"].url_prefix or ""
    pages = Blueprint("dairyperf", __name__, url_prefix=prefix or None)
    template = _template()

    @pages.route("/dairyperf")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
        return _guarded(make_response(template.render(nonce=nonce)), policy)

    @pages.route("/dairyperf/live.json")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def figures() -> Response:
        return _guarded(jsonify(shown(live())), "")

    @pages.route("/dairyperf/report")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def report() -> Response:
        path = _report(live())
        if path is None:
            return make_response("dairyperf: no run has been judged yet; its report comes with its verdicts", 404)
        return _guarded(send_file(path, mimetype="text/html"), "style-src 'unsafe-inline'; img-src data:")

    @pages.after_app_request
    def add_link(response: Response) -> Response:
        if request.endpoint == "locust.index":
            response.set_data(response.get_data().replace(b"</body>", _LINK + b"</body>"))
        return response

    web_ui.app.register_blueprint(pages)
    return f"{prefix.rstrip('/')}/dairyperf"


def shown(status: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a run (as `attach` gets it), every value as text in its unit."""
    live: Mapping[str, Any] = status.get("live") or {}
    code, verdicts = status.get("exit_code"), live.get("verdicts", ())
    return {
        "state": status["state"],
        "result": None if code is None else f"exit code {code}: {EXIT_WORDS.get(code, 'see the log')}",
        "passed": code == 0,
        "error": status.get("error"),
        "run_dir": status.get("run_dir"),
        "report": _report(status) is not None,
        "tally": _tally(verdicts),
        "as_of": _as_of(live),
        "reason": live.get("reason"),
        "verdicts": [
            {
                "outcome": one["outcome"],
                "cells": [
                    one["text"],
                    verdict_text.OUTCOME_TEXT[one["outcome"]],
                    UNKNOWN if one["observed"] is None else one["shown"],
                    one["endpoint"] or "all together",
                ],
            }
            for one in verdicts
        ],
        "figures": [{"cells": [label, _text(live.get(name), show)]} for label, name, show in _FIGURES],
        "generator": [
            {
                "cells": [
                    process,
                    _text(health.get("cpu_p95_pct"), units.format_pct),
                    _text(health.get("lag_p95_ms"), units.format_ms),
                    _files(health),
                ]
            }
            for process, health in sorted((status.get("generator") or {}).items())
        ],
    }


def _tally(verdicts: Any) -> str:
    counts = Counter(one["outcome"] for one in verdicts)
    parts = [f"{counts[outcome]} {text}" for outcome, text in verdict_text.OUTCOME_TEXT.items() if counts[outcome]]
    return "Limits so far: " + (", ".join(parts) or UNKNOWN)


def _as_of(live: Mapping[str, Any]) -> str:
    if live.get("phase_s") is None:
        return ""
    text = f"after {units.format_duration(live['phase_s'])} of the steady state"
    if live["servers_at_us"] is None:
        return f"{text}; the servers' figures come next"
    age_s = max(0.0, (live["at_us"] - live["servers_at_us"]) / 1e6)
    return f"{text}; the servers' figures are {units.format_duration(age_s)} older"


def _text(value: float | None, show: Callable[[Any], str]) -> str:
    return UNKNOWN if value is None else show(value)


def _files(health: Mapping[str, Any]) -> str:
    used, limit = health.get("fds_max"), health.get("fds_limit")
    if used is None:
        return UNKNOWN
    # RLIM_INFINITY is -1
    return units.format_count(used) + (f" of {units.format_count(limit)}" if limit is not None and limit > 0 else "")


def _report(status: Mapping[str, Any]) -> Path | None:
    """The report of the run that was judged last."""
    code, run_dir = status.get("exit_code"), status.get("run_dir")
    if code is None or run_dir is None:
        return None
    path = RunDir(Path(run_dir)).report_path
    return path if path.is_file() else None


def _guarded(response: Response, policy: str) -> Response:
    """Names come from servers: should one slip through as markup, the browser neither runs it nor asks another host."""
    nothing = "default-src 'none'; base-uri 'none'; form-action 'none'"
    response.headers["Content-Security-Policy"] = f"{nothing}; {policy}"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _template() -> jinja2.Template:
    reports = CHECKOUT / "reports"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([reports / "templates", reports]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("live.html.j2", globals=cast(dict[str, Any], {"unknown": UNKNOWN}))
