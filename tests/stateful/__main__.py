"""``python -m tests.stateful --steps N --seed S``: a long run, in several processes.

Prints what it is worth: steps a second, and how often each rule and each place was reached. A broken promise
ends its process; the run's result is 1 then, and the error tells the story from its beginning.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from typing import Any

from tests.stateful import shares
from tests.stateful.points import POINTS
from tests.stateful.shares import FIGURES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stateful", description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="in all processes together")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--processes", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--go-on", action="store_true", help="after a broken promise too, with the next seed")
    wanted = parser.parse_args()
    print(f"seed {wanted.seed}, {wanted.steps} steps in {wanted.processes} processes", flush=True)
    began = time.monotonic()
    share = -(-wanted.steps // wanted.processes)
    # Not forked, since gRPC does not outlive that.
    with multiprocessing.get_context("spawn").Pool(wanted.processes) as pool:
        work = [(share, wanted.seed + 1_000_003 * number, wanted.go_on) for number in range(wanted.processes)]
        results = pool.starmap(shares.share_of, work)
    _report(results, time.monotonic() - began)
    return int(any(result["broken"] for result in results))


def _report(results: list[dict[str, Any]], seconds: float) -> None:
    figures = {name: sum((Counter(result[name]) for result in results), Counter()) for name in FIGURES}
    steps = figures["rules"].total()
    histories, broken = (sum(result[name] for result in results) for name in ("histories", "broken"))
    print(
        f"\n{steps} steps in {histories} histories, {steps / seconds:.1f} a second; {broken} promises broken"
    )
    for name in FIGURES:
        print(f"\n{name}:")
        for what, count in figures[name].most_common():
            print(f"{count:8}  {what}")
    never = set(POINTS) - figures["killed"].keys()
    print(f"\nnever killed at: {', '.join(sorted(never)) or 'none'}")
    print("\nslowest, in ms:")
    for what in sorted({what for result in results for what in result["slowest"]}):
        print(f"{max(result['slowest'].get(what, 0) for result in results):8}  {what}")


if __name__ == "__main__":
    sys.exit(main())
