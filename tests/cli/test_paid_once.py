"""A whole run through a real endpoint on loopback: what is paid is paid once, and the key is nowhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from safesail.cli.main import cli
from safesail.llm.builtin_prompts import ENDPOINT
from safesail.llm.lexical import LexicalModel
from safesail.llm.types import LLMRequest
from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import rows
from tests.loopback import Reply, chat, fault, serving
from tests.pipeline.conftest import Made

KEY = "sk-planted-4f9c2d7e81b6"


class Endpoint:
    """Answers by the built-in rule, bills for it, refuses now and then, and says back whatever key it was shown."""

    def __init__(self) -> None:
        self.billed = 0
        self.asked = 0

    def __call__(self, body: dict[str, Any]) -> Reply:
        self.asked += 1
        if self.asked % 7 == 3:
            return fault(500, f"the server choked on {KEY}")
        if self.asked % 11 == 5:
            return self._bill(f'{{"broken": "{self.asked}"')
        system, user = (message["content"] for message in body["messages"])
        room = body.get("max_tokens") or body["max_completion_tokens"]
        request = LLMRequest("m", ENDPOINT, system, user, 0.0, room)
        return self._bill(_answer(request))

    def _bill(self, text: str) -> Reply:
        self.billed += 2_500
        return chat(text, usage={"prompt_tokens": 2_000, "completion_tokens": 500, "total_tokens": 2_500})


def _answer(request: LLMRequest) -> str:
    import asyncio

    return asyncio.run(LexicalModel().complete(request)).text


def run(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--quiet", "--json"], standalone_mode=False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert KEY not in result.output
    return json.loads(result.stdout)


def scores(store: Path) -> list[tuple[Any, ...]]:
    with open_reader(store) as db:
        return rows(
            db, "SELECT feature, method, value, low, high, chance, reason, error FROM scores ORDER BY ALL"
        )


def emptied(store: Path, path: Path) -> Path:
    """The store as it was before anybody was asked."""
    shutil.copy(store, path)
    with open_writer(path) as db:
        for table in ("llm_calls", "explanations", "scores", "tags"):
            db.execute(f"DELETE FROM {table}")
    return path


def test_a_reviewer_repeats_a_run_for_nothing_and_the_key_is_nowhere(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("safesail.llm.metered.FIRST_WAIT", 0.001)
    store = emptied(made.out / "safesail.duckdb", tmp_path / "mine.duckdb")
    other = emptied(made.out / "safesail.duckdb", tmp_path / "theirs.duckdb")
    arguments = ["--explainer", "m", "--budget", "1M", "--concurrency", "1", "--chance-every", "1"]
    endpoint = Endpoint()
    with serving(endpoint) as url:
        arguments += ["--base-url", url]
        paid = run("explain", *arguments, "--store", store)
    assert paid["tokens"] == endpoint.billed > 0
    assert paid["failed"] + paid["scored"] + paid["undefined"] > 0

    # The endpoint is gone: whatever is asked now would be an error.
    cache = tmp_path / "answers.jsonl"
    exported = CliRunner().invoke(cli, ["cache", "export", str(cache), "--store", str(store)])
    assert exported.exit_code == 0, exported.output
    imported = CliRunner().invoke(cli, ["cache", "import", str(cache), "--store", str(other)])
    assert imported.exit_code == 0, imported.output
    for place in (store, other):
        again = run("explain", *arguments, "--store", place, "--replay")
        assert again["tokens"] == 0
        assert again["scored"] == paid["scored"]
    assert scores(other) == scores(store)

    CliRunner().invoke(
        cli, ["catalog", "release", str(tmp_path / "release"), "--store", str(store), "--name", "r"]
    )
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".duckdb", ".jsonl", ".parquet"}
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    with open_reader(store) as db:  # whose file is compressed
        tables = [str(r[0]) for r in rows(db, "SELECT table_name FROM duckdb_tables()")]
        assert "llm_calls" in tables
        assert [table for table in tables if KEY in str(rows(db, f"SELECT * FROM {table}"))] == []
