"""The explainer and the simulator of a run: one ledger, one purse."""

from dataclasses import dataclass

from safesail.errors import ConfigError
from safesail.llm.budget import Budget, Prices
from safesail.llm.embedding import Embed
from safesail.llm.factory import EMBEDDING, make_client
from safesail.llm.metered import MeteredClient
from safesail.llm.types import ChatClient
from safesail.store.calls import CallTable
from safesail.store.connection import Db
from safesail.subject.minilm import load_minilm, weights_folder


@dataclass(frozen=True)
class ChatPair:
    """Two clients that spend from one budget."""

    explainer: MeteredClient
    simulator: MeteredClient

    @property
    def spent_tokens(self) -> int:
        """Tokens newly spent by both."""
        return self.explainer.spent_tokens


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
        if self.explainer == EMBEDDING:
            raise ConfigError(
                f"the model {EMBEDDING!r} can simulate but not explain; name it as --simulator, and another explainer"
            )
        if self.simulator == EMBEDDING:
            weights_folder()  # fails here, before anything is written, where the extra is missing

    def models(self) -> tuple[ChatClient, ChatClient]:
        """Explainer and simulator, with no ledger round them.

        Raises:
            ConfigError: an endpoint needs a key and none is set.
        """
        explainer = make_client(self.explainer, base_url=self.base_url)
        if self.simulator == self.explainer:
            return explainer, explainer
        return explainer, make_client(self.simulator, base_url=self.base_url, load_embed=_load_embed)

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
        return ChatPair(explainer, explainer if simulator is inner else explainer.sharing(simulator))


def _load_embed() -> Embed:
    return load_minilm().embed
