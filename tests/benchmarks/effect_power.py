"""How often a benchmark finds a slow-down of one endpoint among 20, by how often the endpoint is called and by how much
runs vary, judged by a measured noise floor. Prints a table; simulates everything (tests/unit/simulated_benchmarks.py),
needs no stack, takes a few minutes.

    PYTHONPATH=.:tests/unit .venv/bin/python tests/benchmarks/effect_power.py [--pairs 10] [--slower 20]
"""

from __future__ import annotations

import argparse

from simulated_benchmarks import COUNTS, ENDPOINTS, found, noise_floors, simulate

SHOWN = (0, 2, 5, 8, 9, 11, 13)
RUN_SDS = (0.03, 0.05, 0.08)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--slower", type=float, default=20.0, help="percent")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--benchmarks", type=int, default=200)
    asked = parser.parse_args()
    print(
        f"Found of {asked.benchmarks} benchmarks of {asked.pairs} pairs of {asked.seconds:g} s, one endpoint "
        f"{asked.slower:g} % slower:"
    )
    print("| requests in a run | " + " | ".join(f"p50, runs vary by {sd:.0%} | p95" for sd in RUN_SDS) + " |")
    print("|---|" + "---|---|" * len(RUN_SDS))
    simulated = [simulate(asked.benchmarks, asked.pairs, sd, seed=1, seconds=asked.seconds) for sd in RUN_SDS]
    floors = [noise_floors(one) for one in simulated]
    for endpoint in SHOWN:
        cells = []
        for one, (last, *others) in zip(simulated, floors, strict=True):
            # the floor of another session than the one that is judged
            slowed = one.slowed(endpoint, 1 + asked.slower / 100)
            of_all = [effect[ENDPOINTS[endpoint]] for effect in found(slowed, [*others, last])]
            for metric in ("p50_ms", "p95_ms"):
                share = sum(of_one[metric].verdict == "regressed" for of_one in of_all) / len(of_all)
                cells.append(f"{share:.0%}")
        print(f"| {COUNTS[endpoint] * asked.seconds / 30:.0f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
