"""Random replies of a hostile endpoint, and what must hold of the client that gets them."""

import asyncio
import gzip
import json
import random
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from safesail.domain.text import clean_text, text_fault
from safesail.errors import BudgetExceededError, LLMError
from safesail.llm.budget import parse_budget
from safesail.llm.metered import MeteredClient
from safesail.llm.openai_client import OpenAIClient
from safesail.llm.types import CallContext, LLMRequest
from safesail.store.calls import CallTable, ledger_rows, total_tokens
from safesail.store.connection import Db
from safesail.store.sql import rows
from tests.loopback import Reply, chat, serving

TIMEOUT = 0.4
ODD: list[Any] = [
    None, True, -1, 0, 7, 2**62, 10**30, 1e300, float("nan"), "", "text", "\ud800", "\x1b[2J\x00", [], ["a"], {},
    {"content": "x"}, [[[]]], "x" * 3000, "\u202e\u2028", [None], {"0": {}},
]  # fmt: skip
STATUSES = (
    200,
    201,
    204,
    301,
    302,
    307,
    308,
    400,
    401,
    403,
    404,
    408,
    409,
    413,
    418,
    422,
    429,
    500,
    502,
    503,
    504,
    599,
)


@dataclass
class Fuzz:
    """One endpoint's whole life, drawn from a seed."""

    seed: int
    url: str = ""
    calls: int = 0
    planted: set[str] = field(default_factory=set)
    """Texts sent as the content of an answer, as they may be kept."""

    most_reported: int = 0
    """Tokens that any reply said it took."""

    kinds: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def __call__(self, sent: dict[str, Any]) -> Reply:
        """Answer one request; the loopback server calls one at a time."""
        self.calls += 1
        kinds: dict[str, Callable[[], Reply]] = {
            "good": self._good, "field": self._odd_field, "usage": self._odd_usage, "bytes": self._spoilt_bytes,
            "encoding": self._encoded, "size": self._large, "status": self._status, "slow": self._slow,
            "nested": self._nested,
        }  # fmt: skip
        (kind,) = self._draw.choices(list(kinds), (20, 25, 15, 15, 8, 1, 12, 1, 3))
        self.kinds[kind] += 1
        return kinds[kind]()

    def _good(self, **more: Any) -> Reply:
        text = f"answer {self.calls}"
        self.planted.add(text)
        n_in, n_out = self._draw.randint(1, 60), self._draw.randint(1, 20)
        return chat(text, usage={"prompt_tokens": n_in, "completion_tokens": n_out}, **more)

    def _odd_field(self) -> Reply:
        """Any value in the place of any field."""
        body = json.loads(self._good().body)
        message = ("choices", 0, "message")
        paths = [(), ("choices",), ("choices", 0), message, (*message, "content"), (*message, "refusal"),
                 ("choices", 0, "finish_reason"), ("usage",), ("error",)]  # fmt: skip
        path, odd = self._draw.choice(paths), self._draw.choice(ODD)
        if path[-1:] == ("content",) and isinstance(odd, str):
            self.planted.add(clean_text(odd))
        if not path:
            return Reply(json.dumps(odd).encode())
        inner = body
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = odd
        if isinstance(odd, dict) and "content" in odd:
            self.planted.add(odd["content"])
        return Reply(json.dumps(body).encode())

    def _odd_usage(self) -> Reply:
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        usage = {
            name: self._draw.choice([*ODD, 0, 1, 10, 400]) for name in names if self._draw.random() < 0.9
        }
        said = [n for n in usage.values() if type(n) is int]
        self.most_reported = max([self.most_reported, *(n for n in said if n <= 10**8)])
        text = f"answer {self.calls}"
        self.planted.add(text)
        return chat(text, usage=usage)

    def _spoilt_bytes(self) -> Reply:
        """Bytes changed, cut off or put in. What still is an answer may be any text, so none is looked for."""
        body = bytearray(self._good().body)
        start = body.index(b'"choices"') if self._draw.random() < 0.5 else 0
        for _ in range(self._draw.randint(1, 4)):
            at = self._draw.randrange(start, len(body))
            body[at : at + self._draw.randint(0, 2)] = self._draw.randbytes(self._draw.randint(0, 3))
        if self._draw.random() < 0.3:
            return Reply(bytes(body), send=self._draw.random() * 0.99)
        with suppress(ValueError, TypeError, LookupError, AttributeError):
            self.planted.add(clean_text(json.loads(body)["choices"][0]["message"]["content"]))
        return Reply(bytes(body))

    def _encoded(self) -> Reply:
        body = self._good().body
        name, packed = self._draw.choice(
            [("gzip", gzip.compress(body)), ("deflate", zlib.compress(body)), ("gzip", body), ("br", body),
             ("zstd", body), ("gzip", gzip.compress(body)[:-9]), ("identity", body), ("\x7f", body)]
        )  # fmt: skip
        return Reply(packed, headers={"Content-Encoding": name})

    def _large(self) -> Reply:
        size = self._draw.choice([3, 5, 40]) * 2**20
        if self._draw.random() < 0.5:
            return Reply(gzip.compress(b"a" * size, 1), headers={"Content-Encoding": "gzip"})
        return Reply(b" " * size)

    def _status(self) -> Reply:
        status = self._draw.choice(STATUSES)
        said = self._draw.choice([*ODD, "content filter", "max_completion_tokens", "insufficient_quota"])
        odd = self._draw.choice(ODD)
        body: Any = self._draw.choice(
            [{"error": {"message": said, "code": odd}}, {"error": said}, said, {"message": odd}]
        )
        headers = {"Retry-After": self._draw.choice(["0", "-1", "nan", "soon", "1e400", "0.001", "9" * 400])}
        if 300 <= status < 400:
            headers["Location"] = self._draw.choice(
                [f"{self.url}/chat/completions", "http://127.0.0.1:9/", "//", ""]
            )
        if 200 <= status < 300:
            return Reply(self._good().body if status != 204 else b"", status, headers)
        return Reply(json.dumps(body).encode(), status, headers)

    def _slow(self) -> Reply:
        good = self._good()
        return (
            Reply(good.body, drip=0.05)
            if self._draw.random() < 0.5
            else Reply(good.body, seconds=TIMEOUT * 1.5)
        )

    def _nested(self) -> Reply:
        deep = self._draw.choice(
            [b"[" * 200_000, b'{"a":' * 50_000, b"7" * 5_000, b'{"choices":[[[[' + b"]" * 9]
        )
        return Reply(deep)


@dataclass(frozen=True)
class Outcome:
    """What became of the replies."""

    calls: int
    kinds: Counter[str]
    errors: Counter[str]
    """By class: failures that a run takes as such."""

    tracebacks: list[str]
    """Whatever else was raised."""

    poisoned: list[str]
    """Good answers in the cache that nobody gave, or that no store should hold."""

    open_rows: int
    missing_rows: int
    """Replies without a row; below 0: attempts that timed out before a busy server had read them."""

    over_budget: int
    """Tokens spent beyond the budgets, where no reply took more than its worst case."""

    @property
    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (
            self.tracebacks
            or self.poisoned
            or self.open_rows
            or self.missing_rows > 0
            or self.over_budget > 0
        )


def fuzz(db: Db, seed: int, n_replies: int, *, budget: int = 20_000) -> Outcome:
    """Ask until the endpoint has given `n_replies`, in runs of a budget each."""
    endpoint = Fuzz(seed)
    errors: Counter[str] = Counter()
    tracebacks: list[str] = []
    over = 0
    with serving(endpoint) as endpoint.url:
        run = 0
        while endpoint.calls < n_replies:
            run += 1
            endpoint.most_reported = 0
            asyncio.run(_one_run(db, endpoint, f"run {run}", n_replies, budget, errors, tracebacks))
            if endpoint.most_reported <= 64:  # no worst case is below that
                over += max(0, total_tokens(db, f"run {run}") - budget)
    ledger_rows(db)  # sums of whatever was stored
    rows(db, "SELECT sum(tokens) FROM ledger")
    kept = [str(text) for (text,) in rows(db, "SELECT answer FROM llm_calls WHERE status = 'ok'")]
    poisoned = [t for t in kept if text_fault(t) or clean_text(t) != t or t not in endpoint.planted]
    statuses = Counter(str(s) for (s,) in rows(db, "SELECT status FROM llm_calls"))
    return Outcome(
        endpoint.calls, endpoint.kinds, errors, tracebacks, poisoned,
        statuses["reserved"], endpoint.calls - sum(statuses.values()), over,
    )  # fmt: skip


async def _one_run(
    db: Db,
    endpoint: Fuzz,
    run_id: str,
    n_replies: int,
    budget: int,
    errors: Counter[str],
    tracebacks: list[str],
) -> None:
    client = MeteredClient(
        OpenAIClient(endpoint.url, "none", "m", timeout=TIMEOUT),
        CallTable(db, run_id),
        parse_budget(str(budget)),
    )
    for i in range(10_000):
        request = LLMRequest("m", endpoint.url, "", f"question {i} of {run_id}", 0.0, 20)
        try:
            await client.ask(request, CallContext("explain", "hash"))
        except BudgetExceededError:
            return
        except LLMError as error:
            errors[type(error).__name__] += 1
            if clean_text(str(error)) != str(error) or "\n" in str(error):
                tracebacks.append(f"a message of more than one clean line: {error!r}")
        except Exception as error:  # noqa: BLE001 - the fuzz reports whatever is raised
            tracebacks.append(repr(error))
        if endpoint.calls >= n_replies:
            return
