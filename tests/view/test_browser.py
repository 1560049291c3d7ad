"""The viewer in a real browser: what a person does with it, by mouse and by keyboard, from a server and from files."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, Page

from tests.view.conftest import SAE, Look

pytestmark = pytest.mark.browser

FEATURE = f"/feature?sae={SAE}&index=3&simulated=1"
PATHS = {
    "start": "/",
    "search": "/?q=rivers",
    "feature": FEATURE,
    "saes": "/saes",
    "costs": "/costs",
    "map": "/map",
}


def until(page: Page, condition: str) -> None:
    """Wait until an expression holds. Playwright's own wait evaluates a text on the page, which the policy forbids."""
    deadline = time.monotonic() + 20
    held = False
    while not held:
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(30)
        with suppress(Error):  # on its way to another page, it has none to ask
            held = bool(page.evaluate(condition))


def placed_map(page: Page, address: str) -> None:
    """Open the map and wait until its points are drawn."""
    page.goto(address)
    until(page, "window.safesailFrames && window.safesailFrames.length > 0")


def test_from_search_to_feature_to_near_one_to_map_to_saes(server: str, look: Look) -> None:
    page = look().page
    page.goto(server + "/")
    page.get_by_label("Search explanations").fill("choir")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=choir*")
    row = page.locator("#rows tr").first
    assert "choir" in row.inner_text()
    row.get_by_role("link").click()
    page.wait_for_url("**/feature?*")
    assert "choir" in page.locator("h1").inner_text()
    near = page.locator("section[aria-label='By explanation'] ol a").first
    shown = near.locator(".index").inner_text().strip()
    near.click()
    until(page, f"document.querySelector('.path').textContent.replace(/\\s+/g, '').includes('{shown}')")
    page.go_back()
    page.get_by_role("link", name="Set the simulation beside the truth").click()
    page.wait_for_url("**simulated=1*")
    assert page.locator(".simulated li").count() > 5
    placed_map(page, server + "/map")
    assert "15 nearest" in page.locator(".faithful").inner_text()
    page.get_by_role("link", name="SAEs", exact=True).click()
    page.wait_for_url("**/saes")
    assert page.locator("svg.plot").count() == 3


def test_lists_page_and_filter_and_keep_their_address(server: str, look: Look) -> None:
    page = look().page
    page.goto(server + "/?sort=feature")
    first = page.locator("#rows tr .index").all_inner_texts()
    page.get_by_role("link", name="Next →").click()
    page.wait_for_url("**after=*")
    second = page.locator("#rows tr .index").all_inner_texts()
    page.reload()
    assert page.locator("#rows tr .index").all_inner_texts() == second
    assert first != second
    page.get_by_role("link", name="← Previous").click()
    page.wait_for_url("**before=*")
    assert page.locator("#rows tr .index").all_inner_texts() == first
    page.locator("#facets").get_by_role("link", name="fraud").click()
    page.wait_for_url("**domain=fraud*")
    assert page.locator("#found").inner_text().startswith("10 features")
    page.locator("#facets a.chosen").click()
    until(page, "document.querySelector('#found').textContent.startsWith('70')")


def test_by_keyboard_alone(server: str, look: Look) -> None:
    page = look().page
    page.goto(server + "/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type("choir")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=choir*")
    for _ in range(60):  # to the first feature of the list
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#rows') !== null"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/feature?*")
    page.locator("mark[tabindex]").first.focus()
    value = "getComputedStyle(document.activeElement, '::after').content"
    assert page.evaluate(value) == f'"{page.locator("mark[tabindex]").first.get_attribute("data-value")}"'
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.tagName") == "MARK"
    placed_map(page, server + "/map")
    page.locator("#map").focus()
    for key in ("+", "ArrowLeft", "-", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#pickedlist li a")
    assert "in view" in page.locator("#pickedn").inner_text()


def test_windows_shown_to_explainers_and_held_out_are_told_apart(server: str, look: Look) -> None:
    page = look().page
    page.goto(server + FEATURE)
    windows = page.locator("#levels li.window")
    page.get_by_role("button", name="held out").click()
    splits = {w.get_attribute("data-split") for w in windows.all() if w.is_visible()}
    assert splits == {"test"}
    page.get_by_role("button", name="all", exact=True).click()
    assert {w.get_attribute("data-split") for w in windows.all() if w.is_visible()} == {"test", "train"}


def test_the_theme_follows_the_system_until_it_is_chosen(server: str, look: Look) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light, dark = look().page, look(dark=True).page
    for page in (light, dark):
        page.goto(server + "/costs")
    shades = light.evaluate(background), dark.evaluate(background)
    assert shades == ("rgb(255, 255, 255)", "rgb(20, 21, 24)")
    dark.get_by_role("button", name="Theme").click()  # auto, then light
    assert dark.evaluate(background) == shades[0]
    dark.goto(server + "/saes")
    assert dark.evaluate(background) == shades[0], "forgotten on the next page"


def test_a_feature_is_copied_as_json(server: str, look: Look) -> None:
    page = look().page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(server + FEATURE)
    page.get_by_role("button", name="Copy as JSON").click()
    until(page, "document.querySelector('.copied').textContent === 'Copied.'")
    copied = page.evaluate("navigator.clipboard.readText().then(JSON.parse)")
    assert (copied["sae_id"], copied["index"]) == (SAE, 3)
    assert copied["windows"]


def test_the_map_lassoes_highlights_and_leads_to_features(server: str, look: Look) -> None:
    page = look().page
    placed_map(page, server + "/map")
    page.locator("#mapq").fill("soup")
    page.get_by_role("button", name="Highlight").click()
    until(page, "document.querySelector('#pickedn').textContent.includes('soup')")
    assert int(page.locator("#pickedn").inner_text().split()[0]) >= 20
    page.get_by_role("button", name="Whole map").click()
    page.get_by_role("button", name="Lasso").click()
    box = page.locator("#map").bounding_box()
    assert box is not None
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2)]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    until(page, "document.querySelector('#pickedn').textContent.includes('in the lasso')")
    assert page.locator("#pickedn").inner_text().startswith("70 in the lasso")
    page.locator("#pickedlist a").first.click()
    page.wait_for_url("**/feature?*")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_serious_fault_of_accessibility(server: str, look: Look, dark: bool) -> None:
    page = look(dark=dark).page
    for name, path in PATHS.items():
        if name == "map":
            placed_map(page, server + path)
        else:
            page.goto(server + path)
        found = Axe().run(page).response["violations"]
        grave = [
            (v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")
        ]
        assert grave == [], name


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_is_wider_than_the_screen_and_pictures_are_taken(
    server: str, look: Look, width: int, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("SAFESAIL_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    for dark in (False, True):
        page = look(width=width, dark=dark).page
        for name, path in PATHS.items():
            if name == "map":
                placed_map(page, server + path)
            else:
                page.goto(server + path)
            picture = folder / f"{name}-{width}-{'dark' if dark else 'light'}.png"
            page.screenshot(path=picture, full_page=True)
            assert picture.stat().st_size > 5_000
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_an_export_opens_by_double_click(pages: Path, look: Look) -> None:
    watched = look()
    page = watched.page
    root = pages.as_uri()
    page.goto(f"{root}/index.html")
    page.get_by_label("Search explanations").fill("choir")
    page.keyboard.press("Enter")
    page.wait_for_url("**index.html?q=choir*")
    assert "choir" in page.locator("#rows tr").first.inner_text()
    page.locator("#rows tr a").first.click()
    page.wait_for_url("**/features/**")
    assert page.locator(".simulated li").count() > 5
    page.locator(".near a").first.click()
    page.wait_for_load_state()
    page.get_by_role("link", name="Map").click()
    until(page, "window.safesailFrames && window.safesailFrames.length > 0")
    page.locator("#mapq").fill("soup")
    page.get_by_role("button", name="Highlight").click()
    page.wait_for_selector("#pickedlist li a")
    page.locator("#pickedlist a").first.click()
    page.wait_for_url("**/features/**")
    page.get_by_role("link", name="SAEs", exact=True).click()
    page.wait_for_url("**/saes.html")
    page.get_by_role("link", name="Costs").click()
    page.wait_for_url("**/costs.html")


def test_an_exported_list_filters_sorts_and_pages_as_the_server_does(
    server: str, pages: Path, look: Look
) -> None:
    served, exported = look().page, look().page
    for query in (
        "?sort=feature",
        "?sort=score",
        "?domain=fraud",
        "?state=above_chance",
        "?sae=beside&sort=density",
    ):
        served.goto(f"{server}/{query}")
        exported.goto(f"{pages.as_uri()}/index.html{query}")
        for _ in range(2):  # this page and the next one
            texts = [p.locator("#rows").inner_text().split() for p in (served, exported)]
            assert texts[0] == texts[1], query
            heads = [p.locator("#found").inner_text() for p in (served, exported)]
            assert heads[0] == heads[1], query
            facets = [p.locator("#facets").inner_text().split() for p in (served, exported)]
            assert facets[0] == facets[1], query
            following = [p.get_by_role("link", name="Next →") for p in (served, exported)]
            if not following[0].count():
                break
            for link in following:
                link.click()
            served.wait_for_url("**after=*")
            exported.wait_for_url("**after=*")


def test_the_interval_score_axis_says_what_it_shows(server: str, look: Look) -> None:
    page = look().page
    page.goto(server + FEATURE)
    words = page.locator("svg.score").first.get_attribute("aria-label") or ""
    assert "interval" in words
    assert "chance" in words
    assert "token table" in words
