"""Hostile texts in every field stay texts: on the server's pages, in an export, in a browser."""

import shutil
from collections.abc import Generator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from markupsafe import escape

from safesail.view.export import export
from safesail.view.text import visible
from tests.view.conftest import OPTIONS, Look, serving
from tests.view.hostile import MARK, STRINGS, fill
from tests.view.test_browser import until
from tests.view.test_server import get

TAGS = {
    "html", "head", "body", "meta", "title", "link", "script", "a", "header",
    "nav", "button", "span", "main", "footer",
    "p", "section", "h1", "h2", "h3", "dl", "div", "dt", "dd", "form", "label", "input", "select", "option", "aside",
    "details", "summary", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "svg", "line", "path",
    "circle", "rect", "text", "polyline", "article", "mark", "i", "b", "textarea", "code", "figure",
    "figcaption", "canvas",
    "noscript",
}  # fmt: skip
ADDRESSES = {"href", "src", "action"}


class Markup(HTMLParser):
    """Refuses what no template of ours writes."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS and tag != "title":
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or name in ("style", "srcdoc", "formaction"):
                self.faults.append(f"{tag} {name}")
            if name in ADDRESSES and urlsplit((value or "").strip()).scheme not in ("", "https"):
                self.faults.append(f"{tag} {name}={value}")
            if (
                tag == "script"
                and name == "src"
                and not (value or "").lstrip("./").startswith(("/static", "static", "/data", "data"))
            ):
                self.faults.append(f"script {value}")
        if tag == "script" and not dict(attrs).get("src"):
            self.faults.append("an inline script")

    def handle_comment(self, data: str) -> None:
        self.faults.append("a comment")


def check(html: str) -> None:
    """Only our own markup, and no character that turns a text round."""
    reader = Markup()
    reader.feed(html)
    assert reader.faults == []
    assert not set("\u202e\u202d\u2066\u2067\u2068\u200b\u200e\u200f\x00\x07\x08\x1b\x7f\x9b") & set(html)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evil") / "evil.duckdb"
    fill(path)
    return path


@pytest.fixture(scope="module")
def evil_server(evil: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with serving(Path(shutil.copy(evil, tmp_path_factory.mktemp("served") / "<b>evil.duckdb"))) as address:
        yield address


@pytest.fixture(scope="module")
def evil_pages(evil: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evil-pages") / "out"
    export(evil, out, OPTIONS, quiet=True)
    return out


def address_of(n: int) -> str:
    sae = STRINGS[n] if n % 3 == 0 else STRINGS[0]
    return f"/feature?sae={quote(sae, safe='')}&index={n}&simulated=1"


def test_there_are_many() -> None:
    assert len(set(STRINGS)) == len(STRINGS) >= 60


def test_pages_of_the_server_hold_our_markup_only(evil_server: str) -> None:
    for n, text in list(enumerate(STRINGS))[::3]:  # those whose SAE bears the string too; an export has all
        status, html, _ = get(evil_server + address_of(n))
        assert status == 200, text
        check(html)
        assert str(escape(visible(text)))[:200] in html, text  # and it is there, whole
    for path in ("/", "/?sort=feature", "/saes", "/costs", "/map"):
        status, html, _ = get(evil_server + path)
        assert status == 200
        check(html)


def test_what_an_address_says_is_text_too(evil_server: str) -> None:
    for n, text in enumerate(STRINGS):
        asked = quote(text[:290], safe="")
        lists = (f"/?q={asked}", f"/?sae={asked}", f"/?domain={asked}&after={asked}")
        for path in (f"/feature?sae={asked}&index=0", lists[n % 3] if n % 4 == 0 else "/nowhere"):
            status, html, _ = get(evil_server + path)
            assert status in (200, 400, 404), (path, status)
            check(html)


def test_files_of_an_export_hold_our_markup_only(evil_pages: Path) -> None:
    pages = list(evil_pages.rglob("*.html"))
    assert len(pages) == len(STRINGS) + 4
    for page in pages:
        html = page.read_text(encoding="utf-8")
        check(html)
        if page.stem.isdigit():  # the string is there, whole
            assert str(escape(visible(STRINGS[int(page.stem)])))[:200] in html
    for script in (evil_pages / "data").iterdir():
        text = script.read_text(encoding="ascii")  # no character could end it early
        assert "<" not in text
        assert text.count("\n") == 1
    assert {path.name for path in evil_pages.iterdir()} == {
        "index.html", "saes.html", "costs.html", "map.html", "static", "data", "features", ".safesail-view",
    }  # fmt: skip


@pytest.mark.browser
def test_none_runs_in_a_browser(evil_server: str, evil_pages: Path, look: Look) -> None:
    page = look().page
    served = [evil_server + path for path in ("/", "/?sort=feature", "/saes", "/costs", "/map")]
    some = range(0, len(STRINGS), 6)
    files = [evil_pages.as_uri() + f"/{name}.html" for name in ("index", "saes", "costs", "map")]
    files += [
        f"{evil_pages.as_uri()}/index.html?{query}"
        for query in ("sort=feature", "q=script", "state=explained")
    ]
    features = sorted((evil_pages / "features").rglob("*.html"))[::8]
    for address in (
        *served,
        *(evil_server + address_of(n) for n in some),
        *files,
        *(f.as_uri() for f in features),
    ):
        page.goto(address)
        if "map" in address:
            until(page, "window.safesailFrames && window.safesailFrames.length > 0")
            page.locator("#map").focus()
            page.keyboard.press("Enter")
            page.wait_for_selector("#pickedlist li a")
        assert page.evaluate(f"typeof {MARK.partition('=')[0]}") == "undefined", address
        assert page.locator("main").count() == page.locator("footer").count() == 1, address
        assert page.evaluate("document.cookie") == ""


@pytest.mark.browser
def test_a_page_of_another_site_cannot_read_the_server(server: str, tmp_path: Path, chromium: object) -> None:
    from playwright.sync_api import Browser

    assert isinstance(chromium, Browser)
    (tmp_path / "other.html").write_text(
        f"<script>window.safesailPoints = () => {{ window.stolen = 1; }};</script>"
        f"<script src='{server}/data/points.js'></script><iframe src='{server}/'></iframe>"
        f"<script>fetch('{server}/').then((a) => a.text()).then(() => {{ window.stolen = 1; }}, () => 0);</script>"
    )
    context = chromium.new_context()
    page = context.new_page()
    page.goto((tmp_path / "other.html").as_uri())
    page.wait_for_timeout(500)
    assert page.evaluate("typeof window.stolen") == "undefined"
    assert [f for f in page.frames[1:] if "Safe-SAIL" in f.content()] == []
    context.close()
