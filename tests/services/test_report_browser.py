"""The golden pages in a real browser: no sideways scrolling, dark and light differ, nothing is requested."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "data"
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Added to a copy of the page, which has no script itself; 360 px is a small telephone.
PROBE = """<style>html { width: %s }</style><script>
const wide = [...document.querySelectorAll("body *")].filter(
  (one) => !one.closest(".scroll") && one.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
const hidden = [...document.querySelectorAll("svg text")].filter((one) => {
  const box = one.getBoundingClientRect(), frame = one.closest("svg").getBoundingClientRect();
  return box.left < frame.left - 1 || box.right > frame.right + 1;
});
document.body.dataset.found = JSON.stringify({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  wide: wide.map((one) => one.tagName + ": " + one.textContent.slice(0, 40)),
  hidden: hidden.map((one) => one.textContent),
  requests: performance.getEntriesByType("resource").map((one) => one.name),
  paper: getComputedStyle(document.body).backgroundColor,
  line: getComputedStyle(document.querySelector("svg.chart path[style*='--day40']")).stroke,
});
</script></body>"""


def look(chromium: Path, tmp_path: Path, name: str, width: str, *flags: str) -> dict:
    page = tmp_path / "page.html"
    html = (DATA / f"{name}.golden.html").read_text(encoding="utf-8")
    page.write_text(html.replace("</body>", PROBE % width), encoding="utf-8")
    done = subprocess.run(
        [chromium, *QUIET, *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("name", ["benchmark", "run"])
@pytest.mark.parametrize("width", ["360px", "100%"])
def test_page_never_scrolls_sideways_and_requests_nothing(chromium, tmp_path, name, width):
    found = look(chromium, tmp_path, name, width)
    assert found["overflow"] <= 0
    assert found["wide"] == []
    assert found["hidden"] == []
    assert found["requests"] == []


def test_dark_and_light_both_follow_the_reader(chromium, tmp_path):
    light = look(chromium, tmp_path, "benchmark", "100%", "--blink-settings=preferredColorScheme=1")
    dark = look(chromium, tmp_path, "benchmark", "100%", "--blink-settings=preferredColorScheme=0")
    assert light["paper"] == "rgb(255, 255, 255)"
    assert dark["paper"] == "rgb(18, 22, 28)"
    assert light["line"] != dark["line"]
