"""Keeps what the plugin tells the observer; STUB_OBSERVER makes it fail at a chosen point."""

import json
import os
import sys
import time
from pathlib import Path

run_dir = Path(sys.argv[1])
fails = os.environ.get("STUB_OBSERVER", "")
(run_dir / "observer.pid").write_text(str(os.getpid()))
if fails == "at start":
    sys.exit("postgres: cannot be reset")
print(json.dumps({"event": "ready", "origin_monotonic_us": time.monotonic_ns() // 1000}), flush=True)
last = None
for line in sys.stdin:
    last = json.loads(line)["event"]
    with (run_dir / "messages.jsonl").open("a") as kept:
        kept.write(line)
    if fails == "aborts" and last == "steady":
        print(json.dumps({"event": "abort", "limit": "p95_ms < 1 over the last 1 s: 7 ms"}), flush=True)
    if fails == "in the middle" and last == "steady":
        sys.exit("postgres: gone")
    if last == "broken":
        break
    if last == "drained":
        sys.exit("postgres: no snapshot" if fails == "at the end" else 0)
(run_dir / "abandoned").touch()
sys.exit(4)
