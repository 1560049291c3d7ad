"""`explain` and `score` on a store, as the command line asks for them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from safesail.autointerp.budgeted import BudgetedConfig
from safesail.autointerp.clients import ChatSettings
from safesail.autointerp.exemplars import ExemplarConfig, collect
from safesail.autointerp.explain_config import Answer, ExplainConfig
from safesail.autointerp.explaining import explain_candidates, make_plan, rank_candidates, with_models
from safesail.autointerp.forecast import Forecast, Forecaster
from safesail.autointerp.ranking import OrderConfig
from safesail.autointerp.score_feature import chance_partner, score_feature
from safesail.autointerp.scoring_config import Method, ScoringConfig
from safesail.domain.ids import FeatureId
from safesail.domain.records import Failed
from safesail.errors import BudgetExceededError, ConfigError, NotFoundError
from safesail.llm.budget import load_prices, parse_budget
from safesail.llm.metered import MeteredClient
from safesail.store.connection import Db, open_reader, open_writer
from safesail.store.explanations import explained_features, read_explanation, record_score
from safesail.store.registry import finish_run, start_run
from safesail.store.selection import best_sae

MIN_WINDOWS = 5
"""Windows in which a feature must fire, in each split, to be explained and scored."""


@dataclass(frozen=True)
class ExplainOptions:
    """What the command line says."""

    budget: str
    sae_id: str | None
    explainer: str | None
    simulator: str | None
    base_url: str | None
    method: Method
    n: int
    chance_every: int
    concurrency: int
    prices: Path | None
    replay: bool
    weights: tuple[str, ...] = ()
    """`DOMAIN=WEIGHT`."""

    tell_concept: bool = False
    answer: Answer = "json"
    stop_width: float | None = None

    def chat(self) -> ChatSettings:
        """Which models are asked; the built-in one where none is named.

        Raises:
            ConfigError: the budget or the price table is wrong.
        """
        explainer = self.explainer or "lexical"
        return ChatSettings(
            explainer=explainer,
            simulator=self.simulator or explainer,
            budget=parse_budget(self.budget),
            base_url=self.base_url,
            prices=None if self.prices is None else load_prices(self.prices),
            replay=self.replay,
            concurrency=self.concurrency,
        )

    def config(self) -> BudgetedConfig:
        """How features are explained and scored.

        Raises:
            ConfigError: a weight is not DOMAIN=NUMBER.
        """
        return BudgetedConfig(
            scoring=self.scoring(),
            explain=ExplainConfig(answer=self.answer),
            order=OrderConfig.read({"weights": _weights(self.weights)}, "--weight"),
            tell_concept=self.tell_concept,
            chance_every=self.chance_every,
            concurrency=self.concurrency,
        )

    def scoring(self) -> ScoringConfig:
        """How explanations are tested."""
        return ScoringConfig(method=self.method, stop_width=self.stop_width)


@dataclass(frozen=True)
class Report:
    """What a run bought."""

    sae_id: str
    explained: int
    scored: int
    undefined: int
    failed: int
    left: int
    """Features that the budget did not reach."""

    tokens: int
    """Newly spent."""

    shared: int = 0
    """Explained features that took the explanation of one they are nearly the same as."""

    @property
    def next_10k(self) -> int | None:
        """Features that 10,000 more tokens would finish, at this run's price; None: nothing was paid for."""
        finished = self.scored + self.undefined
        if not finished or not self.tokens:
            return None
        return min(self.left, int(10_000 * finished / self.tokens))

    def as_json(self) -> dict[str, Any]:
        """The fields, by name."""
        return dict(vars(self)) | {"next_10k": self.next_10k}

    def as_text(self) -> str:
        """One line for people."""
        shared = f" ({self.shared} share an explanation)" if self.shared else ""
        stopped = f"; the budget ended before {self.left} more" if self.left else ""
        more = f"; 10k more tokens would finish about {self.next_10k}" if self.left and self.next_10k else ""
        return (
            f"{self.sae_id}: {self.explained} explained{shared}, {self.scored} scored, {self.undefined} undefined, "
            f"{self.failed} failed for {self.tokens:,} new tokens{stopped}{more}"
        )


def explain_store(store: Path, asked: ExplainOptions, *, quiet: bool) -> Report:
    """Explain and score the candidates of an SAE in `store`.

    Raises:
        NotFoundError: no store, no selection or no harvest.
        SafeSailError: as `explain_candidates`.
    """
    _needs_store(store)
    config = asked.config()
    with open_writer(store) as db:
        sae_id = asked.sae_id or best_sae(db)
        candidates = rank_candidates(db, sae_id, n=asked.n, min_windows=MIN_WINDOWS, order=config.order)
        outcome = explain_candidates(db, candidates, sae_id, asked.chat(), config, quiet=quiet)
    bought = outcome.bought
    return Report(
        sae_id, len(bought.explained), len(bought.scored), len(bought.undefined), len(bought.failed),
        bought.left, outcome.tokens, len(bought.shared),
    )  # fmt: skip


def forecast_store(store: Path, asked: ExplainOptions) -> Forecast:
    """What `explain_store` would cost and bring; asks nobody and writes nothing.

    Raises:
        NotFoundError: no store, no selection or no harvest.
        ConfigError: a budget in dollars without prices.
    """
    _needs_store(store)
    chat = asked.chat()
    config = with_models(asked.config(), chat)
    with open_reader(store) as db:
        sae_id = asked.sae_id or best_sae(db)
        candidates = rank_candidates(db, sae_id, n=asked.n, min_windows=MIN_WINDOWS, order=config.order)
        forecaster = Forecaster(db, chat.models(), config, chat.prices or {})
        return forecaster.forecast(sae_id, make_plan(db, sae_id, candidates, config), chat.budget)


def score_store(store: Path, asked: ExplainOptions, *, quiet: bool) -> Report:
    """Score the explanations that an SAE has in `store`, by another method or simulator.

    Raises:
        NotFoundError: no store, or nothing explained.
        LLMUnavailableError: an endpoint is dead; what is finished is stored.
    """
    _needs_store(store)
    chat = asked.chat()
    with open_writer(store) as db:
        sae_id = asked.sae_id or best_sae(db)
        features = [FeatureId(sae_id, j) for j in explained_features(db, sae_id)][: asked.n]
        if not features:
            raise ConfigError(f"{sae_id} has no explanation in {store}; run `safesail explain` first")
        run_id = start_run(db, "score", {"sae_id": sae_id, "method": asked.method})
        client = chat.open(db, run_id).simulator
        config = asked.scoring().model_copy(update={"model": chat.simulator})
        counts = asyncio.run(_score_all(db, features, client, (config, asked.chance_every), quiet=quiet))
        finish_run(db, run_id)
    scored, undefined, failed, left = counts
    return Report(sae_id, 0, scored, undefined, failed, left, client.spent_tokens)


async def _score_all(
    db: Db,
    features: Sequence[FeatureId],
    client: MeteredClient,
    how: tuple[ScoringConfig, int],
    *,
    quiet: bool,
) -> tuple[int, int, int, int]:
    """Score features in turn until they or the budget are used up: (scored, undefined, failed, left)."""
    config, every = how
    partners = chance_partner(features, seed=config.seed)
    scored = undefined = failed = 0
    for number, feature in enumerate(tqdm(features, desc="score", unit="feature", disable=quiet)):
        explanation = read_explanation(db, feature)
        partner = partners.get(feature) if every and number % every == 0 else None
        other = None if partner is None else read_explanation(db, partner)
        held_out = collect(db, feature, "test", ExemplarConfig())
        try:
            outcome = await score_feature(client, explanation, held_out, config, other=other)
        except BudgetExceededError:
            return scored, undefined, failed, len(features) - number
        record_score(db, explanation, outcome)
        if isinstance(outcome, Failed):
            failed += 1
        elif outcome.value is None:
            undefined += 1
        else:
            scored += 1
    return scored, undefined, failed, 0


def _weights(given: Sequence[str]) -> dict[str, str]:
    weights: dict[str, str] = {}
    for text in given:
        domain, equals, weight = text.partition("=")
        if not domain or not equals:
            raise ConfigError(f"--weight {text!r} is not understood; write DOMAIN=NUMBER, as violence=2")
        weights[domain] = weight
    return weights


def _needs_store(store: Path) -> None:
    if not store.is_file():
        raise NotFoundError(f"no store at {store}; run `safesail select-sae` and `safesail harvest` first")
