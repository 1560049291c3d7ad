"""Random runs of pooled scoring under faults and kills, held against the books of a server.

A store of planted features; each run has a random budget, a server of which some replies are faults, and is killed
(SIGKILL) up to twice and started again. The server answers right, by the built-in rule, or not at all.
"""

import asyncio
import json
import multiprocessing
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.loop import Plan
from safesail.autointerp.run import run_plan
from safesail.domain.ids import FeatureId
from safesail.errors import BudgetExceededError, LLMUnavailableError
from safesail.llm import metered
from safesail.llm.budget import parse_budget
from safesail.llm.builtin_prompts import ENDPOINT
from safesail.llm.lexical import LexicalModel
from safesail.llm.types import LLMRequest
from safesail.store.bulk import insert
from safesail.store.calls import export_calls, import_calls
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.sql import Row, rows, value
from tests.budget_runs import FREE_FAULTS, lived
from tests.loopback import Reply, chat, serving

SAE, N_FEATURES, N_WORDS = "planted", 10, 24
FAULTS = 0.2
WORDS = ("bomb", "choir", "soup", "river", "judge", "money", "nurse", "letter", "winter", "garden")


@dataclass(frozen=True)
class Drawn:
    """One run, drawn from its seed."""

    seed: int
    budget: str
    concurrency: int
    kill_after: tuple[tuple[int, float], ...]
    """Each life but the last: calls that the server gets from it, and seconds from there to its death."""

    @classmethod
    def draw(cls, seed: int) -> "Drawn":
        """The run of a seed."""
        rng = random.Random(seed)
        budget = rng.choice(
            ["unlimited", "unlimited", str(rng.randint(8_000, 60_000)), f"{rng.randint(2, 20)} calls"]
        )
        kills = tuple((rng.randrange(1, 6), rng.choice((0.0, 0.01, 0.1))) for _ in range(rng.randrange(3)))
        return cls(seed, budget, rng.choice((1, 4, 8)), kills)


class Books:
    """The server: answers by the built-in rule, misbehaves now and then, and keeps books of its own."""

    def __init__(self, drawn: Drawn) -> None:
        self._rng = random.Random(drawn.seed + 1)
        self.calls = 0
        self.tokens = 0
        self.answers: dict[str, str] = {}
        self.good: Counter[str] = Counter()

    def __call__(self, sent: dict[str, Any]) -> Reply:
        """Answer one request; the loopback server calls one at a time."""
        self.calls += 1
        spoilt = self._rng.random() < FAULTS
        kind = self._rng.choice(["free", "empty", "malformed", "wrong form"]) if spoilt else "good"
        if kind == "free":
            return self._rng.choice(list(FREE_FAULTS.values()))
        system, prompt = (message["content"] for message in sent["messages"])
        request = LLMRequest("m", ENDPOINT, system, prompt, 0.0, sent["max_tokens"])
        answer = asyncio.run(LexicalModel().complete(request))
        self.tokens += answer.tokens
        usage = {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens,
                 "total_tokens": answer.tokens}  # fmt: skip
        if kind == "good":
            self.good[prompt] += 1
            self.answers[prompt] = answer.text
            return chat(answer.text, usage=usage)
        text = {"empty": "", "malformed": answer.text[:-1], "wrong form": '{"active":{"A1":3}}'}[kind]
        return chat(text, usage=usage)


def make_store(path: Path) -> None:
    """Ten features that each fire on a word of their own, in 30 windows each of either split."""
    rng = random.Random(0)
    windows: list[tuple[int, str, list[str]]] = []
    for number in range(60 * N_FEATURES):
        text = [f" w{rng.randrange(300)}" for _ in range(N_WORDS)]
        text[rng.randrange(4, N_WORDS)] = f" {WORDS[number % N_FEATURES]}"
        if rng.random() < 0.3:
            text[rng.randrange(4)] = f" {rng.choice(WORDS)}"
        windows.append((number, "train" if number // N_FEATURES % 2 else "test", text))
    with open_writer(path) as db:
        db.execute("INSERT INTO subject_models VALUES ('m', 'f', 8, 2)")
        db.execute(
            "INSERT INTO saes (sae_id, sae_key, model_id, layer, hook, d_in, d_sae, architecture, source)"
            f" VALUES ('{SAE}', 1, 'm', 0, 'h', 8, {N_FEATURES}, 'topk', 's')"
        )
        db.execute(f"INSERT INTO harvests VALUES (1, 'one', 'm', 'f', '{{}}', {N_WORDS}, true)")
        db.execute("INSERT INTO harvest_saes VALUES (1, 1)")
        n = len(windows)
        numbers, splits, texts = zip(*windows, strict=True)
        documents = {"harvest_key": [1] * n, "document_id": [f"d{i}" for i in numbers], "split": splits}
        insert(
            db,
            "documents",
            documents
            | {"source": ["s"] * n, "n_tokens": [N_WORDS] * n, "whole": [True] * n, "text": [""] * n},
        )
        insert(
            db,
            "windows",
            documents
            | {
                "window_id": numbers,
                "start": [0] * n,
                "token_ids": [list(range(N_WORDS))] * n,
                "tokens": texts,
            },
        )
        nonzeros = [
            (WORDS.index(token.strip()), number * N_WORDS + position, 2.0 + rng.random() * 6)
            for number, _, text in windows
            for position, token in enumerate(text)
            if token.strip() in WORDS
        ]
        features, keys, values = zip(*nonzeros, strict=True)
        m = len(nonzeros)
        insert(
            db,
            "activations_f32",
            {"sae_key": [1] * m, "feature": features, "sort_key": keys, "stride": [0] * m, "value": values},
        )
        for feature, word in enumerate(WORDS):
            active = features.count(feature)
            db.execute(
                "INSERT INTO features (sae_id, feature, harvest_key, n_tokens, n_active, density, mean, maximum, q999,"
                " top_tokens) VALUES (?, ?, 1, ?, ?, ?, 5, 8, 8, ?)",
                [SAE, feature, n * N_WORDS, active, active / (n * N_WORDS), [f" {word}"]],
            )


def live(store: str, url: str, drawn: Drawn, replay: bool) -> None:
    """One life of a run, in a process of its own."""
    metered.FIRST_WAIT = 0.002
    chat_settings = ChatSettings(
        "m", "m", parse_budget(drawn.budget), url, replay=replay, concurrency=drawn.concurrency
    )
    config = AutointerpConfig.model_validate(
        {"scoring": {"method": "pooled", "draws": 50, "pool": {"features": 5, "max_rounds": 3}},
         "explain": {"features_per_call": 3, "tags": False}, "concurrency": drawn.concurrency}
    )  # fmt: skip
    with open_writer(Path(store)) as db:
        plan = Plan(SAE, [FeatureId(SAE, j) for j in range(N_FEATURES)])
        try:
            run_plan(db, plan, chat_settings, config, quiet=True)
        except (BudgetExceededError, LLMUnavailableError):
            return


@dataclass(frozen=True)
class Outcome:
    """What one run gave, held against the server's books."""

    over_budget: float
    """By any of its lives, in the budget's unit."""

    paid_twice: int
    """Good answers to a question that had one."""

    unrecorded: int
    """Tokens that the server billed and the ledger has not; a killed life's last calls count at their worst case."""

    wrong: int
    """Stored good answers that are not the server's, and scores that the cache does not give again."""

    tokens_of_second_run: int
    """Newly spent by a run that has no more to do (unlimited budgets)."""

    kills: int
    scored: int
    lost_rounds: int


def run_one(drawn: Drawn, folder: Path, made: Path, context: ForkServerContext) -> Outcome:
    """All lives of one run, a second run, and a replay from exported answers."""
    store = folder / f"{drawn.seed}.duckdb"
    shutil.copy(made, store)
    books, kills = Books(drawn), 0
    name = f"run {drawn.seed}"
    with serving(books) as url:
        arguments = (str(store), url, drawn, False)
        for until in (*drawn.kill_after, None):
            if lived(context.Process(target=live, name=name, args=arguments), lambda: books.calls, until):
                break
            kills += 1
        with open_reader(store) as db:
            before, clean = _scores(db), drawn.budget == "unlimited" and _none_failed(db)
        lived(context.Process(target=live, name=name, args=arguments), lambda: books.calls, None)
        with open_reader(store) as db:
            second = _spent_of_last_run(db) if clean else 0  # a failed explanation is asked for again
            wrong = sum(books.answers.get(prompt) != answer for prompt, answer in _good(db))
            wrong += clean and before != _scores(db)
            if clean and kills == 0:
                export_calls(db, folder / f"{drawn.seed}.jsonl")
        if clean and kills == 0:
            wrong += _replayed(drawn, folder, made, context, url) != before
    with open_reader(store) as db:
        return Outcome(
            over_budget=_over(db, drawn),
            paid_twice=sum(n - 1 for n in books.good.values() if n > 1) - _lost_with_a_life(db, books),
            unrecorded=max(0, books.tokens - int(value(db, "SELECT sum(coalesce(input_tokens, reserved)"
                                                           " + coalesce(output_tokens, 0)) FROM llm_calls") or 0)),
            wrong=wrong,
            tokens_of_second_run=second,
            kills=kills,
            scored=int(value(db, "SELECT count(*) FROM scores WHERE value IS NOT NULL")),
            lost_rounds=int(value(db, "SELECT count(*) FROM pools WHERE error IS NOT NULL")),
        )  # fmt: skip


def _replayed(drawn: Drawn, folder: Path, made: Path, context: ForkServerContext, url: str) -> list[Row]:
    """Scores of a fresh store that has the answers only."""
    copy = folder / f"{drawn.seed}-replay.duckdb"
    shutil.copy(made, copy)
    with open_writer(copy) as db:
        import_calls(db, folder / f"{drawn.seed}.jsonl")
    process = context.Process(target=live, args=(str(copy), url, drawn, True))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the replay of run {drawn.seed} ended with {process.exitcode}")
    with open_reader(copy) as db:
        return _scores(db)


def _scores(db: Db) -> list[Row]:
    return rows(
        db, "SELECT feature, value, low, high, chance, lookup, n_windows, tokens FROM scores ORDER BY 1"
    )


def _none_failed(db: Db) -> bool:
    return int(value(db, "SELECT count(*) FROM explanations WHERE error IS NOT NULL")) == 0


def _good(db: Db) -> list[Row]:
    return rows(db, "SELECT request ->> '$.prompt', answer FROM llm_calls WHERE status = 'ok'")


def _spent_of_last_run(db: Db) -> int:
    last = value(db, "SELECT arg_max(run_id, started_at) FROM runs")
    spent = value(
        db, "SELECT coalesce(sum(input_tokens + output_tokens), 0) FROM llm_calls WHERE run_id = ?", [last]
    )
    return int(spent)


def _over(db: Db, drawn: Drawn) -> float:
    """By how much any run, each with a budget of its own, is over it."""
    budget = parse_budget(drawn.budget)
    figure = (
        "count(*)"
        if budget.unit == "calls"
        else "sum(coalesce(input_tokens, reserved) + coalesce(output_tokens, 0))"
    )
    spent = rows(db, f"SELECT {figure} FROM llm_calls GROUP BY run_id")
    return (
        max((float(n) - budget.amount for (n,) in spent), default=0.0) if budget.unit != "unlimited" else 0.0
    )


def _lost_with_a_life(db: Db, books: Books) -> int:
    """Good answers that were under way when a life ended: billed, and no endpoint hands them out again."""
    lost = rows(db, "SELECT request ->> '$.prompt', count(*) FROM llm_calls WHERE status = 'lost' GROUP BY 1")
    return sum(min(int(n), books.good[str(prompt)] - 1) for prompt, n in lost if books.good[str(prompt)] > 1)


def run_pools(n: int, seed: int = 0) -> dict[str, Any]:
    """`n` random runs; the sums of what they gave."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder / "made.duckdb")
        found = [run_one(Drawn.draw(seed + i), folder, folder / "made.duckdb", context) for i in range(n)]
    zero = ("over_budget", "paid_twice", "unrecorded", "wrong", "tokens_of_second_run")
    sums = {name: sum(max(0, asdict(f)[name]) for f in found) for name in zero}
    return {
        "runs": n,
        "must_be_zero": sums,
        "kills": sum(f.kills for f in found),
        "scored": sum(f.scored for f in found),
        "lost_rounds": sum(f.lost_rounds for f in found),
    }


if __name__ == "__main__":
    import sys

    sys.stdout.write(json.dumps(run_pools(*map(int, sys.argv[1:]))) + "\n")
