"""The tuned settings as rules of the host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from harness.model import Profile
from harness.services import postgres

GB = 1024**3


def test_at_32_gb_and_8_cores_the_rules_give_the_specifications_values() -> None:
    assert postgres.sizes(32 * GB, 8) == postgres.Sizes(8192, 24576, 64, 1024, 64, 4)


@given(st.integers(GB // 2, 1024 * GB), st.integers(1, 256))
def test_every_host_gets_settings_that_fit_it(memory_bytes: int, cores: int) -> None:
    sizes = postgres.sizes(memory_bytes, cores)
    assert 128 <= sizes.shared_buffers_mb <= memory_bytes / 1024**2 / 2 or memory_bytes < GB
    assert sizes.autovacuum_max_workers >= 1


def text(profile: Profile) -> str:
    """postgresql.conf at the specification's size of host."""
    return postgres.config_text(
        profile,
        port=1,
        hba_file=Path("/h"),
        log_dir=Path("/l"),
        archive=Path("/it's"),
        archive_script=Path("/s"),
        certificates=Path("/c"),
        host=postgres.sizes(32 * GB, 8),
    )


def settings(profile: Profile) -> dict[str, str]:
    lines = re.findall(r"^([\w.]+) = ('(?:[^']|'')*'|\S+)", text(profile), re.MULTILINE)
    assert len(dict(lines)) == len(lines), "a setting is there twice"
    return {name: value.strip("'") for name, value in lines}


def test_the_profiles_differ_by_the_tuned_settings_alone() -> None:
    assert text("day40").startswith(text("day31"))
    assert not {"shared_buffers", "archive_mode", "ssl"} & set(settings("day31"))


# Day 31's file and §4.1, word for word.
SPECIFIED = {
    "shared_buffers": "8GB",
    "effective_cache_size": "24GB",
    "work_mem": "64MB",
    "maintenance_work_mem": "1GB",
    "wal_buffers": "64MB",
    "max_connections": "200",
    "superuser_reserved_connections": "3",
    "wal_level": "replica",
    "max_wal_size": "2GB",
    "min_wal_size": "512MB",
    "checkpoint_completion_target": "0.9",
    "archive_mode": "on",
    "random_page_cost": "1.1",
    "effective_io_concurrency": "200",
    "default_statistics_target": "200",
    "log_min_duration_statement": "100",
    "log_checkpoints": "on",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_lock_waits": "on",
    "log_temp_files": "0",
    "autovacuum_max_workers": "4",
    "autovacuum_naptime": "30s",
    "autovacuum_vacuum_cost_delay": "2ms",
    "shared_preload_libraries": "pg_stat_statements,auto_explain",
    "pg_stat_statements.track": "all",
    "auto_explain.log_min_duration": "200",
}


def test_at_32_gb_and_8_cores_the_file_has_the_specifications_words() -> None:
    """All but archive_command, whose `cp` overwrites and does not wait for the disk."""
    written = settings("day40")
    assert {name: written.get(name) for name in SPECIFIED} == SPECIFIED
    assert written["archive_command"] == """sh "/s" "%p" "/it''s/%f\""""


def archive(segment: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(postgres.ARCHIVE_SCRIPT), str(segment), str(target)], capture_output=True, text=True
    )


def test_a_segment_is_archived_whole_and_never_replaced(tmp_path: Path) -> None:
    segment, folder = tmp_path / "0001", tmp_path / "it's an archive"
    folder.mkdir()
    target = folder / "0001"
    segment.write_bytes(b"wal" * 1000)
    (folder / "0001.copying").write_bytes(b"left by a crash")
    for _ in range(2):  # once more, as after a crash before the server noted it
        done = archive(segment, target)
        assert (done.returncode, done.stderr) == (0, "")
        assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("0001", segment.read_bytes())]
    target.write_bytes(b"another server's")
    done = archive(segment, target)
    assert done.returncode == 1
    assert f"{target}: exists with other content" in done.stderr
    assert target.read_bytes() == b"another server's"


def test_a_segment_that_cannot_be_written_is_no_success(tmp_path: Path) -> None:
    segment = tmp_path / "0001"
    segment.touch()
    assert archive(segment, tmp_path / "missing" / "0001").returncode != 0
    assert archive(tmp_path / "missing", tmp_path / "0002").returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["0001"]
