"""What a feature usually costs, before anything is harvested: the dry run's own walk, over features made of words.

Nothing here knows how a feature is explained or scored: `forecast` does, and what it asks is what a run would ask. The
features that it is shown fire on a share of the text's words each, in windows cut from the text itself.
"""

import hashlib
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.forecast import forecast
from safesail.autointerp.loop import Plan
from safesail.autointerp.pricing import Cost
from safesail.domain.ids import FeatureId, content_id
from safesail.domain.records import SaeInfo, Split, SubjectInfo
from safesail.store.connection import Db, open_writer
from safesail.store.harvest import HarvestedShard, finish_harvest, open_harvest, read_harvest, write_shard
from safesail.store.runs import Run
from safesail.text.splits import split_of
from safesail.text.windows import cut

N_FEATURES = 16
"""Stand-in features that are walked over."""

_N_WORD_SETS = 32
"""Sets into which the text's words are divided. A feature fires on every other occurrence of the words of one: on 1.6 %
of tokens, and other windows hold its words in vain."""

_SAE = "stand-in"


@dataclass(frozen=True)
class Usual:
    """Cost of the stand-in features, all together."""

    cost: Cost
    n_features: int

    def of(self, n: int) -> Cost:
        """Of `n` features, in proportion."""
        share = n / self.n_features
        cost = self.cost
        return Cost(
            round(cost.calls * share),
            cost.tokens_in * share,
            cost.tokens_out * share,
            None if cost.dollars is None else cost.dollars * share,
            cost.worst_gap,
        )


def usual_cost(
    texts: Sequence[Sequence[str]], n_ctx: int, chat: ChatSettings, config: AutointerpConfig
) -> Usual:
    """Price explaining and scoring features that have as many windows as `config` asks for; asks nobody.

    Args:
        texts: Documents as the strings of their tokens.
        n_ctx: Tokens of a window.
        chat: Whom a run would ask.
        config: How.

    Raises:
        ConfigError: the text has too few words for a feature to fire in both splits.
    """
    with stand_in_store(texts, n_ctx) as (db, plan):
        return Usual(forecast(db, plan, chat, config).cost_of_all, len(plan.features))


@dataclass(frozen=True)
class _Window:
    document_id: str
    split: Split
    start: int
    tokens: tuple[str, ...]


@contextmanager
def stand_in_store(texts: Sequence[Sequence[str]], n_ctx: int) -> Generator[tuple[Db, Plan], None, None]:
    """A store, gone when the block ends, in which features that stand for words are harvested; and a plan of them."""
    with (
        TemporaryDirectory(prefix="safesail-plan-") as folder,
        open_writer(Path(folder) / "plan.duckdb") as db,
    ):
        windows = _windows(texts, n_ctx)
        sets = _firing(windows)
        _harvest(db, texts, windows, n_ctx, sets)
        best = sorted(range(_N_WORD_SETS), key=lambda j: (-_least_windows(windows, sets[j]), j))
        features = [FeatureId(_SAE, j) for j in best[:N_FEATURES]]
        yield db, Plan(_SAE, features, basis=f"{len(features)} stand-in features")


def _windows(texts: Sequence[Sequence[str]], n_ctx: int) -> list[_Window]:
    windows: list[_Window] = []
    for tokens in texts:
        document_id = content_id("".join(tokens))
        pieces = cut(range(len(tokens)), n_ctx)
        split = split_of(document_id, 0)
        windows += [
            _Window(document_id, split, start, tuple(tokens[i] for i in ids)) for start, ids in pieces
        ]
    return windows


def _firing(windows: Sequence[_Window]) -> dict[int, list[tuple[int, int]]]:
    """By word set, where its words stand: window and position, in order."""
    where: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, window in enumerate(windows):
        for position, token in enumerate(window.tokens):
            if token.strip() and _digest(f"{window.document_id}/{window.start}/{position}") % 2:
                where[_digest(token.strip().lower()) % _N_WORD_SETS].append((number, position))
    return where


def _least_windows(windows: Sequence[_Window], where: Sequence[tuple[int, int]]) -> int:
    """Windows in which a feature fires, in the split with fewer."""
    fires = {number for number, _ in where}
    n_test = sum(windows[number].split == "test" for number in fires)
    return min(n_test, len(fires) - n_test)


def _harvest(
    db: Db,
    texts: Sequence[Sequence[str]],
    windows: Sequence[_Window],
    n_ctx: int,
    sets: dict[int, list[tuple[int, int]]],
) -> None:
    """Store the windows and the features' activations as one shard of a harvest."""
    subject = SubjectInfo(_SAE, _SAE, 1, 1)
    sae = SaeInfo(_SAE, _SAE, "blocks.0.hook_mlp_out", 1, _N_WORD_SETS, "topk", _SAE, _SAE)
    record = open_harvest(db, _SAE, subject, [sae], {"n_ctx": n_ctx}, replace=False)
    key, sae_key = record.key, record.sae_keys[_SAE]
    hits = [(j, n * n_ctx + p) for j in sorted(sets) for n, p in sets[j]]
    feature = np.array([j for j, _ in hits], np.int32)
    # Strengths from 1 to 5, so that windows have levels to be spread over.
    value = np.array([1 + _digest(f"{j}/{slot}") % 5 for j, slot in hits], np.float32)
    slots = np.array([slot for _, slot in hits], np.int64)
    run = Run.of(feature, slots, value, d_sae=_N_WORD_SETS, n_slots=len(windows) * n_ctx)
    documents = {w.document_id: w.split for w in windows}
    joined = {content_id("".join(tokens)): tokens for tokens in texts}
    shard = HarvestedShard(
        number=0,
        content=_SAE,
        n_tokens=sum(len(w.tokens) for w in windows),
        documents={
            "harvest_key": [key] * len(documents), "document_id": list(documents), "source": [_SAE] * len(documents),
            "split": list(documents.values()), "n_tokens": [len(joined[d]) for d in documents],
            "whole": [True] * len(documents), "text": ["".join(joined[d]) for d in documents],
        },
        windows={
            "harvest_key": [key] * len(windows), "window_id": list(range(len(windows))),
            "document_id": [w.document_id for w in windows], "start": [w.start for w in windows],
            "split": [w.split for w in windows], "token_ids": [[0] * len(w.tokens) for w in windows],
            "tokens": [list(w.tokens) for w in windows],
        },
        first_slot=0, nonzeros={sae_key: run}, dropped={},
    )  # fmt: skip
    write_shard(db, key, shard)
    record = read_harvest(db, key, record.sae_keys)
    finish_harvest(db, record, {_SAE: _N_WORD_SETS}, "f32")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
