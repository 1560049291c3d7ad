"""Random replies and random releases at full size: `tests/client_fuzz.py` and `tests/release_fuzz.py` say what is made.

    python -m tests.benchmarks.bench_fuzz [REPLIES [RELEASES [SEED]]]

Five thousand replies take some minutes, two thousand releases a quarter of an hour on a core. One JSON object on
standard output: counts, and under `must_be_empty` whatever went wrong.
"""

import io
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safesail.catalog.config import ReleaseOptions
from safesail.catalog.release import build_release
from safesail.cli.terminal import CleanStream
from safesail.llm import metered
from safesail.store.connection import open_writer
from tests import client_fuzz, release_fuzz
from tests.catalog.toy import fill

ROUND_TRIP_EVERY = 8


def replies(folder: Path, n: int, seed: int) -> dict[str, Any]:
    """A hostile endpoint, asked until it has replied `n` times."""
    metered.FIRST_WAIT, metered.LONGEST_WAIT = 0.001, 0.01
    with open_writer(folder / "replies.duckdb") as db:
        outcome = client_fuzz.fuzz(db, seed, n)
    return {
        "replies": outcome.calls,
        "kinds": dict(outcome.kinds),
        "errors": dict(outcome.errors),
        "must_be_empty": {
            "tracebacks": outcome.tracebacks, "poisoned": outcome.poisoned, "open_rows": outcome.open_rows,
            "missing_rows": outcome.missing_rows, "tokens_over_budget": outcome.over_budget,
        },
    }  # fmt: skip


def releases(folder: Path, n: int, seed: int) -> dict[str, Any]:
    """A release, changed `n` times."""
    os.environ["SAFESAIL_CACHE"] = str(folder / "cache")
    with open_writer(folder / "toy.duckdb") as db:
        fill(db)
    build_release(folder / "toy.duckdb", folder / "release", ReleaseOptions(name="toy"), quiet=True)
    outcome = release_fuzz.fuzz(
        folder / "release", folder / "cases", seed, range(n), round_trip_every=ROUND_TRIP_EVERY
    )
    return {
        "releases": outcome.kinds.total(),
        "kinds": dict(outcome.kinds),
        "refused": dict(outcome.refused),
        "accepted": dict(outcome.accepted),
        "errors": dict(outcome.errors),
        "round_trips": outcome.round_trips,
        "must_be_empty": {
            "tracebacks": outcome.tracebacks, "unsound": outcome.unsound, "too_strict": outcome.too_strict,
            "changed": outcome.changed,
        },
    }  # fmt: skip


def texts(n: int, seed: int) -> dict[str, Any]:
    """Random texts, half of them of what terminals obey, through the one writer, as the bytes that a terminal gets."""
    draw = random.Random(seed)
    spiteful = [
        *map(chr, range(32)),
        *map(chr, range(127, 160)),
        "\x1b[2J",
        "\x1b]52;c;eA==\x07",
        "\u202e",
        "\ud83d",
    ]
    raw = io.BytesIO()
    stream = CleanStream(io.TextIOWrapper(raw, "utf-8", newline="\n"))
    for _ in range(n):
        parts = (
            draw.choice(spiteful) if draw.random() < 0.5 else chr(draw.randrange(0x110000))
            for _ in range(draw.randint(1, 40))
        )
        stream.write("".join(parts))
    stream.flush()
    written = raw.getvalue()
    odd = {byte for byte in written if byte < 0x20} - {0x09, 0x0A} | ({0x7F} & set(written))
    text = written.decode()
    marks = [
        c
        for c in set(text)
        if 0x80 <= ord(c) < 0xA0 or c in "\u061c\u200e\u200f" or "\u202a" <= c <= "\u202e"
    ]
    must_be_empty = {"controls": sorted(odd), "marks": sorted(map(ascii, marks))}
    return {"texts": n, "bytes": len(written), "must_be_empty": must_be_empty}


def main() -> None:
    """Run and print."""
    n_replies, n_releases, seed = (
        int(a) for a in (*sys.argv[1:], *("5000", "2000", "14")[len(sys.argv) - 1 :])
    )
    result: dict[str, Any] = {"seed": seed}
    for name, run, n in (("client", replies, n_replies), ("releases", releases, n_releases)):
        if n:
            started, cpu = time.perf_counter(), time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                result[name] = run(Path(folder), n, seed)
            result[name] |= {
                "seconds": round(time.perf_counter() - started), "cpu_seconds": round(time.process_time() - cpu),
            }  # fmt: skip
    result["terminal"] = texts(20 * n_replies, seed)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
