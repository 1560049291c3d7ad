"""Windows, and chat clients with known answers, for tests of explaining and scoring."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from safesail.domain.ids import FeatureId
from safesail.domain.records import Exemplar, Kind, Split, Window
from safesail.llm.budget import Budget, parse_budget
from safesail.llm.metered import MeteredClient
from safesail.llm.types import ChatClient, LLMAnswer, LLMRequest
from safesail.store.calls import CallTable
from safesail.store.connection import Db
from safesail.store.registry import start_run

FEATURE = FeatureId("sae", 7)


def exemplar(
    text: str,
    firing: dict[str, float] | None = None,
    *,
    split: Split = "test",
    feature: FeatureId = FEATURE,
    kind: Kind | None = None,
) -> Exemplar:
    """A window whose tokens are the words of `text`, each with the space before it; `firing` by word."""
    tokens = tuple(word if i == 0 else f" {word}" for i, word in enumerate(text.split(" ")))
    activations = tuple((firing or {}).get(token.strip(), 0.0) for token in tokens)
    window = Window(f"doc of {text[:20]}", 0, tuple(range(len(tokens))), tokens, split)
    active = max(activations) > 0
    return Exemplar(feature, window, activations, kind or ("active" if active else "random"), int(active))


@dataclass
class ScriptedModel:
    """Gives the answers it was made with, one after the other, and keeps the requests; bills 10 + 5 tokens."""

    answers: Sequence[str]
    asked: list[LLMRequest] = field(default_factory=list)
    finish: str = "stop"

    @property
    def endpoint(self) -> str:
        return "scripted"

    def worst_case(self, request: LLMRequest) -> int:
        return 10 + request.max_tokens

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        self.asked.append(request)
        return LLMAnswer(self.answers[len(self.asked) - 1], self.finish, 10, 5, "billed")


def metered(db: Db, model: ChatClient, budget: Budget | None = None) -> MeteredClient:
    """`model` behind the cache and ledger of `db`."""
    return MeteredClient(model, CallTable(db, start_run(db, "test", {})), budget or parse_budget("unlimited"))
