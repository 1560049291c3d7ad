"""The budget under faults and kills, at full size: `tests/budget_runs.py` says what is run.

    python -m tests.benchmarks.bench_budget [RUNS [SEED]]

One JSON object on standard output; what must be zero is under `must_be_zero`.
"""

import json
import sys
import time

from tests.budget_runs import run_many


def main() -> None:
    """Run and print."""
    n, seed = (int(a) for a in (*sys.argv[1:], *("300", "0")[len(sys.argv) - 1 :]))
    started = time.perf_counter()
    result = run_many(n, seed) | {"seconds": round(time.perf_counter() - started)}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
