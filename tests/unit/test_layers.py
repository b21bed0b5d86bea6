"""Imports in `harness/` go downwards only, and importing it patches nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "harness"
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"model", "errors", "units"}),
    frozenset({"scenario", "arrivals", "threshold", "bootstrap_limit", "summary", "verdict_text", "csv_text", "tables"})
    | {"compare", "comparable", "effects", "benchmark_plan", "baseline"}
    | {"wire", "http1", "odoo_calls", "odoo_web", "api_calls"}
    | {"statements", "attribution", "odoo_log", "servers", "server_metrics", "server_csv", "wal_archive"}
    | {"statement_log", "slow_statements", "statement_changes", "index_plan", "index_findings", "wait_events"}
    | {"plan", "plan_text", "plan_diff", "slo_search", "usl", "pool_sizing", "growth", "bottleneck"}
    | {"drawing", "charts", "charts_latency", "charts_servers"}
    | {"report", "report_headline", "report_checklists", "report_effects", "report_facts", "report_pictures"}
    | {"report_attribution", "report_plans", "report_statements", "report_text"},
    frozenset({"rundir", "recorder", "provenance", "probe", "observe", "live", "reset", "seed", "load", "transport"})
    | {"stack", "services", "server_log", "schema_change", "indexes", "maintenance", "plans", "noise", "screenshot"},
    frozenset({"runner", "benchmark", "baseline_runs", "locust_plugin"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
PURE_MAY_IMPORT_NOT = {"psycopg", "redis", "psutil", "subprocess", "socket", "locust", "gevent", "requests"} | {
    "urllib.request"
}
MODULES = sorted(path for path in HARNESS.rglob("*.py") if path.name != "__init__.py")


def layer(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


def imported(path: Path) -> set[str]:
    """Dotted names of everything that the module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(HARNESS).as_posix())
def test_imports_go_downwards(path: Path) -> None:
    own = path.relative_to(HARNESS).with_suffix("").parts[0]
    modules = {place.stem for place in HARNESS.iterdir()}
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "harness" and len(parts) > 1 and parts[1] in modules:
            assert layer(parts[1]) <= layer(own), f"{own} imports {name}"
        if parts[0] == "locust":
            assert own == "locust_plugin"
        if parts[0] == "gevent":
            assert own in ("locust_plugin", "transport")
        if layer(own) <= 1:
            assert PURE_MAY_IMPORT_NOT.isdisjoint({parts[0], ".".join(parts[:2])}), f"{own} is pure and imports {name}"


def test_importing_the_command_line_patches_nothing() -> None:
    script = "import sys, harness.cli; sys.exit(bool({'gevent', 'locust', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_readme_names_every_module():
    readme = (HARNESS.parent / "README.md").read_text()
    layers = readme.partition("Layers of `harness/`")[2]
    assert sorted(name for names in LAYERS[:-1] for name in names) == sorted(
        name.rstrip("/") for name in re.findall(r"`([a-z0-9_]+/?)`", layers)
    )
