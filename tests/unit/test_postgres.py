"""The tuned settings as rules of the host."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from harness.services import postgres

GB = 1024**3


def test_at_32_gb_and_8_cores_the_rules_give_the_specifications_values() -> None:
    assert postgres.sizes(32 * GB, 8) == postgres.Sizes(8192, 24576, 64, 1024, 64, 4)


@given(st.integers(GB // 2, 1024 * GB), st.integers(1, 256))
def test_every_host_gets_settings_that_fit_it(memory_bytes: int, cores: int) -> None:
    sizes = postgres.sizes(memory_bytes, cores)
    assert 128 <= sizes.shared_buffers_mb <= memory_bytes / 1024**2 / 2 or memory_bytes < GB
    assert sizes.autovacuum_max_workers >= 1


def test_the_profiles_differ_by_the_tuned_settings_alone() -> None:
    def text(profile: str) -> str:
        place = {"port": 1, "hba_file": Path("/h"), "log_dir": Path("/l"), "archive": Path("/a")}
        return postgres.config_text(profile, **place, host=postgres.sizes(32 * GB, 8))  # type: ignore[arg-type]

    assert text("day40").startswith(text("day31"))
    assert "shared_buffers = 8192MB" in text("day40")
    assert "shared_buffers" not in text("day31")
