"""Catalogs to look at, a running server, and a browser that notes every complaint and request."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, sync_playwright

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.loop import Plan
from safesail.autointerp.run import run_plan
from safesail.catalog.config import ReleaseOptions
from safesail.catalog.release import build_release
from safesail.domain.ids import FeatureId
from safesail.llm.budget import parse_budget
from safesail.store.connection import open_writer
from safesail.view.config import ViewOptions
from safesail.view.export import export
from safesail.view.server import running
from tests.pool_runs import N_FEATURES, SAE, make_store

CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
OPTIONS = ViewOptions(port=0, by="words")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Indexes and maps are kept away from the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SAFESAIL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten planted features, explained and scored by the built-in model; an SAE beside them; a selection of both."""
    path = tmp_path_factory.mktemp("view") / "planted.duckdb"
    with ThreadPoolExecutor(
        1
    ) as pool:  # Playwright may have an event loop in this thread, and there can be one only
        pool.submit(fill, path).result()
    return path


def fill(path: Path) -> None:
    """Make the planted store."""
    make_store(path)
    config = AutointerpConfig.model_validate(
        {"scoring": {"method": "pooled", "draws": 50, "pool": {"features": 5, "max_rounds": 3}}}
    )
    chat = ChatSettings("lexical", "lexical", parse_budget("unlimited"))
    with open_writer(path) as db:
        run_plan(db, Plan(SAE, [FeatureId(SAE, j) for j in range(N_FEATURES)]), chat, config, quiet=True)
        db.execute(
            "INSERT INTO saes (sae_id, sae_key, model_id, layer, hook, d_in, d_sae, architecture, source)"
            " VALUES ('beside', 2, 'm', 1, 'h1', 8, 200, 'topk', 's')"
        )
        db.execute("INSERT INTO features (sae_id, feature) SELECT 'beside', i FROM range(60) t(i)")
        db.execute(
            "INSERT INTO explanations (explanation_id, sae_id, feature, text, explainer, origin)"
            " SELECT 'b' || i, 'beside', i, 'words about ' || ['rivers', 'soup', 'judges'][i % 3 + 1] || ' ' || i,"
            " 'somebody', 'elsewhere' FROM range(60) t(i)"
        )
        db.execute(
            "INSERT INTO concepts VALUES ('violence.weapon.bomb', 'violence', 'weapon', 'bomb', 'A bomb.')"
        )
        db.execute("INSERT INTO tags VALUES (?, 0, 'violence', 'concepts', NULL)", [SAE])
        db.execute("INSERT INTO tags SELECT 'beside', i, 'fraud', 'explainer', 2 FROM range(10) t(i)")
        for number, (sae, value) in enumerate(((SAE, 0.8), ("beside", 0.6))):
            selection = f"s{number}"
            db.execute(
                "INSERT INTO selections VALUES (?, ?, 'set', '{\"controls\": []}', ?, 0.3, 1)",
                [selection, sae, 8 + 8 * number],
            )
            for scope, name in (("all", "all"), ("domain", "violence"), ("concept", "violence.weapon.bomb")):
                db.execute(
                    "INSERT INTO sae_scores VALUES (?, ?, ?, ?, 'detection', ?, ?, ?, 0.5, ?, 16, NULL)",
                    [selection, sae, scope, name, value, value - 0.05, value + 0.05, value - 0.5],
                )
            db.execute(
                "INSERT INTO feature_concepts VALUES (?, ?, 0, 'violence.weapon.bomb', 0.9, 0.1, 16, true)",
                [selection, sae],
            )


@pytest.fixture(scope="session")
def release(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, released, with violence masked."""
    out = tmp_path_factory.mktemp("release") / "masked"
    build_release(store, out, ReleaseOptions(name="masked", redact=("violence",)))
    return out


@contextmanager
def serving(path: Path) -> Generator[str]:
    """A real server on loopback over a catalog; gives its address without the last slash."""
    with running(path, OPTIONS, quiet=True) as (server, address, sock):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield address.rstrip("/")
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server over a copy of the planted store: within one process, a locked store is locked for all."""
    with serving(Path(shutil.copy(store, tmp_path_factory.mktemp("served") / store.name))) as address:
        yield address


@pytest.fixture(scope="session")
def pages(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted store, exported."""
    out = tmp_path_factory.mktemp("export") / "pages"
    with ThreadPoolExecutor(
        1
    ) as pool:  # Playwright has an event loop in this thread, and there can be one only
        pool.submit(export, store, out, OPTIONS, quiet=True).result()
    return out


@pytest.fixture(scope="module")  # not longer: as long as Playwright runs, no `asyncio.run` can in this thread
def chromium() -> Generator[Browser]:
    """Debian's Chromium, or any that SAFESAIL_BROWSER names."""
    program = os.environ.get("SAFESAIL_BROWSER") or shutil.which("chromium")
    if program is None:
        message = "no Chromium here (`apt-get install chromium`, or name one in SAFESAIL_BROWSER)"
        if os.environ.get("SAFESAIL_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and what should not have happened on it."""

    page: Page
    complaints: list[str] = field(default_factory=list[str])
    """Errors and warnings of the console, faults of scripts, dialogs."""

    outside: list[str] = field(default_factory=list[str])
    """Requests that left this machine."""

    def note(self, request: Request) -> None:
        """Keep a request that goes elsewhere."""
        if not request.url.startswith(("http://127.0.0.1:", "file://", "data:", "blob:")):
            self.outside.append(request.url)

    def dismiss(self, dialog: Dialog) -> None:
        """No page of ours opens one."""
        self.complaints.append("a dialog")
        dialog.dismiss()

    def check(self) -> None:
        """Nothing complained and nothing went outside."""
        assert self.complaints == []
        assert self.outside == []


Look = Callable[..., Watched]


@pytest.fixture
def look(chromium: Browser) -> Generator[Look]:
    """Opens a watched page: `look(width=360, dark=True)`; all are checked at the end of the test."""
    contexts: list[BrowserContext] = []
    all_watched: list[Watched] = []

    def opened(*, width: int = 1280, dark: bool = False) -> Watched:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        watched = Watched(context.new_page())
        all_watched.append(watched)
        watched.page.set_default_timeout(20_000)
        watched.page.on("request", watched.note)
        watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        watched.page.on(
            "console",
            lambda said: watched.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        watched.page.on("dialog", watched.dismiss)
        return watched

    yield opened
    for watched in all_watched:
        watched.check()
    for context in contexts:
        context.close()
