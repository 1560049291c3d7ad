import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safesail.domain.ids import content_id
from safesail.errors import ConfigError, NotFoundError
from safesail.text.documents import read_documents
from safesail.text.splits import split_of


def texts(*sources: str | Path, column: str | None = None) -> list[str]:
    return [d.text for d in read_documents([str(s) for s in sources], column=column)]


def test_a_short_txt_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    (document,) = read_documents([str(tmp_path / "a.txt")], seed=3)
    assert document.text == "one\n\ntwo\n"
    assert document.source == "a.txt"
    assert document.document_id == content_id("one\n\ntwo\n")
    assert document.split == split_of(document.document_id, 3)


def test_a_folder_gives_every_kind_of_file_in_order_of_name(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.jsonl").write_text('{"text": "a1"}\n\n{"text": "a2"}\n', encoding="utf-8")
    with gzip.open(folder / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "b"}\n')
    (folder / "c.csv").write_text('n,text\n1,"c, quoted"\n', encoding="utf-8")
    pq.write_table(pa.table({"text": ["d"], "n": [1]}), folder / "d.parquet")
    (folder / "inner" / "e.txt").write_text("e", encoding="utf-8")
    (folder / "SOURCE.md").write_text("not read", encoding="utf-8")
    found = list(read_documents([str(folder)]))
    assert [d.text for d in found] == ["a1", "a2", "b", "c, quoted", "d", "e"]
    assert [d.source for d in found] == [
        "set/a.jsonl",
        "set/a.jsonl",
        "set/b.jsonl.gz",
        "set/c.csv",
        "set/d.parquet",
        "set/inner/e.txt",
    ]


def test_a_text_is_read_once_and_blank_ones_never(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": " \\n"}\n{"text": "x"}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "y"}\n{"text": "x"}\n', encoding="utf-8")
    assert texts(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == ["x", "y"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "long identifier of the row", "text": "t"}, "t"),
        ({"question": "q", "prompt": "p"}, "p"),
        ({"TEXT": "upper", "label": "a longer label"}, "upper"),
        ({"id": "7", "remark": "the longest column", "n": 3}, "the longest column"),
    ],
)
def test_the_text_column_is_found(tmp_path: Path, row: dict[str, object], expected: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert texts(tmp_path / "a.jsonl") == [expected]


def test_a_named_column_is_taken_and_rows_without_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "t", "other": "o"}\n{"text": "u"}\n', encoding="utf-8")
    assert texts(tmp_path / "a.jsonl", column="other") == ["o"]


def test_plain_text_is_cut_at_blank_lines_into_both_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paragraphs = [f"Paragraph {i}. " + "It goes on for a while. " * 10 for i in range(40)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    documents = list(read_documents([str(tmp_path / "a.txt")]))
    assert [d.text for d in documents] == paragraphs
    assert {d.split for d in documents} == {"train", "test"}
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n".join(paragraphs)))
    assert texts("-") == paragraphs


def test_short_paragraphs_are_joined_and_no_word_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"number_{i:03}." for i in range(100)), encoding="utf-8")
    assert [len(text) for text in texts(tmp_path / "a.txt")] == [206] * 6 + [50]
    assert "\n".join(texts(tmp_path / "a.txt")).split() == [f"number_{i:03}." for i in range(100)]


def test_short_standard_input_is_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    (document,) = read_documents(["-"])
    assert (document.text, document.source) == ("from a pipe", "stdin")


def test_a_pipe_is_read_once_and_can_be_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert texts("-") == texts("-") == ["from a pipe"]
    monkeypatch.setattr("sys.stdin", io.StringIO("from another"))
    assert texts("-") == ["from another"]


def test_halves_of_characters_are_joined_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "whole \\ud83d\\ude00"}\n{"text": "half \\ud83d end"}\n{"text": "plain 🐻 \u718a"}\n',
        encoding="utf-8",
    )
    assert texts(tmp_path / "a.jsonl") == ["whole \U0001f600", "half \ufffd end", "plain \U0001f43b \u718a"]


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000 + "\n", encoding="utf-8")
    assert len(texts(tmp_path / "a.csv")[0]) == 200_000


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("", encoding="utf-8")
    assert texts(tmp_path / "a.jsonl") == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8 text"),
        ("a.jsonl", b'{"text": "ok"}\n{broken', "after line 2: not readable as JSON lines"),
        ("a.jsonl", b"[1]\n", "line 1: each line must be a JSON object"),
        ("a.jsonl", b'{"n": 1}\n', "has no column of text; name one of n"),
        ("a.jsonl.gz", b"not gzip", "not readable as JSON lines"),
        ("a.csv", b"text\n\xff\xfe\n", "not readable as CSV"),
        ("a.parquet", b"PAR", "not readable as Parquet"),
        ("a.docx", b"x", "cannot read this kind of file"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        texts(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_lists_those_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nt,l\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no column 'body'; it has text, label"):
        texts(tmp_path / "a.csv", column="body")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no text at .*absent"):
        texts(tmp_path / "absent")
    with pytest.raises(NotFoundError, match="holds no text file"):
        texts(tmp_path)


def test_a_data_set_without_a_network_is_one_line() -> None:
    with pytest.raises(NotFoundError, match="cannot read data set nobody/nothing") as caught:
        texts("hf:nobody/nothing:test")
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_real_sets_are_read_whole(shared_dir: Path) -> None:
    hatecheck = shared_dir / "data" / "hatecheck" / "test_suite_cases.csv"
    assert len(texts(hatecheck)) > 3_000
    assert "I hate women. " in texts(hatecheck)
    cold = list(read_documents([str(shared_dir / "data" / "cold_zh")]))
    assert len(cold) > 10_000
    assert {d.source for d in cold} == {"cold_zh/dev.csv", "cold_zh/train.csv"}
