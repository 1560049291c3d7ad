"""The table `llm_calls`: cache and ledger in one. Every write is committed at once."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from safesail.domain.config import Config
from safesail.errors import DataError
from safesail.files import whole_file
from safesail.llm.budget_tracker import Spent
from safesail.llm.metered import CallRecord
from safesail.llm.reply import MAX_TOKENS
from safesail.llm.types import CallContext, LLMAnswer, LLMRequest, UsageSource
from safesail.store.bulk import insert
from safesail.store.connection import Db
from safesail.store.registry import utc_now
from safesail.store.sql import one, rows, value

GROUPS = ("stage", "model", "run_id", "sae_id", "prompt_hash", "status")
"""Columns that the ledger can be summed by."""


class CallTable:
    """The ledger of one run, in the store."""

    def __init__(self, db: Db, run_id: str) -> None:
        self._db = db
        self._run_id = run_id
        # What an earlier run left open may have been sent and billed: the run died. It stays visible as `lost`.
        db.execute(
            "UPDATE llm_calls SET status = 'lost', error = 'Interrupted', input_tokens = reserved,"
            " output_tokens = 0, usage_source = 'estimated' WHERE status = 'reserved' AND run_id <> ?",
            [run_id],
        )

    def lookup(self, cache_key: str, *, bad: bool = False) -> LLMAnswer | None:
        """A good answer given before, in any run; or else, where `bad` ones are asked for, the newest bad one."""
        return find_answer(self._db, cache_key, bad=bad)

    def discard(self, cache_key: str, error: str) -> None:
        """Good answers to this question are none, for the reason `error`: they are not given again."""
        self._db.execute(
            "UPDATE llm_calls SET status = 'failed', error = ? WHERE cache_key = ? AND status = 'ok'",
            [error, cache_key],
        )

    def reserve(self, request: LLMRequest, context: CallContext, worst_case: int) -> int:
        """Record, before it is sent, that a call is under way; returns its id."""
        call_id = int(value(self._db, "SELECT nextval('call_order')"))
        self._db.execute(
            "INSERT INTO llm_calls (call_id, cache_key, run_id, stage, sae_id, feature, model, endpoint,"
            " prompt_hash, request, status, reserved, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'reserved', ?, ?)",
            [
                call_id, request.cache_key(), self._run_id, context.stage,
                context.feature.sae_id if context.feature else None,
                context.feature.index if context.feature else None,
                request.model, request.endpoint, context.prompt_hash,
                json.dumps(asdict(request), sort_keys=True, ensure_ascii=False), worst_case, utc_now(),
            ],
        )  # fmt: skip
        return call_id

    def settle(self, call_id: int, record: CallRecord) -> None:
        """Record how a call ended."""
        answer = record.answer
        self._db.execute(
            "UPDATE llm_calls SET status = ?, error = ?, answer = ?, finish = ?, input_tokens = ?,"
            " output_tokens = ?, usage_source = ?, price = ?, seconds = ? WHERE call_id = ?",
            [
                "ok" if record.error is None else "failed", record.error,
                None if answer is None else answer.text, None if answer is None else answer.finish,
                record.input_tokens, record.output_tokens, record.usage_source, record.price, record.seconds,
                call_id,
            ],
        )  # fmt: skip

    def spent(self) -> list[Spent]:
        """What this run has spent so far, by model; an attempt left open counts at its worst case."""
        spent = rows(
            self._db,
            f"SELECT model, count(*), sum({_TOKENS}), coalesce(sum(price), 0),"
            f" coalesce(sum({_TOKENS}) FILTER (price IS NULL), 0) FROM llm_calls WHERE run_id = ? GROUP BY model",
            [self._run_id],
        )
        return [Spent(row[0], row[1], int(row[2]), row[3], int(row[4])) for row in spent]


def find_answer(db: Db, cache_key: str, *, bad: bool = False) -> LLMAnswer | None:
    """A good answer that the store holds; or else, where `bad` ones are asked for, the newest bad one."""
    row = one(
        db,
        "SELECT answer, finish, input_tokens, output_tokens, usage_source FROM llm_calls"
        " WHERE cache_key = ? AND (status = 'ok' OR (? AND status = 'failed' AND answer IS NOT NULL))"
        " ORDER BY status = 'ok' DESC, CASE WHEN status = 'ok' THEN call_id ELSE -call_id END LIMIT 1",
        [cache_key, bad],
    )
    return None if row is None else LLMAnswer(*row)


_TOKENS = "CAST(coalesce(input_tokens, reserved) AS HUGEINT) + coalesce(output_tokens, 0)"
"""Of one attempt; those under way have no figures yet, and count at their worst case."""

IMPORTED = "imported"
"""Stands where a run's id does for answers that another store paid for: they are no spending of this one."""


def ledger_rows(db: Db, by: Sequence[str] = ("stage", "model", "run_id")) -> list[dict[str, Any]]:
    """What was asked and spent, summed by the columns named (of `GROUPS`), in the order of the first call."""
    assert set(by) <= set(GROUPS), by
    names = ", ".join(by)
    sums = rows(
        db,
        f"SELECT {names}, count(*), count(*) FILTER (status <> 'ok'),"
        " sum(coalesce(input_tokens, reserved)), sum(coalesce(output_tokens, 0)), sum(price), sum(seconds),"
        f" bool_or(usage_source IS DISTINCT FROM 'billed' AND {_TOKENS} > 0),"
        " strftime(min(created_at), '%Y-%m-%d %H:%M'), strftime(max(created_at), '%Y-%m-%d %H:%M')"
        f" FROM llm_calls WHERE run_id <> ? GROUP BY {names} ORDER BY min(call_id)",
        [IMPORTED],
    )
    heads = [
        *by,
        "calls",
        "failed",
        "tokens in",
        "tokens out",
        "dollars",
        "seconds",
        "partly estimated",
        "from",
        "to",
    ]
    return [dict(zip(heads, row, strict=True)) for row in sums]


def total_tokens(db: Db, run_id: str | None = None) -> int:
    """Tokens spent by one run, or by all of them; what a dead run left open counts at its worst case."""
    return int(
        value(
            db,
            f"SELECT coalesce(sum({_TOKENS}), 0) FROM llm_calls WHERE run_id <> ? AND coalesce(run_id = ?, true)",
            [IMPORTED, run_id],
        )
    )


@dataclass(frozen=True)
class Usage:
    """What answers of one model in one stage have cost so far."""

    answers: int
    tokens_per_byte: float
    """Prompt tokens for each byte of the prompt."""

    output_tokens: float
    """Mean."""


def usage_so_far(db: Db, model: str, stage: str) -> Usage | None:
    """What good answers of a model have cost, as billed; None without any."""
    row = one(
        db,
        "SELECT count(*), sum(input_tokens) / sum(strlen(request ->> '$.prompt') + strlen(request ->> '$.system')),"
        " avg(output_tokens) FROM llm_calls"
        " WHERE model = ? AND stage = ? AND status = 'ok' AND usage_source = 'billed'",
        [model, stage],
    )
    return None if row is None or not row[0] else Usage(int(row[0]), float(row[1]), float(row[2]))


def answers_to(db: Db, cache_keys: Sequence[str]) -> dict[str, str]:
    """Texts of good answers, by key; those without one are left out."""
    answers = rows(
        db,
        "SELECT cache_key, arg_min(answer, call_id) FROM llm_calls"
        " WHERE status = 'ok' AND list_contains(?, cache_key) GROUP BY cache_key",
        [list(cache_keys)],
    )
    return {str(key): str(answer) for key, answer in answers}


def export_calls(db: Db, path: Path) -> int:
    """Write every answer to a JSONL file, so that others can repeat the numbers for nothing.

    Bad answers go with the good ones where a question has no other: a replay must fail where the run failed.

    The file holds prompts and answers: only its owner can read it.

    Raises:
        DataError: it cannot be written.
    """
    answers = rows(
        db,
        "SELECT cache_key, stage, sae_id, feature, prompt_hash, request, answer, finish, input_tokens,"
        " output_tokens, usage_source, error FROM llm_calls"
        " WHERE status = 'ok' OR (status = 'failed' AND answer IS NOT NULL)"
        " QUALIFY row_number() OVER (PARTITION BY cache_key ORDER BY status = 'ok' DESC,"
        " CASE WHEN status = 'ok' THEN call_id ELSE -call_id END) = 1 ORDER BY cache_key",
    )
    with whole_file(path, private=True) as partial, partial.open("w", encoding="utf-8") as lines:
        for row in answers:
            entry = dict(zip(_EXPORTED, row, strict=True)) | {"request": json.loads(row[5])}
            lines.write(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n")
    return len(answers)


_EXPORTED = (
    "cache_key", "stage", "sae_id", "feature", "prompt_hash", "request", "answer", "finish", "input_tokens",
    "output_tokens", "usage_source", "error",
)  # fmt: skip


def import_calls(db: Db, path: Path) -> int:
    """Take answers from an exported file; those that are here already are left alone.

    Raises:
        DataError: a line is damaged, or an answer does not belong to its request; nothing is imported.
    """
    numbered = enumerate(_lines(path), start=1)
    entries = [_entry(path, number, line) for number, line in numbered if line.strip()]
    known = {
        (str(key), bool(good))
        for key, good in rows(
            db, "SELECT DISTINCT cache_key, status = 'ok' FROM llm_calls WHERE answer IS NOT NULL"
        )
    }
    # A good answer is news to a store that has a bad one only; a bad one is none to a store that has either.
    new = list(
        {
            e["cache_key"]: e
            for e in entries
            if (e["cache_key"], True) not in known
            and (e["error"] is None or (e["cache_key"], False) not in known)
        }.values()
    )
    if not new:
        return 0
    columns: dict[str, Any] = {name: [e[name] for e in new] for name in _EXPORTED if name != "request"}
    columns["request"] = [json.dumps(e["request"], sort_keys=True, ensure_ascii=False) for e in new]
    columns |= {name: [e["request"][name] for e in new] for name in ("model", "endpoint")}
    columns |= {"run_id": [IMPORTED] * len(new), "reserved": [0] * len(new)}
    columns["status"] = ["ok" if e["error"] is None else "failed" for e in new]
    columns["created_at"] = [utc_now()] * len(new)
    return insert(db, "llm_calls", columns)


def _lines(path: Path) -> Iterable[str]:
    if not path.is_file():
        raise DataError(f"no file at {path}")
    try:
        # Not splitlines(): answers may hold U+2028 and the like, which end no line of a JSONL file.
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = _Line.model_validate_json(line, strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise DataError(
            f"{path} line {number} is not an exported answer ({where or 'JSON'}: {fault['msg']})"
        ) from error
    if entry.request.cache_key() != entry.cache_key:
        raise DataError(f"{path} line {number}: the answer does not belong to its request")
    return entry.model_dump()


class _Line(Config):
    """One exported answer. Nothing of who paid for it, when and where."""

    cache_key: str
    stage: str
    sae_id: str | None
    feature: int | None
    prompt_hash: str
    request: LLMRequest
    answer: str
    finish: str
    input_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    output_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    usage_source: UsageSource
    error: str | None = None
    """Class of what was wrong with it; None: good."""
