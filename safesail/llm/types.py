"""What goes to a language model and what comes back."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from safesail.domain.ids import FeatureId

CACHE_FORMAT = 1
"""Raise when the meaning of a cached answer changes, so that old answers are not reused."""


UsageSource = Literal["billed", "estimated", "floor"]
"""`billed`: what the endpoint said. `estimated`: it said nothing, or what cannot be; the worst case. `floor`: it said
fewer tokens than the bytes of prompt and answer must take; those."""


@dataclass(frozen=True)
class LLMRequest:
    """Everything that can change an answer, and nothing else.

    Timeouts, retries and keys live in the client: they do not change the answer, so they must not change
    the cache key.
    """

    model: str
    endpoint: str
    system: str
    prompt: str
    temperature: float | None
    """None: not sent, as reasoning models demand."""

    max_tokens: int
    json_schema: str | None = None
    """Schema that a structured answer must follow, as JSON text."""

    sample: int = 0
    """Number of this draw when one question is asked several times."""

    def cache_key(self) -> str:
        """SHA-256, in hex, of the canonical JSON of this request."""
        body = {"format": CACHE_FORMAT, **asdict(self)}
        if self.temperature is not None:
            body["temperature"] = float(self.temperature)  # 0 and 0.0 are one question
        text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class LLMAnswer:
    """One answer as the model gave it; parsing happens later."""

    text: str
    finish: str
    """Why it ended: `stop`, `length`, `content_filter`, ..."""

    input_tokens: int
    output_tokens: int
    usage_source: UsageSource

    @property
    def tokens(self) -> int:
        """Prompt and completion together, as budgets count them."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class CallContext:
    """What a call is for: it goes to the ledger, not to the model."""

    stage: str
    prompt_hash: str
    """SHA-256 of the prompt template's text."""

    feature: FeatureId | None = None
    shared_by: tuple[FeatureId, ...] = ()
    """Features that one call is about, who bear its cost in equal parts; `feature` is None then."""

    @property
    def bearers(self) -> tuple[FeatureId | None, ...]:
        """Whose cost the call is."""
        return self.shared_by or (self.feature,)


@dataclass(frozen=True)
class Answered:
    """An answer, and whether it cost anything."""

    answer: LLMAnswer
    cached: bool


class ChatClient(Protocol):
    """The seam: an endpoint, or the built-in model."""

    @property
    def endpoint(self) -> str:
        """Where answers come from: a base URL without credentials, or `builtin-<rules>`."""
        ...

    async def complete(self, request: LLMRequest) -> LLMAnswer:
        """Answer `request`, or raise an `LLMError`."""
        ...

    def worst_case(self, request: LLMRequest) -> int:
        """Upper bound of the tokens billed for one attempt at `request`."""
        ...
