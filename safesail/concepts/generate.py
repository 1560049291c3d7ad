"""`concepts generate`: a chat model writes a concept's pairs, under a budget, and a concept file comes out."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from tqdm import tqdm

from safesail.concepts.config import GenerateConfig
from safesail.concepts.draft import Draft
from safesail.concepts.read import FORMS, SourcedConcept
from safesail.errors import BadAnswerError, BudgetExceededError, ConfigError, LLMError
from safesail.llm.budget import load_prices, parse_budget
from safesail.llm.factory import BUILT_IN, make_client
from safesail.llm.metered import MeteredClient
from safesail.llm.types import CallContext, LLMRequest
from safesail.prompting.parse import parse_pairs
from safesail.prompting.templates import Template, load_template
from safesail.store.calls import CallTable
from safesail.store.connection import Db, open_writer
from safesail.store.registry import finish_run, start_run
from safesail.version import __version__
from safesail.waiting import wait_for

STAGE = "concepts"
LANGUAGES = {"en": "English", "zh": "Chinese (简体中文)"}

Ended = Literal["complete", "budget", "no progress"]
"""Why the writing stopped."""


@dataclass(frozen=True)
class GenerateOptions:
    """What the command line says."""

    name: str
    """An id (`domain.name`), or a plain name."""

    definition: str
    domain: str | None
    lang: str
    n: int
    keywords: tuple[str, ...]
    licence: str | None
    budget: str
    model: str | None
    base_url: str | None
    prices: Path | None
    replay: bool

    def client(self, db: Db, run_id: str) -> MeteredClient:
        """The model that is asked; its calls go to the ledger of `db` under `run_id`.

        Raises:
            ConfigError: the built-in model, no key for an endpoint that needs one, or a wrong budget or price table.
        """
        if self.model in (None, BUILT_IN):
            raise ConfigError(
                f"the built-in model {BUILT_IN!r} cannot write texts; name a chat model with --model, and its"
                " endpoint with --base-url"
            )
        return MeteredClient(
            make_client(str(self.model), base_url=self.base_url),
            CallTable(db, run_id),
            parse_budget(self.budget),
            prices=None if self.prices is None else load_prices(self.prices),
            replay=self.replay,
        )

    def concept(self) -> SourcedConcept:
        """The concept, still without pairs.

        Raises:
            ConfigError: the name has no letter in it.
        """
        given, _, last = self.name.rpartition(".") if " " not in self.name.strip() else ("", "", self.name)
        domain = self.domain or given.split(".")[0] or "own"
        slug = "_".join(re.findall(r"\w+", last.casefold()))
        if not slug or not self.definition.strip():
            raise ConfigError(
                f"a concept needs a name and a --definition, not {self.name!r} and {self.definition!r}"
            )
        return SourcedConcept(
            concept_id=f"{given or domain}.{slug}",
            domain=domain,
            leaf=given.split(".")[1] if given.count(".") == 1 else None,
            name=" ".join(last.replace("_", " ").split()),
            definition=" ".join(self.definition.split()),
            pairs=(),
            keywords={self.lang: self.keywords} if self.keywords else {},
            source="generated",
        )


@dataclass(frozen=True)
class GeneratedSet:
    """A concept's pairs, and what they cost."""

    draft: Draft
    ended: Ended
    calls: int
    """Answers asked for, those from the cache included."""

    tokens: int
    """Newly spent."""

    file: dict[str, Any]
    """The content of a concept file, as `concepts check` reads it."""

    @property
    def rejected(self) -> dict[str, int]:
        """Pairs and answers that were not kept, by reason, the commonest first."""
        return {reason: n for reason, n in self.draft.rejected.most_common() if n}

    def as_yaml(self) -> str:
        """The concept file."""
        return yaml.safe_dump(self.file, allow_unicode=True, sort_keys=False, width=10_000)

    def as_json(self) -> dict[str, Any]:
        """Figures, by name, and the file's content."""
        return {
            "concept": self.draft.concept.concept_id,
            "kept": len(self.draft.pairs),
            "wanted": self.draft.n,
            "forms": dict(Counter(pair.form for pair in self.draft.pairs)),
            "rejected": self.rejected,
            "ended": self.ended,
            "calls": self.calls,
            "tokens": self.tokens,
            "file": self.file,
        }

    def as_text(self) -> str:
        """One line for people."""
        rejected = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items()) or "none"
        ended = "" if self.ended == "complete" else f"; stopped: {self.ended}"
        return (
            f"{self.draft.concept.concept_id}: {len(self.draft.pairs)} of {self.draft.n} pairs kept"
            f" (rejected: {rejected}) for {self.tokens:,} new tokens{ended}"
        )


def generate_concept(
    store: Path, options: GenerateOptions, config: GenerateConfig, *, quiet: bool
) -> GeneratedSet:
    """Have pairs written; every call is in the ledger of `store`, so the same run again costs nothing.

    Raises:
        ConfigError: a setting is wrong; nothing was asked.
        LLMError: the endpoint is dead, or fewer than 2 pairs could be kept.
    """
    draft = Draft(options.concept(), options.lang, options.n)
    template = load_template(STAGE, config.template)
    settings = config.model_dump(mode="json") | {"concept_id": draft.concept.concept_id}
    with open_writer(store) as db:
        run_id = start_run(db, STAGE, settings)
        client = options.client(db, run_id)
        with tqdm(total=draft.n, desc="pairs", unit="pair", disable=quiet) as bar:
            writing = _write(draft, client, str(options.model), template, config, bar)
            ended, calls = wait_for(writing)
        finish_run(db, run_id)
    author = (
        f"{options.model} @ {client.endpoint}, prompt {STAGE}/{config.template} {template.prompt_hash[:12]}"
    )
    file = _concept_file(draft, author, options.licence)
    result = GeneratedSet(draft, ended, calls, client.spent_tokens, file)
    if len(draft.pairs) < 2:
        raise LLMError(f"{result.as_text()}; a concept needs at least 2 pairs, so nothing is written")
    return result


async def _write(
    draft: Draft,
    client: MeteredClient,
    model: str,
    template: Template,
    config: GenerateConfig,
    bar: "tqdm[Any]",
) -> tuple[Ended, int]:
    """Ask until the draft is complete, the budget ends or nothing more comes of it; a bad answer is counted."""
    limit = config.max_rounds * math.ceil(draft.n / config.per_call)
    fruitless = calls = 0
    ended: Ended = "complete"
    while not draft.complete:
        if fruitless == config.max_fruitless or calls == limit:
            ended = "no progress"
            break
        before = len(draft.pairs)
        try:
            # Numbered, as the same question asked twice must not be answered from the cache.
            request = _request(draft, model, client.endpoint, template, config, sample=calls)
            answered = await client.ask(request, CallContext(STAGE, template.prompt_hash))
            draft.add(parse_pairs(answered.answer.text, forms=FORMS))
        except BudgetExceededError:
            ended = "budget"
            break
        except BadAnswerError as error:
            draft.rejected[type(error).__name__] += 1
        calls += 1
        fruitless = 0 if len(draft.pairs) > before else fruitless + 1
        bar.update(len(draft.pairs) - bar.n)
    draft.trim()
    return ended, calls


def _request(
    draft: Draft, model: str, endpoint: str, template: Template, config: GenerateConfig, *, sample: int
) -> LLMRequest:
    n = min(config.per_call, draft.n - len(draft.pairs))
    rendered = template.render(
        name=" ".join(draft.concept.name.split()),
        definition=" ".join(draft.concept.definition.split()),
        n=n,
        language=LANGUAGES.get(draft.lang, draft.lang),
        forms=", ".join(f"{count} {form}" for form, count in draft.next_forms(n).items()),
        worn=draft.overused(config.overused_share),
        kept=[pair.pos for pair in draft.pairs[-config.n_recent :]] if config.n_recent else [],
    )
    return LLMRequest(
        model=model,
        endpoint=endpoint,
        system=rendered.system,
        prompt=rendered.prompt,
        temperature=config.temperature,
        max_tokens=config.tokens_per_pair * (n + 1),
        sample=sample,
    )


def _concept_file(draft: Draft, author: str, licence: str | None) -> dict[str, Any]:
    concept, n_rejected = draft.concept, sum(draft.rejected.values())
    entry: dict[str, Any] = {
        "id": concept.concept_id,
        "leaf": concept.leaf,
        "name": concept.name,
        "definition": concept.definition,
        "keywords": {lang: list(words) for lang, words in concept.keywords.items()},
        "pairs": [{"lang": p.lang, "form": p.form, "pos": p.pos, "neg": p.neg} for p in concept.pairs],
    }
    return {
        "domain": concept.domain,
        "licence": licence or "as the terms of the model that wrote the pairs say",
        "provenance": (
            f"Written by {author}, on {datetime.now(UTC).date()}; {len(concept.pairs)} pairs kept, {n_rejected}"
            f" pairs or answers rejected by Safe-SAIL {__version__}; not read by a person."
        ),
        "concepts": [entry],
    }
