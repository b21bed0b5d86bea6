"""The golden pages in a real browser at several widths, light, dark and in print: nothing is cut, asked for, hidden."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from chrome import Browser

from harness import screenshot
from harness.errors import StackError
from harness.services import provision

DATA = Path(__file__).parent.parent / "data"
PAGES = ("benchmark-tested", "run")
# A small telephone, a tablet, a desk.
WIDTHS = (360, 800, 1440)
# A4 landscape between margins of 12 mm, at 96 px per inch.
PRINTED_PX = 1032
# What lies outside of the page, and the text of pictures that is cut off.
LAID_OUT = """(() => {
  const right = document.documentElement.clientWidth + 1;
  const wide = [...document.querySelectorAll("body *")].filter(
    (one) => !one.closest(".scroll") && one.getBoundingClientRect().right > right);
  const cut = [...document.querySelectorAll("svg text")].filter((one) => {
    const box = one.getBoundingClientRect(), frame = one.closest("svg").getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1);
  });
  const scrolling = [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth + 1);
  return {
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    wide: wide.map((one) => one.tagName + ": " + one.textContent.slice(0, 40)),
    cut: cut.map((one) => one.textContent),
    scrolling: scrolling.map((one) => one.getAttribute("aria-label")),
    requests: performance.getEntriesByType("resource").map((one) => one.name),
  };
})()"""
ANSWERS = """["did-it-pass", "what-was-found", "how-sure", "targets"].map(
  (id) => document.getElementById(id).closest("section").getBoundingClientRect()).map(
  (box) => [Math.round(box.top), Math.round(box.bottom)])"""
FINDINGS = """axe.run(document, {resultTypes: ["violations"]}).then((found) => found.violations
  .filter((one) => ["serious", "critical"].includes(one.impact))
  .map((one) => one.id + ": " + one.nodes.slice(0, 3).map((node) => node.html.slice(0, 120)).join(" | ")))"""


def show(browser: Browser, name: str, width: int, scheme: str = "light", media: str = "") -> None:
    browser.call(
        "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    browser.size(width)
    browser.open((DATA / f"{name}.golden.html").as_uri(), "document.querySelector('main')")


@pytest.mark.parametrize("name", PAGES)
def test_page_never_scrolls_sideways_asks_for_nothing_and_logs_nothing(browser: Browser, name: str) -> None:
    for width in WIDTHS:
        show(browser, name, width)
        found: dict[str, Any] = browser.evaluate(LAID_OUT)
        assert (width, found["overflow"], found["wide"], found["cut"]) == (width, 0, [], [])
        assert found["requests"] == []
        if width == max(WIDTHS):
            assert found["scrolling"] == []
    asked = {event["request"]["url"] for event in browser.said("Network.requestWillBeSent")}
    assert asked == {(DATA / f"{name}.golden.html").as_uri()}
    for method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
        assert browser.said(method) == []


@pytest.mark.parametrize("name", ["benchmark", *PAGES])
def test_the_answers_are_in_the_first_screen(browser: Browser, name: str) -> None:
    show(browser, name, 1280)
    assert all(0 <= top < bottom <= 800 for top, bottom in browser.evaluate(ANSWERS))
    show(browser, name, 360)
    tops = [top for top, _ in browser.evaluate(ANSWERS)]
    assert tops == sorted(tops)
    assert tops[0] < 250


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 360)])
def test_axe_finds_nothing_serious(browser: Browser, axe: str, name: str, scheme: str, width: int) -> None:
    show(browser, name, width, scheme)
    browser.evaluate(axe + "; 1")
    assert browser.evaluate(FINDINGS) == []


def test_dark_and_light_both_follow_the_reader(browser: Browser) -> None:
    looks = []
    for scheme in ("light", "dark"):
        show(browser, "benchmark", 1440, scheme)
        line = "getComputedStyle(document.querySelector(\"svg.chart path[style*='--day40']\")).stroke"
        looks.append(browser.evaluate(f"[getComputedStyle(document.body).backgroundColor, {line}]"))
    (light, light_line), (dark, dark_line) = looks
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(18, 22, 28)")
    assert light_line != dark_line


@pytest.mark.parametrize("name", PAGES)
def test_print_cuts_nothing_and_unfolds_its_notes(browser: Browser, name: str) -> None:
    show(browser, name, PRINTED_PX, "dark", "print")
    found: dict[str, Any] = browser.evaluate(LAID_OUT)
    assert (found["overflow"], found["wide"], found["scrolling"]) == (0, [], [])
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("document.querySelector('dl.notes dd').getBoundingClientRect().height") > 0
    printed = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 5 <= pages <= 40


def test_every_scrolling_part_and_the_way_past_the_head_can_be_reached_by_keyboard(browser: Browser) -> None:
    show(browser, "benchmark-tested", 360)
    key = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
    browser.call("Input.dispatchKeyEvent", type="keyDown", **key)
    focus = "[document.activeElement.className, document.activeElement.getBoundingClientRect().top]"
    name, top = browser.evaluate(focus)
    assert (name, top >= 0) == ("skip", True)
    unreachable = "[...document.querySelectorAll('.scroll')].filter((one) => one.tabIndex != 0).length"
    assert browser.evaluate(unreachable) == 0


def test_the_first_screen_as_a_picture(chromium: Path, tmp_path: Path) -> None:
    picture = tmp_path / "first-screen.png"
    screenshot.take(chromium, DATA / "benchmark-tested.golden.html", picture)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    size = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    assert size == (screenshot.WIDTH_PX, screenshot.HEIGHT_PX)
    assert len(content) < 300_000


def test_another_file_than_the_pinned_axe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho other > axe-core.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DAIRYPERF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(provision, "service_user", lambda: None)
    with pytest.raises(StackError, match="not the expected file"):
        provision.axe(lambda text: None)
    assert list((tmp_path / "home/parts").iterdir()) == []
