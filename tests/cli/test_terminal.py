"""Whatever a text holds, a terminal gets text: no control, no escape sequence, no mark of direction."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesail.cli.output import layout
from safesail.cli.terminal import clean, escape_json
from safesail.store.bulk import insert
from safesail.store.connection import open_writer

EVIL = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\x7f\u202eevil\u2066\u200f"
CODE = "from safesail.cli.main import main; main()"


def is_harmless(text: str) -> bool:
    bidi = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
    return not any(
        (ord(c) < 32 and c not in "\n\t")
        or 127 <= ord(c) < 160
        or ord(c) in bidi
        or 0xD800 <= ord(c) < 0xE000
        for c in text
    )


ANY_TEXT = st.text(st.characters(codec=None), max_size=60) | st.text(
    st.sampled_from([*EVIL, "a", "ש", "熊", "\ud83d", "\n", "\t", '"', "\\"]), max_size=60
)


@given(ANY_TEXT)
def test_what_is_cleaned_is_harmless_and_keeps_every_printable_character(text: str) -> None:
    assert is_harmless(clean(text))
    kept = [c for c in clean(text) if c.isprintable() and c != "\ufffd"]
    assert kept == [c for c in text if c.isprintable() and is_harmless(c) and c != "\ufffd"]


@given(st.dictionaries(ANY_TEXT, ANY_TEXT | st.lists(ANY_TEXT)))
def test_json_is_harmless_and_of_the_same_value(value: dict[str, Any]) -> None:
    document = escape_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert is_harmless(document)
    assert json.loads(document) == value


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "evil.duckdb"
    with open_writer(path) as db:
        insert(db, "saes", {
            "sae_id": ["s"], "sae_key": [1], "model_id": [EVIL], "layer": [3], "hook": ["blocks.3.h"], "source": [EVIL],
        })  # fmt: skip
        insert(
            db, "features", {"sae_id": ["s"], "feature": [7], "density": [0.25], "top_tokens": [[EVIL, "ok"]]}
        )
    return path


def in_pipe(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def on_terminal(*arguments: str) -> str:
    """What a terminal of 80 columns gets, standard error included."""
    main, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments], stdin=subprocess.DEVNULL, stdout=child, stderr=child,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"},
    ):  # fmt: skip
        os.close(child)
        read = b""
        try:
            while part := os.read(main, 4096):
                read += part
        except OSError:  # Linux's way to say that the other side is closed
            pass
    os.close(main)
    return read.decode().replace("\r\n", "\n")


SQL = 'SELECT top_tokens, "index", sae_id FROM catalog'


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_a_query_of_strangers_texts(store: Path, form: tuple[str, ...]) -> None:
    arguments = ("catalog", "query", "--store", str(store), SQL, *form)
    code, out, err = in_pipe(*arguments)
    assert (code, err) == (0, "")
    assert is_harmless(out)
    assert "evil" in out
    assert is_harmless(on_terminal(*arguments))


def test_show_is_coloured_by_us_alone(store: Path) -> None:
    _, out, _ = in_pipe("catalog", "show", "--store", str(store), "s#7")
    assert is_harmless(out)
    seen = on_terminal("catalog", "show", "--store", str(store), "s#7")
    assert "\x1b[1m" in seen  # the title is bold
    assert is_harmless(seen.replace("\x1b[1m", "").replace("\x1b[0m", ""))


def test_an_error_that_repeats_a_strangers_text(store: Path) -> None:
    code, _, err = in_pipe("catalog", "show", "--store", str(store), f"{EVIL.replace(chr(0), '')}#1")
    assert code == 1
    assert is_harmless(err)
    code, _, err = in_pipe("catalog", f"\x1b[2J{EVIL}")
    assert code == 2
    assert is_harmless(err)


def test_a_terminal_without_unicode_gets_marks_instead_of_a_traceback(store: Path) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    code, out, err = in_pipe(
        "catalog", "query", "--store", str(store), "SELECT chr(29066) AS x", env=ascii_only
    )
    assert (code, out.split(), err) == (0, ["x", "?"], "")


def test_json_of_strangers_texts_is_exact(store: Path) -> None:
    _, out, _ = in_pipe("catalog", "query", "--store", str(store), "--json", SQL)
    assert json.loads(out)[0]["top_tokens"] == [EVIL, "ok"]


ROWS = [
    {
        "name": "smollm2-l14-mlp-k16",
        "score": 0.123456,
        "tokens": 1_234_567,
        "text": "word " * 40,
        "n": 12,
        "hook": "blocks.14.hook_mlp_out",
    },
    {"name": "熊" * 30, "score": None, "tokens": 7, "text": "short", "n": 1, "hook": "h"},
]


@pytest.mark.parametrize("width", range(20, 120, 7))
@pytest.mark.parametrize("full", [False, True])
def test_numbers_are_never_broken_and_lines_never_too_long(width: int, full: bool) -> None:
    from rich.cells import cell_len

    lines, left_out = layout(ROWS, width=width, full=full)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for name, cell in (("score", "0.123"), ("tokens", "1,234,567"), ("n", " 12")):
        assert (cell in text) != (name in left_out)
    assert "name" not in left_out
    assert len(lines) == 3 or full


def test_full_keeps_every_word_and_a_cut_text_says_so() -> None:
    cut, _ = layout(ROWS, width=80, full=False)
    full, _ = layout(ROWS, width=80, full=True)
    assert "…" in cut[1]
    assert sum(line.count("w") for line in full) == 40


def test_what_finds_no_room_is_named_on_stderr(store: Path) -> None:
    sql = "SELECT " + ", ".join(f"'some text of some length {i}' AS column_{i}" for i in range(9))
    seen = on_terminal("catalog", "query", "--store", str(store), sql)
    assert "no room for column_5, column_6, column_7, column_8; a wider terminal or --json shows them" in seen
    wide = in_pipe("catalog", "query", "--store", str(store), sql)
    assert "column_8" in wide[1]
    assert wide[2] == ""


def test_names_that_differ_at_their_end_differ_in_a_narrow_table_too() -> None:
    """Of features the number, of an SAE's file the last folder, is what tells one from the next."""
    long = "gemma-scope-2b-pt-mlp-canonical/layer_12/width_16k/average_l0_82#"
    rows = [
        {
            "feature": f"smollm2-l14-mlp-k16#{i}",
            "explanation": "word " * 40,
            "source": f"{long}{i}",
            "lift": 0.1,
        }
        for i in (123, 124)
    ]
    lines, left_out = layout(rows, width=80, full=False)
    assert [line.split()[0] for line in lines[1:]] == ["smollm2-l14-mlp-k16#123", "smollm2-l14-mlp-k16#124"]
    assert left_out == ["source"]
    long_first = [{"source": row["source"], "explanation": row["explanation"]} for row in rows]
    lines, _ = layout(long_first, width=60, full=False)  # 14 for the explanation, 2 between
    assert [len(line.split()[0]) for line in lines[1:]] == [44, 44]
    assert lines[1].split()[0].startswith("gemma-scope-2b") and lines[1].split()[0].endswith("l0_82#123")
    assert lines[2].split()[0].endswith("l0_82#124")
