"""What it costs to judge and render a run of 1,000,000 samples, beside pandas computing percentiles of the same.

`PYTHONPATH=. python tests/benchmarks/report_render.py [SAMPLES]` makes a run directory out of tests/data/runs (its
snapshots, names and limits; samples, counts and probes drawn anew), then times in processes of their own: reading,
judging and rendering it, imports done; and pandas reading the samples as CSV, as Locust users keep them, and taking the
p50, p95 and p99 of each endpoint. Prints wall and processor seconds and the peak of resident memory.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from harness.model import SAMPLE_FIELDS

RUN = Path(__file__).parent.parent / "data/runs/benchmark/runs/02-day40"
WORKERS, STEADY_S, WARMUP_S = 2, 3600.0, 15.0
CORRELATION = 0.9


def make(folder: Path, samples: int) -> Path:
    """The run directory, and beside it samples.csv for pandas."""
    run = folder / "run"
    shutil.copytree(RUN, run)
    (run / "samples-local.bin").unlink()
    names = json.loads((run / "endpoints.json").read_text())
    rng = np.random.default_rng(20260203)
    rows = np.zeros(samples, np.dtype(list(SAMPLE_FIELDS)))
    rows["scheduled_us"] = np.sort(rng.integers(0, int((WARMUP_S + STEADY_S) * 1e6), samples))
    rows["start_us"] = rows["scheduled_us"] + rng.integers(0, 300, samples)
    endpoint = rows["endpoint"] = rng.integers(0, len(names["endpoints"]), samples)
    noise = lfilter([1.0], [1.0, -CORRELATION], rng.standard_normal(samples)) * (1 - CORRELATION**2) ** 0.5
    rows["service_us"] = np.exp(8.5 + endpoint / 10 + 0.5 * noise)
    rows["outcome"] = 0
    rows["bytes_in"] = 900
    rows["user"] = np.arange(samples) % 50
    for number in range(WORKERS):
        rows[number::WORKERS].tofile(run / f"samples-worker-{number}.bin")
    meta = json.loads((run / "run.json").read_text())
    origin_us = meta["phases"]["origin_monotonic_us"]
    steady_us, end_us = int(WARMUP_S * 1e6), int((WARMUP_S + STEADY_S) * 1e6)
    meta["phases"] |= {"steady_start_us": steady_us, "steady_end_us": end_us, "drained_us": end_us + 500_000}
    meta["scenario"]["duration_s"] = STEADY_S
    recorded = {names["endpoints"][i]: n for i, n in Counter(rows["endpoint"].tolist()).items()}
    meta["counts"] |= {"sent": recorded, "recorded": recorded, "locust": recorded}
    (run / "run.json").write_text(json.dumps(meta))
    for when, at_us in (("before", steady_us), ("after", end_us + 600_000)):
        path = run / f"snapshot-{when}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"monotonic_us": origin_us + at_us}))
    # the same series as the run's, once a second for as long as this one
    series = sorted({line.split(",")[1] for line in (run / "probes.csv").read_text().splitlines()[1:]})
    with (run / "probes.csv").open("w") as file:
        file.write("monotonic_us,series,value\n")
        for second in range(int(WARMUP_S + STEADY_S)):
            file.writelines(f"{origin_us + second * 1_000_000},{name},{second % 7}\n" for name in series)
    with (folder / "samples.csv").open("w") as file:
        file.write("endpoint,start_us,latency_ms\n")
        latency_ms = (rows["start_us"] - rows["scheduled_us"] + rows["service_us"]) / 1000
        file.writelines(
            f"{names['endpoints'][i]},{at},{ms:.3f}\n"
            for i, at, ms in zip(endpoint.tolist(), rows["start_us"].tolist(), latency_ms.tolist(), strict=True)
        )
    return run


def dairyperf(folder: Path) -> None:
    from harness import charts, runner  # noqa: F401  # matplotlib is an import, not a part of the rendering

    directory = runner.open_run(folder / "run")
    began, used = time.perf_counter(), time.process_time()
    runner.judge(directory)
    said("dairyperf: read, judge, render", began, used)


def peer(folder: Path) -> None:
    import pandas as pd

    began, used = time.perf_counter(), time.process_time()
    samples = pd.read_csv(folder / "samples.csv")
    samples.groupby("endpoint")["latency_ms"].quantile([0.5, 0.95, 0.99])
    samples["latency_ms"].quantile([0.5, 0.95, 0.99])
    samples.groupby(samples["start_us"] // 5_000_000)["latency_ms"].quantile([0.5, 0.95, 0.99])
    said("pandas: read, percentiles, no page", began, used)


def said(what: str, began: float, used: float) -> None:
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - used
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<36} {elapsed_s:6.2f} s wall  {cpu_s:6.2f} s of processors  {peak_mib:6.0f} MiB peak")


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        {"dairyperf": dairyperf, "peer": peer}[sys.argv[2]](Path(sys.argv[3]))
        return
    samples = int(sys.argv[1]) if sys.argv[1:] else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), samples)
        for which in ("dairyperf", "peer") * 2:
            subprocess.run([sys.executable, __file__, "--measure", which, folder], check=True)
        print(f"page: {(Path(folder) / 'run/report.html').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
