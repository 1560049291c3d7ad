"""The explainer and the simulator of a run: one ledger, one budget."""

import difflib
from dataclasses import dataclass

from safesail.autointerp.config import AutointerpConfig
from safesail.autointerp.pricing import PricingClient
from safesail.errors import ConfigError
from safesail.llm.budget import Budget, Prices
from safesail.llm.factory import BUILT_IN, EMBEDDING, make_client
from safesail.llm.metered import MeteredClient
from safesail.llm.types import ChatClient
from safesail.store.calls import CallTable
from safesail.store.connection import Db
from safesail.subject.minilm import load_embed, weights_folder

Client = MeteredClient | PricingClient
"""Whom a walk asks: a model behind cache, ledger and budget, or a client that only prices what it is asked."""


@dataclass(frozen=True)
class ChatPair:
    """Two clients that spend from one budget."""

    explainer: Client
    simulator: Client
    budget: Budget


@dataclass(frozen=True)
class ChatSettings:
    """Which models are asked, and under which limits."""

    explainer: str
    simulator: str
    budget: Budget
    base_url: str | None = None
    prices: Prices | None = None
    replay: bool = False
    concurrency: int = 8

    def __post_init__(self) -> None:
        for name in (self.explainer, self.simulator):
            built_in = difflib.get_close_matches(name, (BUILT_IN, EMBEDDING), n=1, cutoff=0.8)
            if built_in and name != built_in[0]:
                raise ConfigError(f"no model {name!r}; did you mean {built_in[0]!r}?")
        if self.explainer == EMBEDDING:
            raise ConfigError(
                f"the model {EMBEDDING!r} can simulate but not explain; name it as --simulator, and another explainer"
            )
        if self.simulator == EMBEDDING:
            weights_folder()  # fails here, before anything is written, where the extra is missing

    def named_in(self, config: AutointerpConfig) -> AutointerpConfig:
        """The settings with the names of the models that are asked."""
        return config.model_copy(
            update={
                "explain": config.explain.model_copy(update={"model": self.explainer}),
                "scoring": config.scoring.model_copy(update={"model": self.simulator}),
            }
        )

    def models(self, *, asked: bool = True) -> tuple[ChatClient, ChatClient]:
        """Explainer and simulator, with no ledger round them.

        Args:
            asked: False: they are only priced, which takes no key.

        Raises:
            ConfigError: an endpoint needs a key and none is set.
        """
        key = None if asked else "none"
        explainer = make_client(self.explainer, base_url=self.base_url, api_key=key)
        if self.simulator == self.explainer:
            return explainer, explainer
        return explainer, make_client(
            self.simulator, base_url=self.base_url, api_key=key, load_embed=load_embed
        )

    def open(self, db: Db, run_id: str) -> ChatPair:
        """Clients whose calls go to the ledger of `db` under `run_id`.

        Raises:
            ConfigError: an endpoint needs a key and none is set.
        """
        inner, simulator = self.models()
        explainer = MeteredClient(
            inner,
            CallTable(db, run_id),
            self.budget,
            prices=self.prices,
            replay=self.replay,
            concurrency=self.concurrency,
        )
        return ChatPair(
            explainer, explainer if simulator is inner else explainer.sharing(simulator), self.budget
        )
