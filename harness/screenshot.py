"""The first screen of a report as a picture, taken by Chromium."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from harness.errors import StackError

WIDTH_PX, HEIGHT_PX = 1280, 800
TIMEOUT_S = 120.0
FLAGS = (
    "--headless",
    # Root needs it, as do containers without user namespaces; the page is ours and has no script.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--blink-settings=preferredColorScheme=1",  # light
)


def take(chromium: Path, page: Path, picture: Path) -> None:
    """Writes the page's first 1280 by 800 pixels as a PNG file. Raises StackError."""
    with tempfile.TemporaryDirectory() as scratch:
        taken = Path(scratch) / "screen.png"
        command = [
            *(str(chromium), *FLAGS, f"--user-data-dir={scratch}/profile"),
            *(f"--window-size={WIDTH_PX},{HEIGHT_PX}", f"--screenshot={taken}", page.resolve().as_uri()),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except OSError as fault:
            raise StackError(f"{chromium}: {fault.strerror}; install chromium") from fault
        except subprocess.TimeoutExpired:
            raise StackError(
                f"{page}: Chromium took longer than {TIMEOUT_S:.0f} s for its picture; try again"
            ) from None
        if done.returncode != 0 or not taken.is_file():
            tail = "\n".join(f"    {line}" for line in done.stderr.splitlines()[-5:])
            raise StackError(f"{page}: Chromium made no picture (exit code {done.returncode}); see below\n{tail}")
        try:
            picture.write_bytes(taken.read_bytes())
        except OSError as fault:
            raise StackError(f"{picture}: {fault.strerror}; name a file that can be written") from fault
