"""The browser that these tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chrome import Browser


@pytest.fixture(scope="session")
def chrome(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield running
    running.end()


@pytest.fixture
def browser(chrome: Browser) -> Browser:
    """A small telephone with an empty page and nothing said."""
    chrome.open("about:blank", "location == 'about:blank'")
    chrome.size(360)
    chrome.call("Emulation.setEmulatedMedia", media="", features=[])
    chrome.events.clear()
    return chrome
