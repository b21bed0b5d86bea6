"""`dairyperf plans`: a PostgreSQL of its own for both profiles, the table, the page, and nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil

from harness import CHECKOUT, plan, rundir
from harness.model import PROFILES
from harness.services import provision


def plans(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", "plans", *options], cwd=CHECKOUT, capture_output=True, text=True
    )


def test_plans_of_both_profiles_are_taken_shown_and_kept(tmp_path: Path) -> None:
    done = plans("--herd", "20", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "20 head" in said
    assert len(re.findall(r"day40: \d+ of 20 read a large table sequentially", said)) == 1
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith("-plans-20")
    found = {profile: plan.read(rundir.read_plans(folder / profile) or {}) for profile in PROFILES}
    assert [len(one.critical) for one in found.values()] == [20, 20]
    assert [one.missing for one in found.values()] == [{}, {}]
    indexes = {profile: {n for one in taken.critical for n in plan.indexes(one)} for profile, taken in found.items()}
    assert "farm.idx_farm_milk_prod_animal_date" in indexes["day40"] - indexes["day31"]
    # each with its own profile's settings
    settings = {profile: "random_page_cost = '1.1'" in taken.critical[0].text for profile, taken in found.items()}
    assert settings == {"day31": False, "day40": True}
    assert "Plans at 20 head" in (folder / "report.html").read_text()
    assert (folder / "day40" / "milk_history.txt").read_text().startswith("-- What were one animal's")
    here = str(provision.cache_root() / "bare-")
    assert not [one.pid for one in psutil.process_iter(["cmdline"]) if here in " ".join(one.info["cmdline"] or ())]


def test_a_herd_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    done = plans("--herd", "3", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "herd: 3 head" in done.stderr
    assert list(tmp_path.iterdir()) == []
