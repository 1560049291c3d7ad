"""The HTML report: texts stay texts, whatever they hold."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from safesail.diagnose.report import render, write_report
from safesail.diagnose.run import Diagnosis
from safesail.errors import DataError
from tests.diagnose.test_run import diagnosis as diagnosis
from tests.diagnose.test_run import loaded as loaded
from tests.diagnose.test_run import store as store
from tests.pipeline.conftest import made as made
from tests.view.hostile import STRINGS


class Tags(HTMLParser):
    """Tags and attributes of a document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(tag, name) for name, _ in attrs} | {(tag, "")}

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(diagnosis: Diagnosis, text: str) -> Diagnosis:
    """With `text` wherever somebody else's text may stand."""
    fired = diagnosis.fired.assign(explanation=text, feature=text, token=text)
    fired["tags"] = [[text]] * len(fired)
    fired["normalised"] = 0.5
    tokens = replace(
        diagnosis.tokens, strings=(text,) * len(diagnosis.tokens), spans=(None,) * len(diagnosis.tokens)
    )
    return replace(diagnosis, fired=fired, tokens=tokens)


@pytest.fixture(scope="module")
def plain(diagnosis: Diagnosis) -> Tags:
    return Tags(render(hostile(diagnosis, "plain"), "plain"))


@pytest.mark.parametrize("text", STRINGS)
def test_no_text_becomes_markup(diagnosis: Diagnosis, plain: Tags, text: str) -> None:
    found = Tags(render(hostile(diagnosis, text), text))
    assert found.found == plain.found
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", found.text)


def test_nothing_is_loaded_and_no_script_runs(diagnosis: Diagnosis) -> None:
    document = render(diagnosis, "tiny")
    assert "default-src 'none'" in document
    assert not {tag for tag, _ in Tags(document).found} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "form",
        "a",
    }
    assert "http:" not in document and "https:" not in document


def test_pieces_of_a_character_are_one_cell(diagnosis: Diagnosis) -> None:
    document = render(diagnosis, "tiny")
    lanes = re.findall(r'<div class="text" dir="auto">(.*?)</div>', document, re.S)
    assert lanes
    for lane in lanes:
        assert "".join(re.findall(r"<span[^>]*>(.*?)</span>", lane, re.S)) == diagnosis.prompt
        assert lane.count("熊") == 1


def test_a_report_that_cannot_be_written_is_a_line(diagnosis: Diagnosis, tmp_path: Path) -> None:
    write_report(diagnosis, "tiny", tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(DataError, match="cannot"):
        write_report(diagnosis, "tiny", Path("/proc/report.html"))
