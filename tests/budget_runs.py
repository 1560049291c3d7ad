"""Random runs under faults and kills, held against the books of a server that bills by its own count.

Each run has a random budget (tokens, dollars or calls), asks random questions, some of them twice, with random
concurrency, through a server of which 30 % of the replies are faults, and is killed (SIGKILL) up to three times and
started again under its name.
"""

import asyncio
import json
import multiprocessing
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from safesail.errors import BadAnswerError, BudgetExceededError, LLMUnavailableError
from safesail.llm import metered
from safesail.llm.budget import Budget, Price, parse_budget
from safesail.llm.metered import MeteredClient
from safesail.llm.openai_client import OpenAIClient
from safesail.llm.types import CallContext, LLMRequest
from safesail.store.calls import CallTable, total_tokens
from safesail.store.connection import open_reader, open_writer
from safesail.store.sql import rows, value
from tests.loopback import Reply, chat, fault, serving

FAULTS = 0.3
TIMEOUT = 0.15
PRICES = {"m": Price(input=1.0, output=4.0)}
RUN_ID = "run"
BILLED_FAULTS = (
    "timeout",
    "dropped",
    "cut off",
    "malformed",
    "html",
    "gateway",
    "truncated",
    "empty",
    "no usage",
)
FREE_FAULTS = {
    "429": fault(429, "slow down"),
    "429 with Retry-After": fault(429, "slow down", Retry_After="0.02"),
    "500": fault(500, "oops", "server_error"),
    "503": fault(503, "overloaded"),
}


@dataclass(frozen=True)
class Plan:
    """One run, drawn from its seed."""

    seed: int
    budget: str
    concurrency: int
    prompts: tuple[str, ...]
    bytes_per_token: int
    """How the server's tokenizer cuts; 1 is the worst that a client may meet."""

    kill_after: tuple[tuple[int, float], ...]
    """Each life but the last: calls that the server gets from it, and seconds from there to its death."""

    @classmethod
    def draw(cls, seed: int) -> "Plan":
        """The run of a seed."""
        draw = random.Random(seed)
        prompts = [
            f"question {i} of {seed} {'word ' * draw.randrange(60)}" for i in range(draw.randint(4, 16))
        ]
        prompts += draw.choices(prompts, k=draw.randrange(4))  # the same at the same time, or later
        tokens = int(10 ** draw.uniform(2.0, 3.8))
        budget = draw.choice([f"{tokens}", f"${tokens * 3e-6:.6f}", f"{draw.randint(1, 25)} calls"])
        return cls(
            seed, budget, draw.choice((1, 2, 4, 8)), tuple(prompts), draw.choice((1, 3, 4)),
            tuple((draw.randrange(6), draw.choice((0.0, 0.003, 0.01, 0.1))) for _ in range(draw.randrange(4))),
        )  # fmt: skip


class Bills:
    """The server's side: it answers, misbehaves, and keeps its own books."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._draw = random.Random(plan.seed + 1)
        self.calls = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.faults: Counter[str] = Counter()

    def __call__(self, sent: dict[str, Any]) -> Reply:
        """Answer one request; the loopback server calls one at a time."""
        self.calls += 1
        kind = self._draw.choice((*BILLED_FAULTS, *FREE_FAULTS)) if self._draw.random() < FAULTS else "good"
        self.faults[kind] += 1
        if kind in FREE_FAULTS:
            return FREE_FAULTS[kind]
        prompt, room = sent["messages"][-1]["content"], sent["max_tokens"]
        n_in = 60 + len((sent["messages"][0]["content"] + prompt).encode()) // self._plan.bytes_per_token
        n_out = room if kind == "truncated" else self._draw.randint(1, room)
        self.tokens_in += n_in
        self.tokens_out += n_out
        usage = {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}
        good = replace(chat(right_answer(prompt), usage=usage), seconds=self._draw.uniform(0.0, 0.01))
        spoilt = {
            "timeout": replace(good, seconds=TIMEOUT * 1.3),
            "dropped": replace(good, silent=True),
            "cut off": replace(good, send=0.6),
            "malformed": replace(good, body=good.body[:-7]),
            "html": Reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
            "gateway": fault(502, "lost the server behind me"),
            "truncated": chat(right_answer(prompt)[:5], finish="length", usage=usage),
            "empty": chat("", usage=usage),
            "no usage": chat(right_answer(prompt)),
        }
        return spoilt.get(kind, good)

    def billed(self, unit: str) -> float:
        """In the budget's unit."""
        match unit:
            case "calls":
                return self.calls
            case "dollars":
                return (PRICES["m"].input * self.tokens_in + PRICES["m"].output * self.tokens_out) / 1e6
            case _:
                return self.tokens_in + self.tokens_out


def right_answer(prompt: str) -> str:
    """What the server says to a question: told from any other answer at sight."""
    return f"the answer to {prompt}"


def life(store: str, url: str, plan: Plan) -> None:
    """One life of a run, in a process of its own: ask everything that the money is enough for."""
    metered.FIRST_WAIT = 0.005
    with open_writer(Path(store)) as db:
        client = MeteredClient(
            OpenAIClient(url, "a key of no use", "m", timeout=TIMEOUT),
            CallTable(db, RUN_ID),
            parse_budget(plan.budget),
            prices=PRICES,
            concurrency=plan.concurrency,
        )
        outcomes = asyncio.run(_ask_all(client, url, plan))
    Path(f"{store}.outcomes").write_text(json.dumps(outcomes), encoding="utf-8")


async def _ask_all(client: MeteredClient, url: str, plan: Plan) -> list[list[str]]:
    async def ask(prompt: str) -> list[str]:
        try:
            answered = await client.ask(_request(url, prompt), CallContext("explain", "hash"))
            return ["answered", answered.answer.text]
        except BadAnswerError as error:
            return ["bad", type(error).__name__]
        except BudgetExceededError:
            return ["no money", ""]
        except LLMUnavailableError:
            return ["unavailable", ""]

    return list(await asyncio.gather(*(ask(prompt) for prompt in plan.prompts)))


@dataclass(frozen=True)
class Found:
    """What one run gave, held against the server's books."""

    over_budget: float
    unrecorded: int
    """Tokens that the server billed and the ledger has not, per run."""

    paid_twice: int
    """Questions asked again after a good answer was in the ledger."""

    lost: int
    """Questions refused for want of money that was there, or answered once and not answered again."""

    wrong: int
    """Stored or returned answers that are not the server's."""

    asked_in_replay: int
    """Calls of a further run that asks again for all that is known."""

    kills: int
    calls: int
    billed_share: float
    """Of the budget, by the server's count."""

    outcomes: dict[str, int]
    faults: dict[str, int]


def run(plan: Plan, folder: Path, context: ForkServerContext) -> Found:
    """All lives of one run."""
    store, bills, kills = folder / f"{plan.seed}.duckdb", Bills(plan), 0
    name = f"run {plan.seed}"
    with serving(bills) as url:
        for until in (*plan.kill_after, None):
            process = context.Process(target=life, name=name, args=(str(store), url, plan))
            if lived(process, lambda: bills.calls, until):
                break
            kills += 1
        Path(f"{store}.outcomes").rename(f"{store}.outcomes.kept")
        before = bills.calls
        process = context.Process(target=life, name=name, args=(str(store), url, _known(store, plan)))
        lived(process, lambda: bills.calls, None)
        _wait_for_server()
    return _found(store, plan, bills, (kills, bills.calls - before))


def lived(process: ForkServerProcess, calls: Callable[[], int], until: tuple[int, float] | None) -> bool:
    """Whether a life came to its end by itself; killed so many calls and seconds on."""
    before = calls()
    process.start()
    if until is not None:
        while process.is_alive() and calls() < before + until[0]:
            time.sleep(0.001)
        process.join(until[1])
        process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{process.name} ended with {process.exitcode}")
    return process.exitcode == 0


def _known(store: Path, plan: Plan) -> Plan:
    """The same run, asking only for what it has; a call more would be a fault."""
    with open_reader(store) as db:
        texts = rows(
            db, "SELECT DISTINCT request ->> '$.prompt' FROM llm_calls WHERE status = 'ok' ORDER BY 1"
        )
    return replace(plan, prompts=tuple(str(text) for (text,) in texts))


def _wait_for_server() -> None:
    """Requests of a killed life may still be under way: the server books them when it reads them."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 2 and time.monotonic() < deadline:
        time.sleep(0.01)


def _need(budget: Budget, prompt: str) -> float:
    """What is held for a question, in the budget's unit (tokens where that is dollars)."""
    client = OpenAIClient("http://localhost", "none", "m")
    return 1 if budget.unit == "calls" else client.worst_case(_request("http://localhost", prompt))


def _request(url: str, prompt: str) -> LLMRequest:
    return LLMRequest("m", url, "system", prompt, 0.0, 40)


def _found(store: Path, plan: Plan, bills: Bills, counted: tuple[int, int]) -> Found:
    budget = parse_budget(plan.budget)
    outcomes = json.loads(Path(f"{store}.outcomes.kept").read_text(encoding="utf-8"))
    replayed = json.loads(Path(f"{store}.outcomes").read_text(encoding="utf-8"))
    with open_reader(store) as db:
        ledger, attempts = total_tokens(db, RUN_ID), int(value(db, "SELECT count(*) FROM llm_calls"))
        twice = value(
            db,
            "SELECT count(*) FROM llm_calls later JOIN llm_calls good USING (cache_key)"
            " WHERE good.status = 'ok' AND later.call_id > good.call_id",
        )
        stored = rows(db, "SELECT request ->> '$.prompt', answer FROM llm_calls WHERE status = 'ok'")
    left = budget.amount - {"tokens": ledger, "calls": attempts, "dollars": budget.amount}[budget.unit]
    billed = bills.billed(budget.unit)
    wrong = [answer for prompt, answer in stored if answer != right_answer(prompt)]
    pairs = list(zip(plan.prompts, outcomes, strict=True))
    refused = [prompt for prompt, (kind, _) in pairs if kind == "no money"]
    wrong += [text for prompt, (kind, text) in pairs if kind == "answered" and text != right_answer(prompt)]
    return Found(
        over_budget=max(0.0, billed - budget.amount * (1 + 1e-12)),
        unrecorded=max(0, bills.tokens_in + bills.tokens_out - ledger),
        paid_twice=int(twice),
        lost=sum(kind != "answered" for kind, _ in replayed) + sum(_need(budget, p) <= left for p in refused),
        wrong=len(wrong),
        asked_in_replay=counted[1],
        kills=counted[0],
        calls=bills.calls,
        billed_share=billed / budget.amount,
        outcomes=dict(Counter(kind for kind, _ in outcomes)),
        faults=dict(bills.faults),
    )


def run_many(n: int, seed: int = 0) -> dict[str, Any]:
    """`n` random runs; the sums of what they gave."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory() as folder:
        found = [run(Plan.draw(seed + i), Path(folder), context) for i in range(n)]
    zero = ("over_budget", "unrecorded", "paid_twice", "lost", "wrong", "asked_in_replay")
    sums = {name: sum(asdict(f)[name] for f in found) for name in (*zero, "kills", "calls")}
    return {
        "runs": n,
        "seed": seed,
        "must_be_zero": {name: sums[name] for name in zero},
        "kills": sums["kills"],
        "calls": sums["calls"],
        "runs_that_ran_out_of_money": sum("no money" in f.outcomes for f in found),
        "mean_share_of_budget_billed": round(sum(f.billed_share for f in found) / n, 3),
        "outcomes": dict(sum((Counter(f.outcomes) for f in found), Counter[str]())),
        "replies": dict(sum((Counter(f.faults) for f in found), Counter[str]())),
    }
