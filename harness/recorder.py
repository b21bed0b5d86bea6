"""Keeps a run's samples: in memory where load is generated, in files where the run directory is.

`Samples` counts and packs the requests of one process; its `Part`s travel (within the process, or in the reports of
Locust's workers) to the one `SampleFiles` of the run. Neither computes a statistic.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from harness.errors import RunInvalid, StackError
from harness.model import OUTCOME_OK, SAMPLE, SAMPLE_FIELDS
from harness.rundir import RunDir

_MOST_NAMES = 2**16
# per endpoint: requests sent, samples taken, arrivals that were due and never sent, replies compared with the seed,
# and those that differed from it
TOTALS = ("sent", "recorded", "dropped", "checked", "wrong")


@dataclass(frozen=True, slots=True)
class Part:
    """What one process recorded since its previous part. number: 0, 1, 2, …, so that a lost part is noticed.

    samples: 32-byte records. endpoints, outcomes: the names they index, in the order of this process. totals: for
    each of TOTALS its count by endpoint index since the process began, not since the previous part.
    """

    number: int
    samples: bytes
    endpoints: tuple[str, ...]
    outcomes: tuple[str, ...]
    totals: Mapping[str, tuple[int, ...]]

    def to_message(self) -> dict[str, Any]:
        """Plain values, as Locust's messages carry them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Part:
        return cls(**message)


class Samples:
    """What the users of one process did. Single-threaded; every number is exact."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._parts = 0
        self._endpoints: dict[str, int] = {}
        self._outcomes: dict[str, int] = {"ok": OUTCOME_OK}
        self._totals: dict[str, list[int]] = {name: [] for name in TOTALS}
        self._sent, self._recorded = self._totals["sent"], self._totals["recorded"]

    def endpoint_id(self, name: str) -> int:
        """The index that samples use for endpoint `name`. RunInvalid: more names than indexes."""
        index = self._endpoints.get(name)
        if index is None:
            index = self._learn(self._endpoints, name)
            for counts in self._totals.values():
                counts.append(0)
        return index

    def outcome_id(self, name: str) -> int:
        """The index that samples use for outcome `name`; "ok" is 0. RunInvalid: more names than indexes."""
        index = self._outcomes.get(name)
        return self._learn(self._outcomes, name) if index is None else index

    def count_sent(self, endpoint: int) -> int:
        """Call it right before the socket write; returns how many requests of the endpoint came before."""
        before = self._sent[endpoint]
        self._sent[endpoint] = before + 1
        return before

    def count(self, total: str, endpoint: int) -> None:
        """Adds one to "dropped", "checked" or "wrong"."""
        self._totals[total][endpoint] += 1

    def record(
        self,
        scheduled_us: int,
        start_us: int,
        service_us: int,
        endpoint: int,
        outcome: int,
        bytes_in: int,
        user: int,
    ) -> None:
        """Takes one finished request; times in µs from the origin. Raises RunInvalid for a number that has no place
        in the record: clamped, it would pass for a measurement."""
        try:
            self._buffer += SAMPLE.pack(scheduled_us, start_us, service_us, endpoint, outcome, bytes_in, user)
        except struct.error as fault:
            raise RunInvalid(
                f"sample {(scheduled_us, start_us, service_us, endpoint, outcome, bytes_in, user)}: {fault}; "
                "give integers, and requests time-outs below 71 minutes"
            ) from None
        self._recorded[endpoint] += 1

    def take(self) -> Part:
        """What was recorded since the last call."""
        part = Part(
            number=self._parts,
            samples=bytes(self._buffer),
            endpoints=tuple(self._endpoints),
            outcomes=tuple(self._outcomes),
            totals={name: tuple(counts) for name, counts in self._totals.items()},
        )
        self._parts += 1
        self._buffer.clear()
        return part

    def _learn(self, names: dict[str, int], name: str) -> int:
        if len(names) == _MOST_NAMES:
            raise RunInvalid(f"{name}: more than {_MOST_NAMES} names; name requests by template, not by id")
        return names.setdefault(name, len(names))


class SampleFiles:
    """The sample files of one run directory, one for each process that generates load, and the names they share.

    Context manager around the recording. The files are only appended to, and a name is on disk before its first
    record, so that they can be read at any moment, also after a crash.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._descriptors: dict[str, int] = {}
        self._endpoints: dict[str, int] = {}
        self._outcomes: dict[str, int] = {"ok": OUTCOME_OK}
        self._next_part: Counter[str] = Counter()
        self._totals: dict[str, dict[str, dict[str, int]]] = {}
        self._written: dict[str, Counter[str]] = {}

    def __enter__(self) -> SampleFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def append(self, source: str, part: Part) -> None:
        """Keeps what process `source` recorded. Raises StackError when it cannot be written, RunInvalid when an
        earlier part of this process is missing."""
        self._know(part)
        self._totals[source] = {
            total: dict(zip(part.endpoints, counts, strict=True)) for total, counts in part.totals.items()
        }
        rows = np.frombuffer(part.samples, np.dtype(list(SAMPLE_FIELDS))).copy()
        rows["endpoint"] = np.array([self._endpoints[name] for name in part.endpoints], np.uint16)[rows["endpoint"]]
        rows["outcome"] = np.array([self._outcomes[name] for name in part.outcomes], np.uint16)[rows["outcome"]]
        self._write(source, rows.tobytes())
        names = tuple(self._endpoints)
        numbers, counts = np.unique(rows["endpoint"], return_counts=True)
        written = self._written.setdefault(source, Counter())
        written.update({names[number]: int(count) for number, count in zip(numbers, counts, strict=True)})
        expected, self._next_part[source] = self._next_part[source], part.number + 1
        if part.number != expected:
            raise RunInvalid(
                f"{source}: parts {expected} to {part.number - 1} of its samples never came; check the network between "
                "the load generators, and run again"
            )

    def counts(self) -> dict[str, dict[str, int]]:
        """{total: {endpoint: n}} over all processes; "recorded" is what stands in the files."""
        summed: dict[str, Counter[str]] = {total: Counter(dict.fromkeys(self._endpoints, 0)) for total in TOTALS}
        for totals in self._totals.values():
            for total, counts in totals.items():
                summed[total].update(counts)
        summed["recorded"] = Counter(dict.fromkeys(self._endpoints, 0))
        for written in self._written.values():
            summed["recorded"].update(written)
        return {total: dict(counts) for total, counts in summed.items()}

    def kept(self, source: str) -> int:
        """Samples of a process that stand in its file."""
        return self._written.get(source, Counter()).total()

    def unanswered(self, source: str) -> int:
        """Requests of a process whose samples did not come yet, as of its last part."""
        totals = self._totals.get(source, {})
        return sum(totals.get("sent", {}).values()) - self.kept(source)

    def _know(self, part: Part) -> None:
        known = len(self._endpoints) + len(self._outcomes)
        for names, own in ((part.endpoints, self._endpoints), (part.outcomes, self._outcomes)):
            for name in names:
                own.setdefault(name, len(own))
        if len(self._endpoints) + len(self._outcomes) > known:
            self._run_dir.write_names(tuple(self._endpoints), tuple(self._outcomes))

    def _write(self, source: str, records: bytes) -> None:
        path = self._run_dir.samples_path(source)
        left = memoryview(records)
        try:
            if source not in self._descriptors:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
                self._descriptors[source] = os.open(path, flags, 0o644)
            while left:
                left = left[os.write(self._descriptors[source], left) :]
        except OSError as fault:
            raise StackError(
                f"{path}: {fault.strerror}, {len(left) // SAMPLE.size} samples or more are lost; give it a new, "
                "writable run directory with free space, and run again"
            ) from fault
