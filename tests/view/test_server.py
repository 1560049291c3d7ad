"""What the server sends, and to whom."""

import html
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from click.testing import CliRunner

from safesail.autointerp.replay import Replays, ScoreKey
from safesail.autointerp.score import agreement
from safesail.cli.main import cli
from safesail.domain.ids import FeatureId
from safesail.errors import ConfigError, NotFoundError
from safesail.store.connection import open_reader, open_writer
from safesail.store.feature_page import score_origins
from safesail.store.sql import value
from safesail.view.config import ViewOptions
from safesail.view.desk import open_desk
from safesail.view.export import export
from safesail.view.feature import feature_page, step_of
from safesail.view.listing import ListQuery, list_features
from safesail.view.server import running
from tests.view.conftest import OPTIONS, SAE, serving


def get(
    address: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, str, Message]:
    """Status, text and headers of an answer."""
    request = urllib.request.Request(address, headers=dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


class Text(HTMLParser):
    """What a person reads on a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped += tag in ("title", "head")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("title", "head")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.words += data.split()


def text_of(page: str) -> list[str]:
    """Words of a page's main part."""
    reader = Text()
    reader.feed(page[page.index("<main") : page.index("</main>")])
    return reader.words


@pytest.mark.parametrize("path", ["/", "/saes", "/costs", "/map", f"/feature?sae={SAE}&index=1", "/nowhere"])
def test_every_answer_says_what_a_page_may_load(server: str, path: str) -> None:
    _, _, headers = get(server + path)
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "attacker.example"}, 421),
        ({"Host": "127.0.0.1.attacker.example:{port}"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
    ],
)
def test_other_sites_and_names_are_refused(server: str, headers: dict[str, str], status: int) -> None:
    port = server.rpartition(":")[2]
    sent = {name: value.format(port=port) for name, value in headers.items()}
    for path in ("/", "/data/points.js", "/static/view.css"):
        got = get(server + path, sent)[0]
        assert got == status or (
            path == "/data/points.js" and status == 200 and got == 404
        )  # no map asked for yet


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_is_written(server: str, method: str) -> None:
    assert get(server + "/", method=method)[0] == 405


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/feature?sae=none&index=0", 404),
        (f"/feature?sae={SAE}&index=-1", 400),
        (f"/feature?sae={SAE}&index=99999999999999999999", 400),
        (f"/feature?sae={SAE}&index=%D9%A3", 400),
        ("/feature", 400),
        ("/?layer=x", 400),
        ("/?least=nan1", 400),
        ("/?sort=no", 400),
        ("/?after=zzz", 400),
        ("/?q=%21%21%21", 400),
        ("/?sae=none", 400),
        ("/?domain=none", 400),
        ("/?layer=999", 200),
        ("/?least=nan", 200),
        ("/static/../server.py", 404),
        ("/static/%2e%2e/server.py", 404),
        ("/data/texts-99.js", 404),
        ("/nowhere", 404),
    ],
)
def test_wrong_addresses_get_a_page_that_says_so(server: str, path: str, status: int) -> None:
    got, page, _ = get(server + path)
    assert got == status
    assert "Traceback" not in page


def test_the_server_cannot_be_reached_from_elsewhere(store: Path) -> None:
    with running(store, OPTIONS, quiet=True) as (_, address, sock):
        assert sock.getsockname()[0] == "127.0.0.1"
        port = int(address.rstrip("/").rpartition(":")[2])
        with (
            pytest.raises(ConfigError, match="name another --port"),
            running(store, ViewOptions(port=port, by="words"), quiet=True),
        ):
            pass


def test_a_simulation_read_again_gives_the_stored_score(store: Path) -> None:
    with open_reader(store) as db:
        feature = FeatureId(SAE, 3)
        explanation_id, _, simulator, run_id, _, settings_hash, _ = score_origins(db, feature)[0]
        said = Replays(db).simulation(ScoreKey(feature, explanation_id, simulator, run_id, settings_hash))
        again = agreement(said.windows, draws=1, seed=0).pearson
        stored = value(db, "SELECT value FROM scores WHERE sae_id = ? AND feature = 3", [SAE])
    assert again == pytest.approx(stored, abs=1e-12)


def test_a_simulation_under_other_settings_is_not_passed_off(store: Path) -> None:
    with open_reader(store) as db:
        feature = FeatureId(SAE, 3)
        explanation_id, _, simulator, run_id, *_ = score_origins(db, feature)[0]
        with pytest.raises(NotFoundError, match="not here any more"):
            Replays(db).simulation(ScoreKey(feature, explanation_id, simulator, run_id, "other"))
        with pytest.raises(NotFoundError, match="does not know the run"):
            Replays(db).simulation(ScoreKey(feature, explanation_id, simulator, None, "other"))


def test_all_features_are_listed_once_whatever_the_order(store: Path) -> None:
    with open_desk(store, by="words", quiet=True) as desk:
        for sort in ("feature", "score", "score_up", "density", "density_up"):
            listed: list[tuple[str, int]] = []
            query = {"sort": sort}
            while True:
                page = list_features(desk, ListQuery.read(query))
                listed += [(row.sae_id, row.index) for row in page.rows]
                if page.next is None:
                    break
                query = dict(parse_qsl(page.next[1:]))
            assert len(listed) == len(set(listed)) == desk.totals.features, sort


def test_facets_count_what_choosing_them_gives(store: Path) -> None:
    with open_desk(store, by="words", quiet=True) as desk:
        for choices in list_features(desk, ListQuery()).facets.values():
            for choice in choices:
                given = dict(parse_qsl(choice.link[1:]))
                assert list_features(desk, ListQuery.read(given)).n == choice.n, choice.name


def test_the_start_page_counts_the_catalog(server: str, store: Path) -> None:
    with open_reader(store) as db:
        above = value(db, "SELECT count(*) FROM catalog WHERE score_low > chance_score")
        beyond = value(db, "SELECT count(*) FROM catalog WHERE beyond_lookup = 'yes'")
        tokens = value(db, "SELECT sum(tokens) FROM ledger")
    words = " ".join(text_of(get(server + "/")[1]))
    assert "70 features" in words
    assert f"{above} of 10 above chance" in _reordered(words, "above chance", above)
    assert f"{tokens:,}" in words
    assert beyond >= 0


def _reordered(words: str, label: str, n: int) -> str:
    """A figure stands under its number on the page and before it in the text."""
    return f"{n} of 10 {label}" if f"{label} {n} of 10" in words else words


def test_a_page_shows_the_explanation_and_score_that_the_catalog_shows(store: Path) -> None:
    with open_desk(store, by="words", quiet=True) as desk:
        listed = desk.db.execute(
            'SELECT sae_id, "index", explanation, score, chance_score FROM catalog'
        ).fetchall()
        for sae_id, index, explanation, score, chance in listed[::3]:
            page = feature_page(desk, FeatureId(sae_id, index))
            assert (page.explanation and page.explanation.text) == explanation
            assert (page.headline and page.headline.value) == score
            assert (page.headline and page.headline.chance) == chance


def test_level_windows_are_of_their_level(store: Path) -> None:
    with open_desk(store, by="words", quiet=True) as desk:
        page = feature_page(desk, FeatureId(SAE, 3))
    assert {level.number for level in page.levels} >= {3, 4, 5}
    for level in page.levels:
        for window in level.windows:
            assert window.maximum <= level.high or level.number == 5
            assert window.maximum > level.low
    strongest = [w.maximum for w in page.levels[0].windows if w.split == "train"]
    assert strongest == sorted(strongest, reverse=True)
    assert sum(page.histogram) == page.statistics.n_active
    silent = [w for _, windows in page.controls for w in windows]
    assert silent
    assert all(w.maximum == 0 for w in silent)


def test_the_command_serves_until_it_is_interrupted(store: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "safesail",
        "view",
        "--store",
        str(store),
        "--port",
        "0",
        "--by",
        "words",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert address is not None
        assert "planted.duckdb" in get(address[0])[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_command_exports_and_refuses_in_one_line(store: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").touch()
    asked = ["view", "--quiet", "--store", str(store), "--export"]
    with pytest.raises(ConfigError, match="name a new folder"):
        CliRunner().invoke(cli, [*asked, str(taken)], standalone_mode=False, catch_exceptions=False)
    alone = CliRunner().invoke(cli, ["view", "--store", str(store), "--redact", "violence"])
    assert (alone.exit_code, "belongs to --export" in alone.output) == (2, True)


def test_a_tokens_colour_is_its_share_of_the_top() -> None:
    assert [step_of(v, 10.0) for v in (-1.0, 0.0, 0.01, 5.0, 10.0, 99.0)] == [0, 0, 1, 5, 10, 10]


def test_an_export_says_what_the_server_says(server: str, pages: Path) -> None:
    folder = next((pages / "features").glob(f"{SAE}-*"))
    for index in (0, 3, 7):
        served = text_of(get(f"{server}/feature?sae={SAE}&index={index}&simulated=1")[1])
        written = text_of((folder / f"{index}.html").read_text())
        assert written == served
    for name in ("saes", "costs"):
        assert text_of((pages / f"{name}.html").read_text()) == text_of(get(f"{server}/{name}")[1])


def test_a_redacted_release_shows_nothing_of_what_it_masks(
    store: Path, release: Path, tmp_path: Path
) -> None:
    with open_reader(store) as db:
        (secret,) = db.execute(
            "SELECT text FROM explanations WHERE sae_id = ? AND feature = 0", [SAE]
        ).fetchone() or ("",)
    export(release, tmp_path / "released", OPTIONS, quiet=True)
    export(store, tmp_path / "redacted", OPTIONS, redact=("violence",), quiet=True)
    for folder in (tmp_path / "released", tmp_path / "redacted"):
        page = next((folder / "features").glob(f"{SAE}-*")) / "0.html"
        assert "Masked" in page.read_text()
        for file in folder.rglob("*"):
            assert file.is_dir() or secret not in file.read_text()
    with serving(release) as address:
        for path in ("/", "/?q=bomb", f"/feature?sae={SAE}&index=0", "/map"):
            assert secret not in get(address + path)[1]


def test_an_export_takes_the_place_of_an_earlier_one_only(tmp_path: Path) -> None:
    path = tmp_path / "empty.duckdb"
    with open_writer(path):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="holds something else"):
        export(path, tmp_path / "mine", OPTIONS, quiet=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
    for _ in range(2):
        export(path, tmp_path / "pages", OPTIONS, quiet=True)
        assert (tmp_path / "pages" / "index.html").is_file()
        (tmp_path / "pages" / "old.html").touch()
    export(path, tmp_path / "pages", OPTIONS, quiet=True)
    assert not (tmp_path / "pages" / "old.html").exists()


def test_a_release_is_not_redacted_again(release: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="when it is made"):
        export(release, tmp_path / "out", OPTIONS, redact=("violence",), quiet=True)


def test_pages_of_an_export_lead_nowhere_that_is_not_there(pages: Path) -> None:
    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value for name, value in attrs if name in ("href", "src") and value]

    for page in pages.rglob("*.html"):
        reader = Links()
        reader.feed(page.read_text())
        for link in reader.found:
            path = link.partition("?")[0].partition("#")[0]
            assert not path or (page.parent / path).resolve().is_file(), (page, link)


def test_json_on_a_feature_page_is_the_feature(pages: Path) -> None:
    page = (next((pages / "features").glob(f"{SAE}-*")) / "3.html").read_text()
    start = page.index('<textarea id="json"')
    held = page[page.index(">", start) + 1 : page.index("</textarea>", start)]
    assert json.loads(html.unescape(held))["index"] == 3


def test_stores_without_anything_have_pages_too(tmp_path: Path) -> None:
    path = tmp_path / "empty.duckdb"
    with open_writer(path):
        pass
    with serving(path) as address:
        for page in ("/", "/saes", "/costs", "/map"):
            assert get(address + page)[0] == 200
    assert export(path, tmp_path / "out", OPTIONS, quiet=True).pages == 4


def test_effects_stand_beside_their_nulls(store: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(store, tmp_path / "effects.duckdb"))
    with open_writer(path) as db:
        for measure, value, q in (("log_odds_followers", 0.75, 0.01), ("log_odds_lens", 1.5, None)):
            db.execute(
                "INSERT INTO effects (sae_id, feature, condition, texts, measure, expected, value, null_value,"
                " gain_low, gain_high, q, n_texts, seed, settings, settings_hash, fingerprint, sae_sha256, texts_id)"
                " VALUES (?, 3, 'ablate', 'firing', ?, 1, ?, 0.125, 0.25, 0.9, ?, 8, 0, '{}', 'h', 'f', 's', 't')",
                [SAE, measure, value, q],
            )
        db.execute("INSERT INTO logit_lens VALUES (?, 3, [' stream'], [2.0], [' desert'], [-2.0])", [SAE])
    with serving(path) as address:
        words = " ".join(text_of(get(f"{address}/feature?sae={SAE}&index=3")[1]))
        assert "ablated firing text what follows it in other texts 0.75 0.12 – 0.25 to 0.90 0.010" in words
        assert "makes likelier stream" in words
        assert "less likely desert" in words
        assert "shown to do something 1 of 1" in " ".join(text_of(get(address + "/")[1]))
        assert "1 feature" in " ".join(text_of(get(address + "/?state=with_effect")[1]))
