"""The viewer over a catalog of a million features: what a page costs at the server, memory, start; the map; an export.

Run by hand: `python -m tests.benchmarks.bench_view [n_features] [folder]`. Not a test: it is too large for one.

The catalog is synthetic (`bench_catalog.tables`), with windows for some features of one SAE; the server runs in a
process of its own and is asked over loopback. `cpu_ms` is the server's processor time per page: on a machine that
others use too, it differs from `ms`. The search's index is made at the first start and kept; `start_seconds` has both.
Frames are of Chromium without a GPU, where there is one. An export is of Safe-SAIL's own catalog where it is at hand
(SAFESAIL_SHARED).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil

from safesail.catalog.config import ImportOptions
from safesail.catalog.importing import import_catalog
from safesail.store.connection import open_writer
from tests.benchmarks.bench_catalog import D_SAE, fill, vocabulary

N_WINDOWS = 20_000
N_WINDOWED = 200
"""Features of the first SAE that fire, each in a hundredth of the windows."""


@dataclass(frozen=True)
class Served:
    """A running server."""

    address: str
    process: psutil.Process
    seconds: float
    """From its start to its first word."""


def add_windows(path: Path) -> None:
    """A harvest for the first SAE: 20,000 windows of 64 tokens."""
    with open_writer(path) as db:
        db.execute("INSERT INTO harvests VALUES (1, 'h', 'synthetic', 'f', '{}', 64, true)")
        db.execute("INSERT OR IGNORE INTO harvest_saes SELECT sae_key, 1 FROM saes WHERE sae_id = 'sae-00'")
        db.execute(
            "INSERT INTO windows SELECT 1, i, 'd' || (i // 8), (i % 8) * 64,"
            " CASE WHEN i % 2 = 0 THEN 'train' ELSE 'test' END,"
            " [], list_transform(range(64), lambda t: ' w' || (hash(i * 64 + t) % 5000))"
            f" FROM range({N_WINDOWS}) r(i)"
        )
        db.execute(
            "INSERT INTO activations_f32 SELECT (SELECT sae_key FROM saes WHERE sae_id = 'sae-00'), f,"
            " (hash(f, k) % ?) * 64 + hash(k, f) % 64 AS token, 0, 0.1 + (hash(k, f, 1) % 1000) / 100.0"
            f" FROM range({N_WINDOWED}) a(f), range({N_WINDOWS // 100}) b(k) ORDER BY f, token",
            [N_WINDOWS],
        )
        db.execute(
            "UPDATE features SET harvest_key = 1, n_tokens = ?, n_active = ?, q999 = 10, maximum = 10.1"
            f" WHERE sae_id = 'sae-00' AND feature < {N_WINDOWED}",
            [N_WINDOWS * 64, N_WINDOWS // 100],
        )


@contextmanager
def served(path: Path) -> Generator[Served]:
    """`safesail view` over a catalog, in a process of its own."""
    began = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "safesail",
        "view",
        "--store",
        str(path),
        "--port",
        "0",
        "--by",
        "words",
        "-q",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None, "it did not start"
        address = found[0].rstrip("/")
        try:
            get(f"{address}/static/icon.svg")
            yield Served(address, psutil.Process(process.pid), time.perf_counter() - began)
        finally:
            process.terminate()


def get(address: str) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(address, timeout=120) as answer:
        return answer.read()


def timed(server: Served, paths: Sequence[str]) -> dict[str, float]:
    """Quantiles of the pages' times in milliseconds, and of the server's processor time, after one to warm up."""
    get(server.address + paths[0])
    wall: list[float] = []
    cpu: list[float] = []
    for path in paths:
        before, began = server.process.cpu_times(), time.perf_counter()
        get(server.address + path)
        wall.append(1000 * (time.perf_counter() - began))
        after = server.process.cpu_times()
        cpu.append(1000 * (after.user + after.system - before.user - before.system))
    return {
        "n": len(paths),
        "ms_median": round(float(np.median(wall)), 1), "ms_p95": round(float(np.quantile(wall, 0.95)), 1),
        "cpu_ms_median": round(float(np.median(cpu)), 1), "cpu_ms_p95": round(float(np.quantile(cpu, 0.95)), 1),
    }  # fmt: skip


def pages_of(n: int) -> dict[str, list[str]]:
    """Addresses by kind of page."""
    rng = np.random.default_rng(5)
    words = vocabulary(np.random.default_rng(0))
    drawn = [(int(i) // D_SAE, int(i) % D_SAE) for i in rng.integers(0, n, 24)]
    asked = [f"{words[a]} {words[b]}" for a, b in rng.integers(20, 2000, (20, 2))]
    tags = ("politics", "violence", "pornography", "terror", "fraud", "hate")
    return {
        "start": ["/"] * 10,
        "search": [f"/?q={quote(text)}" for text in asked],
        "filter": [f"/?domain={tag}&least=0.{k}" for tag in tags for k in (2, 4, 6)],
        "sort_and_page": [f"/?sort={s}&after={k}_1" for s in ("score", "density_up") for k in np.linspace(0, 0.9, 8)],
        "feature": [f"/feature?sae=sae-{sae:02d}&index={index}" for sae, index in drawn],
        "feature_with_windows": [f"/feature?sae=sae-00&index={i}" for i in range(0, N_WINDOWED, 12)],
    }  # fmt: skip


def map_frames(server: Served, n: int) -> dict[str, Any]:
    """The map in Chromium: seconds until it is placed and drawn, and milliseconds of its frames while it is panned."""
    program = shutil.which("chromium")
    if program is None:
        return {"skipped": "no chromium"}
    from playwright.sync_api import sync_playwright

    from tests.view.conftest import CHROMIUM_FLAGS

    began = time.perf_counter()
    while b"How faithful" not in (html := get(f"{server.address}/map")):
        time.sleep(0.5)
    placed = time.perf_counter() - began
    said = re.search(r"How faithful:</b> ([\d.]+) %.*?shuffled, ([\d.]+) %", html.decode(), re.DOTALL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        page.goto(f"{server.address}/map")
        while not page.evaluate("Boolean(window.safesailFrames && window.safesailFrames.length)"):
            time.sleep(0.02)
        loaded = time.perf_counter() - began
        box = page.locator("#map").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 400, box["y"] + 300)
        page.mouse.down()
        for step in range(120):
            page.mouse.move(box["x"] + 400 + step, box["y"] + 300 + step / 2)
        page.mouse.up()
        frames = page.evaluate("window.safesailFrames")
        browser.close()
    return {
        "points": n, "placed_seconds": round(placed, 1), "loaded_and_drawn_seconds": round(loaded, 2),
        "frame_ms_median": round(float(np.median(frames)), 1),
        "frame_ms_p95": round(float(np.quantile(frames, 0.95)), 1),
        "neighbours_kept_percent": None if said is None else float(said[1]),
        "shuffled_percent": None if said is None else float(said[2]),
    }  # fmt: skip


def safe_sail(folder: Path) -> Path | None:
    """Safe-SAIL's own catalog as a store; None where its file is not at hand."""
    shared = Path(os.environ.get("SAFESAIL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    file = shared / "catalogs" / "safe_sail_qwen2.5_3b" / "en_db.json"
    if not file.is_file():
        return None
    store = folder / "safe-sail.duckdb"
    options = ImportOptions(name="safe-sail", model="qwen", d_sae=20_480, hook="blocks.{layer}.hook_mlp_out")
    import_catalog(store, file, options)
    return store


def exported(store: Path, out: Path) -> dict[str, Any]:
    """Size and time of an export."""
    before, began = time.process_time(), time.perf_counter()
    from safesail.view.config import ViewOptions
    from safesail.view.export import export

    report = export(store, out, ViewOptions(port=0, by="words"), quiet=True)
    return {
        "pages": report.pages, "megabytes": round(report.bytes / 1e6, 1),
        "bytes_per_page": round(report.bytes / report.pages),
        "seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - before, 1),
    }  # fmt: skip


def main(n: int, folder: Path) -> None:
    """Measure and print JSON."""
    path = folder / "large.duckdb"
    if not path.is_file():
        with open_writer(path) as db:
            fill(db, n)
        add_windows(path)
    result: dict[str, Any] = {"features": n, "store_megabytes": round(path.stat().st_size / 1e6)}

    def keep(name: str, measured: Any) -> None:
        """Part by part on stderr: all of it takes a while."""
        result[name] = measured
        sys.stderr.write(f"{name}: {json.dumps(measured)}\n")

    with served(path) as server:
        keep("first_start", {"seconds": round(server.seconds, 1), "cpu_seconds": cpu(server)})
    with served(path) as server:
        keep("later_start", {"seconds": round(server.seconds, 1), "cpu_seconds": cpu(server)})
        for name, paths in pages_of(n).items():
            keep(f"page_{name}", timed(server, paths))
        keep("memory_megabytes", round(server.process.memory_info().rss / 1e6))
        keep("map_large", map_frames(server, min(n, 100_000)))
        keep("memory_megabytes_after_map", round(server.process.memory_info().rss / 1e6))
    small = safe_sail(folder)
    if small is not None:
        with served(small) as server:
            keep("map_safe_sail", map_frames(server, 4_700))
        keep("export_safe_sail", exported(small, folder / "pages"))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def cpu(server: Served) -> float:
    """Processor time that a server has used so far, in seconds."""
    used = server.process.cpu_times()
    return round(used.user + used.system, 1)


if __name__ == "__main__":
    N = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 2:
        main(N, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(N, Path(made))
